"""Trees that Spark's MLlib grew, as plain data: exported once, stored as JSON, they predict by numpy."""

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
# Stands for a number that is missing, NaN or infinite: below all others, so that one split tells it apart.
MISSING = -1e9
# Numbers are split at so many quantiles at most; a category needs one more than it has values.
MIN_BINS = 64
# How many partitions the rows are fitted in follows from the rows alone, and so do the samples that trees are grown from.
PARTITION_ROWS = 50_000
# Predicted at once, so that what is looked up stays in the processor's cache.
CHUNK_ROWS = 4096
_IF = re.compile(r"If \(feature (?P<feature>\d+) (?:<= (?P<threshold>\S+)|in \{(?P<categories>[\d.,]+)\})\)")
_PREDICT = re.compile(r"Predict: (\S+)")
_LEAF, _BY_NUMBER, _BY_CODE = {"value"}, {"feature", "threshold", "right"}, {"feature", "categories", "right"}

# From the sums of what the trees say, as they were added (a column per tree), to probabilities.
Link = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FittedTrees:
    """Trees as arrays with an entry per node. ``said`` is what they were made from, and what is stored.

    A row goes ``left`` where its number is ``at_most`` so much or, ``by_code``, where its category's code is ``among`` those of
    the node (a column per code). A leaf is its own child. ``roots`` and ``weights`` have an entry per tree.
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
    """The rows on the process's Spark session, in the same partitions and order whenever they are the same rows."""
    partitions = 1 + train.rows // PARTITION_ROWS
    return train.read_on_spark().repartition(partitions, *TASK.key).sortWithinPartitions(*TASK.key)


def grow_trees(rows: DataFrame, features: Sequence[str], grower: Callable[[int], Any]) -> PipelineModel:
    """What turns `filled` rows into predictions on Spark: categories to codes, columns to a vector, trees.

    ``grower`` makes the estimator, of the column ``vector``, from the number of bins that the categories need.
    """
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import StringIndexer, VectorAssembler

    rows = fill_missing(rows, features)
    codes = {name: f"{name}_code" for name in features if name in CATEGORIES}
    # In the order of the alphabet: by frequency it would change with the rows.
    indexer = StringIndexer(
        inputCols=[*codes], outputCols=[*codes.values()], handleInvalid="keep", stringOrderType="alphabetAsc"
    ).fit(rows)
    assembler = VectorAssembler(inputCols=[codes.get(name, name) for name in features], outputCol="vector")
    bins = max(MIN_BINS, *(len(labels) + 1 for labels in indexer.labelsArray))
    trees = grower(bins).fit(assembler.transform(indexer.transform(rows)))
    return PipelineModel([indexer, assembler, trees])


def fill_missing(rows: DataFrame, features: Sequence[str]) -> DataFrame:
    """The rows as MLlib takes them: the label, where there is one, and all numbers as doubles, none of them missing."""
    from pyspark.sql import functions as F

    def number(name: str) -> Any:
        given = F.col(name).cast("double")
        # To Spark NaN is above infinity.
        return F.when(F.abs(given) < F.lit(math.inf), given).otherwise(F.lit(MISSING))

    made = {name: number(name) for name in features if name not in CATEGORIES}
    label = {TASK.label_column: F.col(TASK.label_column).cast("double")} if TASK.label_column in rows.columns else {}
    return rows.withColumns(made | label)


def export_trees(model: PipelineModel, features: Sequence[str]) -> FittedTrees:
    """A model that was `grown` from these features, as plain data.

    Raises:
        ModelError: Spark describes a tree in words that are not known.
    """
    stages: list[Any] = model.stages
    indexer, _, trees = stages
    labels = {name: list(of) for name, of in zip(indexer.getInputCols(), indexer.labelsArray, strict=True)}
    nodes = [_nodes(tree.toDebugString, tree.numNodes) for tree in trees.trees]
    codes = _codes(features, labels)
    for node in chain.from_iterable(nodes):
        if "threshold" in node and codes[node["feature"]]:  # trees that a GPU grew take a code for a number
            at_most = node.pop("threshold")
            node["categories"] = [code for code in range(codes[node["feature"]]) if code <= at_most]
    said = {"features": list(features), "labels": labels, "weights": list(trees.treeWeights), "trees": nodes}
    return _build_trees(said)


