"""Watching the champion: what became of its scores, and how far its features are from those that it was trained on.

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
from lakehouse.ml.mlflow_client import LoadedModel, tracking_client
from lakehouse.ml.psi import WINDOW_DAYS, Spread, spreads
from lakehouse.ml.scoring import load_by_alias, measure_quality, scored_rows, summarize_scores
from lakehouse.ml.task import Model, Span, Splits, Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from lakehouse.storage.location import Location


@dataclass(frozen=True)
class MonitoringReport:
    """The champion over a span of days.

    ``now`` is what `lakehouse.ml.scoring.outcome` says of its scores, ``chosen`` how it did on its validation split, ``trained_until``
    the last day that it learned from. ``quality`` and ``drift`` are rows for the task's tables of those names. ``notes`` say what
    could not be judged, and why.
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
    """Judge the champion by the task's limits over the days from ``since`` to ``until``, both included, taken together.

    Without ``until`` they end with the last day that is scored; without ``since`` they are WINDOW_DAYS.

    Raises:
        ModelError: there is no champion, nothing is scored, the days hold no row, or a table or a column is missing.
    """
    champion = load_by_alias(task, models, tracking_uri=tracking_uri)
    with tracking_client(tracking_uri) as client:
        run = client.get_run(champion.run_id).data
    features = open_features(task, lake, champion.input_columns())
    span = _span(features, lake, since, until)
    spread, rate, notes = _read_spreads(champion, run.params, features, lake, span)
    chosen = {name: run.metrics[f"validation_{name}"] for name in ("roc_auc", "average_precision", "brier")}
    chosen["brier_skill"] = _skill(chosen["brier"], rate)
    moved = tuple(one.measure_drift(span, task.limits.psi) for one in spread)
    now = _current_metrics(champion, features, lake, span)
    found = limits.check_results(task.limits, chosen, now) if "roc_auc" in now else []
    daily = _daily(spread, span, task)
    return MonitoringReport(
        champion, features, span, run.params["train_until"], chosen, now, moved,
        findings=(*found, *limits.check_features(task.limits, moved)),
        notes=(*notes, *_judgement_notes(champion, now, span, run.params["validation_until"])),
        quality=_quality(champion, features, lake, span, daily),
        drift=_drift(champion, features, daily),
    )  # fmt: skip


def later_splits(report: MonitoringReport) -> Splits | None:
    """The task's splits moved to the last labelled days up to the end of the span: as many of them to choose by as before, and all
    before them, from the same first day on, to train on; None where the champion has learned from all of these.
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


def _span(features: FeatureTable, lake: Location, since: date | None, until: date | None) -> Span:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    task = features.task
    predictions = open_log(lake.joinpath(*task.predictions_table.split(".")))
    scored = None
    if predictions:
        of_task = ds.field("model_name") == task.name
        scored = pc.max(
            predictions.delta_table.to_pyarrow_dataset().to_table([task.time_column], of_task)[task.time_column]
        ).as_py()
    if scored is None:
        raise ModelError(f"{task.predictions_table} holds no scores of {task.name}: run `lakehouse score` first.")
    until = until or scored
    since = since or until - timedelta(days=WINDOW_DAYS - 1)
    if since > until:
        raise ModelError(f"--from {since} is after --to {until}.")
    if not features.read((str(since), str(until)), ()).num_rows:
        raise ModelError(f"{features} has no rows from {since} to {until}: nothing to watch.")
    return str(since), str(until)


def _read_spreads(
    champion: LoadedModel, params: Mapping[str, str], features: FeatureTable, lake: Location, span: Span
) -> tuple[list[Spread], float, list[str]]:
    """The spread of the champion's features, the label's rate in its validation split, and notes on what they are compared with."""
    task = features.task
    try:
        trained = open_features(task, lake, champion.input_columns(), int(params["delta_version"]))
        if trained.table_id != params["feature_table_id"]:
            raise ModelError(f"{task.feature_table} was made anew since.")
        return *_spread(champion, params, trained, features, span), []
    except (ModelError, LedgerError) as error:
        gone = f"What version {champion.version} was trained on cannot be read any more; the same days of {features} stand for it."
        return *_spread(champion, params, features, features, span), [f"{gone} {error}"]


def _spread(
    champion: LoadedModel, params: Mapping[str, str], trained: FeatureTable, features: FeatureTable, span: Span
) -> tuple[list[Spread], float]:
    train, choose = ((params[f"{name}_from"], params[f"{name}_until"]) for name in ("train", "validation"))
    # The days before are in the first days' windows.
    before = date.fromisoformat(span[0]) - timedelta(days=WINDOW_DAYS - 1)
    spread = [*spreads(trained, features, champion.input_columns(), (train, (str(before), span[1])))]
    return spread, float(LabelledRows(trained, choose, ()).label.mean())


def _skill(brier: float, rate: float) -> float:
    """1 - the Brier score / that of saying the label's rate every time."""
    return 1 - brier / (rate * (1 - rate))


