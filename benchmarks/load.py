"""A load of HTTP requests from its own process; each client has a persistent connection and one request at a time.

`python -m benchmarks.load FILE` reads a JSON file with the port, clients, seconds and complete requests to send in
turns. It prints the measurements as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
# Not measured: connections, caches and the code of the server warm up.
WARM_SECONDS = 1.0


def format_request(path: str, body: Any, headers: dict[str, str]) -> str:
    """Return a POST request in its HTTP/1.1 form."""
    text = json.dumps(body)
    length = str(len(text.encode()))
    fields = {"Host": HOST, "Content-Type": "application/json", "Content-Length": length, **headers}
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", text])


async def send_load(port: int, clients: int, seconds: float, requests: list[str]) -> dict[str, float]:
    """Return the answers per second, the median and 99th percentile (milliseconds), and the failed requests."""
    bodies, durations, failed = [request.encode() for request in requests], list[float](), count()
    turn = count()
    begins = time.perf_counter() + WARM_SECONDS
    ends = begins + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        while (start := time.perf_counter()) < ends:
            writer.write(bodies[next(turn) % len(bodies)])
            if not await _is_ok(reader):
                next(failed)
            elif start >= begins:
                durations.append(time.perf_counter() - start)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    durations.sort()
    p50, p99 = (1e3 * durations[int(part * (len(durations) - 1))] for part in (0.5, 0.99))
    elapsed = time.perf_counter() - begins
    return {"per_second": len(durations) / elapsed, "p50_ms": p50, "p99_ms": p99, "failed": next(failed)}


async def _is_ok(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.split("content-length:", 1)[1].split("\r\n", 1)[0]
    await reader.readexactly(int(length))
    return head.split(" ", 2)[1] == "200"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(send_load(**json.loads(Path(sys.argv[1]).read_text())))))
