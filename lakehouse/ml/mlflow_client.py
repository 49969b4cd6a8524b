"""MLflow as the project uses it: its client, and the models that it keeps.

A version is loaded by the project's own code from files that are those that were registered, by their sha256 in the registry.
MLflow's loaders are not used: they run what the stored model says.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lakehouse.errors import ModelError, get_first_line, redact_password

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from lakehouse.ml.task import Model

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
# The parts of a version, each a folder of files.
MODEL: Final = "model"
BASELINE: Final = "baseline"
LEARNER_TAG: Final = "learner"
# In each part: which learner made it, and its module.
LEARNER_FILE: Final = "learner.json"
TYPICAL_FILE: Final = "typical.json"
# One for all, as a logger takes the same one once.
_NO_HANDLER: Final = logging.NullHandler()
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
# Read when MLflow is first imported, which comes after this module: no pickles, no telemetry, no handlers of its own, no bars, no
# minutes of retries. Telemetry's own thread, which imports while autologging does, can also lock a training for good.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
# Read when scikit-learn is first imported: threads that wait give their core away. Spinning, as is the default, made a
# training on two busy cores take 285 s instead of 27 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def tracking_client(uri: str) -> Iterator[Any]:
    """An MlflowClient for ``uri``, which also becomes the process's tracking server, as logging a model needs it.

    Creates and migrates an SQLite database that is not there yet (two seconds). Nothing is printed: MLflow's messages go to
    the root logger's handlers.

    Raises:
        ModelError: the database, the server or the artifact store cannot be used.
    """
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).addHandler(_NO_HANDLER)
    import mlflow
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    faults = (RequestException,) if uri.startswith("http") else (SQLAlchemyError, sqlite3.Error)
    try:
        _check_sqlite(uri)
        with warnings.catch_warnings():
            # MLflow's own use of what its dependencies deprecate: nothing that a reader could mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow\.")
            mlflow.set_tracking_uri(uri)
            yield mlflow.MlflowClient(tracking_uri=uri)
    except (mlflow.MlflowException, *faults) as error:
        raise ModelError(_describe_error(uri, error)) from error
    except OSError as error:
        # What the system says is not a server's fault, nor MLflow's where the caller does something else meanwhile.
        if uri.startswith("http") or not _is_mlflow_error(error):
            raise
        raise ModelError(_describe_error(uri, error)) from error


def _is_mlflow_error(error: OSError) -> bool:
    """Whether it was MLflow that asked the system for something."""
    names = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    return any(name.startswith("mlflow.") for name in names)


def _describe_error(uri: str, error: Exception) -> str:
    what = redact_password(get_first_line(error))
    if not uri.startswith("http"):
        return (
            f"MLflow at {redact_password(uri)} cannot be used: {what} Check that the place is there, can be written to, and "
            "was made by this or an older version of MLflow (then `mlflow db upgrade` brings it up to date); a database "
            "that is damaged must be moved away or restored."
        )
    server = f"The MLflow server at {redact_password(uri)} (MLFLOW_TRACKING_URI)"
    errors = re.search(r"too many \d+ error responses", what)
    if not errors and re.search(r"Max retries exceeded|timed out|Connection (aborted|refused|reset)", what):
        return f"{server} does not answer. Check that it runs, and that the address is its own."
    if re.search(r"error code 401|Error: 401|401 Client|not authenticated", what):
        return f"{server} does not let you in: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    return f"{server} failed ({errors[0] if errors else what}). Its own log says more; the store of its artifacts or its database may be in trouble."


def find_alias(client: Any, name: str, alias: str) -> Any | None:
    """The entry in the registry of the model's version with that alias; None where it has none."""
    from mlflow import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


class LoadedModel(NamedTuple):
    """A version of a model, ready to predict: the module that fitted it, what that made, its number, the run that made it, and for
    each feature the value that is typical of the rows that it was chosen on (a median, or what occurs most often)."""

    model: Model
    fitted: Any
    version: int
    run_id: str
    typical: Mapping[str, Any]

    def input_columns(self) -> tuple[str, ...]:
        return self.model.input_columns(self.fitted)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.model.predict(self.fitted, frame)


def load_version(client: Any, entry: Any, models: Mapping[str, Model], part: str = MODEL) -> LoadedModel:
    """A registered version, or its ``baseline``, by the one of ``models`` that made it; its files are those that were registered.

    Raises:
        ModelError: it is gone, was changed or cannot be loaded, or none of the models made it.
        MlflowException, OSError: MLflow cannot be used, which says nothing about the model.
    """
    what = f"{entry.name} version {entry.version}"
    with tempfile.TemporaryDirectory() as folder:
        files, model = fetch_version(client, entry, models, Path(folder), part)
        typical = json.loads((files / TYPICAL_FILE).read_text())
        return LoadedModel(model, load_files(model, files, what), int(entry.version), entry.run_id, typical)


def fetch_version(
    client: Any, entry: Any, models: Mapping[str, Model], folder: Path, part: str = MODEL
) -> tuple[Path, Model]:
    """The files of a registered version, below ``folder``, and the one of ``models`` that made it."""
    import mlflow
    from mlflow import MlflowException

    what, learner = f"{entry.name} version {entry.version}", entry.tags.get(LEARNER_TAG)
    if learner not in models:
        named = f"by {learner!r}, which `models` in conf/base.yml does not name" if learner else "in another way"
        raise ModelError(f"{what} was made {named}. Name its learner there, or train another.")
    uri = f"models:/{entry.name}/{entry.version}/artifacts/{MODEL}" if part == MODEL else f"runs:/{entry.run_id}/{part}"
    try:
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            raise ModelError(
                f"{what} is gone from the store of artifacts ({uri}). Restore it, or train another."
            ) from error
        raise
    except FileNotFoundError as error:
        raise ModelError(
            f"{what} is gone from the store of artifacts ({uri}). Restore it, or train another."
        ) from error
    if digest(Path(found)) != entry.tags.get(f"{part}_sha256"):
        raise ModelError(
            f"{what} is refused: its files ({uri}) are not those that were registered. Restore them, or train another."
        )
    return Path(found), models[learner]


def load_files(model: Model, files: Path, description: str) -> Any:
    """What the model's module makes of its files.

    Raises:
        ModelError: they cannot be loaded; ``what`` says which they are.
    """
    try:
        return model.load(files)
    except Exception as error:  # whatever a file that a reader does not trust makes of it
        said = f"{description} cannot be loaded here ({type(error).__name__}: {error})"
        raise ModelError(f"{said}. Install what it lacks, or train another.") from error


def digest(folder: Path) -> str:
    """sha256 of a folder's files, names and bytes."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(
            f"{file.relative_to(folder).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode()
        )
    return whole.hexdigest()


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _check_sqlite(uri: str) -> None:
    """Fail at once where MLflow would retry for a minute."""
    database = sqlite_file(uri)
    if database:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(_describe_error(uri, error)) from error
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
