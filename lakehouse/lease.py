"""A lock in a bucket: an object that its holder renews, put there and changed by conditional requests alone.

It keeps runs out of each other's way; it is no fence. A holder that was paused past its lease may wake while another runs: what
it would then commit is refused by Delta, whose transaction ids are the fence (see `lakehouse.ledger`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event, Thread
from typing import Any

from lakehouse.errors import LockError, StorageError
from lakehouse.s3 import S3Path, client, told

LEASE_SECONDS = 60.0
RENEWALS = 6  # in each lease
# A clock that goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass
class Hold:
    """Until when, by this machine's clock, its holder may take the lock for its own; without an end by default."""

    until: float = field(default=float("inf"))

    def check(self) -> None:
        """
        Raises:
            LockError: the lock may be another's by now.
        """
        if time.clock_gettime(_CLOCK) > self.until:
            raise LockError(
                "This run was held up for longer than its lease of the lake, and another may have taken it over: it stops "
                "here. What was committed stays; run again."
            )


@dataclass(frozen=True)
class Holder:
    """What the lock says, and since when (seconds, by the store's own clock)."""

    said: Mapping[str, Any]
    tag: str
    age: float

    def is_over(self) -> bool:
        return bool(self.said.get("released")) or self.age > float(self.said.get("lease_seconds", LEASE_SECONDS))


@contextmanager
def leased(lock: S3Path, said: Mapping[str, Any], wait_seconds: float, hold: Hold) -> Iterator[None]:
    """Hold the lock; a thread renews it. Where it could not be renewed in time, ``hold`` says so.

    Raises:
        LockError: another holds it for longer than ``wait_seconds``.
    """
    body = json.dumps({**said, "lease_seconds": LEASE_SECONDS}).encode()
    hold.until = time.clock_gettime(_CLOCK) + LEASE_SECONDS
    tag = [_acquired(lock, body, wait_seconds)]
    hold.until = time.clock_gettime(_CLOCK) + LEASE_SECONDS
    ended = Event()
    renewing = Thread(target=_renew, args=(lock, body, tag, hold, ended), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        _release(lock, tag)


def holder(lock: S3Path) -> Holder | None:
    """Who holds the lock or held it last; None where nobody ever did."""
    try:
        with told(lock):
            found = client().get_object(Bucket=lock.bucket, Key=lock.key)
            text = found["Body"].read()
    except FileNotFoundError:
        return None
    now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
    try:
        said = json.loads(text)
    except ValueError:
        said = {}
    return Holder(said if isinstance(said, dict) else {}, found["ETag"], (now - found["LastModified"]).total_seconds())


def _acquired(lock: S3Path, body: bytes, wait_seconds: float) -> str:
    until = time.monotonic() + wait_seconds
    while True:
        there = holder(lock)
        if there is None or there.is_over():
            condition = {"IfMatch": there.tag} if there else {"IfNoneMatch": "*"}
            try:
                return lock.write_bytes(body, **condition)
            except (FileExistsError, FileNotFoundError):  # another was quicker
                continue
        if time.monotonic() >= until:
            ends = max(0.0, float(there.said.get("lease_seconds", LEASE_SECONDS)) - there.age)
            raise LockError(_taken(lock, there, ends))
        time.sleep(0.5)


def _taken(lock: S3Path, there: Holder, ends: float) -> str:
    said = there.said
    who = (
        f"run {said['run']}, process {said['pid']} on {said['host']}, since {said['since']}"
        if "run" in said
        else "unnamed"
    )
    return (
        f"Another run holds the lake {lock}: {who}; unless it is renewed, its lease ends in {ends:.0f} s. Wait for it to finish, "
        "then run again, or let a run wait by itself: LAKEHOUSE_LOCK_WAIT_SECONDS."
    )


def _renew(lock: S3Path, body: bytes, tag: list[str], hold: Hold, ended: Event) -> None:
    while not ended.wait(LEASE_SECONDS / RENEWALS):
        began = time.clock_gettime(_CLOCK)
        try:
            tag[0] = lock.write_bytes(body, IfMatch=tag[0])
            hold.until = began + LEASE_SECONDS
        except (FileExistsError, FileNotFoundError):  # another has it, or somebody removed it
            hold.until = 0.0
            return
        except StorageError:  # tried again until the lease has ended
            continue


def _release(lock: S3Path, tag: list[str]) -> None:
    try:
        lock.write_bytes(json.dumps({"released": True}).encode(), IfMatch=tag[0])
    except (FileExistsError, FileNotFoundError, StorageError):
        return  # another's by now, or it runs out by itself
