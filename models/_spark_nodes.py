"""Trees of Spark's MLlib as plain data: exported once, stored as JSON, and evaluated with numpy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lakehouse.errors import ModelError
from models.late_arrival import CATEGORIES, TASK

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.ml import PipelineModel
    from pyspark.sql import DataFrame

    from lakehouse.ml.dataset import LabelledRows
    from lakehouse.ml.task import Curve

FILE = "model.json"
# Replaces a number that is missing, NaN or infinite. It is below all others, so one split can separate it.
MISSING = -1e9
# The smallest number of bins for numbers. A category needs one more bin than it has values.
MIN_BINS = 64
# The number of partitions depends on the rows alone. So do the samples from which trees are grown.
PARTITION_ROWS = 50_000
# The rows of one prediction step, few enough to keep the trees in the processor's cache.
CHUNK_ROWS = 4096
_IF = re.compile(r"If \(feature (?P<feature>\d+) (?:<= (?P<threshold>\S+)|in \{(?P<categories>[\d.,]+)\})\)")
_PREDICT = re.compile(r"Predict: (\S+)")
_LEAF, _BY_NUMBER, _BY_CODE = {"value"}, {"feature", "threshold", "right"}, {"feature", "categories", "right"}

# Maps the running sums of the trees' values (a column per tree) to probabilities.
Link = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FittedTrees:
    """Trees as arrays with an entry per node; a leaf is its own child.

    Attributes:
        description: the exported and stored form of the trees.
        roots: the first node of each tree.
        weights: the weight of each tree.
        threshold: the largest number that goes left.
        categories: the codes that go left, a column per code.
        is_categorical: the node splits by ``categories``, not by ``threshold``.
    """

    description: Mapping[str, Any]
    roots: np.ndarray
    weights: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    categories: np.ndarray
    is_categorical: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    depth: int


def distribute(train: LabelledRows) -> DataFrame:
    """Read the rows on the process's Spark session, always in the same partitions and order for the same rows."""
    partitions = 1 + train.rows // PARTITION_ROWS
    return train.read_on_spark().repartition(partitions, *TASK.key).sortWithinPartitions(*TASK.key)


def grow_trees(rows: DataFrame, features: Sequence[str], grower: Callable[[int], Any]) -> PipelineModel:
    """Fit a pipeline of MLlib: categories to codes, columns to a vector, trees.

    Args:
        grower: returns the estimator on the column ``vector``, for the number of bins that the categories need.
    """
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import StringIndexer, VectorAssembler

    rows = fill_missing(rows, features)
    codes = {name: f"{name}_code" for name in features if name in CATEGORIES}
    # Alphabetical order, because order by frequency would change with the rows.
    indexer = StringIndexer(
        inputCols=[*codes], outputCols=[*codes.values()], handleInvalid="keep", stringOrderType="alphabetAsc"
    ).fit(rows)
    assembler = VectorAssembler(inputCols=[codes.get(name, name) for name in features], outputCol="vector")
    bins = max(MIN_BINS, *(len(labels) + 1 for labels in indexer.labelsArray))
    trees = grower(bins).fit(assembler.transform(indexer.transform(rows)))
    return PipelineModel([indexer, assembler, trees])


def fill_missing(rows: DataFrame, features: Sequence[str]) -> DataFrame:
    """Convert the numbers and the label, if any, to doubles for MLlib, with MISSING for missing numbers."""
    from pyspark.sql import functions as F

    def fill(name: str) -> Any:
        value = F.col(name).cast("double")
        # In Spark NaN is above infinity.
        return F.when(F.abs(value) < F.lit(math.inf), value).otherwise(F.lit(MISSING))

    numbers = {name: fill(name) for name in features if name not in CATEGORIES}
    label = {TASK.label_column: F.col(TASK.label_column).cast("double")} if TASK.label_column in rows.columns else {}
    return rows.withColumns(numbers | label)


def export_trees(model: PipelineModel, features: Sequence[str]) -> FittedTrees:
    """Export a model of `grow_trees` with these features as plain data.

    Raises:
        ModelError: Spark's description of a tree cannot be parsed.
    """
    stages: list[Any] = model.stages
    indexer, _, trees = stages
    columns = zip(indexer.getInputCols(), indexer.labelsArray, strict=True)
    labels = {name: list(column_labels) for name, column_labels in columns}
    tree_nodes = [_parse_tree(tree.toDebugString, tree.numNodes) for tree in trees.trees]
    codes = _count_codes(features, labels)
    for node in chain.from_iterable(tree_nodes):
        if "threshold" in node and codes[node["feature"]]:  # trees grown on a GPU split codes as numbers
            threshold = node.pop("threshold")
            node["categories"] = [code for code in range(codes[node["feature"]]) if code <= threshold]
    weights = list(trees.treeWeights)
    return _build_trees({"features": list(features), "labels": labels, "weights": weights, "trees": tree_nodes})


