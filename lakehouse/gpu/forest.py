"""Spark RAPIDS ML's random forest in the place of MLlib's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spark_rapids_ml import regression


class RandomForestRegressor(regression.RandomForestRegressor):  # type: ignore[misc]
    """Grown by cuML, each GPU its share of the trees from its share of the rows."""

    def __init__(self, **params: Any) -> None:
        # Doubles, as MLlib has them: rounded to 32 bits, a split's number would send the rows that have it the other way.
        super().__init__(float32_inputs=False, **params)

    def _get_cuml_fit_func(self, *arguments: Any, **more: Any) -> Callable[..., dict[str, Any]]:
        """What fits in Spark's workers. Spark RAPIDS ML 26.6, the newest, passes on what cuML 26.10 no longer takes."""
        fit = super()._get_cuml_fit_func(*arguments, **more)

        def fitted(*given: Any) -> dict[str, Any]:
            from cuml import RandomForestRegressor as Forest

            takes = Forest.fit

            def without_convert_dtype(forest: Any, rows: Any, label: Any, convert_dtype: bool = False) -> Any:
                return takes(forest, rows, label)

            Forest.fit = without_convert_dtype
            try:
                found: dict[str, Any] = fit(*given)
            finally:
                Forest.fit = takes
            return found

        return fitted
