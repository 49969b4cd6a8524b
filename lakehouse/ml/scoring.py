"""Models in service: loading by alias, quality of their scores, evaluation on the test split.

Nothing here uses Spark. Scoring on Spark's workers is in `lakehouse.ml.spark_scoring`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from lakehouse.errors import ModelError, redact_password
from lakehouse.ml import spark_scoring
from lakehouse.ml.dataset import FeatureTable, LabelledRows, check_columns, open_features
from lakehouse.ml.metrics import METRICS, evaluate
from lakehouse.ml.mlflow_client import (
    BASELINE,
    CHAMPION,
    LoadedModel,
    find_alias,
    get_sqlite_file,
    load_version,
    open_tracking_client,
)
from lakehouse.ml.spark_scoring import ModelBundle
from lakehouse.ml.task import Model, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from lakehouse.storage.location import Location

TEST_VERSION_TAG = "test_delta_version"


@dataclass(frozen=True)
class EvaluationResult:
    """The champion and its baseline on the test split.

    Attributes:
        is_logged: False if the run already had this result.
    """

    model_name: str
    model_version: int
    run_id: str
    delta_version: int
    rows: int
    unlabelled: int
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    is_logged: bool


def load_by_alias(task: Task, models: Mapping[str, Model], *, tracking_uri: str, alias: str = CHAMPION) -> LoadedModel:
    """Load the version of the task's model that has the alias.

    Raises:
        ModelError: no version has the alias, none of the ``models`` can load it, or MLflow cannot be used.
    """
    with _open_alias(task, tracking_uri, alias) as (client, entry):
        return load_version(client, entry, models)


def broadcast_model(
    task: Task, models: Mapping[str, Model], *, tracking_uri: str, alias: str = CHAMPION
) -> ModelBundle:
    """Load the version that has the alias as a bundle for Spark's workers; see `load_by_alias`."""
    with _open_alias(task, tracking_uri, alias) as (client, entry):
        return spark_scoring.broadcast_model(client, entry, models, alias)


@contextmanager
def _open_alias(task: Task, tracking_uri: str, alias: str) -> Iterator[tuple[Any, Any]]:
    """Open a client and the registry's entry of the version that has the alias."""
    missing = ModelError(f"{task.name} has no {alias} at {redact_password(tracking_uri)}: run `lakehouse train` first.")
    database = get_sqlite_file(tracking_uri)
    if database and not database.exists():
        raise missing
    with open_tracking_client(tracking_uri) as client:
        entry = find_alias(client, task.name, alias)
        if entry is None:
            raise missing
        yield client, entry


