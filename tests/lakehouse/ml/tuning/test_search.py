"""Tuning on a shop's parcels: continued studies, failed trials, runs in MLflow."""

from __future__ import annotations

import json
import time
from typing import Any

import optuna
import pytest

from lakehouse.errors import ModelError
from lakehouse.ml import models
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.registry import Registry
from lakehouse.ml.tuning import search
from lakehouse.ml.tuning.search import TuneResult
from lakehouse.settings import load
from tests import parcel_trees
from tests.parcels import LEARNER, Place, change_model, parcels


def tune(place: Place, trials: int, module: Any = parcel_trees, **more: Any) -> TuneResult:
    registry = Registry(place.tracking_uri, place.artifact_root, place.experiment)
    options = {"revision": "abc123", "studies_folder": place.pending_folder, **more}
    return search.tune(LEARNER, {LEARNER: module}, lake=place.lake, registry=registry, trials=trials, **options)


def runs(place: Place, result: TuneResult) -> list[Any]:
    """Return the child runs of the study's run, by number."""
    with open_tracking_client(place.tracking_uri) as client:
        experiment = client.get_experiment_by_name(place.experiment).experiment_id
        below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    return sorted(below, key=lambda run: int(run.data.tags["trial"]))


def numbers(result: TuneResult) -> list[int]:
    return sorted(trial.number for trial in result.trials)


def test_a_study_improves_and_logs_every_trial(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    result = tune(place, 6, progress=messages.append)

    assert len(result.trials) == 6
    assert result.trials[0].number != 0, "the candidate of two rounds is not the best"
    briers = [trial.metrics["validation_brier"] for trial in result.trials if not trial.error]
    assert briers == sorted(briers)
    first = next(trial for trial in result.trials if trial.number == 0)
    assert first.params == {"max_iter": 2, "max_depth": 3}, "the model's own candidate comes first"
    assert messages[-1] == f"6 of 6 trials, the best Brier score {briers[0]:.4f}"
    parent, below = place.run(result.run_id), runs(place, result)
    assert (parent.info.status, len(below)) == ("FINISHED", 6)
    assert parent.data.tags["best_trial"] == str(result.best.number)
    assert json.loads(parent.data.tags["best_params"]) == result.best.params
    assert (parent.data.tags["delta_version"], parent.data.tags["trials"]) == ("0", "6")
    assert parent.data.metrics["validation_brier"] == briers[0]
    for run, trial in zip(below, sorted(result.trials, key=lambda trial: trial.number), strict=True):
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert {name: run.data.metrics[name] for name in trial.metrics} == trial.metrics
        assert run.data.tags["revision"] == "abc123"
        assert 0 < run.info.end_time - run.info.start_time < 60_000
        assert not [name for name in run.data.metrics if name.startswith("test_")]
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error:Fixed parameter")
def test_example_spaces_contain_their_candidates() -> None:
    for model in models.load_models(load()).values():
        drawn = [model.space(optuna.trial.FixedTrial(dict(params))) for params in model.CANDIDATES]
        assert drawn == [*model.CANDIDATES]


def test_a_trial_is_judged_as_training_judges(place: Place) -> None:
    result = tune(place, 3)
    trained = place.train(change_model(CANDIDATES=(result.best.params,)))
    assert trained.metrics["brier"] == result.best.metrics["validation_brier"]


def test_a_failed_trial_is_recorded_and_ends_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 5}, {"max_iter": 20}, {"max_iter": 6}))
    result = tune(place, 3)

    assert [trial.params["max_iter"] for trial in result.trials][2:] == [20], "failed trials come last"
    assert result.trials[2].error.startswith("ValueError: 20 rounds are too many (tests/parcel_trees.py, line ")
    run = runs(place, result)[1]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", result.trials[2].error)
    assert [run.info.status for run in runs(place, result)] == ["FINISHED", "FAILED", "FINISHED"]
    assert numbers(tune(place, 3)) == [0, 1, 2], "a failed trial counts, as it would fail again"
    assert [trial.params["max_iter"] for trial in tune(place, 4).trials].count(20) == 1


def test_an_error_explains_that_all_trials_failed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "fit", lambda *_, **options: 1 / options["seed"])
    with pytest.raises(
        ModelError,
        match=r"None of the 2 trials of trees succeeded. The last one: ZeroDivisionError: .* "
        r"\(tuning/test_search.py, line",
    ):
        tune(place, 2)
    with pytest.raises(ModelError, match="trees has no finished trial of its present space"):
        search.find_best_params(LEARNER, parcel_trees, place.pending_folder)