def _count_codes(features: Sequence[str], labels: Mapping[str, Sequence[str]]) -> list[int]:
    """Count the codes of each feature: one for each label and one for any other, none for a number."""
    return [len(labels[name]) + 1 if name in labels else 0 for name in features]


def _parse_tree(text: str, count: int) -> list[dict[str, Any]]:
    """Parse the nodes of a tree from Spark's description, in preorder with left children first.

    A node has a ``value``, or a ``feature`` to split by and the index of its ``right`` child. The left child follows
    it.
    """
    _, *lines = text.splitlines()
    lines, nodes = lines[::-1], list[dict[str, Any]]()
    _parse_node(lines, nodes)
    if lines or len(nodes) != count:
        raise ModelError(f"Spark describes a tree of {count} nodes, of which {len(nodes)} can be parsed: {text[:200]}")
    return nodes


def _parse_node(lines: list[str], nodes: list[dict[str, Any]]) -> None:
    """Parse a node and all nodes below it from the end of the lines."""
    line = lines.pop().strip() if lines else ""
    if leaf := _PREDICT.fullmatch(line):
        nodes.append({"value": float(leaf[1])})
        return
    if not (split := _IF.fullmatch(line)):
        raise ModelError(f"Spark describes a tree's node in an unknown form: {line!r}.")
    node: dict[str, Any] = {"feature": int(split["feature"])}
    if split["categories"]:
        node["categories"] = [int(float(code)) for code in split["categories"].split(",")]
    else:
        node["threshold"] = float(split["threshold"])
    nodes.append(node)
    _parse_node(lines, nodes)
    expected = "Else" + line.removeprefix("If").replace(" <= ", " > ").replace(" in ", " not in ")
    if (else_line := lines.pop().strip() if lines else "") != expected:
        raise ModelError(f"Spark describes a tree's node in an unknown form: {else_line!r} after {line!r}.")
    node["right"] = len(nodes)
    _parse_node(lines, nodes)


def report_curve(fitted: FittedTrees, link: Link, validation: LabelledRows, curve: Curve) -> None:
    """Report the Brier score on the validation split after each tree."""
    errors = np.zeros(len(fitted.roots))
    for frame, label in validation.read_frames():
        for start, sums in _sums(fitted, frame):
            errors += ((link(sums) - label[start : start + len(sums), None]) ** 2).sum(axis=0)
    for trees, error in enumerate(errors, start=1):
        curve(trees, {"validation_brier": float(error / validation.rows)})


def predict_trees(fitted: FittedTrees, link: Link, frame: pd.DataFrame) -> np.ndarray:
    """Return the label's probability for each row."""
    probability = np.empty(len(frame))
    for start, sums in _sums(fitted, frame):
        probability[start : start + len(sums)] = link(sums)[:, -1]
    return probability


