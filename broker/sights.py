"""What this process sees of the fleet: which lanes are served, what calls have come to. Asked of Redis now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from broker.state import Rate, Seen
from broker.store import Store

REFRESH_S = 1.0
RATES_REFRESH_S = 30.0


class Sights:
    """Thread-safe. ``watched_s`` grows from the moment this object was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._since = time.monotonic()
        self._asked = 0.0
        self._seen: Mapping[str, Seen] = {}
        self._rates_asked = 0.0
        self._rates: Mapping[tuple[str, str, str], Rate] = {}
        self._lock = threading.Lock()

    def watched_s(self) -> float:
        return time.monotonic() - self._since

    def lanes(self) -> Mapping[str, Seen]:
        """What is heard of each lane, a second old at most; one that nobody spoke of is not in it."""
        with self._lock:
            if time.monotonic() - self._asked > REFRESH_S or not self._asked:
                self._seen = self._store.lanes.seen()
                self._asked = time.monotonic()
            return self._seen

    def forget(self) -> None:
        """The next question about lanes is asked of Redis."""
        with self._lock:
            self._asked = 0.0

    def rates(self) -> Mapping[tuple[str, str, str], Rate]:
        """What calls have come to, by (type, lane, purpose); half a minute old at most."""
        with self._lock:
            if time.monotonic() - self._rates_asked > RATES_REFRESH_S or not self._rates_asked:
                self._rates = self._store.lanes.rates()
                self._rates_asked = time.monotonic()
            return self._rates
