"""Recording of fits by MLflow's autologging, without a server."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from lakehouse.ml.mlflow_client import open_tracking_client


@dataclass
class AutologResult:
    """Record of a fit by MLflow's autologging.

    Attributes:
        files: Folder of the logged files. It is missing if no file was logged.
        params: Parameters as text.
        metrics: Pairs of step and value, by the metric's name.
    """

    files: Path
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)


def make_autologger(folder: Path) -> Callable[[str], AbstractContextManager[AutologResult]]:
    """Create a database for autologging in ``folder``.

    Returns:
        A function that records a fit under a name of its own. Files are logged to a folder of that name.
    """
    file = folder / "autolog.db"
    file.write_bytes(_create_empty_database())
    database = f"sqlite:///{file}"

    @contextmanager
    def record_fit(name: str) -> Iterator[AutologResult]:
        with open_tracking_client(database) as client:
            experiment = client.create_experiment(name, artifact_location=(folder / name).as_uri())
            run = client.create_run(experiment).info.run_id
        result = AutologResult(folder / name / run / "artifacts")
        with _capture_autologging(run):  # `open_tracking_client` would report an error of the fit as an error of MLflow
            yield result
        with open_tracking_client(database) as client:
            data = client.get_run(run).data
            result.params |= data.params
            for metric in data.metrics:
                history = client.get_metric_history(run, metric)
                result.metrics[metric] = [(point.step, point.value) for point in history]

    return record_fit


@cache
def _create_empty_database() -> bytes:
    """Create a database of MLflow and return its bytes. They are cached, as MLflow needs a second for each."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "empty.db")
        with open_tracking_client(f"sqlite:///{file}") as client:
            client.search_experiments()
        with closing(sqlite3.connect(file)) as connection:
            return connection.serialize()


@contextmanager
def _capture_autologging(run: str) -> Iterator[None]:
    """Log the parameters and metrics of fits to an MLflow run. Models and datasets are not logged."""
    import mlflow

    disabled = dict.fromkeys(("log_models", "log_input_examples", "log_model_signatures", "log_datasets"), False)
    try:
        mlflow.autolog(**disabled, silent=True)
        with mlflow.start_run(run_id=run):
            yield
    finally:
        mlflow.autolog(disable=True, silent=True)
