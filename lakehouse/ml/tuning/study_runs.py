"""A study in MLflow: a run of its own, which says the best so far, and below it one for each trial that has ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import tracking_client
from lakehouse.ml.registry import Registry, get_or_create_experiment, log_child_run

logger = logging.getLogger(__name__)
STUDY_TAG: Final = "study"
TRIAL_TAG: Final = "trial"
MAX_RUNS = 50_000  # that MLflow's servers give in one answer


@dataclass(frozen=True)
class Trial:
    """A trial that has ended: metrics as MLflow names them, or an error; when it began, in seconds since 1970."""

    number: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    started_at: float
    seconds: float
    revision: str
    error: str


@dataclass
class StudyRuns:
    """Tells MLflow of a study; ``tags`` say what it is of. ``run_id`` is its run's once it was told."""

    registry: Registry
    study: str
    title: str
    tags: Mapping[str, str]
    run_id: str = ""
    _logged: set[int] = field(default_factory=set)

    def log_trials(self, trials: Sequence[Trial], status: str = "RUNNING", *, is_strict: bool = True) -> None:
        """What MLflow does not know yet of these trials.

        Raises:
            ModelError: MLflow cannot be used; unless ``strict`` that is only noted in the log, as it can be told later.
        """
        try:
            with tracking_client(self.registry.tracking_uri) as client:
                experiment = get_or_create_experiment(client, self.registry.experiment, self.registry.artifact_root)
                if not self.run_id:
                    self._find_run(client, experiment)
                new = [one for one in trials if one.number not in self._logged]
                for one in new:
                    self._log_trial(client, experiment, one)
                if new:
                    self._log_best(client, trials)
                if status == "RUNNING":
                    client.update_run(self.run_id, status=status)
                else:
                    client.set_terminated(self.run_id, status)
        except ModelError as error:
            if is_strict:
                error.add_note(f"Trials that ended are kept in the study {self.study}: run it again to go on.")
                raise
            logger.warning("MLflow was not told of the study %s: %s", self.study, error)

    def _find_run(self, client: Any, experiment: str) -> None:
        """The study's run, from an earlier start or new, and the trials that MLflow knows."""
        found = client.search_runs([experiment], f"tags.{STUDY_TAG} = '{self.study}'")
        if not found:
            tags = {STUDY_TAG: self.study, "mlflow.source.name": "lakehouse tune", **self.tags}
            self.run_id = client.create_run(experiment, tags=tags, run_name=self.title).info.run_id
            return
        self.run_id = found[0].info.run_id
        below = f"tags.`mlflow.parentRunId` = '{self.run_id}'"
        for run in client.search_runs([experiment], below, max_results=MAX_RUNS):
            if run.info.status == "RUNNING":  # told by halves
                client.delete_run(run.info.run_id)
            else:
                self._logged.add(int(run.data.tags[TRIAL_TAG]))

    def _log_trial(self, client: Any, experiment: str, trial: Trial) -> None:
        tags = {TRIAL_TAG: str(trial.number), "revision": trial.revision, "mlflow.source.name": "lakehouse tune"}
        tags |= {"error": trial.error} if trial.error else {}
        values = {**trial.metrics, "seconds": trial.seconds}
        said = {"params": trial.params, "metrics": {name: [(0, value)] for name, value in values.items()}}
        began = int(trial.started_at * 1000)
        run = log_child_run(client, experiment, self.run_id, f"trial {trial.number}", tags, said, began)
        ended = began + int(trial.seconds * 1000)
        client.set_terminated(run, "FAILED" if trial.error else "FINISHED", ended)
        self._logged.add(trial.number)

    def _log_best(self, client: Any, trials: Sequence[Trial]) -> None:
        client.set_tag(self.run_id, "trials", str(len(trials)))
        known = [one for one in trials if not one.error]
        if not known:
            return
        best = min(known, key=lambda one: one.metrics["validation_brier"])
        for name, value in best.metrics.items():
            client.log_metric(self.run_id, name, value, step=len(trials))
        client.set_tag(self.run_id, "best_trial", str(best.number))
        client.set_tag(self.run_id, "best_params", json.dumps(dict(best.params)))
