"""Looking after a provider's batches: found again where their sender died, asked after, settled line by line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from broker.batches import Batch, Holder, State
from broker.call import Usage
from broker.clock import US_PER_S, utc_day
from broker.errors import CallNeverMade, EngineError, ModelNotFound
from broker.lock import Lock
from broker.state import Move
from workers.batch import HANDFUL, Batches
from workers.engines.batches import Standing

log = logging.getLogger(__name__)
#: A batch whose sending brought no answer is looked for, and given up when the provider does not know it after that.
LOST_S = 120.0
GIVEN_UP_S = 25 * 3600.0
KEPT_S = 30 * 86_400.0  # no provider keeps answers for longer

Row = TypeVar("Row")


class BatchKeeper:
    """``look`` is called every so often, on a worker's thread."""

    def __init__(self, batches: Batches) -> None:
        self.batches, self.jobs, self.store = batches, batches.jobs, batches.store
        self.door, self.book = batches.door, batches.book
        self.row, self.lane, self.pool = batches.row, batches.lane, batches.pool

    def look(self) -> None:
        """See to each of the lane's batches that nobody else is at work on.

        Raises an ExceptionGroup, when all were seen to, of what went wrong with some by no fault of the provider's.
        """
        failed = []
        for known in self.book.all(self.lane):
            with self.book.lock(known.id) as lock:
                batch = self.book.get(known.id) if lock is not None else None
                if batch is None or lock is None:
                    continue
                try:
                    self._see_to(batch, lock)
                except EngineError as error:
                    log.error("batch %s is looked after again in a while: %s", batch.id, error)
                    if self._age_s(batch) > KEPT_S:
                        self._give_up(batch, "nothing was to be learnt of it for a month")
                except Exception as error:  # noqa: BLE001 - raised below: no other batch waits for it
                    failed.append(error)
        if failed:
            raise ExceptionGroup(f"batches of lane {self.lane!r} that were not seen to", failed)

    def _see_to(self, batch: Batch, lock: Lock) -> None:
        match batch.state:
            case "open":
                self.batches.take_apart(batch, singly=False)
            case "sending":
                self._search(batch)
            case "sent":
                self._ask_after(batch, lock)
            case "lost":
                self._let_go(batch)  # again: whoever wrote that it is lost may have died over this
                if batch.provider_id:
                    self._ask_after(batch, lock)
                else:
                    self._search(batch)

    def _ask_after(self, batch: Batch, lock: Lock) -> None:
        try:
            standing = self.door.standing(batch.provider_id)
        except ModelNotFound:  # what knows no batch at all, like a wrong address, fails the search too
            self._search(batch)
            return
        if not standing.ended:
            self._hurry(batch)
            return
        if standing.refused:
            log.error("the provider took nothing of batch %s: %s", batch.id, standing.refused)
        try:
            self._settle(batch, lock, standing)
        except ModelNotFound as error:
            self._give_up(batch, f"its answers are gone: {error.message}")

    def _search(self, batch: Batch) -> None:
        """Whether the provider knows it after all."""
        known = {one.provider_id for one in self.book.all() if one.provider_id}
        found = self.door.find(batch.id, batch.lines, batch.since_us / US_PER_S, known.union(batch.others))
        if found is not None:
            state: State = "sent" if batch.state == "sending" else batch.state
            self.book.write(replace(batch, state=state, provider_id=found), over=batch.state)
        elif self._age_s(batch) > (GIVEN_UP_S if batch.state == "lost" else LOST_S):
            self._give_up(batch, "it is not to be found at the provider")

    def _age_s(self, batch: Batch) -> float:
        return (self.store.clock.now_us() - batch.since_us) / US_PER_S

    def _give_up(self, batch: Batch, why: str) -> None:
        """Nobody knows whether it is paid for: so it counts as that, and its tasks go on. A lost one is closed so."""
        log.error("batch %s of %d lines is given up: %s", batch.id, batch.lines, why)
        if batch.state == "lost":
            self.book.close(batch)
        elif self.book.write(replace(batch, state="lost"), over=batch.state):
            self._let_go(batch)

    def _let_go(self, batch: Batch) -> None:
        for handful in self.book.pages(batch):
            self.store.release_held((holder for _, holder in handful), "its batch was lost")

    def _hurry(self, batch: Batch) -> None:
        """Near the first deadline in it, and where its tasks have gone on, the provider is asked to stop: what is
        answered is kept, the rest goes on."""
        overflow_us = round(self.row.batch_overflow_s * US_PER_S)
        due = batch.due_us is not None and self.store.clock.now_us() > batch.due_us - overflow_us
        if (due or batch.state == "lost") and not batch.cancelled:
            self.door.cancel(batch.provider_id)
            self.book.write(replace(batch, cancelled=True), over=batch.state)

    def _settle(self, batch: Batch, lock: Lock, standing: Standing) -> None:
        came = self._booked(batch, lock, standing)
        if came is None:
            return
        if came.unread:
            self._wait_for_types(batch, came.unread)
            return
        left = self.book.count_left(batch)
        if came.named and not came.mine and left == batch.lines:
            self._disown(batch)
            return
        if left and came.torn:
            self._give_up(batch, f"{came.torn} lines of its answers cannot be read, and {left} have none")
            return
        for rest in self.book.left(batch):
            if batch.state == "lost":
                judged = self._judged(batch, dict.fromkeys(line for line, _ in rest))
                self._book(batch, judged)
                if judged.unread:  # they would be found again and again
                    self._wait_for_types(batch, judged.unread)
                    return
            else:
                self.batches.put_back(batch, rest, singly=bool(standing.refused))
        self.door.forget(batch.provider_id)
        self.book.close(batch)
        untouched = came.untouched + left
        log.info("batch %s: %d lines settled, %d were not worked on", batch.id, came.settled, untouched)

    def _booked(self, batch: Batch, lock: Lock, standing: Standing) -> _Came | None:
        """All that the provider answered, booked. None: the lock ran out on the way, and another process goes on."""
        came = _Came()
        with _Behind(self._book) as behind:
            for handful in _handfuls(self.door.results(batch.provider_id, standing.answered)):
                if not lock.held():
                    return None
                judged = self._judged(batch, dict(handful))
                behind(batch, judged)
                came.add([line for line, _ in handful], judged)
        return came

    def _disown(self, batch: Batch) -> None:
        """What was found for it is another's: that is left alone, and it is looked for again."""
        log.error("batch %s is not what the provider has as %s", batch.id, batch.provider_id)
        state: State = "lost" if batch.state == "lost" else "sending"
        others = (*batch.others, batch.provider_id)
        again = replace(batch, state=state, provider_id="", cancelled=False, others=others)
        self.book.write(again, over=batch.state)

    def _wait_for_types(self, batch: Batch, lines: int) -> None:
        log.error("batch %s: %d lines are of types that this node does not know; they wait", batch.id, lines)

    def _judged(self, batch: Batch, results: Mapping[str, Any]) -> _Judged:
        """A handful's moves. A line that was settled before, or is of no task of ours, is passed over; one whose type
        is not known here stays. One that was not worked on cost nothing: its task goes back, if it has not gone on."""
        names = list(results)
        holders = self.book.holders(batch, names)
        held = [(name, holder) for name, holder in zip(names, holders, strict=True) if holder is not None]
        gone_on = batch.state == "lost"
        mine = [one for one in held if gone_on or results[one[0]] is not None]
        untouched = [one for one in held if not gone_on and results[one[0]] is None]
        refs = [holder for _, holder in mine]
        claims = self.store.claims(refs, self.pool, stale=gone_on)
        now_us, day = self.store.clock.now_us(), utc_day(batch.since_us)
        never = CallNeverMade("the provider did not work on it", usage=Usage())
        moves, done = [], []
        for (name, _), claim in zip(mine, claims, strict=True):
            job = None if claim is None else self.jobs.again(claim, day)
            if job is not None:
                said = results[name]
                result = never if said is None else self.door.read(said, job.call)
                moves.append(self.jobs.settled(job, result, batch.since_us, now_us))
            if job is not None or claim is None:
                done.append(name)
        return _Judged(moves, done, len(mine) - len(done), untouched, len(held))

    def _book(self, batch: Batch, judged: _Judged) -> None:
        self.store.commit(judged.moves)
        self.book.settled(batch, judged.done)
        if judged.untouched:
            self.batches.put_back(batch, judged.untouched, singly=False)


