"""The models in service: finding and loading them, scoring with them, reporting on them.

Nothing here uses Spark; scoring on its workers is in `lakehouse.ml.spark_scoring`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from lakehouse.errors import ModelError, redact_password
from lakehouse.ml import spark_scoring
from lakehouse.ml.dataset import FeatureTable, check_columns, open_features
from lakehouse.ml.metrics import METRICS, evaluate
from lakehouse.ml.mlflow_client import (
    BASELINE,
    CHAMPION,
    LoadedModel,
    find_alias,
    load_version,
    sqlite_file,
    tracking_client,
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
    """The champion and its baseline on the test split. ``logged`` is false where the run already held this result."""

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
    """The version of the task's model that has the alias.

    Raises:
        ModelError: there is none, it cannot be loaded by the ``models`` that there are, or MLflow cannot be used.
    """
    with _open_alias(task, tracking_uri, alias) as (client, entry):
        return load_version(client, entry, models)


def broadcast_model(
    task: Task, models: Mapping[str, Model], *, tracking_uri: str, alias: str = CHAMPION
) -> ModelBundle:
    """`load`, for Spark's workers."""
    with _open_alias(task, tracking_uri, alias) as (client, entry):
        return spark_scoring.broadcast_model(client, entry, models, alias)


@contextmanager
def _open_alias(task: Task, tracking_uri: str, alias: str) -> Iterator[tuple[Any, Any]]:
    """A client, and its entry of the version that has the alias."""
    none = ModelError(f"{task.name} has no {alias} at {redact_password(tracking_uri)}: run `lakehouse train` first.")
    database = sqlite_file(tracking_uri)
    if database and not database.exists():
        raise none
    with tracking_client(tracking_uri) as client:
        found = find_alias(client, task.name, alias)
        if found is None:
            raise none
        yield client, found


