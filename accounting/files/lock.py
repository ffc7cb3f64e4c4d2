"""A lock that is an object: one holder at a time over a whole bucket, and none for ever.

The holder writes its mark anew three times a lease. A mark that is older than a lease, by the store's own clock, is
taken over. A holder that slept for longer than that has lost the lock without knowing, so nothing rests on it alone:
what it guards is put conditionally.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Self

from accounting.files.bucket import Bucket
from broker.errors import LedgerError

LEASE_S = 30.0
LOOK_S = 0.25
FREE = b""

log = logging.getLogger("laneway.ledger")


class ObjectLock:
    """``with`` waits for its turn, however long. Raises LedgerError where the store cannot be asked."""

    def __init__(self, bucket: Bucket, key: str, *, lease_s: float = LEASE_S) -> None:
        self.bucket, self.key, self.lease_s = bucket, key, lease_s
        self._version = ""
        self._over = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name="ledger-lock", daemon=True)

    def __enter__(self) -> Self:
        while not self._taken():
            time.sleep(LOOK_S)
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._renewal.join()
        try:
            self.bucket.put(self.key, FREE, over=self._version)
        except LedgerError as error:
            log.warning("%s; the lock runs out in %.0f s", error.message, self.lease_s)

    def _taken(self) -> bool:
        there = self.bucket.get(self.key)
        if there is not None and there[1] != FREE and there[0].age_s <= self.lease_s:
            return False
        return self._mark(over="" if there is None else there[0].version)

    def _mark(self, over: str) -> bool:
        """Each mark is unlike any other, so that its version is its holder's alone."""
        version = self.bucket.put(self.key, f"{os.getpid()} {os.urandom(12).hex()}".encode(), over=over)
        self._version = version or self._version
        return version is not None

    def _renew(self) -> None:
        while not self._over.wait(self.lease_s / 3):
            try:
                if not self._mark(over=self._version):
                    log.warning("the lock %s was taken over; what it guards is put conditionally", self.key)
                    return
            except LedgerError as error:
                log.warning("the lock is not renewed just now: %s", error.message)
