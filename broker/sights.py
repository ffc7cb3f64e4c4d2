"""What this process sees of the fleet: which lanes are served, what calls have come to. Asked of Redis now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from math import inf

from broker.store import MICRO, Rate, Store

REFRESH_S = 1.0
RATES_REFRESH_S = 30.0


class Sights:
    """Thread-safe. ``watched_s`` grows from the moment this object was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since = time.monotonic()
        self._asked = 0.0
        self._seen_us: Mapping[str, int] = {}
        self._rates_asked = 0.0
        self._rates: Mapping[tuple[str, str, str], Rate] = {}
        self._lock = threading.Lock()

    def watched_s(self) -> float:
        return time.monotonic() - self._since

    def seen_s_ago(self) -> dict[str, float]:
        """Seconds since a node last said that it serves each lane; infinite where a fleet said that it cannot be
        served, and not in it where nobody said anything."""
        with self._lock:
            if time.monotonic() - self._asked > REFRESH_S or not self._asked:
                self._seen_us = self._store.lanes_seen_us()
                self._asked = time.monotonic()
            now_us = self._store.now_us()
            return {lane: max(0, now_us - at) / MICRO if at else inf for lane, at in self._seen_us.items()}

    def rates(self) -> Mapping[tuple[str, str, str], Rate]:
        """What calls have come to, by (type, lane, purpose); half a minute old at most."""
        with self._lock:
            if time.monotonic() - self._rates_asked > RATES_REFRESH_S or not self._rates_asked:
                self._rates = self._store.rates()
                self._rates_asked = time.monotonic()
            return self._rates
