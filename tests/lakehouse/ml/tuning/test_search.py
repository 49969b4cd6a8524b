"""Tuning on a shop's parcels: studies that go on where they stopped, trials that fail, what MLflow is told, Dask."""

from __future__ import annotations

import json
import time
from typing import Any

import optuna
import pytest

from lakehouse.errors import ModelError
from lakehouse.ml import models
from lakehouse.ml.mlflow_client import tracking_client
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
    """The runs below the study's, by number."""
    with tracking_client(place.tracking_uri) as client:
        experiment = client.get_experiment_by_name(place.experiment).experiment_id
        below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.run_id}'")
    return sorted(below, key=lambda run: int(run.data.tags["trial"]))


def numbers(result: TuneResult) -> list[int]:
    return sorted(one.number for one in result.trials)


def test_a_study_finds_what_the_candidates_lack_and_mlflow_has_every_trial(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    result = tune(place, 6, progress=told.append)

    assert len(result.trials) == 6
    assert result.trials[0].number != 0, "the candidate of two rounds is not the best"
    briers = [one.metrics["validation_brier"] for one in result.trials if not one.error]
    assert briers == sorted(briers)
    first = next(one for one in result.trials if one.number == 0)
    assert first.params == {"max_iter": 2, "max_depth": 3}, "the model's own candidate comes first"
    assert told[-1] == f"6 of 6 trials, the best Brier score {briers[0]:.4f}"
    parent, below = place.run(result.run_id), runs(place, result)
    assert (parent.info.status, len(below)) == ("FINISHED", 6)
    assert parent.data.tags["best_trial"] == str(result.best.number)
    assert json.loads(parent.data.tags["best_params"]) == result.best.params
    assert (parent.data.tags["delta_version"], parent.data.tags["trials"]) == ("0", "6")
    assert parent.data.metrics["validation_brier"] == briers[0]
    for run, trial in zip(below, sorted(result.trials, key=lambda one: one.number), strict=True):
        assert run.data.params == {name: str(value) for name, value in trial.params.items()}
        assert {name: run.data.metrics[name] for name in trial.metrics} == trial.metrics
        assert run.data.tags["revision"] == "abc123"
        assert 0 < run.info.end_time - run.info.start_time < 60_000
        assert not [name for name in run.data.metrics if name.startswith("test_")]
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error:Fixed parameter")
def test_the_spaces_of_the_example_hold_its_candidates() -> None:
    for one in models.load_models(load()).values():
        assert [one.space(optuna.trial.FixedTrial(dict(params))) for params in one.CANDIDATES] == [*one.CANDIDATES]


def test_a_trial_is_judged_as_training_judges(place: Place) -> None:
    result = tune(place, 3)
    trained = place.train(change_model(CANDIDATES=(result.best.params,)))
    assert trained.metrics["brier"] == result.best.metrics["validation_brier"]


def test_a_trial_that_fails_is_on_record_and_ends_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "CANDIDATES", ({"max_iter": 5}, {"max_iter": 20}, {"max_iter": 6}))
    result = tune(place, 3)

    assert [one.params["max_iter"] for one in result.trials][2:] == [20], "those that failed come last"
    assert result.trials[2].error.startswith("ValueError: 20 rounds are too many (tests/parcel_trees.py, line ")
    run = runs(place, result)[1]
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", result.trials[2].error)
    assert [run.info.status for run in runs(place, result)] == ["FINISHED", "FAILED", "FINISHED"]
    assert numbers(tune(place, 3)) == [0, 1, 2], "it counts: it would fail again"
    assert [one.params["max_iter"] for one in tune(place, 4).trials].count(20) == 1


def test_where_all_trials_fail_the_error_says_why(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parcel_trees, "fit", lambda *_, **how: 1 / how["seed"])
    with pytest.raises(
        ModelError,
        match=r"None of the 2 trials of trees succeeded. The last one: ZeroDivisionError: .* \(tuning/test_search.py, line",
    ):
        tune(place, 2)
    with pytest.raises(ModelError, match="trees has no finished trial of its present space"):
        search.find_best_params(LEARNER, parcel_trees, place.pending_folder)


def test_a_study_goes_on_to_so_many_trials_in_all(place: Place) -> None:
    first = tune(place, 4)
    with_more = tune(place, 9)
    none_left = tune(place, 5)

    assert (first.study, first.run_id) == (with_more.study, with_more.run_id)
    assert numbers(with_more) == list(range(9)) == numbers(none_left)
    assert {one.number: one for one in with_more.trials} | {one.number: one for one in first.trials} == {
        one.number: one for one in with_more.trials
    }, "what was known stays"
    drawn = [one.params["max_iter"] for one in sorted(with_more.trials, key=lambda one: one.number)]
    assert drawn[4:8] != drawn[1:5] and drawn[4:8] != drawn[:4], (
        "a sampler that begins again must not draw the same again"
    )
    assert len(runs(place, with_more)) == 9


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


def test_several_trials_are_under_way_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = [], []

    def fit(*splits: Any, **how: Any) -> Any:
        under_way.append(1)
        time.sleep(0.2)
        most.append(len(under_way))
        under_way.pop()
        return fitted(*splits, **how)

    fitted = parcel_trees.fit
    monkeypatch.setattr(parcel_trees, "fit", fit)
    result = tune(place, 5, jobs=2)
    assert (len(result.trials), max(most)) == (5, 2)


def test_two_tunings_of_one_study_do_not_mix(place: Place) -> None:
    said: list[str] = []

    def again(_: str) -> None:
        if not said:
            said.append("")
            with pytest.raises(ModelError, match="Another `lakehouse tune` is at the study trees-v0-"):
                tune(place, 2)

    assert len(tune(place, 2, progress=again).trials) == 2
    assert said


@pytest.mark.parametrize(
    ("module", "more", "text"),
    [
        (change_model(), {}, r"trees cannot be tuned: tests.parcels has no function `space\(trial\)`"),
        (
            change_model(__name__=parcel_trees.__name__, space=lambda trial: trial.suggest_int("max_iter", 3, 1)),
            {},
            r"space cannot be drawn from: ValueError: .*low.*high.* \(tuning/test_search.py, line",
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
def test_what_cannot_be_tuned_is_told(place: Place, module: Any, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        tune(place, 2, module, **more)


def test_training_takes_the_best_parameters_as_its_only_candidate(place: Place) -> None:
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
