"""Server process of a project's web page: `lakehouse app`."""

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
OPTIONS: Final = {
    "server.address": HOST,
    # A foreign host name that resolves to this address must not reach the page (DNS rebinding).
    "server.allowedHosts": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "minimal",
}
STOP_SECONDS: Final = 10.0


def serve(page: str, port: int, log: Path, announce: Callable[[str], None]) -> None:
    """Serve the page from a separate process until a signal ends it.

    Args:
        page: The module of the page.
        log: File for the output of the process.
        announce: Called with the address once the server listens.

    Raises:
        SettingsError: Streamlit is not installed, there is no such module, or the port is not available.
        LakehouseError: The server ended by itself.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise SettingsError(
            "The page needs Streamlit, which is not installed. Run pip install 'lakehouse-medallion[app]'."
        )
    spec = importlib.util.find_spec(page)
    if spec is None or spec.origin is None:
        raise SettingsError(f"The page {page} is no module. Correct `page` in conf/base.yml.")
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise SettingsError(f"{HOST}:{port} is not available ({error}). Choose another --port.") from None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with _run_streamlit(spec.origin, port, log) as server:
            while server.poll() is None and not _is_listening(port):
                time.sleep(0.1)
            if server.poll() is None:
                announce(f"The page is at http://{HOST}:{port}; Ctrl+C ends it.")
            raise LakehouseError(f"The page's server ended with status {server.wait()}. See its last lines in {log}.")
    except KeyboardInterrupt:
        return


@contextmanager
def _run_streamlit(file: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run Streamlit until the block ends. Ctrl+C at the terminal does not reach it, as it is in another session."""
    command = [sys.executable, "-m", "streamlit", "run", file, f"--server.port={port}"]
    command += [f"--{name}={value}" for name, value in OPTIONS.items()]
    # The page must import the same code as this process.
    paths = os.pathsep.join(filter(None, (str(find_root()), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as output:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
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