def score_rows(
    task: Task, features: FeatureTable, *, lake: Location, since: str | date, until: str | date
) -> pd.DataFrame | None:
    """Read the scores from ``since`` to ``until`` (both included), with the labels of the feature table.

    Returns:
        One row per score: the key, the time, model_version, probability, the label (None where it is unknown). None if
        the table of predictions does not exist.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    from lakehouse.deltalog.table_log import open_log

    predictions = open_log(lake.joinpath(*task.predictions_table.split(".")))
    if predictions is None:
        return None
    first, last = (pa.scalar(date.fromisoformat(str(day))) for day in (since, until))
    time = ds.field(task.time_column)
    condition = (time >= first) & (time <= last) & (ds.field("model_name") == task.name)
    names = [*dict.fromkeys((*task.key, task.time_column)), "model_version", "probability"]
    scores = predictions.open_dataset().to_table(columns=names, filter=condition).to_pandas()
    labels = features.read((str(since), str(until)), [task.label_column]).to_pandas()
    labels = labels[[*task.key, task.label_column]]
    rows: pd.DataFrame = scores.merge(labels, on=list(task.key), how="left", validate="many_to_one")
    return rows


def summarize_scores(scored: pd.DataFrame, label: str) -> dict[str, Any]:
    """Measure the quality of scored rows.

    Returns:
        scored and labelled (rows). Where a label is known, label_rate and mean_probability. Where both labels occur,
        METRICS and calibration_error.
    """
    labelled = scored[scored[label].notna()]
    summary: dict[str, Any] = {"scored": len(scored), "labelled": len(labelled)}
    if len(labelled):
        positive, probability = labelled[label].to_numpy(dtype=bool), labelled["probability"].to_numpy()
        summary |= {"label_rate": float(positive.mean()), "mean_probability": float(probability.mean())}
        if 0 < positive.sum() < len(positive):
            summary |= evaluate(positive, probability)
            summary["calibration_error"] = compute_calibration_error(positive, probability)
    return summary


def compute_calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """Compute the expected calibration error: the mean gap of probability and observed share over ten bins.

    The bins have equally many rows. Rows of the same probability share a bin, and bins are weighted by their rows.
    scikit-learn's calibration_curve does not return the rows of a bin.
    """
    import numpy as np

    from lakehouse.ml.psi import compute_quantile_bins, compute_quantiles

    gaps = np.bincount(compute_quantile_bins(probability, compute_quantiles(probability)), probability - label)
    return float(np.abs(gaps).sum() / len(label))


def measure_quality(
    task: Task, *, lake: Location, since: str | date, until: str | date, version: int | None = None
) -> pa.Table:
    """Measure the quality of the scores in the task's predictions table by the labels in the feature table.

    Args:
        since: the first day.
        until: the last day, included.
        version: the feature table's version, by default the latest.

    Returns:
        One row per day and model version: the time column, model_name, model_version (int32), scored and labelled
        (int64, rows), label_rate and mean_probability (double, of the labelled rows; null where there are none),
        roc_auc, average_precision, brier and calibration_error (double, null where not both labels occur),
        feature_version (int64).

    Raises:
        ModelError: a table, the version or a column is missing.
    """
    import pyarrow as pa

    kinds = {task.time_column: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= dict.fromkeys(("scored", "labelled"), pa.int64())
    kinds |= dict.fromkeys(("label_rate", "mean_probability", *METRICS, "calibration_error"), pa.float64())
    schema = pa.schema(kinds | {"feature_version": pa.int64()})
    features = open_features(task, lake, (), version)
    scores = score_rows(task, features, lake=lake, since=since, until=until)
    if scores is None:
        return schema.empty_table()
    rows = [
        {
            task.time_column: day,
            "model_name": task.name,
            "model_version": model_version,
            **summarize_scores(scored, task.label_column),
            "feature_version": features.version,
        }
        for (day, model_version), scored in scores.groupby([task.time_column, "model_version"], sort=True)
    ]
    return pa.Table.from_pylist(rows, schema)


def evaluate_test_split(
    task: Task, models: Mapping[str, Model], *, lake: Location, tracking_uri: str, version: int | None = None
) -> EvaluationResult:
    """Evaluate the champion and its baseline on the test split.

    The result is logged to the champion's run as metrics `test_*` and `test_baseline_*`, a calibration plot and the
    table's version. A result that the run already has is not logged again.

    Args:
        version: the feature table's version, by default the latest.

    Raises:
        ModelError: the table, the version, a column, the split's labels, the champion or its baseline is missing, the
            test split overlaps days that the champion was selected by, or MLflow cannot be used.
    """
    features = open_features(task, lake, (), version)
    champion = load_by_alias(task, models, tracking_uri=tracking_uri)
    with open_tracking_client(tracking_uri) as client:
        run = client.get_run(champion.run_id)
        entry = client.get_model_version(task.name, str(champion.version))
        pair = (champion, load_version(client, entry, models, BASELINE))
        for model in pair:
            check_columns(champion.version, model.get_input_columns(), features)
        _check_selection_days(task, champion.version, run.data.params["validation_until"])
        rows = features.split("test", dict.fromkeys(name for model in pair for name in model.get_input_columns()))
        probability, base_probability = (model.predict(rows.frame) for model in pair)
        result = EvaluationResult(
            model_name=task.name,
            model_version=champion.version,
            run_id=champion.run_id,
            delta_version=features.version,
            rows=rows.rows,
            unlabelled=rows.unlabelled,
            metrics=evaluate(rows.label, probability),
            baseline=evaluate(rows.label, base_probability),
            is_logged=True,
        )
        if _has_metrics(run.data.metrics, _test_metrics(result)):
            return replace(result, is_logged=False)
        _log_evaluation(client, result, rows, probability, base_probability)
    return result


def _check_selection_days(task: Task, version: int, selected_until: str) -> None:
    """Check that the test split is later than all days that a version was selected by.

    Raises:
        ModelError: the days overlap.
    """
    if selected_until >= task.splits.test[0]:
        raise ModelError(
            f"{task.name} version {version} was selected on days up to {selected_until}, so the test split "
            f"{' to '.join(task.splits.test)} cannot evaluate the version. Move the task's splits to later days."
        )


def _test_metrics(result: EvaluationResult) -> dict[str, float]:
    """Return both models' metrics by their names in MLflow."""
    metrics = {f"test_{name}": value for name, value in result.metrics.items()}
    return metrics | {f"test_baseline_{name}": value for name, value in result.baseline.items()}


def _has_metrics(logged: Mapping[str, float], metrics: Mapping[str, float]) -> bool:
    return all(name in logged and math.isclose(logged[name], value, rel_tol=1e-9) for name, value in metrics.items())


def _log_evaluation(
    client: Any, result: EvaluationResult, rows: LabelledRows, probability: np.ndarray, base_probability: np.ndarray
) -> None:
    from lakehouse.ml import plots

    days = f"{rows.span[0]} to {rows.span[1]}"
    version = f"{result.model_name} version {result.model_version}"
    title = f"Calibration of {version}\ntest split: {days}, {rows.rows:,} rows"
    curves = {
        f"Model (Brier {result.metrics['brier']:.4f})": probability,
        f"Baseline (Brier {result.baseline['brier']:.4f})": base_probability,
    }
    client.log_figure(result.run_id, plots.draw_calibration(rows.label, curves, title), "test_calibration.png")
    client.set_tag(result.run_id, TEST_VERSION_TAG, str(result.delta_version))
    for name, value in (_test_metrics(result) | {"test_rows": rows.rows}).items():
        client.log_metric(result.run_id, name, value)