def test_a_study_continues_to_the_total_of_trials(place: Place) -> None:
    first = tune(place, 4)
    longer = tune(place, 9)
    unchanged = tune(place, 5)

    assert (first.study, first.run_id) == (longer.study, longer.run_id)
    assert numbers(longer) == list(range(9)) == numbers(unchanged)
    assert {trial.number: trial for trial in longer.trials} | {trial.number: trial for trial in first.trials} == {
        trial.number: trial for trial in longer.trials
    }, "earlier trials stay"
    drawn = [trial.params["max_iter"] for trial in sorted(longer.trials, key=lambda trial: trial.number)]
    assert drawn[4:8] != drawn[1:5] and drawn[4:8] != drawn[:4], "a restarted sampler must draw other parameters"
    assert len(runs(place, longer)) == 9


def test_another_version_space_or_declaration_is_another_study(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = [tune(place, 1).study]
    monkeypatch.setattr(parcel_trees, "FEATURES", ("distance_km",))
    studies.append(tune(place, 1).study)
    monkeypatch.setattr(parcel_trees, "space", lambda trial: {"max_iter": trial.suggest_int("max_iter", 1, 3)})
    studies.append(tune(place, 1).study)
    place.write(parcels(seed=1))
    studies.append(tune(place, 1, revision="def456").study)
    assert len(set(studies)) == 4
    assert studies[0].startswith("trees-v0-")
    assert studies[3].startswith("trees-v1-")
    assert tune(place, 1, revision="789abc").study == studies[3], "whatever the revision"


def test_several_trials_run_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    running, counts = [], []

    def fit(*splits: Any, **options: Any) -> Any:
        running.append(1)
        time.sleep(0.2)
        counts.append(len(running))
        running.pop()
        return fitted(*splits, **options)

    fitted = parcel_trees.fit
    monkeypatch.setattr(parcel_trees, "fit", fit)
    result = tune(place, 5, jobs=2)
    assert (len(result.trials), max(counts)) == (5, 2)


def test_two_tunings_of_one_study_do_not_mix(place: Place) -> None:
    attempts: list[str] = []

    def tune_again(_: str) -> None:
        if not attempts:
            attempts.append("")
            with pytest.raises(ModelError, match=r"Study trees-v0-\S+ is in use by another `lakehouse tune`\."):
                tune(place, 2)

    assert len(tune(place, 2, progress=tune_again).trials) == 2
    assert attempts


@pytest.mark.parametrize(
    ("module", "more", "text"),
    [
        (change_model(), {}, r"trees cannot be tuned: tests.parcels has no function `space\(trial\)`"),
        (
            change_model(__name__=parcel_trees.__name__, space=lambda trial: trial.suggest_int("max_iter", 3, 1)),
            {},
            r"space\(\): no parameters could be drawn: ValueError: .*low.*high.* \(tuning/test_search.py, line",
        ),
        (
            change_model(space=lambda trial: {}, ON_SPARK=True),
            {"backend": "dask"},
            "trees fits on Spark, .* tune it on threads",
        ),
        (
            change_model(space=lambda trial: {}, FEATURES=("weight",)),
            {},
            "lacks columns that late_parcel reads: weight",
        ),
    ],
)
def test_untunable_models_are_reported(place: Place, module: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        tune(place, 2, module, **more)


def test_training_uses_only_the_best_parameters(place: Place) -> None:
    with pytest.raises(
        ModelError, match="trees has no finished trial of its present space: run `lakehouse tune trees` first"
    ):
        search.find_best_params(LEARNER, parcel_trees, place.pending_folder)
    result = tune(place, 4)
    place.write(parcels(seed=1))  # the study's version need not be the newest
    best = search.find_best_params(LEARNER, parcel_trees, place.pending_folder)
    trained = place.train(parcel_trees, tuned=best)

    assert (best.study, best.params) == (result.study, result.best.params) == (best.study, trained.params)
    run = place.run(trained.run_id)
    assert run.data.params["study"] == result.study
    assert run.data.params["model_max_iter"] == str(result.best.params["max_iter"])
    assert trained.delta_version == 1
    plain = place.run(place.train(parcel_trees).run_id)
    assert "study" not in plain.data.params
    assert plain.data.params["model_max_iter"] == "2"
