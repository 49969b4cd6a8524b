"""A load of HTTP requests from a process of its own: so many clients, each with a connection that it keeps and one request at a time.

`python -m benchmarks.load FILE`; the file is JSON: port, clients, seconds, and the requests, whole, to be sent in turns. What
was measured is printed as JSON.
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
# Not measured: connections, caches and the code of the server get warm.
WARM_SECONDS = 1.0


def whole(path: str, body: Any, headers: dict[str, str]) -> str:
    """A request as it goes over the wire."""
    text = json.dumps(body)
    said = {"Host": HOST, "Content-Type": "application/json", "Content-Length": str(len(text.encode())), **headers}
    return "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in said.items()), "", text])


async def load(port: int, clients: int, seconds: float, requests: list[str]) -> dict[str, float]:
    """Requests answered in a second, the milliseconds that half and 99 in 100 of them took at most, and how many were refused."""
    sent, took, failed = [one.encode() for one in requests], list[float](), count()
    turn = count()
    begins = time.perf_counter() + WARM_SECONDS
    ends = begins + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, port)
        while (asked := time.perf_counter()) < ends:
            writer.write(sent[next(turn) % len(sent)])
            if not await _answered(reader):
                next(failed)
            elif asked >= begins:
                took.append(time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took.sort()
    p50, p99 = (1e3 * took[int(part * (len(took) - 1))] for part in (0.5, 0.99))
    lasted = time.perf_counter() - begins
    return {"per_second": len(took) / lasted, "p50_ms": p50, "p99_ms": p99, "failed": next(failed)}


async def _answered(reader: asyncio.StreamReader) -> bool:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.split("content-length:", 1)[1].split("\r\n", 1)[0]
    await reader.readexactly(int(length))
    return head.split(" ", 2)[1] == "200"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.loads(Path(sys.argv[1]).read_text())))))
