"""Which lanes are served just now, as this process sees it; asked of Redis at most once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from math import inf

from broker.store import MICRO, Store

REFRESH_S = 1.0


class Sights:
    """Thread-safe. ``watched_s`` grows from the moment this object was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since = time.monotonic()
        self._asked = 0.0
        self._seen_us: Mapping[str, int] = {}
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
