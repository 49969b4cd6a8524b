"""The execution of trials: on threads of this process, or on Dask's workers, which read the lake themselves."""

from __future__ import annotations

import importlib
import logging
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from lakehouse.errors import ModelError, get_first_line, locate_error
from lakehouse.ml.dataset import LabelledRows, open_features
from lakehouse.ml.task import Model
from lakehouse.ml.training import fit, name_metrics

if TYPE_CHECKING:
    from lakehouse.storage.location import Location

Backend = Literal["threads", "dask"]
CONNECT_SECONDS = 10
# A terminal's Ctrl-C reaches all processes. It would end a worker together with its trial.
IGNORE_INTERRUPT = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class TrialSpec:
    """The model and the rows of a trial, by names that a worker in another process can resolve."""

    module: str
    lake: Location
    table_id: str
    version: int
    seed: int


def run_trial(spec: TrialSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Fit once.

    Returns:
        ``metrics`` by name, or the ``error`` of the fit and its ``trace``.

    Raises:
        ModelError: the worker cannot read the table's version or import the module.
    """
    model, train, validation = open_splits(spec)
    try:
        return {"metrics": name_metrics(fit(model, model.FEATURES, params, spec.seed, train, validation))}
    except Exception as error:  # other parameters may still fit
        message = f"{type(error).__name__}: {get_first_line(error)}{locate_error(error)}"
        return {"error": message, "trace": traceback.format_exc()}


@lru_cache(maxsize=1)
def open_splits(spec: TrialSpec) -> tuple[Model, LabelledRows, LabelledRows]:
    """Open the model and its train and validation rows, once per worker."""
    try:
        model: Any = importlib.import_module(spec.module)
    except ImportError as error:
        raise ModelError(
            f"A worker cannot import {spec.module} ({error}). Install the project on the workers, too."
        ) from error
    features = open_features(model.TASK, spec.lake, model.FEATURES, spec.version)
    if features.table_id != spec.table_id:
        raise ModelError(
            f"A worker reads another {model.TASK.feature_table} in {spec.lake}. Give all workers the same lake."
        )
    return model, features.split("train", model.FEATURES), features.split("validation", model.FEATURES)


@contextmanager
def open_executor(backend: Backend, address: str, jobs: int) -> Iterator[Executor]:
    """Open an executor for ``jobs`` trials at once.

    Args:
        address: the address of Dask's scheduler; empty to start workers on this machine.

    Raises:
        ModelError: Dask is not installed, or its scheduler does not answer.
    """
    if backend == "threads":
        with ThreadPoolExecutor(jobs, thread_name_prefix="trial") as pool:
            yield pool
        return
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError:
        raise ModelError("Dask is not installed: pip install 'lakehouse-medallion[dask]'.") from None
    # A trial is not repeated after its worker died. The cluster serves no HTTP pages.
    routes: dict[str, Any] = {f"distributed.{part}.http.routes": [] for part in ("scheduler", "worker")}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0, **routes}), ExitStack() as stack:
        try:
            cluster = address or stack.enter_context(
                LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=jobs,
                    threads_per_worker=1,
                    memory_limit=None,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    security=True,
                    silence_logs=logging.CRITICAL,
                    preload=[IGNORE_INTERRUPT],
                )
            )
            client = stack.enter_context(Client(cluster, timeout=CONNECT_SECONDS))  # type: ignore[no-untyped-call]
        except OSError as error:
            raise ModelError(f"The Dask scheduler {address} does not answer ({get_first_line(error)}).") from error
        yield stack.enter_context(client.get_executor(pure=False))
