"""Fast prediction of scikit-learn's boosted trees for a few rows: the same probabilities, to the last bit.

scikit-learn needs milliseconds per call, most of them for checks and for one call per tree. A request for one row pays
them all. Here all trees step together: a node is an index into flat arrays, and each step moves from a row's node in
every tree to the child of the row. From some hundred rows on scikit-learn is faster.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.pipeline import Pipeline

MAX_ROWS: Final = 64
MISSING: Final = 255  # trees know categories below this


class FewRows:
    """The trees of a fitted pipeline: an ordinal encoder of the first columns, then HistGradientBoostingClassifier."""

    def __init__(self, pipeline: Pipeline) -> None:
        (_, encoder, self._categories), *_ = pipeline["columns"].transformers_
        self._codes = [
            {text: float(code) for code, text in enumerate(texts) if isinstance(text, str)}
            for texts in getattr(encoder, "categories_", ())
        ]
        self._numbers = [name for name in pipeline.feature_names_in_ if name not in self._categories]
        self._trees: Any = pipeline["trees"]
        trees = [tree for (tree,) in self._trees._predictors]
        nodes = np.concatenate([tree.nodes for tree in trees])
        self._roots = np.cumsum([0, *(len(tree.nodes) for tree in trees)])[:-1]
        offsets = np.repeat(self._roots, [len(tree.nodes) for tree in trees])
        leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        # A leaf is its own child. Further steps then change nothing.
        self._children = np.stack([np.where(leaf, own, nodes[side] + offsets) for side in ("right", "left")])
        self._steps = max(int(tree.nodes["depth"].max()) for tree in trees)
        self._feature = np.where(leaf, 0, nodes["feature_idx"])
        self._threshold = nodes["num_threshold"]
        self._missing_left = nodes["missing_go_to_left"].astype(bool)
        self._value = nodes["value"]
        self._by_category = nodes["is_categorical"].astype(bool) & ~leaf
        # One row per node that splits by a category: the categories, and the missing one, that go left.
        self._set_index = np.cumsum(self._by_category) - 1
        sets = np.concatenate([_left_categories(tree) for tree in trees]).astype("<u4").view(np.uint8)
        self._left = np.unpackbits(sets, axis=1, bitorder="little").astype(bool)
        self._left[:, MISSING] = self._missing_left[self._by_category]

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """Return the label's probability, equal to the pipeline's ``predict_proba``."""
        columns = [
            [codes.get(text, np.nan) for text in frame[name]]
            for name, codes in zip(self._categories, self._codes, strict=True)
        ]
        values = np.concatenate(
            [np.array(columns).reshape(len(columns), len(frame)), frame[self._numbers].to_numpy(dtype=float).T]
        )
        row = np.arange(len(frame))
        node = np.repeat(self._roots[:, None], len(frame), axis=1)
        for _ in range(self._steps):
            value = values[self._feature[node], row]
            is_missing = np.isnan(value)
            is_left = np.where(is_missing, self._missing_left[node], value <= self._threshold[node])
            by_category = self._by_category[node]
            category = np.where(is_missing[by_category], MISSING, value[by_category]).astype(np.intp)
            is_left[by_category] = self._left[self._set_index[node[by_category]], category]
            node = self._children[is_left.astype(np.intp), node]
        baseline = np.full((1, len(frame)), self._trees._baseline_prediction)
        raw = np.concatenate([baseline, self._value[node]]).cumsum(axis=0)[-1]
        probability: np.ndarray = self._trees._loss.predict_proba(raw.reshape(-1, 1))[:, 1]
        return probability


def _left_categories(tree: Any) -> Any:
    """Return 256 bits, in eight words, for each node of a tree that splits by a category."""
    by_category = tree.nodes["is_categorical"].astype(bool) & ~tree.nodes["is_leaf"].astype(bool)
    return tree.raw_left_cat_bitsets[tree.nodes["bitset_idx"][by_category]]


cached_few_rows = lru_cache(maxsize=4)(FewRows)
