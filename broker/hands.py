"""What this process has in hand: claims taken and not yet given back, over all its queues."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from broker.task import Claim


@dataclass(slots=True)
class _Held:
    taken: int  # the epoch of the claim as it was taken
    epoch: int
    queue: str
    hold_s: float
    until: float
    broken: bool = False


class Hands:
    """Thread-safe. A claim is renewed until ``hold_s`` after it was taken or went on, whatever its worker does;
    time in which Redis was away does not count.

    ``stopping``: the process goes down when what it is at is done.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._changed = threading.Condition()
        self._held: dict[str, _Held] = {}
        self._messages: dict[str, int] = {}
        self._alone = False
        self._paused = False
        self._rests_until = 0.0

    def take(self, claims: Sequence[Claim], queue: str, *, messages: int, hold_s: float) -> None:
        until = time.monotonic() + hold_s
        with self._changed:
            for claim in claims:
                self._held[claim.ref] = _Held(claim.epoch, claim.epoch, queue, hold_s, until)
            self._messages[queue] = self._messages.get(queue, 0) + messages

    def step(self, claims: Iterable[Claim]) -> None:
        """The same tasks under their next epochs, to be held as long again."""
        with self._changed:
            for claim in claims:
                held = self._held.get(claim.ref)
                if held and held.epoch < claim.epoch:
                    held.epoch, held.until = claim.epoch, time.monotonic() + held.hold_s

    def drop(self, claims: Iterable[Claim], queue: str) -> None:
        """One message of ``queue`` is done with; its claims are no longer ours."""
        with self._changed:
            for claim in claims:
                held = self._held.get(claim.ref)
                if held and held.taken == claim.epoch:
                    del self._held[claim.ref]
            self._messages[queue] = max(0, self._messages.get(queue, 0) - 1)
            if not any(self._messages.values()):
                self._alone = False
            self._changed.notify_all()

    def messages(self, queue: str | None = None) -> int:
        """Messages in hand, of one queue or of all."""
        with self._changed:
            return sum(self._messages.values()) if queue is None else self._messages.get(queue, 0)

    def clear_the_table(self) -> None:
        """A suspect waits: take nothing new on any queue until everything in hand is done."""
        with self._changed:
            self._alone = any(self._messages.values())

    @property
    def waiting_for_quiet(self) -> bool:
        with self._changed:
            return self._alone

    def pause(self) -> None:
        """Take nothing new: the engine behind it makes no tokens."""
        with self._changed:
            self._paused = True

    def go_on(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    @property
    def paused(self) -> bool:
        return self._paused

    def rest(self, seconds: float) -> None:
        """Take nothing new for so long: no call would be let in. What is in hand goes on."""
        with self._changed:
            self._rests_until = max(self._rests_until, time.monotonic() + seconds)

    @property
    def resting(self) -> bool:
        return self._rests_until > time.monotonic()

    def wait(self, timeout_s: float) -> None:
        """Until something is given back, or the time is over."""
        with self._changed:
            self._changed.wait(timeout_s)

    def prolong(self, seconds: float) -> None:
        """Hold everything for so much longer: no worker could give back what it has, for Redis was away."""
        with self._changed:
            for held in self._held.values():
                held.until += seconds

    def to_renew(self) -> list[tuple[str, int]]:
        now = time.monotonic()
        with self._changed:
            return [(ref, held.epoch) for ref, held in self._held.items() if held.until > now]

    def break_off(self, claims: Iterable[tuple[str, int]]) -> None:
        """These (ref, epoch) are ours no longer, or to be ended; a later claim of the same task is not meant."""
        with self._changed:
            for ref, epoch in claims:
                held = self._held.get(ref)
                if held and held.epoch == epoch:
                    held.broken = True

    def broken(self, claim: Claim) -> bool:
        """Whether a call for this claim should be broken off."""
        held = self._held.get(claim.ref)
        return held is None or held.epoch != claim.epoch or held.broken
