"""Lock in a bucket: an object that its holder renews. Only conditional requests create or change it.

The lock keeps runs apart, but does not fence them. A holder that was paused past its lease may wake during another
run. Delta refuses the holder's commits: their transaction ids are the fence (see `lakehouse.deltalog.commit_record`).
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
from lakehouse.storage.s3 import S3Path, get_client, translate_errors

LEASE_SECONDS = 60.0
RENEWALS_PER_LEASE = 6  # during each lease
CLOCK_TOLERANCE_SECONDS = 1.0  # stores give times in whole seconds
TOKENS_PER_HOLDER = 10_000  # numbers reserved for each holder
# A clock that does not stop while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass
class Lease:
    """Lease of a run on the lake.

    Attributes:
        expires_at: when the lease expires, in seconds of this machine's clock; never by default.
        token: a number larger than every earlier holder's.
    """

    expires_at: float = field(default=float("inf"))
    token: int = field(default_factory=lambda: time.time_ns() // 1_000_000)

    def issue_fencing_token(self) -> int:
        """Return a number larger than any returned before, to this holder or an earlier one.

        Delta skips a write if its transaction's number is smaller than a committed one.
        """
        self.token += 1
        return self.token

    def is_expired(self) -> bool:
        return time.clock_gettime(_CLOCK) > self.expires_at

    def check(self) -> None:
        """Check that the lease has not expired.

        Raises:
            LockError: the lease has expired; another run may hold the lake.
        """
        if self.is_expired():
            raise LockError(
                "The lease on the lake expired during this run; another run may hold it. "
                "Committed tables are kept. Run again to continue."
            )


@dataclass(frozen=True)
class Holder:
    """Holder of a lock, as described in the lock's object.

    Attributes:
        age_seconds: seconds since the last renewal, by the store's own clock.
    """

    record: Mapping[str, Any]
    etag: str
    age_seconds: float

    def is_expired(self) -> bool:
        seconds = float(self.record.get("lease_seconds", LEASE_SECONDS)) + CLOCK_TOLERANCE_SECONDS
        return bool(self.record.get("released")) or self.age_seconds > seconds


HasEnded = Callable[[Mapping[str, Any]], bool]


@contextmanager
def hold_lease(
    lock: S3Path, record: Mapping[str, Any], wait_seconds: float, lease: Lease, has_ended: HasEnded
) -> Iterator[None]:
    """Hold the lock while a thread renews it.

    Args:
        record: describes this holder, for others to read.
        lease: expires if the lock cannot be renewed in time.
        has_ended: takes another holder's record; returns True if that holder has certainly ended.

    Raises:
        LockError: another run holds the lock for longer than ``wait_seconds``.
    """
    body = {**record, "lease_seconds": LEASE_SECONDS, "token": lease.token}
    etag = [_acquire(lock, body, wait_seconds, lease, has_ended)]
    stop = Event()
    thread = Thread(target=_renew, args=(lock, body, etag, lease, stop), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        if not lease.is_expired():  # an expired lock need not be released, and its store may not answer
            thread.join()
            _release(lock, body, etag)


def read_holder(lock: S3Path) -> Holder | None:
    """Read the lock's present or last holder; None if it never had one."""
    try:
        with translate_errors(lock):
            response = get_client().get_object(Bucket=lock.bucket, Key=lock.key)
            text = response["Body"].read()
    except FileNotFoundError:
        return None
    now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
    try:
        record = json.loads(text)
    except ValueError:
        record = {}
    age = (now - response["LastModified"]).total_seconds()
    return Holder(record if isinstance(record, dict) else {}, response["ETag"], age)


def _acquire(lock: S3Path, body: dict[str, Any], wait_seconds: float, lease: Lease, has_ended: HasEnded) -> str:
    """Write the lock once it is free; return its ETag."""
    deadline = time.monotonic() + wait_seconds
    while True:
        holder = read_holder(lock)
        if holder and _is_own(holder, body):  # the answer to this run's own write was lost
            return holder.etag
        if holder is None or holder.is_expired() or has_ended(holder.record):
            condition = {"IfMatch": holder.etag} if holder else {"IfNoneMatch": "*"}
            # Clocks of machines may differ, so the token is compared with the last holder's.
            lowest = int(holder.record.get("token", 0)) + TOKENS_PER_HOLDER if holder else 0
            lease.token = body["token"] = max(lease.token, lowest)
            lease.expires_at = time.clock_gettime(_CLOCK) + LEASE_SECONDS
            try:
                return lock.write_bytes(_serialize(body), **condition)
            except (FileExistsError, FileNotFoundError):  # another run was faster
                continue
        if time.monotonic() >= deadline:
            raise LockError(_format_blocked_message(lock, holder))
        time.sleep(0.5)


def _format_blocked_message(lock: S3Path, holder: Holder) -> str:
    record = holder.record
    run = (
        f"run {record['run']}, process {record['pid']} on {record['host']}, since {record['since']}"
        if "run" in record
        else "unnamed"
    )
    seconds = max(0.0, float(record.get("lease_seconds", LEASE_SECONDS)) - holder.age_seconds)
    return (
        f"Another run holds the lake {lock}: {run}; its lease expires in {seconds:.0f} s unless that run renews it. "
        "Run again when that run has finished, or set LAKEHOUSE_LOCK_WAIT_SECONDS to wait for it."
    )


def _serialize(body: Mapping[str, Any]) -> bytes:
    # The time gives every renewal other bytes, and so another ETag.
    return json.dumps({**body, "renewed": time.time_ns()}).encode()


def _renew(lock: S3Path, body: Mapping[str, Any], etag: list[str], lease: Lease, stop: Event) -> None:
    while not stop.wait(LEASE_SECONDS / RENEWALS_PER_LEASE):
        began = time.clock_gettime(_CLOCK)
        try:
            etag[0] = lock.write_bytes(_serialize(body), IfMatch=etag[0])
            lease.expires_at = began + LEASE_SECONDS
        except (FileExistsError, FileNotFoundError):
            # Another run holds it, the object was removed, or the answer to a renewal was lost.
            if not _adopt(lock, body, etag, lease, began):
                return
        except StorageError:  # try again until the lease ends
            continue


def _is_own(holder: Holder, body: Mapping[str, Any]) -> bool:
    record = holder.record
    return (record.get("run"), record.get("token")) == (body.get("run"), body["token"]) and "run" in body


def _adopt(lock: S3Path, body: Mapping[str, Any], etag: list[str], lease: Lease, began: float) -> bool:
    """Check that the lock is still this run's and adopt its present ETag; otherwise end the lease and return False."""
    try:
        holder = read_holder(lock)
    except StorageError:  # try again until the lease ends
        return True
    if holder is None or not _is_own(holder, body):
        lease.expires_at = 0.0
        return False
    etag[0], lease.expires_at = holder.etag, began + LEASE_SECONDS
    return True


def _release(lock: S3Path, body: Mapping[str, Any], etag: list[str]) -> None:
    try:
        lock.write_bytes(_serialize({"released": True, "token": body["token"]}), IfMatch=etag[0])
    except (FileExistsError, FileNotFoundError, StorageError):
        return  # another run holds it now, or the lease expires by itself
