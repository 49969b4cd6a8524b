"""A lock in a bucket: an object that its holder renews, put there and changed by conditional requests alone.

It keeps runs out of each other's way; it is no fence. A holder that was paused past its lease may wake while another runs: what
it would then commit is refused by Delta, whose transaction ids are the fence (see `lakehouse.deltalog.commit_record`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from threading import Event, Thread
from typing import Any

from lakehouse.errors import LockError, StorageError
from lakehouse.storage.s3 import S3Path, client, told

LEASE_SECONDS = 60.0
RENEWALS = 6  # in each lease
CLOCK_SECONDS = 1.0  # stores tell times in whole seconds
FENCES = 10_000  # that each holder has
# A clock that goes on while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass
class Hold:
    """Until when, by this machine's clock, its holder may take the lock for its own; without an end by default.

    ``token`` is larger than that of every earlier holder.
    """

    until: float = field(default=float("inf"))
    token: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def fence(self) -> int:
        """A number larger than any that this holder or an earlier one was given: Delta skips a write whose transaction has a
        smaller number than one that it has seen."""
        self.token += 1
        return self.token

    def has_run_out(self) -> bool:
        return time.clock_gettime(_CLOCK) > self.until

    def check(self) -> None:
        """
        Raises:
            LockError: the lock may be another's by now.
        """
        if self.has_run_out():
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
        ends = float(self.said.get("lease_seconds", LEASE_SECONDS)) + CLOCK_SECONDS
        return bool(self.said.get("released")) or self.age > ends


@contextmanager
def leased(
    lock: S3Path, said: Mapping[str, Any], wait_seconds: float, hold: Hold, ended: Callable[[Mapping[str, Any]], bool]
) -> Iterator[None]:
    """Hold the lock; a thread renews it. Where it could not be renewed in time, ``hold`` says so.

    ``said`` is put on record with the lock; ``ended`` is asked of another's whether it can be known to have come to its end.

    Raises:
        LockError: another holds it for longer than ``wait_seconds``.
    """
    body = {**said, "lease_seconds": LEASE_SECONDS, "token": hold.token}
    tag = [_acquired(lock, body, wait_seconds, hold, ended)]
    done = Event()
    renewing = Thread(target=_renew, args=(lock, body, tag, hold, done), name="lease", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        if not hold.has_run_out():  # else there is nothing to release, and perhaps no store that would answer
            renewing.join()
            _release(lock, body, tag)


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


def _acquired(
    lock: S3Path, body: dict[str, Any], wait_seconds: float, hold: Hold, ended: Callable[[Mapping[str, Any]], bool]
) -> str:
    """Write the lock, once it is free; returns the object's tag."""
    until = time.monotonic() + wait_seconds
    while True:
        there = holder(lock)
        if there and _is_own(there, body):  # the answer was lost on the way
            return there.tag
        if there is None or there.is_over() or ended(there.said):
            condition = {"IfMatch": there.tag} if there else {"IfNoneMatch": "*"}
            # Whatever the clocks say, it is larger than the token of the holder before.
            hold.token = body["token"] = max(hold.token, int(there.said.get("token", 0)) + FENCES if there else 0)
            hold.until = time.clock_gettime(_CLOCK) + LEASE_SECONDS
            try:
                return lock.write_bytes(_text(body), **condition)
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


def _text(body: Mapping[str, Any]) -> bytes:
    # Every renewal has other bytes, and with them another tag.
    return json.dumps({**body, "renewed": time.time_ns()}).encode()


def _renew(lock: S3Path, body: Mapping[str, Any], tag: list[str], hold: Hold, done: Event) -> None:
    while not done.wait(LEASE_SECONDS / RENEWALS):
        began = time.clock_gettime(_CLOCK)
        try:
            tag[0] = lock.write_bytes(_text(body), IfMatch=tag[0])
            hold.until = began + LEASE_SECONDS
        except (
            FileExistsError,
            FileNotFoundError,
        ):  # another has it, somebody removed it, or an answer was lost on the way
            if not _adopted(lock, body, tag, hold, began):
                return
        except StorageError:  # tried again until the lease has ended
            continue


def _is_own(there: Holder, body: Mapping[str, Any]) -> bool:
    return (there.said.get("run"), there.said.get("token")) == (body.get("run"), body["token"]) and "run" in body


def _adopted(lock: S3Path, body: Mapping[str, Any], tag: list[str], hold: Hold, began: float) -> bool:
    """Whether the lock is this holder's as it is there; where it is another's, ``hold`` ends."""
    try:
        there = holder(lock)
    except StorageError:  # asked again until the lease has ended
        return True
    if there is None or not _is_own(there, body):
        hold.until = 0.0
        return False
    tag[0], hold.until = there.tag, began + LEASE_SECONDS
    return True


def _release(lock: S3Path, body: Mapping[str, Any], tag: list[str]) -> None:
    try:
        lock.write_bytes(_text({"released": True, "token": body["token"]}), IfMatch=tag[0])
    except (FileExistsError, FileNotFoundError, StorageError):
        return  # another's by now, or it runs out by itself
