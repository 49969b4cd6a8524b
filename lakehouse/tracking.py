"""MLflow as the project uses it: its client, and the models that it keeps.

Models are stored with skops and loaded with exactly the types that the model's module trusts: MLflow's own loader takes that
list from the stored model itself, so it is not used.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from lakehouse.errors import ModelError, first_line, without_password

CHAMPION: Final = "champion"
BASELINE_TAG: Final = "baseline_model"
GONE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")


@contextmanager
def tracking(uri: str) -> Iterator[Any]:
    """An MlflowClient for ``uri``, which also becomes the process's tracking server, as logging a model needs it.

    Creates and migrates an SQLite database that is not there yet (two seconds). Nothing is printed: MLflow's messages go to
    the root logger's handlers.

    Raises:
        ModelError: the database, the server or the artifact store cannot be used.
    """
    # Read when MLflow is first imported: no telemetry, no handlers of its own, no bars, no minutes of retries.
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
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    import mlflow
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    # What else the system says is not a server's fault, but may well be that of a database in a file.
    faults = (RequestException,) if uri.startswith("http") else (SQLAlchemyError, sqlite3.Error, OSError)
    try:
        _check_sqlite(uri)
        with warnings.catch_warnings():
            # MLflow's own use of what its dependencies deprecate: nothing that a reader could mend.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow\.")
            mlflow.set_tracking_uri(uri)
            yield mlflow.MlflowClient(tracking_uri=uri)
    except (mlflow.MlflowException, *faults) as error:
        raise ModelError(_told(uri, error)) from error


def _told(uri: str, error: Exception) -> str:
    what = without_password(first_line(error))
    if not uri.startswith("http"):
        return (
            f"MLflow at {without_password(uri)} cannot be used: {what} Check that the place is there, can be written to, and "
            "was made by this or an older version of MLflow (then `mlflow db upgrade` brings it up to date); a database "
            "that is damaged must be moved away or restored."
        )
    server = f"The MLflow server at {without_password(uri)} (MLFLOW_TRACKING_URI)"
    errors = re.search(r"too many \d+ error responses", what)
    if not errors and re.search(r"Max retries exceeded|timed out|Connection (aborted|refused|reset)", what):
        return f"{server} does not answer. Check that it runs, and that the address is its own."
    if re.search(r"error code 401|Error: 401|401 Client|not authenticated", what):
        return f"{server} does not let you in: check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    return f"{server} failed ({errors[0] if errors else what}). Its own log says more; the store of its artifacts or its database may be in trouble."


def find_champion(client: Any, name: str) -> Any | None:
    """The champion's entry in the registry; None where the model has none."""
    from mlflow import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in GONE:
            return None
        raise


def load_pipeline(client: Any, model_uri: str, trusted: Sequence[str]) -> Any:
    """The stored pipeline, by skops, with exactly the trusted types.

    Raises:
        ModelError: it holds other types, is not a skops file, or is gone.
        MlflowException, OSError: MLflow cannot be used, which says nothing about the model.
    """
    import mlflow
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    with tempfile.TemporaryDirectory() as folder:
        if "model.skops" not in _files(client, model_uri):
            raise ModelError(f"{model_uri} is gone, or has no model.skops. Train again.")
        found = mlflow.artifacts.download_artifacts(
            artifact_uri=model_uri, dst_path=folder, tracking_uri=client.tracking_uri
        )
        try:
            return skops.io.load(Path(found) / "model.skops", trusted=list(trusted))
        except UntrustedTypesFoundException as error:
            raise ModelError(
                f"{model_uri} is refused: {error} Train again, or, if you know where it comes from and have read what these "
                "types do, add them to the model's TRUSTED_TYPES."
            ) from error
        except Exception as error:  # whatever a file that is cut short or forged makes of the reader
            raise ModelError(f"{model_uri} cannot be loaded ({type(error).__name__}: {error}). Train again.") from error


def _files(client: Any, model_uri: str) -> set[str]:
    from mlflow import MlflowException
    from mlflow.artifacts import list_artifacts

    try:
        return {file.path for file in list_artifacts(artifact_uri=model_uri, tracking_uri=client.tracking_uri)}
    except MlflowException as error:
        if error.error_code in GONE:
            return set()
        raise


def reads(pipeline: Any) -> tuple[str, ...]:
    """The columns that a fitted pipeline was given: an older champion's may differ from the module's of today."""
    return tuple(str(name) for name in getattr(pipeline, "feature_names_in_", ()))


def sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _check_sqlite(uri: str) -> None:
    """Fail at once where MLflow would retry for a minute."""
    database = sqlite_file(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
