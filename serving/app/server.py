"""The page's server: what `lakehouse app` starts."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lakehouse.errors import LakehouseError, SettingsError
from lakehouse.project import find_root

HOST: Final = "127.0.0.1"
PAGE: Final = Path(__file__).with_name("page.py")
OPTIONS: Final = {
    "server.address": HOST,
    # Another site whose name was made to lead here must not talk to the page.
    "server.allowedHosts": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "minimal",
}
STOP_SECONDS: Final = 10.0


def serve(port: int, log: Path, announce: Callable[[str], None]) -> None:
    """Serve the page from a process of its own until a signal to end comes. What that prints goes to ``log``.

    Raises:
        SettingsError: Streamlit is not installed, or the port is taken.
        LakehouseError: the server ended by itself.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise SettingsError("The page needs Streamlit, which is not installed: pip install 'lakehouse[app]'.")
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise SettingsError(f"{HOST}:{port} cannot be listened at ({error}): choose another --port.") from None
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _interrupt)
    try:
        with _run_streamlit(port, log) as server:
            while server.poll() is None and not _is_listening(port):
                time.sleep(0.1)
            if server.poll() is None:
                announce(f"The page is at http://{HOST}:{port}; Ctrl+C ends it.")
            raise LakehouseError(f"The page's server ended with status {server.wait()}; its last words are in the log.")
    except KeyboardInterrupt:
        return


@contextmanager
def _run_streamlit(port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Streamlit, which ends when the block does. A Ctrl+C at the terminal does not reach it: it is of another session."""
    command = [sys.executable, "-m", "streamlit", "run", str(PAGE), f"--server.port={port}"]
    command += [f"--{name}={value}" for name, value in OPTIONS.items()]
    # The page is to import the code that started it, wherever that lies.
    paths = os.pathsep.join(filter(None, (str(find_root()), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True