def _codes(features: Sequence[str], labels: Mapping[str, Sequence[str]]) -> list[int]:
    """How many codes each feature has: one for each label and one for any other; none where it is a number."""
    return [len(labels[name]) + 1 if name in labels else 0 for name in features]


def _nodes(text: str, count: int) -> list[dict[str, Any]]:
    """A tree's nodes, each before those below it and the left ones first, from Spark's description of it.

    A node has a ``value``, or a ``feature`` that decides (by place) and the place of its ``right`` child; the left one follows it.
    """
    _, *lines = text.splitlines()
    lines, nodes = lines[::-1], list[dict[str, Any]]()
    _take(lines, nodes)
    if lines or len(nodes) != count:
        raise ModelError(f"Spark describes a tree of {count} nodes, of which {len(nodes)} can be read: {text[:200]}")
    return nodes


def _take(lines: list[str], nodes: list[dict[str, Any]]) -> None:
    """Take a node and all below it off the end of the lines."""
    line = lines.pop().strip() if lines else ""
    if leaf := _PREDICT.fullmatch(line):
        nodes.append({"value": float(leaf[1])})
        return
    if not (split := _IF.fullmatch(line)):
        raise ModelError(f"Spark describes a tree's node in words that are not known: {line!r}.")
    node: dict[str, Any] = {"feature": int(split["feature"])}
    if split["categories"]:
        node["categories"] = [int(float(code)) for code in split["categories"].split(",")]
    else:
        node["threshold"] = float(split["threshold"])
    nodes.append(node)
    _take(lines, nodes)
    otherwise = "Else" + line.removeprefix("If").replace(" <= ", " > ").replace(" in ", " not in ")
    if (found := lines.pop().strip() if lines else "") != otherwise:
        raise ModelError(f"Spark describes a tree's node in words that are not known: {found!r} after {line!r}.")
    node["right"] = len(nodes)
    _take(lines, nodes)


def report_curve(fitted: FittedTrees, link: Link, validation: LabelledRows, curve: Curve) -> None:
    """The Brier score on the validation split as the trees were added."""
    errors = np.zeros(len(fitted.roots))
    for frame, label in validation.frames():
        for start, sums in _sums(fitted, frame):
            errors += ((link(sums) - label[start : start + len(sums), None]) ** 2).sum(axis=0)
    for trees, error in enumerate(errors, start=1):
        curve(trees, {"validation_brier": float(error / validation.rows)})


def predict_trees(fitted: FittedTrees, link: Link, frame: pd.DataFrame) -> np.ndarray:
    """The probability of the label, for each row."""
    probability = np.empty(len(frame))
    for start, sums in _sums(fitted, frame):
        probability[start : start + len(sums)] = link(sums)[:, -1]
    return probability


def _sums(fitted: FittedTrees, frame: pd.DataFrame) -> Iterator[tuple[int, np.ndarray]]:
    """The sums of some rows at a time; each with its first row's place."""
    for start in range(0, len(frame), CHUNK_ROWS):
        leaf = _leaves(fitted, _columns(fitted, frame.iloc[start : start + CHUNK_ROWS]))
        yield start, (fitted.value[leaf] * fitted.weights).cumsum(axis=1)


def _columns(fitted: FittedTrees, frame: pd.DataFrame) -> np.ndarray:
    """A row per flight, a column per feature: numbers, and the codes of categories."""
    import pandas as pd

    columns = np.empty((len(frame), len(input_columns(fitted))))
    for place, name in enumerate(input_columns(fitted)):
        if (labels := fitted.description["labels"].get(name)) is not None:
            code = pd.Index(labels, dtype=object).get_indexer(frame[name].astype(object))
            columns[:, place] = np.where(code < 0, len(labels), code)
        else:
            number = frame[name].to_numpy(dtype=float)
            columns[:, place] = np.where(np.isfinite(number), number, MISSING)
    return columns