def scored_rows(
    task: Task, features: FeatureTable, *, lake: Location, since: str | date, until: str | date
) -> pd.DataFrame | None:
    """The scores from ``since`` to ``until`` (both included), each with its label as the features have it; None where there is no
    table of predictions.

    Columns: the key, the time, model_version, probability, the label (None where it is not known).
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    from lakehouse.deltalog.table_log import open_log

    predictions = open_log(lake.joinpath(*task.predictions_table.split(".")))
    if predictions is None:
        return None
    first, last = (pa.scalar(date.fromisoformat(str(day))) for day in (since, until))
    wanted = (
        (ds.field(task.time_column) >= first)
        & (ds.field(task.time_column) <= last)
        & (ds.field("model_name") == task.name)
    )
    named = [*dict.fromkeys((*task.key, task.time_column)), "model_version", "probability"]
    scores = predictions.delta_table.to_pyarrow_dataset().to_table(columns=named, filter=wanted).to_pandas()
    labels = features.read((str(since), str(until)), [task.label_column]).to_pandas()
    labels = labels[[*task.key, task.label_column]]
    rows: pd.DataFrame = scores.merge(labels, on=list(task.key), how="left", validate="many_to_one")
    return rows


def summarize_scores(scored: pd.DataFrame, label: str) -> dict[str, Any]:
    """How scored rows did: scored and labelled (rows); label_rate and mean_probability where a label is known; METRICS and
    calibration_error where both labels occur."""
    known = scored[scored[label].notna()]
    found: dict[str, Any] = {"scored": len(scored), "labelled": len(known)}
    if len(known):
        positive, probability = known[label].to_numpy(dtype=bool), known["probability"].to_numpy()
        found |= {"label_rate": float(positive.mean()), "mean_probability": float(probability.mean())}
        if 0 < positive.sum() < len(positive):
            found |= evaluate(positive, probability)
            found["calibration_error"] = calibration_error(positive, probability)
    return found


def calibration_error(label: np.ndarray, probability: np.ndarray) -> float:
    """The expected calibration error: how far mean probability and observed share are apart, over ten bins of equally many rows.

    Rows of the same probability are in the same bin, and a bin counts by its rows (scikit-learn's calibration_curve does not say
    how many).
    """
    import numpy as np

    from lakehouse.ml.psi import quantile_bins, quantiles

    apart = np.bincount(quantile_bins(probability, quantiles(probability)), probability - label)
    return float(np.abs(apart).sum() / len(label))


def measure_quality(
    task: Task, *, lake: Location, since: str | date, until: str | date, version: int | None = None
) -> pa.Table:
    """How the scores in the task's predictions table did, from ``since`` to ``until`` (both included), by the labels in the
    feature table at ``version`` (by default the latest).

    One row per day and model version: the time column, model_name, model_version (int32), scored and labelled (int64, rows),
    label_rate and mean_probability (double, of the labelled rows; null where there are none), roc_auc, average_precision,
    brier and calibration_error (double, null where not both labels occur), feature_version (int64).

    Raises:
        ModelError: a table, the version or a column is missing.
    """
    import pyarrow as pa

    kinds = {task.time_column: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= dict.fromkeys(("scored", "labelled"), pa.int64())
    kinds |= dict.fromkeys(("label_rate", "mean_probability", *METRICS, "calibration_error"), pa.float64())
    schema = pa.schema(kinds | {"feature_version": pa.int64()})
    features = open_features(task, lake, (), version)
    scores = scored_rows(task, features, lake=lake, since=since, until=until)
    if scores is None:
        return schema.empty_table()
    rows = [
        {
            task.time_column: day,
            "model_name": task.name,
            "model_version": of,
            **summarize_scores(scored, task.label_column),
        }
        | {"feature_version": features.version}
        for (day, of), scored in scores.groupby([task.time_column, "model_version"], sort=True)
    ]
    return pa.Table.from_pylist(rows, schema)


def evaluate_test_split(
    task: Task, models: Mapping[str, Model], *, lake: Location, tracking_uri: str, version: int | None = None
) -> EvaluationResult:
    """The champion and its baseline on the test split, from the feature table at ``version`` (by default the latest).

    The result is kept with the champion's run, as metrics `test_*` and `test_baseline_*`, a calibration plot and the
    table's version; a result that the run already holds is not logged again.

    Raises:
        ModelError: the table, the version, a column, the split's labels, the champion or its baseline is missing, or MLflow
            cannot be used.
    """
    from lakehouse.ml import plots

    features = open_features(task, lake, (), version)
    champion = load_by_alias(task, models, tracking_uri=tracking_uri)
    with tracking_client(tracking_uri) as client:
        run = client.get_run(champion.run_id)
        baseline = load_version(client, client.get_model_version(task.name, str(champion.version)), models, BASELINE)
        for one in (champion, baseline):
            check_columns(one.version, one.input_columns(), features)
        if run.data.params["validation_until"] >= task.splits.test[0]:
            raise ModelError(
                f"{task.name} version {champion.version} was chosen on days up to {run.data.params['validation_until']}, so that it is not "
                f"reported on the test split, {' to '.join(task.splits.test)}: change the task's splits to later days."
            )
        held = features.split("test", dict.fromkeys((*champion.input_columns(), *baseline.input_columns())))
        probability, base = (one.predict(held.frame) for one in (champion, baseline))
        metrics, base_metrics = evaluate(held.label, probability), evaluate(held.label, base)
        values = {f"test_{name}": value for name, value in metrics.items()}
        values |= {f"test_baseline_{name}": value for name, value in base_metrics.items()}
        known = run.data.metrics
        changed = not all(k in known and math.isclose(known[k], v, rel_tol=1e-9) for k, v in values.items())
        if changed:
            days = f"{held.span[0]} to {held.span[1]}"
            title = f"Calibration of {task.name} version {champion.version}\ntest split: {days}, {held.rows:,} rows"
            curves = {
                f"Model (Brier {metrics['brier']:.4f})": probability,
                f"Baseline (Brier {base_metrics['brier']:.4f})": base,
            }
            figure = plots.draw_calibration(held.label, curves, title)
            client.log_figure(run.info.run_id, figure, "test_calibration.png")
            client.set_tag(run.info.run_id, TEST_VERSION_TAG, str(features.version))
            for name, value in (values | {"test_rows": held.rows}).items():
                client.log_metric(run.info.run_id, name, value)
    return EvaluationResult(
        model_name=task.name,
        model_version=champion.version,
        run_id=champion.run_id,
        delta_version=features.version,
        rows=held.rows,
        unlabelled=held.unlabelled,
        metrics=metrics,
        baseline=base_metrics,
        is_logged=changed,
    )
