"""Redis's clock, which all times of task state are of; and the UTC days of times."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import redis

from broker.ask import ask

US_PER_S = 1_000_000


def utc_day(at_us: int) -> str:
    """The UTC day of a time in microseconds since the epoch, as ``2026-01-31``."""
    return datetime.fromtimestamp(at_us // US_PER_S, tz=UTC).date().isoformat()


def today() -> str:
    """The UTC day by this machine's clock."""
    return datetime.now(tz=UTC).date().isoformat()


class Clock:
    """Redis's clock as last seen, carried on by this machine's monotonic one. Microseconds."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._offset_us = 0

    def now_us(self) -> int:
        if not self._offset_us:
            seconds, micros = ask(self._client.time)
            self.seen(seconds * US_PER_S + micros)
        return time.monotonic_ns() // 1000 + self._offset_us

    def seen(self, now_us: int) -> None:
        """Redis has just told this time."""
        self._offset_us = now_us - time.monotonic_ns() // 1000
