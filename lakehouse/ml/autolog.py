"""What libraries tell MLflow of a fitting, without a server."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lakehouse.ml.mlflow_client import tracking_client


@dataclass
class AutologResult:
    """What MLflow's autologging said of a fitting: files, if any; parameters; metrics as (step, value) by name."""

    files: Path
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def make_autologger(folder: Path) -> Callable[[str], AbstractContextManager[AutologResult]]:
    """Lets libraries tell MLflow of fittings, each by a name of its own, without a server: ``folder`` gets a database and files."""
    file = folder / "autolog.db"
    file.write_bytes(_empty_database())
    database = f"sqlite:///{file}"

    @contextmanager
    def one(name: str) -> Iterator[AutologResult]:
        with tracking_client(database) as client:
            experiment = client.create_experiment(name, artifact_location=(folder / name).as_uri())
            run = client.create_run(experiment).info.run_id
        said = AutologResult(folder / name / run / "artifacts")
        with _capture_autologging(run):  # and not `tracking`, to which an error of the fitting would be MLflow's
            yield said
        with tracking_client(database) as client:
            data = client.get_run(run).data
            said.params |= data.params
            for metric in data.metrics:
                said.metrics[metric] = [(at.step, at.value) for at in client.get_metric_history(run, metric)]

    return one


@cache
def _empty_database() -> bytes:
    """MLflow takes a second to make one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "empty.db")
        with tracking_client(f"sqlite:///{file}") as client:
            client.search_experiments()
        with closing(sqlite3.connect(file)) as connection:
            return connection.serialize()


@contextmanager
def _capture_autologging(run: str) -> Iterator[None]:
    import mlflow

    nothing_stored = dict.fromkeys(("log_models", "log_input_examples", "log_model_signatures", "log_datasets"), False)
    try:
        mlflow.autolog(**nothing_stored, silent=True)
        with mlflow.start_run(run_id=run):
            yield
    finally:
        mlflow.autolog(disable=True, silent=True)