@dataclass(frozen=True, slots=True)
class _Judged:
    """What becomes of a handful of lines: their tasks' moves, which lines are then done with, how many stay, which go
    back, and how many there are that were not settled before."""

    moves: list[Move]
    done: list[str]
    unread: int
    untouched: list[Holder]
    mine: int


@dataclass(slots=True)
class _Came:
    """What came of a batch's answers, in lines: ``named``, and ``torn`` ones whose name cannot be read. The other
    counts are those of ``_Judged``, summed up."""

    named: int = 0
    torn: int = 0
    mine: int = 0
    settled: int = 0
    unread: int = 0
    untouched: int = 0

    def add(self, lines: Sequence[str], judged: _Judged) -> None:
        named = sum(map(bool, lines))
        self.named += named
        self.torn += len(lines) - named
        self.mine += judged.mine
        self.settled += len(judged.moves)
        self.unread += judged.unread
        self.untouched += len(judged.untouched)


class _Behind:
    """Does one handful's deed while the next one is made ready; at most one at a time, in order."""

    def __init__(self, deed: Callable[[Batch, _Judged], None]) -> None:
        self._deed = deed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batch-settle")
        self._pending: Future[None] | None = None

    def __call__(self, batch: Batch, judged: _Judged) -> None:
        self._wait()
        self._pending = self._pool.submit(self._deed, batch, judged)

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.result()

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()


def _handfuls(rows: Iterable[Row]) -> Iterator[list[Row]]:
    at = iter(rows)
    while handful := list(islice(at, HANDFUL)):
        yield handful
