"""What is heard of lanes, what waits in their queues, and what their calls have come to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import inf

from broker import keys
from broker.ask import ask
from broker.clock import US_PER_S, Clock
from broker.lua import Scripts
from broker.state import QueueState, Rate, Seen


class Lanes:
    """A node that was not heard of for ``lease_us`` says nothing any more."""

    def __init__(self, scripts: Scripts, clock: Clock, lease_us: int) -> None:
        self._scripts = scripts
        self._client = scripts.client
        self._clock = clock
        self._lease_us = lease_us

    def seen(self) -> dict[str, Seen]:
        """What nodes said of each lane that any of them ever spoke of."""
        now_us = self._clock.now_us()
        words = {name.decode(): int(at) for name, at in ask(lambda: self._client.hgetall(keys.LANES)).items()}
        nodes = [
            (name.partition("|")[0], at)
            for name, at in words.items()
            if "|" in name and abs(at) >= now_us - self._lease_us
        ]
        served = {name: at for name, at in words.items() if "|" not in name}
        return {
            lane: Seen(
                max(0, now_us - at) / US_PER_S if (at := served.get(lane, 0)) else inf,
                well=sum(one == lane and at > 0 for one, at in nodes),
                ailing=sum(one == lane and at < 0 for one, at in nodes),
            )
            for lane in {*served, *(lane for lane, _ in nodes)}
        }

    def announce(self, lanes: Sequence[str]) -> None:
        """Say that these lanes are served, or are about to be."""
        self._scripts.note_down(keys.LANES, dict.fromkeys(lanes, str(self._clock.now_us())))

    def renounce(self, lanes: Sequence[str]) -> None:
        """Say that these lanes cannot be served, where no node ever said that it serves them."""
        self._scripts.note_down(keys.LANES, dict.fromkeys(lanes, "0"), new_only=True)

    def queues(self, names: Sequence[str]) -> list[QueueState]:
        now_us = self._clock.now_us()
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.zcard(keys.queue_key(name))
            pipe.zcard(keys.later_key(name))
            pipe.zcard(keys.suspects_key(name))
            pipe.zrange(keys.queue_key(name), 0, 0)
        pipe.zrange(keys.LEASES, 0, -1)
        *counts, leased = ask(pipe.execute)
        heads = [counts[index + 3] for index in range(0, len(counts), 4)]
        ages = self._ages([head[0].decode() for head in heads if head], now_us)
        held = self._held_by_queue([ref.decode() for ref in leased])
        states = []
        for index, name in enumerate(names):
            depth, later, suspects, head = counts[4 * index : 4 * index + 4]
            oldest_s = ages[head[0].decode()] if head else 0.0
            states.append(QueueState(name, depth, later, suspects, held.get(name, 0), oldest_s))
        return states

    def _ages(self, refs: list[str], now_us: int) -> dict[str, float]:
        pipe = self._client.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(keys.task_key(ref), "enqueued")
        return {
            ref: max(0.0, (now_us - int(at or now_us)) / US_PER_S)
            for ref, at in zip(refs, ask(pipe.execute), strict=True)
        }

    def _held_by_queue(self, refs: list[str]) -> dict[str, int]:
        pipe = self._client.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(keys.task_key(ref), "queue")
        held: dict[str, int] = {}
        for queue in ask(pipe.execute):
            name = (queue or b"").decode()
            held[name] = held.get(name, 0) + 1
        return held

    def rates(self) -> dict[tuple[str, str, str], Rate]:
        """What calls came to, by (type, lane, purpose), over this month and the last one."""
        today = datetime.fromtimestamp(self._clock.now_us() / US_PER_S, tz=UTC).date()
        months = [f"{today:%Y-%m}", f"{today.replace(day=1) - timedelta(days=1):%Y-%m}"]
        pipe = self._client.pipeline(transaction=False)
        for month in months:
            pipe.hgetall(keys.rates_key(month))
        sums: dict[tuple[str, str, str], dict[str, int]] = {}
        for row in ask(pipe.execute):
            for name, amount in row.items():
                *tally, what = name.decode().split("|")
                counts = sums.setdefault((tally[0], tally[1], tally[2]), {})
                counts[what] = counts.get(what, 0) + int(amount)
        return {
            tally: Rate(counts.get("tries", 0), counts.get("successes", 0), counts.get("nano", 0))
            for tally, counts in sums.items()
        }
