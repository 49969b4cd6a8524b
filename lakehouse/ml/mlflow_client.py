"""Access to MLflow: its client, and the loading of registered models.

The project's own code loads a version, after a check of its files against their sha256 in the registry. MLflow's
loaders are not used, because they run code from the stored model.
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
# In each part: the learner's name and its module.
LEARNER_FILE: Final = "learner.json"
TYPICAL_FILE: Final = "typical.json"
# A single instance, because a logger adds the same handler only once.
_NO_HANDLER: Final = logging.NullHandler()
NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
# MLflow reads these at its first import, which comes after this module. They turn off pickles, telemetry, log handlers,
# progress bars and minutes of retries. The telemetry thread imports during autologging and can deadlock a training.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
# scikit-learn reads this at its first import: waiting threads then release their core. The default is spinning, which
# makes trainings several times slower on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@contextmanager
def open_tracking_client(uri: str) -> Iterator[Any]:
    """Open an MlflowClient for ``uri``, and set ``uri`` as the process's tracking server, which logging a model needs.

    A missing SQLite database is created and migrated (two seconds). Nothing is printed: MLflow's messages go to the
    root logger's handlers.

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
            # MLflow itself uses deprecated parts of its dependencies. A reader of the log cannot change that.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow\.")
            mlflow.set_tracking_uri(uri)
            yield mlflow.MlflowClient(tracking_uri=uri)
    except (mlflow.MlflowException, *faults) as error:
        raise ModelError(_describe_error(uri, error)) from error
    except OSError as error:
        # The caller's own file errors also pass through here. Only those that MLflow raised are MLflow's.
        if uri.startswith("http") or not _is_mlflow_error(error):
            raise
        raise ModelError(_describe_error(uri, error)) from error


def _is_mlflow_error(error: OSError) -> bool:
    """Return whether MLflow's code raised the error."""
    names = [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]
    return any(name.startswith("mlflow.") for name in names)


def _describe_error(uri: str, error: Exception) -> str:
    message = redact_password(get_first_line(error))
    if not uri.startswith("http"):
        return (
            f"MLflow at {redact_password(uri)} cannot be used: {message} Check that its folder exists and is writable, "
            "run `mlflow db upgrade` on an older version's database, and move away or restore a damaged one."
        )
    server = f"The MLflow server at {redact_password(uri)} (MLFLOW_TRACKING_URI)"
    errors = re.search(r"too many \d+ error responses", message)
    if not errors and re.search(r"Max retries exceeded|timed out|Connection (aborted|refused|reset)", message):
        return f"{server} does not answer. Check that the server runs and that the address is right."
    if re.search(r"error code 401|Error: 401|401 Client|not authenticated", message):
        return f"{server} refuses the login. Check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    reason = errors[0] if errors else message
    return f"{server} failed ({reason}). Read the server's log, and check its artifact store and its database."


def find_alias(client: Any, name: str, alias: str) -> Any | None:
    """Return the registry's entry of the model's version with that alias, or None."""
    from mlflow import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            return None
        raise


class LoadedModel(NamedTuple):
    """A version of a model, ready to predict.

    Attributes:
        model: the module that fitted it.
        typical: by feature, the median or the most frequent value of its validation rows.
    """

    model: Model
    fitted: Any
    version: int
    run_id: str
    typical: Mapping[str, Any]

    def get_input_columns(self) -> tuple[str, ...]:
        return self.model.get_input_columns(self.fitted)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.model.predict(self.fitted, frame)


def load_version(client: Any, entry: Any, models: Mapping[str, Model], part: str = MODEL) -> LoadedModel:
    """Load a registered version by its learner among ``models``, after a check of its files.

    Args:
        part: MODEL, or BASELINE for the version's baseline.

    Raises:
        ModelError: the version is gone, was changed or cannot be loaded, or its learner is not among the models.
        MlflowException, OSError: MLflow cannot be used, which says nothing about the model.
    """
    description = f"{entry.name} version {entry.version}"
    with tempfile.TemporaryDirectory() as folder:
        files, model = fetch_version(client, entry, models, Path(folder), part)
        typical = json.loads((files / TYPICAL_FILE).read_text())
        return LoadedModel(model, load_files(model, files, description), int(entry.version), entry.run_id, typical)


def fetch_version(
    client: Any, entry: Any, models: Mapping[str, Model], folder: Path, part: str = MODEL
) -> tuple[Path, Model]:
    """Download the files of a registered version below ``folder``, check them and find its learner among ``models``.

    Raises:
        ModelError: the version is gone or was changed, or its learner is not among the models.
        MlflowException, OSError: MLflow cannot be used, which says nothing about the model.
    """
    import mlflow
    from mlflow import MlflowException

    version, learner = f"{entry.name} version {entry.version}", entry.tags.get(LEARNER_TAG)
    if learner not in models:
        raise ModelError(
            f"{version} was made by {learner!r}, which `models` in conf/base.yml does not name. "
            "Add the learner there, or train another version."
            if learner
            else f"{version} has no tag {LEARNER_TAG!r}, which names its learner. Train another version."
        )
    uri = f"models:/{entry.name}/{entry.version}/artifacts/{MODEL}" if part == MODEL else f"runs:/{entry.run_id}/{part}"
    missing = ModelError(
        f"{version} is gone from the store of artifacts ({uri}). Restore its files, or train another version."
    )
    try:
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    except MlflowException as error:
        if error.error_code in NOT_FOUND_CODES:
            raise missing from error
        raise
    except FileNotFoundError as error:
        raise missing from error
    if compute_digest(Path(path)) != entry.tags.get(f"{part}_sha256"):
        raise ModelError(
            f"{version} is refused: its files ({uri}) are not those that were registered. Restore the files, or train "
            "another version."
        )
    return Path(path), models[learner]


def load_files(model: Model, files: Path, description: str) -> Any:
    """Load a model's files with its module.

    Args:
        description: the model's name and version, for the error.

    Raises:
        ModelError: the files cannot be loaded.
    """
    try:
        return model.load(files)
    except Exception as error:  # a module may raise anything on files that it does not trust
        raise ModelError(
            f"{description} cannot be loaded here ({type(error).__name__}: {error}). Install the missing packages, or "
            "train another version."
        ) from error


def compute_digest(folder: Path) -> str:
    """Compute sha256 of a folder's files, names and bytes."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return total.hexdigest()


def get_sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _check_sqlite(uri: str) -> None:
    """Fail at once where MLflow would retry for a minute."""
    database = get_sqlite_file(uri)
    if database:
        try:
            database.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(_describe_error(uri, error)) from error
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
