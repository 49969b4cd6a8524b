"""Server process of `lakehouse serve`."""

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
    """Answer requests until a signal ends the process.

    Args:
        canary: The challenger's share of the requests.
        refresh_seconds: Time between two checks of the registry.
        announce: Called with the address once the server listens.

    Raises:
        SettingsError: There is no key, or the address is not available.
        ModelError: There is no champion, it does not fit its feature table, or MLflow cannot be used.
        LedgerError, StorageError: The feature table cannot be read.
    """
    key = read_api_key()
    # scikit-learn and torch read this when they start their threads. A few rows gain nothing from several threads, and
    # the other cores read requests.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from lakehouse.serving.api.app import Service, create_app
    from lakehouse.serving.api.connections import build_server
    from lakehouse.serving.api.journal import Journal
    from lakehouse.serving.api.lookups import Lookups
    from lakehouse.serving.api.watcher import ModelWatcher

    models = declared_models.load_models(settings)
    task = declared_models.choose_task(models, name)
    lookups = Lookups(task, settings.lake)
    task_models = {name: model for name, model in models.items() if task == model.TASK}
    watcher = ModelWatcher(task, task_models, lookups, settings.tracking_uri, canary)
    journal = Journal(lookups.features, settings.lake)
    app = create_app(Service(task, watcher, lookups, journal, refresh_seconds), key)
    with _open_socket(host, port) as listening:
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn shuts down and then raises the signal again, which would end this process with an error.
            signal.signal(number, lambda *_: None)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        announce(f"{task.name} version {watcher.state.champion.loaded.version} answers at {address}; Ctrl+C ends it.")
        build_server(app).run(sockets=[listening])


def read_api_key() -> str:
    """Return the key that callers must send.

    Raises:
        SettingsError: The key is not set, is too short or has characters that a header cannot contain.
    """
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        raise SettingsError(
            f"{KEY_VARIABLE} is not set: callers must send this key. "
            "Put a long random key into the environment or .env (`make env` creates one)."
        )
    if not re.fullmatch(r"[!-~]{16,}", key) or len({*key}) < 8:
        raise SettingsError(
            f"{KEY_VARIABLE} must have at least 16 characters, 8 of them different, all of them ASCII and none a space."
        )
    return key


def _open_socket(host: str, port: int) -> socket.socket:
    try:
        server = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # The new object has the protocol TCP set, and only then does asyncio turn on TCP_NODELAY. Without it, a
        # response's second packet waits 40 ms for the first one's acknowledgement.
        return socket.socket(fileno=server.detach())
    except OSError as error:
        raise SettingsError(f"{host}:{port} is not available ({error}). Choose another --port or --host.") from None
