"""The champion of a model: finding and loading it, scoring with it, reporting on it.

Nothing here starts Spark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from lakehouse.errors import ModelError, without_password
from lakehouse.features import METRICS, Features, Model, columns_of, open_features
from lakehouse.tracking import (
    BASELINE_TAG,
    find_champion,
    load_pipeline,
    reads,
    sqlite_file,
    tracking,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from lakehouse.storage import Location

REPORT_VERSION_TAG = "report_delta_version"


class Champion(NamedTuple):
    """The model in service: its fitted pipeline, its version in the registry, the run that made it."""

    pipeline: Any
    version: int
    run_id: str


@dataclass(frozen=True)
class ReportResult:
    """The champion and its baseline on the report split. ``logged`` is false where the run already held this result."""

    model_name: str
    model_version: int
    run_id: str
    delta_version: int
    rows: int
    unlabelled: int
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    logged: bool


def load_champion(model_module: Model, *, tracking_uri: str) -> Champion:
    """The champion of ``model_module``, a (pipeline, version, run id).

    Raises:
        ModelError: there is none, it cannot be loaded with the model's TRUSTED_TYPES, or MLflow cannot be used.
    """
    none = ModelError(
        f"{model_module.NAME} has no champion at {without_password(tracking_uri)}: run `lakehouse train` first."
    )
    database = sqlite_file(tracking_uri)
    if database and not database.exists():
        raise none
    with tracking(tracking_uri) as client:
        found = find_champion(client, model_module.NAME)
        if found is None:
            raise none
        pipeline = load_pipeline(client, f"models:/{found.name}/{found.version}", model_module.TRUSTED_TYPES)
    return Champion(pipeline, int(found.version), found.run_id)


def score_frame(
    model_module: Model,
    *,
    lake: Location,
    tracking_uri: str,
    since: str | date,
    until: str | date,
    version: int | None = None,
    champion: Champion | None = None,
) -> pa.Table:
    """The champion's probability for every row from ``since`` to ``until`` (both included), labelled or not.

    One row per key, in the order of the keys: the key, the time column, model_name, model_version (int32), probability
    (double) and feature_version (int64), the version of the feature table that was read: ``version``, by default the
    latest. A span without rows gives an empty table. ``champion`` saves loading one that the caller already has.

    Raises:
        ModelError: the table, the version, a column or the champion is missing, or the champion does not fit the table.
    """
    import pyarrow as pa

    features = open_features(model_module, lake, version)
    champion = champion or load_champion(model_module, tracking_uri=tracking_uri)
    also = features.present(reads(champion.pipeline))
    rows = features.read((str(since), str(until)), [*columns_of(model_module), *also])
    size = rows.num_rows
    probability: Any = _predict(model_module, champion, features, features.frame(rows)) if size else []
    scores = rows.select(list(dict.fromkeys((*model_module.KEY, model_module.TIME))))
    for name, values in {
        "model_name": pa.array([model_module.NAME] * size, pa.string()),
        "model_version": pa.array([champion.version] * size, pa.int32()),
        "probability": pa.array(probability, pa.float64()),
        "feature_version": pa.array([features.version] * size, pa.int64()),
    }.items():
        scores = scores.append_column(name, values)
    return scores


def realised(
    model_module: Model, *, lake: Location, since: str | date, until: str | date, version: int | None = None
) -> pa.Table:
    """How the scores in the model's predictions table did, from ``since`` to ``until`` (both included), by the labels in the
    feature table at ``version`` (by default the latest).

    One row per day and model version: the time column, model_name, model_version (int32), scored and labelled (int64, rows),
    label_rate and mean_probability (double, of the labelled rows; null where there are none), roc_auc, average_precision and
    brier (double, null where not both labels occur), feature_version (int64).

    Raises:
        ModelError: a table, the version or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.dataset as ds

    from lakehouse.log import open_log

    model, time, label = model_module, model_module.TIME, model_module.LABEL
    kinds = {time: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= dict.fromkeys(("scored", "labelled"), pa.int64())
    kinds |= dict.fromkeys(("label_rate", "mean_probability", *METRICS), pa.float64())
    schema = pa.schema(kinds | {"feature_version": pa.int64()})
    features = open_features(model, lake, version)
    predictions = open_log(lake.joinpath(*model.PREDICTIONS.split(".")))
    if predictions is None:
        return schema.empty_table()
    first, last = (pa.scalar(date.fromisoformat(str(day))) for day in (since, until))
    wanted = (ds.field(time) >= first) & (ds.field(time) <= last) & (ds.field("model_name") == model.NAME)
    named = [*dict.fromkeys((*model.KEY, time)), "model_version", "probability"]
    scores = predictions.delta.to_pyarrow_dataset().to_table(columns=named, filter=wanted).to_pandas()
    labels = features.read((str(since), str(until)), [label]).to_pandas()
    frame = scores.merge(labels[[*model.KEY, label]], on=list(model.KEY), how="left", validate="many_to_one")
    rows = []
    for (day, of), scored in frame.groupby([time, "model_version"], sort=True):
        known = scored[scored[label].notna()]
        row = {time: day, "model_name": model.NAME, "model_version": of, "scored": len(scored), "labelled": len(known)}
        if len(known):
            positive, probability = known[label].to_numpy(dtype=bool), known["probability"].to_numpy()
            row |= {"label_rate": positive.mean(), "mean_probability": probability.mean()}
            row |= model.evaluate(positive, probability) if 0 < positive.sum() < len(positive) else {}
        rows.append(row | {"feature_version": features.version})
    return pa.Table.from_pylist(rows, schema)


def report(model_module: Model, *, lake: Location, tracking_uri: str, version: int | None = None) -> ReportResult:
    """The champion and its baseline on the report split, from the feature table at ``version`` (by default the latest).

    The result is kept with the champion's run, as metrics `report_*` and `report_baseline_*`, a calibration plot and the
    table's version; a result that the run already holds is not logged again.

    Raises:
        ModelError: the table, the version, a column, the split's labels, the champion or its baseline is missing, or MLflow
            cannot be used.
    """
    from lakehouse import plots

    features = open_features(model_module, lake, version)
    champion = load_champion(model_module, tracking_uri=tracking_uri)
    with tracking(tracking_uri) as client:
        run = client.get_run(champion.run_id)
        if BASELINE_TAG not in run.data.tags:
            raise ModelError(
                f"{model_module.NAME} version {champion.version} was not made by `lakehouse train`: its run "
                f"{champion.run_id} names no baseline. Train again."
            )
        baseline = load_pipeline(client, run.data.tags[BASELINE_TAG], model_module.TRUSTED_TYPES)
        also = features.present(dict.fromkeys((*reads(champion.pipeline), *reads(baseline))))
        held = features.labelled("report", also)
        probability = _predict(model_module, champion, features, held.frame)
        base = _predict(model_module, champion._replace(pipeline=baseline), features, held.frame)
        metrics = model_module.evaluate(held.label, probability)
        base_metrics = model_module.evaluate(held.label, base)
        values = {f"report_{name}": value for name, value in metrics.items()}
        values |= {f"report_baseline_{name}": value for name, value in base_metrics.items()}
        known = run.data.metrics
        changed = not all(k in known and math.isclose(known[k], v, rel_tol=1e-9) for k, v in values.items())
        if changed:
            days = f"{held.span[0]} to {held.span[1]}"
            title = f"{model_module.NAME} version {champion.version}, report split: {days}, {held.rows:,} rows"
            curves = {
                f"model (Brier {metrics['brier']:.4f})": probability,
                f"baseline (Brier {base_metrics['brier']:.4f})": base,
            }
            client.log_figure(run.info.run_id, plots.calibration(held.label, curves, title), "report_calibration.png")
            client.set_tag(run.info.run_id, REPORT_VERSION_TAG, str(features.version))
            for name, value in (values | {"report_rows": held.rows}).items():
                client.log_metric(run.info.run_id, name, value)
    return ReportResult(
        model_name=model_module.NAME,
        model_version=champion.version,
        run_id=champion.run_id,
        delta_version=features.version,
        rows=held.rows,
        unlabelled=held.unlabelled,
        metrics=metrics,
        baseline=base_metrics,
        logged=changed,
    )


def _predict(model: Model, champion: Champion, features: Features, frame: pd.DataFrame) -> np.ndarray:
    gone = [name for name in reads(champion.pipeline) if name not in frame]
    if gone:
        raise ModelError(
            f"{model.NAME} version {champion.version} was trained on columns that {features} does not have: "
            f"{', '.join(gone)}. Run `lakehouse train`, or name the feature version it was trained on."
        )
    return model.predict(champion.pipeline, frame)