def _current_metrics(champion: LoadedModel, features: FeatureTable, lake: Location, span: Span) -> dict[str, Any]:
    scores = scored_rows(features.task, features, lake=lake, since=span[0], until=span[1])
    assert scores is not None, "there is a table of predictions"
    now = summarize_scores(scores[scores["model_version"] == champion.version], features.task.label_column)
    return now | ({"brier_skill": _skill(now["brier"], now["label_rate"])} if "brier" in now else {})


def _judgement_notes(champion: LoadedModel, now: Mapping[str, Any], span: Span, chosen_until: str) -> Iterator[str]:
    """Why results cannot be judged, or are too good."""
    version, days = f"version {champion.version}", f"--from {span[0]} --to {span[1]}"
    if not now["scored"]:
        yield f"Only features are judged: {version} has no scores of these days (`lakehouse score {days}`)."
    elif "roc_auc" not in now:
        known = "the same label" if now["labelled"] else "no label yet"
        yield f"Only features are judged: all {now['scored']:,} rows that {version} scored have {known}."
    elif span[0] <= chosen_until:
        yield f"Results are better than they would be later: {version} was trained and chosen on days up to {chosen_until}."


def _daily(spread: list[Spread], span: Span, task: Task) -> pd.DataFrame:
    """A row for each day that has rows, and feature."""
    import pandas as pd

    days = {one.feature: one.daily(span, task.limits.psi) for one in spread}
    return pd.concat(days, names=["feature", task.time_column]).dropna(subset="missing_share").reset_index()


def _drift(champion: LoadedModel, features: FeatureTable, daily: pd.DataFrame) -> pa.Table:
    """One row per day and feature of the champion: psi and psi_limit of the WINDOW_DAYS up to it, missing_share and
    trained_missing_share (double; psi null where there is no value), feature_version (int64)."""
    import pyarrow as pa

    numbers = ("psi", "psi_limit", "missing_share", "trained_missing_share")
    kinds = {features.task.time_column: pa.date32(), "model_name": pa.string(), "model_version": pa.int32()}
    kinds |= {"feature": pa.string()} | dict.fromkeys(numbers, pa.float64()) | {"feature_version": pa.int64()}
    made = daily.assign(model_name=features.task.name, model_version=champion.version, feature_version=features.version)
    return pa.Table.from_pandas(made, pa.schema(kinds), preserve_index=False)


def _quality(
    champion: LoadedModel, features: FeatureTable, lake: Location, span: Span, daily: pd.DataFrame
) -> pa.Table:
    """What `realised` says of the span and, of the champion's days, psi_max and psi_max_feature of the feature whose PSI is highest
    for its limit, drifted_features (int32) and missing_share (double), the mean of all features'."""
    import pyarrow as pa

    time = features.task.time_column
    known = measure_quality(features.task, lake=lake, since=span[0], until=span[1], version=features.version)
    ratio, day = (daily["psi"] / daily["psi_limit"]).fillna(0), daily[time]
    said = daily.loc[ratio.groupby(day).idxmax()].set_index(time)[["psi", "feature"]]
    said = said.assign(
        drifted_features=(ratio > 1).groupby(day).sum(), missing_share=daily.groupby(time)["missing_share"].mean()
    )
    kinds = {time: pa.date32(), "model_version": pa.int32(), "psi_max": pa.float64(), "psi_max_feature": pa.string()}
    kinds |= {"drifted_features": pa.int32(), "missing_share": pa.float64()}
    said = said.rename(columns={"psi": "psi_max", "feature": "psi_max_feature"}).assign(model_version=champion.version)
    added = pa.Table.from_pandas(said.reset_index(), pa.schema(kinds), preserve_index=False)
    key = [time, "model_version"]
    return known.join(added, key).sort_by([(name, "ascending") for name in key])
