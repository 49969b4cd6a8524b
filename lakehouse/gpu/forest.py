"""The random forest of Spark RAPIDS ML, with the interface of MLlib's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spark_rapids_ml import regression


class RandomForestRegressor(regression.RandomForestRegressor):  # type: ignore[misc]
    """A random forest that cuML grows: each GPU grows its share of the trees from its share of the rows."""

    def __init__(self, **params: Any) -> None:
        # Doubles, as in MLlib: a split's threshold rounded to 32 bits would send rows that equal it to the other side.
        super().__init__(float32_inputs=False, **params)

    def _get_cuml_fit_func(self, *arguments: Any, **options: Any) -> Callable[..., dict[str, Any]]:
        """Return the function that fits in Spark's workers.

        Spark RAPIDS ML 26.6, the newest, passes an argument that cuML 26.10 no longer takes. The function drops it.
        """
        fit = super()._get_cuml_fit_func(*arguments, **options)

        def fit_without_convert_dtype(*inputs: Any) -> dict[str, Any]:
            from cuml import RandomForestRegressor as Forest

            original = Forest.fit

            def drop_convert_dtype(forest: Any, rows: Any, label: Any, convert_dtype: bool = False) -> Any:
                return original(forest, rows, label)

            Forest.fit = drop_convert_dtype
            try:
                model: dict[str, Any] = fit(*inputs)
            finally:
                Forest.fit = original
            return model

        return fit_without_convert_dtype
