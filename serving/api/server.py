"""The server: what `lakehouse serve` starts."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable

from lakehouse.errors import SettingsError
from lakehouse.ml import models as declared_models
from lakehouse.settings import Settings

KEY_VARIABLE = "SERVING_API_KEY"
# After a signal to end, what was asked before is answered within this time.
GRACE_SECONDS = 15


def serve(
    settings: Settings,
    name: str | None,
    *,
    host: str,
    port: int,
    canary: float,
    refresh_seconds: float,
    announce: Callable[[str], None],
) -> None:
    """Answer requests until a signal to end comes.

    Raises:
        SettingsError: there is no key, or the address cannot be had.
        ModelError: there is no champion, it does not fit its feature table, or MLflow cannot be used.
        LedgerError, StorageError: the feature table cannot be read.
    """
    key = read_api_key()
    # Read when scikit-learn's or torch's threads are first made. A few rows are not worth sharing out, and the other cores have
    # requests to read.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvicorn

    from serving.api.app import Service, create_app
    from serving.api.holding import ModelWatcher
    from serving.api.journal import Journal
    from serving.api.lookups import Lookups

    models = declared_models.load_models(settings)
    task = declared_models.choose_task(models, name)
    lookups = Lookups(task, settings.lake)
    of_task = {name: model for name, model in models.items() if task == model.TASK}
    holding = ModelWatcher(task, of_task, lookups, settings.tracking_uri, canary)
    journal = Journal(lookups.features, settings.lake)
    app = create_app(Service(task, holding, lookups, journal, refresh_seconds), key)
    with _open_socket(host, port) as listening:
        for one in (signal.SIGINT, signal.SIGTERM):
            # uvicorn ends as it should, and then lets the signal do what it does without uvicorn.
            signal.signal(one, lambda *_: None)
        at = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        announce(f"{task.name} version {holding.state.champion.loaded.version} answers at {at}; Ctrl+C ends it.")
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_SECONDS
        )
        uvicorn.Server(config).run(sockets=[listening])


def read_api_key() -> str:
    """The key that callers must show.

    Raises:
        SettingsError: there is none, or none that a header can carry.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise SettingsError(
            f"{KEY_VARIABLE} is not set: callers must show this key. Put a long random one into the environment or .env "
            "(`make env` makes one)."
        )
    if not re.fullmatch(r"[!-~]{16,}", key):
        raise SettingsError(f"{KEY_VARIABLE} must have at least 16 characters, all of them ASCII and none a space.")
    return key


def _open_socket(host: str, port: int) -> socket.socket:
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Asked anew what it is, it says that it speaks TCP. asyncio sends without delay (TCP_NODELAY) by that alone; else an answer's
        # second packet waits 40 ms for the first one's acknowledgement.
        return socket.socket(fileno=made.detach())
    except OSError as error:
        raise SettingsError(
            f"{host}:{port} cannot be listened at ({error}): choose another --port or --host."
        ) from None