def _leaves(fitted: FittedTrees, columns: np.ndarray) -> np.ndarray:
    """The leaf that each row comes to, a column per tree."""
    row = np.arange(len(columns))[:, None]
    at = np.broadcast_to(fitted.roots, (len(columns), len(fitted.roots)))
    for _ in range(fitted.depth):
        by_code, found = fitted.is_categorical[at], columns[row, fitted.feature[at]]
        code = np.where(by_code, found, 0).astype(np.intp)
        left = np.where(by_code, fitted.categories[at, code], found <= fitted.threshold[at])
        at = np.where(left, fitted.left[at], fitted.right[at])
    return at


def input_columns(fitted: FittedTrees) -> tuple[str, ...]:
    return tuple(fitted.description["features"])


def save(fitted: FittedTrees, folder: Path) -> None:
    (folder / FILE).write_text(json.dumps(fitted.description), encoding="utf-8")


def load(folder: Path) -> FittedTrees:
    """Raises ModelError, or what comes of text that is not JSON or of other things than numbers, on a file that `save` did not write."""
    return _build_trees(json.loads((folder / FILE).read_text(encoding="utf-8")))


def _build_trees(description: Mapping[str, Any]) -> FittedTrees:
    _check(description)
    sizes = [len(nodes) for nodes in description["trees"]]
    roots, nodes = np.cumsum([0, *sizes[:-1]]), [node for of in description["trees"] for node in of]
    own = np.arange(len(nodes))
    first = np.repeat(roots, sizes)
    split = np.array(["right" in node for node in nodes])
    among = np.zeros(
        (len(nodes), max([1, *(len(labels) + 1 for labels in description["labels"].values())])), dtype=bool
    )
    for place, node in enumerate(nodes):
        among[place, node.get("categories", [])] = True
    return FittedTrees(
        description,
        roots,
        np.array(description["weights"], dtype=float),
        feature=np.array([node.get("feature", 0) for node in nodes]),
        threshold=np.array([node.get("threshold", 0) for node in nodes], dtype=float),
        categories=among,
        is_categorical=np.array(["categories" in node for node in nodes]),
        left=np.where(split, own + 1, own),
        right=np.where(split, first + [node.get("right", 0) for node in nodes], own),
        value=np.array([node.get("value", 0) for node in nodes], dtype=float),
        depth=max(_depth(of) for of in description["trees"]),
    )


def _depth(nodes: list[dict[str, Any]]) -> int:
    depths = [0] * len(nodes)
    for place in reversed(range(len(nodes))):
        if right := nodes[place].get("right"):
            depths[place] = 1 + max(depths[place + 1], depths[right])
    return depths[0]


def _check(description: Mapping[str, Any]) -> None:
    """Refuse what `exported` would not say.

    Raises:
        ModelError: it says something else.
    """
    features, labels = description["features"], description["labels"]
    names = [features, *labels.values()]
    known = all(isinstance(name, str) for of in names for name in of) and all(len({*of}) == len(of) for of in names)
    numbers = [
        *description["weights"],
        *(node[kind] for of in description["trees"] for node in of for kind in node if kind in ("value", "threshold")),
    ]
    finite = all(type(number) is float and math.isfinite(number) for number in numbers)
    whole = (
        {*labels} <= {*features}
        and len(description["weights"]) == len(description["trees"]) > 0
        and all(description["trees"])
    )
    if not (known and finite and whole):
        raise ModelError("The stored trees are not as they were exported.")
    codes = _codes(features, labels)
    for nodes in description["trees"]:
        for place, node in enumerate(nodes):
            if not _is_node(node, place, len(nodes), codes):
                raise ModelError(f"The stored trees are not as they were exported: {str(node)[:100]}.")


def _is_node(node: Mapping[str, Any], place: int, nodes: int, codes: Sequence[int]) -> bool:
    if {*node} == _LEAF:
        return True
    if {*node} not in (_BY_NUMBER, _BY_CODE):
        return False
    feature, right, among = node["feature"], node["right"], node.get("categories", [])
    integers = all(type(one) is int for one in (feature, right, *among))
    if not integers or not 0 <= feature < len(codes) or not place + 1 < right < nodes:
        return False
    return ("categories" in node) == (codes[feature] > 0) and all(0 <= code < codes[feature] for code in among)