def _sums(fitted: FittedTrees, frame: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the running sums of CHUNK_ROWS rows at a time, each with the position of its first row."""
    for start in range(0, len(frame), CHUNK_ROWS):
        leaf = _find_leaves(fitted, _encode(fitted, frame.iloc[start : start + CHUNK_ROWS]))
        yield start, (fitted.value[leaf] * fitted.weights).cumsum(axis=1)


def _encode(fitted: FittedTrees, frame: pd.DataFrame) -> np.ndarray:
    """Encode a frame with a column per feature: numbers, and the codes of categories."""
    import pandas as pd

    columns = np.empty((len(frame), len(get_input_columns(fitted))))
    for index, name in enumerate(get_input_columns(fitted)):
        if (labels := fitted.description["labels"].get(name)) is not None:
            code = pd.Index(labels, dtype=object).get_indexer(frame[name].astype(object))
            columns[:, index] = np.where(code < 0, len(labels), code)
        else:
            number = frame[name].to_numpy(dtype=float)
            columns[:, index] = np.where(np.isfinite(number), number, MISSING)
    return columns


def _find_leaves(fitted: FittedTrees, columns: np.ndarray) -> np.ndarray:
    """Return the leaf of each row, a column per tree."""
    row = np.arange(len(columns))[:, None]
    node = np.broadcast_to(fitted.roots, (len(columns), len(fitted.roots)))
    for _ in range(fitted.depth):
        is_categorical, value = fitted.is_categorical[node], columns[row, fitted.feature[node]]
        code = np.where(is_categorical, value, 0).astype(np.intp)
        is_left = np.where(is_categorical, fitted.categories[node, code], value <= fitted.threshold[node])
        node = np.where(is_left, fitted.left[node], fitted.right[node])
    return node


def get_input_columns(fitted: FittedTrees) -> tuple[str, ...]:
    return tuple(fitted.description["features"])


def save(fitted: FittedTrees, folder: Path) -> None:
    (folder / FILE).write_text(json.dumps(fitted.description), encoding="utf-8")


def load(folder: Path) -> FittedTrees:
    """Load the file of `save`.

    Raises:
        ModelError: the trees are not as they were exported.
        ValueError, TypeError, KeyError: the file is not JSON of the expected form.
    """
    return _build_trees(json.loads((folder / FILE).read_text(encoding="utf-8")))


def _build_trees(description: Mapping[str, Any]) -> FittedTrees:
    _check(description)
    trees = description["trees"]
    sizes = [len(tree) for tree in trees]
    roots, nodes = np.cumsum([0, *sizes[:-1]]), list(chain.from_iterable(trees))
    own = np.arange(len(nodes))
    offsets = np.repeat(roots, sizes)
    is_split = np.array(["right" in node for node in nodes])
    width = max([1, *(len(labels) + 1 for labels in description["labels"].values())])
    categories = np.zeros((len(nodes), width), dtype=bool)
    for index, node in enumerate(nodes):
        categories[index, node.get("categories", [])] = True
    return FittedTrees(
        description,
        roots,
        np.array(description["weights"], dtype=float),
        feature=np.array([node.get("feature", 0) for node in nodes]),
        threshold=np.array([node.get("threshold", 0) for node in nodes], dtype=float),
        categories=categories,
        is_categorical=np.array(["categories" in node for node in nodes]),
        left=np.where(is_split, own + 1, own),
        right=np.where(is_split, offsets + [node.get("right", 0) for node in nodes], own),
        value=np.array([node.get("value", 0) for node in nodes], dtype=float),
        depth=max(_measure_depth(tree) for tree in trees),
    )


def _measure_depth(nodes: list[dict[str, Any]]) -> int:
    depths = [0] * len(nodes)
    for index in reversed(range(len(nodes))):
        if right := nodes[index].get("right"):
            depths[index] = 1 + max(depths[index + 1], depths[right])
    return depths[0]


def _check(description: Mapping[str, Any]) -> None:
    """Check that a description has the form of `export_trees`.

    Raises:
        ModelError: the description has another form.
    """
    features, labels, trees = description["features"], description["labels"], description["trees"]
    names = [features, *labels.values()]
    are_strings = all(isinstance(name, str) for group in names for name in group)
    are_distinct = are_strings and all(len({*group}) == len(group) for group in names)
    nodes = chain.from_iterable(trees)
    numbers = [node[field] for node in nodes for field in node if field in ("value", "threshold")]
    are_finite = all(type(number) is float and math.isfinite(number) for number in (*description["weights"], *numbers))
    is_complete = {*labels} <= {*features} and len(description["weights"]) == len(trees) > 0 and all(trees)
    if not (are_distinct and are_finite and is_complete):
        raise ModelError("The stored trees are not as they were exported.")
    codes = _count_codes(features, labels)
    for tree in trees:
        for index, node in enumerate(tree):
            if not _is_node(node, index, len(tree), codes):
                raise ModelError(f"The stored trees are not as they were exported: {str(node)[:100]}.")


def _is_node(node: Mapping[str, Any], index: int, nodes: int, codes: Sequence[int]) -> bool:
    if {*node} == _LEAF:
        return True
    if {*node} not in (_BY_NUMBER, _BY_CODE):
        return False
    feature, right, categories = node["feature"], node["right"], node.get("categories", [])
    are_integers = all(type(number) is int for number in (feature, right, *categories))
    if not are_integers or not 0 <= feature < len(codes) or not index + 1 < right < nodes:
        return False
    return ("categories" in node) == (codes[feature] > 0) and all(0 <= code < codes[feature] for code in categories)
