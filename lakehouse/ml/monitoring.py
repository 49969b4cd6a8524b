"""Monitoring of the champion: the quality of its scores, and the drift of its features since its training.

Nothing here starts Spark or writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from lakehouse.deltalog.table_log import open_log
from lakehouse.errors import LedgerError, ModelError
from lakehouse.ml import limits
from lakehouse.ml.dataset import FeatureTable, LabelledRows, open_features
from lakehouse.ml.limits import FeatureDrift, Finding
from lakehouse.ml.metrics import METRICS
from lakehouse.ml.mlflow_client import LoadedModel, open_tracking_client
from lakehouse.ml.psi import WINDOW_DAYS, Spread, compute_spreads
from lakehouse.ml.scoring import load_by_alias, measure_quality, score_rows, summarize_scores
from lakehouse.ml.task import Model, Span, Splits, Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from lakehouse.storage.location import Location


@dataclass(frozen=True)
class MonitoringReport:
    """The champion over a span of days.

    Attributes:
        trained_until: the last day of its train split.
        validation_metrics: its metrics on its validation split.
        current_metrics: the metrics of its scores in the span; see `lakehouse.ml.scoring.summarize_scores`.
        notes: what could not be judged, and why.
        quality: rows for the task's table of quality.
        drift: rows for the task's table of drift.
    """

    champion: LoadedModel
    features: FeatureTable
    span: Span
    trained_until: str
    validation_metrics: Mapping[str, float]
    current_metrics: Mapping[str, Any]
    feature_drift: tuple[FeatureDrift, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    quality: pa.Table
    drift: pa.Table


def monitor_champion(
    task: Task,
    models: Mapping[str, Model],
    *,
    lake: Location,
    tracking_uri: str,
    since: date | None = None,
    until: date | None = None,
) -> MonitoringReport:
    """Judge the champion by the task's limits over a span of days as a whole.

    Args:
        since: the first day; by default the span has WINDOW_DAYS days.
        until: the last day, included; by default the last scored day.

    Raises:
        ModelError: there is no champion, nothing is scored, the span has no row, or a table or a column is missing.
    """
    champion = load_by_alias(task, models, tracking_uri=tracking_uri)
    with open_tracking_client(tracking_uri) as client:
        run = client.get_run(champion.run_id).data
    features = open_features(task, lake, champion.get_input_columns())
    span = _resolve_span(features, lake, since, until)
    feature_spreads, label_rate, notes = _read_spreads(champion, run.params, features, lake, span)
    validation = {name: run.metrics[f"validation_{name}"] for name in METRICS}
    validation["brier_skill"] = _compute_brier_skill(validation["brier"], label_rate)
    current = _compute_current_metrics(champion, features, lake, span)
    drifts = tuple(spread.measure_drift(span, task.limits.psi) for spread in feature_spreads)
    findings = limits.check_results(task.limits, validation, current) if "roc_auc" in current else []
    daily = _compute_daily_drift(feature_spreads, span, task)
    return MonitoringReport(
        champion=champion,
        features=features,
        span=span,
        trained_until=run.params["train_until"],
        validation_metrics=validation,
        current_metrics=current,
        feature_drift=drifts,
        findings=(*findings, *limits.check_features(task.limits, drifts)),
        notes=(*notes, *_list_judgement_notes(champion, current, span, run.params["validation_until"])),
        quality=_build_quality_rows(champion, features, lake, span, daily),
        drift=_build_drift_rows(champion, features, daily),
    )


def shift_splits(report: MonitoringReport) -> Splits | None:
    """Move the task's splits to the last labelled days up to the end of the report's span.

    The validation split keeps its length. The train split begins on the same day and takes all days before the
    validation.

    Returns:
        The moved splits; None if the champion has already learned from all of their train days.
    """
    import pyarrow.compute as pc

    task, features = report.features.task, report.features
    splits, until = task.splits, report.span[1]
    rows = features.read((splits.train[0], until), [task.time_column, task.label_column])
    last = pc.max(rows.filter(pc.is_valid(rows[task.label_column]))[task.time_column]).as_py()
    validation_from, validation_until = (date.fromisoformat(day) for day in splits.validation)
    if last is None:
        return None
    first = last - (validation_until - validation_from)
    train_until = str(first - timedelta(days=1))
    if train_until <= report.trained_until:
        return None
    return Splits((splits.train[0], train_until), (str(first), str(last)), splits.test)


def _resolve_span(features: FeatureTable, lake: Location, since: date | None, until: date | None) -> Span:
    task = features.task
    last_scored = _find_last_scored_day(task, lake)
    if last_scored is None:
        raise ModelError(f"{task.predictions_table} holds no scores of {task.name}: run `lakehouse score` first.")
    until = until or last_scored
    since = since or until - timedelta(days=WINDOW_DAYS - 1)
    if since > until:
        raise ModelError(f"--from {since} is after --to {until}.")
    if not features.read((str(since), str(until)), ()).num_rows:
        raise ModelError(f"{features} has no rows from {since} to {until}. Choose days that the table has.")
    return str(since), str(until)


def _find_last_scored_day(task: Task, lake: Location) -> date | None:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    predictions = open_log(lake.joinpath(*task.predictions_table.split(".")))
    if predictions is None:
        return None
    dataset = predictions.open_dataset()
    scores = dataset.to_table([task.time_column], ds.field("model_name") == task.name)
    day: date | None = pc.max(scores[task.time_column]).as_py()
    return day


def _read_spreads(
    champion: LoadedModel, params: Mapping[str, str], features: FeatureTable, lake: Location, span: Span
) -> tuple[list[Spread], float, list[str]]:
    """Read the features' spreads and the label's rate in the validation split, with notes on their table."""
    task = features.task
    try:
        trained = open_features(task, lake, champion.get_input_columns(), int(params["delta_version"]))
        if trained.table_id != params["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was rebuilt since.")
        return *_compare_spreads(champion, params, trained, features, span), []
    except (ModelError, LedgerError) as error:
        note = (
            f"The rows that version {champion.version} was trained on are unavailable; the same days of {features} "
            f"replace them. {error}"
        )
        return *_compare_spreads(champion, params, features, features, span), [note]


def _compare_spreads(
    champion: LoadedModel, params: Mapping[str, str], trained: FeatureTable, features: FeatureTable, span: Span
) -> tuple[list[Spread], float]:
    train, validation = ((params[f"{name}_from"], params[f"{name}_until"]) for name in ("train", "validation"))
    # The windows of the first days also cover the days before.
    first = date.fromisoformat(span[0]) - timedelta(days=WINDOW_DAYS - 1)
    feature_spreads = [
        *compute_spreads(trained, features, champion.get_input_columns(), (train, (str(first), span[1])))
    ]
    return feature_spreads, float(LabelledRows(trained, validation, ()).label.mean())


def _compute_brier_skill(brier: float, label_rate: float) -> float:
    """Compute 1 - the Brier score / the Brier score of a constant prediction of the label's rate."""
    return 1 - brier / (label_rate * (1 - label_rate))


