"""A study in MLflow: one run with the best result so far, and one child run for each ended trial."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lakehouse.errors import ModelError
from lakehouse.ml.mlflow_client import open_tracking_client
from lakehouse.ml.registry import Registry, get_or_create_experiment, log_child_run

logger = logging.getLogger(__name__)
STUDY_TAG: Final = "study"
TRIAL_TAG: Final = "trial"
MAX_RUNS = 50_000  # the most that an MLflow server returns in one response


@dataclass(frozen=True)
class Trial:
    """An ended trial.

    Attributes:
        metrics: by their names in MLflow; empty after an error.
        started_at: in seconds since 1970.
        error: empty where the trial succeeded.
    """

    number: int
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    started_at: float
    seconds: float
    revision: str
    error: str


@dataclass
class StudyRuns:
    """The runs of one study in MLflow.

    Attributes:
        tags: tags of the study's run, which identify the study.
        run_id: the study's run; empty until the first logging.
    """

    registry: Registry
    study: str
    title: str
    tags: Mapping[str, str]
    run_id: str = ""
    _logged: set[int] = field(default_factory=set)

    def log_trials(self, trials: Sequence[Trial], status: str = "RUNNING", *, is_strict: bool = True) -> None:
        """Log to MLflow the trials that it does not have yet.

        Args:
            is_strict: raise when MLflow cannot be used. Otherwise log a warning, as a later call can catch up.

        Raises:
            ModelError: MLflow cannot be used.
        """
        try:
            with open_tracking_client(self.registry.tracking_uri) as client:
                experiment = get_or_create_experiment(client, self.registry.experiment, self.registry.artifact_root)
                if not self.run_id:
                    self._find_run(client, experiment)
                new = [trial for trial in trials if trial.number not in self._logged]
                for trial in new:
                    self._log_trial(client, experiment, trial)
                if new:
                    self._log_best(client, trials)
                if status == "RUNNING":
                    client.update_run(self.run_id, status=status)
                else:
                    client.set_terminated(self.run_id, status)
        except ModelError as error:
            if is_strict:
                error.add_note(f"Trials that ended are kept in the study {self.study}. Run it again to continue.")
                raise
            logger.warning("MLflow has not logged the study %s yet: %s", self.study, error)

    def _find_run(self, client: Any, experiment: str) -> None:
        """Find or create the study's run, and collect the trials that MLflow already has."""
        runs = client.search_runs([experiment], f"tags.{STUDY_TAG} = '{self.study}'")
        if not runs:
            tags = {STUDY_TAG: self.study, "mlflow.source.name": "lakehouse tune", **self.tags}
            self.run_id = client.create_run(experiment, tags=tags, run_name=self.title).info.run_id
            return
        self.run_id = runs[0].info.run_id
        is_child = f"tags.`mlflow.parentRunId` = '{self.run_id}'"
        for run in client.search_runs([experiment], is_child, max_results=MAX_RUNS):
            if run.info.status == "RUNNING":  # its logging was interrupted
                client.delete_run(run.info.run_id)
            else:
                self._logged.add(int(run.data.tags[TRIAL_TAG]))

    def _log_trial(self, client: Any, experiment: str, trial: Trial) -> None:
        tags = {TRIAL_TAG: str(trial.number), "revision": trial.revision, "mlflow.source.name": "lakehouse tune"}
        tags |= {"error": trial.error} if trial.error else {}
        values = {**trial.metrics, "seconds": trial.seconds}
        logged = {"params": trial.params, "metrics": {name: [(0, value)] for name, value in values.items()}}
        start_ms = int(trial.started_at * 1000)
        run = log_child_run(client, experiment, self.run_id, f"trial {trial.number}", tags, logged, start_ms)
        end_ms = start_ms + int(trial.seconds * 1000)
        client.set_terminated(run, "FAILED" if trial.error else "FINISHED", end_ms)
        self._logged.add(trial.number)

    def _log_best(self, client: Any, trials: Sequence[Trial]) -> None:
        client.set_tag(self.run_id, "trials", str(len(trials)))
        succeeded = [trial for trial in trials if not trial.error]
        if not succeeded:
            return
        best = min(succeeded, key=lambda trial: trial.metrics["validation_brier"])
        for name, value in best.metrics.items():
            client.log_metric(self.run_id, name, value, step=len(trials))
        client.set_tag(self.run_id, "best_trial", str(best.number))
        client.set_tag(self.run_id, "best_params", json.dumps(dict(best.params)))
