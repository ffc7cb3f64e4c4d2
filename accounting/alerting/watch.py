"""The ends of tasks as they come by on the stream, held for an hour, for what only shows over minutes.

A sample: where there are more ends than a glance holds, some are passed over; so is what a writer took off the stream
between two glances. Nothing is booked from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow.compute as pc

from accounting.alerting.alerts import Alert, encode
from accounting.alerting.tell import NEW
from accounting.alerting.trend import BEFORE_MINUTES, MINUTES, US_PER_MINUTE, Ended, trends
from accounting.files import facts
from accounting.intake import wire
from broker import keys
from broker.events import Event, Finished
from broker.money import nano
from broker.store import Store
from broker.stream import newest_entries
from broker.task import decode_progress, reference

ENTRIES, FACTS, ENDS = 200, 10_000, 200
AGAIN_S = 3600

#: The mark of the hour and the alert, in one step, which a Redis that is full does not refuse.
_FIRST = """#!lua flags=allow-oom
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 0 end
return redis.call('RPUSH', KEYS[2], ARGV[3])
"""


class Watch:
    """``round`` is one glance; each trend is told of once an hour, whichever process sees it."""

    def __init__(self, store: Store, p95_usd: Decimal | None) -> None:
        self.store = store
        self.p95_nano = None if p95_usd is None else nano(p95_usd)
        self.ended: deque[Ended] = deque()
        self.last = ""

    def round(self) -> list[Alert]:
        """What was told anew."""
        now_us = self.store.clock.now_us()
        self.ended.extend(self._seen())
        oldest_us = now_us - (MINUTES + BEFORE_MINUTES) * US_PER_MINUTE
        while self.ended and self.ended[0].at_us < oldest_us:
            self.ended.popleft()
        return [alert for alert in trends(self.ended, now_us, self.p95_nano) if self._first(alert)]

    def _first(self, alert: Alert) -> bool:
        told = f"{keys.alerted_key('trend')}:{alert.scope}|{alert.period}"
        first = self.store.client.register_script(_FIRST)
        return bool(first(keys=[told, NEW], args=[alert.at_us, AGAIN_S, encode(alert)]))

    def _seen(self) -> list[Ended]:
        client = self.store.client
        newest: Any = client.xrevrange(keys.EVENTS, count=1)
        if not newest:
            return []
        after, self.last = self.last, newest[0][0].decode()
        if not after:
            return []
        entries = newest_entries(client, ENTRIES, after=f"({after}", until=self.last)
        ends = [
            event
            for table in wire.tables(entries, FACTS)
            for event in facts.events(table.filter(pc.equal(table["kind"], facts.END)))
        ]
        ends.sort(key=lambda event: event.at_us)
        return self._known(ends[:: -(-len(ends) // ENDS) or 1])

    def _known(self, ends: Sequence[Event]) -> list[Ended]:
        pipe = self.store.client.pipeline(transaction=False)
        for end in ends:
            pipe.hmget(keys.task_key(reference(end.workspace, end.task_id)), "cost", "family", "progress")
        found = []
        for end, (cost, family, progress) in zip(ends, pipe.execute(), strict=True):
            fact = end.fact
            if not isinstance(fact, Finished) or cost is None or progress is None:
                continue
            told = decode_progress(progress)
            if not told.family:  # what is a part of a task is in the cost of that
                nanos = int(cost) + int(family or 0)
                found.append(Ended(end.at_us, told.task_type, nanos, fact.succeeded))
        return found