def _compute_current_metrics(
    champion: LoadedModel, features: FeatureTable, lake: Location, span: Span
) -> dict[str, Any]:
    scores = score_rows(features.task, features, lake=lake, since=span[0], until=span[1])
    assert scores is not None, "there is a table of predictions"
    metrics = summarize_scores(scores[scores["model_version"] == champion.version], features.task.label_column)
    if "brier" in metrics:
        metrics["brier_skill"] = _compute_brier_skill(metrics["brier"], metrics["label_rate"])
    return metrics


def _list_judgement_notes(
    champion: LoadedModel, current: Mapping[str, Any], span: Span, validation_until: str
) -> Iterator[str]:
    """Explain results that cannot be judged or are too good."""
    version, days = f"version {champion.version}", f"--from {span[0]} --to {span[1]}"
    if not current["scored"]:
        yield f"Only features are judged: {version} has no scores of these days (`lakehouse score {days}`)."
    elif "roc_auc" not in current:
        labels = "the same label" if current["labelled"] else "no label yet"
        yield f"Only features are judged: all {current['scored']:,} rows that {version} scored have {labels}."
    elif span[0] <= validation_until:
        yield (
            f"Results are better than later ones will be: {version} was trained and validated on days up to "
            f"{validation_until}."
        )


def _compute_daily_drift(feature_spreads: list[Spread], span: Span, task: Task) -> pd.DataFrame:
    """Return one row per feature and day with rows."""
    import pandas as pd

    days = {spread.feature: spread.compute_daily(span, task.limits.psi) for spread in feature_spreads}
    return pd.concat(days, names=["feature", task.time_column]).dropna(subset="missing_share").reset_index()


def _build_drift_rows(champion: LoadedModel, features: FeatureTable, daily: pd.DataFrame) -> pa.Table:
    """Return the rows for the table of drift.

    Returns:
        One row per day and feature of the champion: psi and psi_limit of the WINDOW_DAYS up to the day, missing_share
        and trained_missing_share (double; psi null where the feature has no value), feature_version (int64).
    """
    import pyarrow as pa

    numbers = ("psi", "psi_limit", "missing_share", "trained_missing_share")
    kinds = {features.task.time_column: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= {"feature": pa.string()} | dict.fromkeys(numbers, pa.float64()) | {"feature_version": pa.int64()}
    rows = daily.assign(model_name=features.task.name, model_version=champion.version, feature_version=features.version)
    return pa.Table.from_pandas(rows, pa.schema(kinds), preserve_index=False)


def _build_quality_rows(
    champion: LoadedModel, features: FeatureTable, lake: Location, span: Span, daily: pd.DataFrame
) -> pa.Table:
    """Return the rows for the table of quality.

    Returns:
        The rows of `measure_quality`. The champion's rows also have psi_max and psi_max_feature (of the feature with
        the highest ratio of PSI to limit), drifted_features (int32) and missing_share (double, the mean of all
        features).
    """
    import pyarrow as pa

    time = features.task.time_column
    quality = measure_quality(features.task, lake=lake, since=span[0], until=span[1], version=features.version)
    ratio, day = (daily["psi"] / daily["psi_limit"]).fillna(0), daily[time]
    worst = daily.loc[ratio.groupby(day).idxmax()].set_index(time)[["psi", "feature"]]
    worst = worst.assign(
        drifted_features=(ratio > 1).groupby(day).sum(), missing_share=daily.groupby(time)["missing_share"].mean()
    )
    kinds = {time: pa.date32(), "model_version": pa.int32(), "psi_max": pa.float64(), "psi_max_feature": pa.string()}
    kinds |= {"drifted_features": pa.int32(), "missing_share": pa.float64()}
    worst = worst.rename(columns={"psi": "psi_max", "feature": "psi_max_feature"})
    worst = worst.assign(model_version=champion.version)
    drift = pa.Table.from_pandas(worst.reset_index(), pa.schema(kinds), preserve_index=False)
    key = [time, "model_version"]
    return quality.join(drift, key).sort_by([(name, "ascending") for name in key])
