"""The shell around a lane's provider batches: fill one, send it, look after it, settle its lines.

Each step is in Redis before the next one is taken, so that a process may die anywhere and another one goes on:

    open     being filled. Tasks that joined are the batch's; nothing has left. Found alone, it is taken apart again.
    sending  it may have reached the provider or not. Found alone, the provider is asked for it.
    lost     the provider did not know it. Its tasks went on, their calls booked as unsettled; should it turn up within
             a day all the same, it is stopped, and what its lines cost is put right.
    sent     the provider has it. It is asked now and then; when it has ended each line is settled, once, by the same
             commit as any other call. Lines that were never worked on go back to where they wait.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

from broker.batches import Batch, BatchBook, Lock
from broker.call import Usage
from broker.errors import CallCancelled, CallRejected, EngineError, PermanentEngineError
from broker.scopes import scopes_of, utc_day
from broker.store import MICRO, Move
from broker.task import BATCH, Claim, lane_queue
from dispatcher.batching import fill_ready
from dispatcher.budget import parse_refusal
from workers.engines.batches import BatchDoor
from workers.jobs import Job, Jobs

log = logging.getLogger(__name__)
HANDFUL = 500
#: A batch whose sending brought no answer is looked for, and given up when the provider does not know it after that.
LOST_S = 120.0
GIVEN_UP_S = 25 * 3600.0
AGAIN_S = 60.0  # after a provider did not take a batch
BATCHES_LOST = 2  # so often a task is put into another batch after it was not worked on
LINE_CHARS = 64

Row = TypeVar("Row")


class Batcher:
    """One lane's batches on this node. ``send`` and ``look`` are each called every so often, on a worker's thread."""

    def __init__(self, jobs: Jobs, door: BatchDoor, folder: Path) -> None:
        self.jobs, self.door, self.folder = jobs, door, folder
        self.store, self.lane, self.row = jobs.store, jobs.name, jobs.row
        self.book = BatchBook(jobs.store)
        self.pool = lane_queue(jobs.name, BATCH)
        self._waiting_since = 0.0
        self._not_before = 0.0

    # ---- sending

    def send(self) -> None:
        """What is near its deadline goes on singly; a batch is sent where enough waits, or for long enough."""
        self._overflow()
        waiting = self.store.waiting(self.pool)
        now = time.monotonic()
        if not waiting:
            self._waiting_since = 0.0
            return
        self._waiting_since = self._waiting_since or now
        if now < self._not_before or self.jobs.hands.paused:
            return
        if fill_ready(waiting, now - self._waiting_since, self.row):
            with self.book.lock(f"filling-{self.lane}") as lock:
                if lock is not None:
                    self._fill(lock)

    def _overflow(self) -> None:
        due_us = self.store.now_us() + round(self.row.batch_overflow_s * MICRO)
        claims = self.store.fetch(self.pool, HANDFUL, idle=True, due_us=due_us).claims
        why = "its deadline is near, so it is not batched"
        queue = lane_queue(self.lane, "sync")
        self.store.commit(
            [Move(one, "queued", replace(one.progress, why=why), queue=queue) for one in claims]
        )

    def _fill(self, filling: Lock) -> None:
        batch = self.book.new(self.lane, self.jobs.endpoints.first.id)
        with self.book.lock(batch.id) as lock:
            assert lock is not None, "nobody else knows it"
            self.book.write(batch)
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{batch.id}.jsonl"
            try:
                with path.open("wb") as file:
                    batch = self._filled(batch, file, (filling, lock))
                if batch.lines and lock.held():
                    self._send(batch, path)
                elif lock.held():
                    self.book.close(batch)
            finally:
                path.unlink(missing_ok=True)

    def _filled(self, batch: Batch, file: IO[bytes], locks: Sequence[Lock]) -> Batch:
        """Handful by handful, until the pool is empty or the batch is full."""
        limit = min(self.row.batch_lines, self.door.line_limit)
        while (
            batch.lines < limit and file.tell() < self.door.bytes_limit and all(one.held() for one in locks)
        ):
            fetched = self.store.fetch(self.pool, min(HANDFUL, limit - batch.lines), idle=True)
            if not fetched.claims:
                break
            self.jobs.hands.take(fetched.claims, self.pool, messages=1, hold_s=AGAIN_S)
            try:
                batch = self._handful(batch, fetched.claims, file)
            finally:
                self.jobs.hands.drop(fetched.claims, self.pool)
        return batch

    def _handful(self, batch: Batch, claims: Sequence[Claim], file: IO[bytes]) -> Batch:
        jobs, moves = self.jobs.prepare(claims, batch=True)
        lines: dict[str, tuple[Job, bytes]] = {}
        for job in jobs:
            name = line_id(job.claim)
            try:
                lines[name] = (job, self.door.line(name, job.call))
            except CallRejected as error:
                now_us = self.store.now_us()
                moves.append(self.jobs.settled(job, error, now_us, now_us))
        intents = [
            replace(self.jobs.intent(job), batch=batch.id, line=name) for name, (job, _) in lines.items()
        ]
        words = self.store.begin(intents) if intents else []
        joined = []
        for (job, line), word in zip(lines.values(), words, strict=True):
            if word == "go":
                file.write(line)
                joined.append(job.claim)
            elif word == "cancel":
                moves.append(Move(job.claim, "cancelled", job.claim.progress))
            elif word != "lost":
                moves.append(self.jobs.refused(job, parse_refusal(word)))
        self.store.commit(moves)
        deadlines = [due for due in (batch.due_us, *map(_due_us, joined)) if due is not None]
        return replace(batch, lines=batch.lines + len(joined), due_us=min(deadlines, default=None))

    def _send(self, batch: Batch, path: Path) -> None:
        batch = replace(batch, state="sending", since_us=self.store.now_us())
        self.book.write(batch)
        try:
            provider_id = self.door.send(batch.id, path, batch.lines)
        except EngineError as error:
            log.error("a batch of %d lines was not sent: %s", batch.lines, error)
            self._not_before = time.monotonic() + AGAIN_S
            if error.usage is not None:  # it is known that the provider has nothing of it
                self._take_apart(batch, singly=isinstance(error, PermanentEngineError))
            return
        now = self.book.get(batch.id)
        if now is not None and now.state == "sending":
            self.book.write(replace(batch, state="sent", provider_id=provider_id))
        elif now is not None:  # we were thought dead
            self.book.write(replace(now, provider_id=provider_id))
        log.info("batch %s: %d lines are with the provider as %s", batch.id, batch.lines, provider_id)

    def _take_apart(self, batch: Batch, *, singly: bool) -> None:
        """Nothing of it was or will be worked on: its tasks go back, and what was reserved with them."""
        for handful in self.book.left(batch):
            self._put_back(batch, handful, singly=singly)
        self.book.close(batch)

    def _put_back(
        self, batch: Batch, handful: Sequence[tuple[str, tuple[str, int]]], *, singly: bool
    ) -> None:
        places = self.jobs.places()
        moves = []
        for claim in self.store.claims([holder for _, holder in handful], self.pool):
            if claim is not None:
                tried = claim.progress.retries + 1
                single = singly or tried > BATCHES_LOST
                queue = lane_queue(self.lane, "async") if single else places.of(claim, self.lane)
                told = replace(claim.progress, retries=tried, why="its batch did not come to it")
                scopes = scopes_of(claim.task, self.lane)
                moves.append(Move(claim, "queued", told, queue=queue, scopes=scopes))
        self.store.commit(moves)
        self.book.settled(batch, [line for line, _ in handful])

    # ---- looking after

    def look(self) -> None:
        """See to each of the lane's batches that nobody else is at work on."""
        for known in self.book.all(self.lane):
            with self.book.lock(known.id) as lock:
                batch = self.book.get(known.id) if lock is not None else None
                if batch is None or lock is None:
                    continue
                try:
                    self._see_to(batch, lock)
                except EngineError as error:
                    log.error("batch %s is looked after again in a while: %s", batch.id, error)

    def _see_to(self, batch: Batch, lock: Lock) -> None:
        match batch.state:
            case "open":
                self._take_apart(batch, singly=False)
            case "sending":
                self._search(batch)
            case "sent":
                self._ask_after(batch, lock)
            case "lost" if batch.provider_id:
                self._ask_after(self._stopped(batch), lock)
            case "lost":
                self._search(batch)

    def _ask_after(self, batch: Batch, lock: Lock) -> None:
        standing = self.door.standing(batch.provider_id)
        if not standing.ended:
            self._hurry(batch)
            return
        if standing.refused:
            log.error("the provider took nothing of batch %s: %s", batch.id, standing.refused)
        self._settle(batch, lock, singly=bool(standing.refused))

    def _search(self, batch: Batch) -> None:
        """Whether the provider knows it after all."""
        known = frozenset(one.provider_id for one in self.book.all() if one.provider_id)
        found = self.door.find(batch.id, batch.lines, batch.since_us / MICRO, known)
        age_s = (self.store.now_us() - batch.since_us) / MICRO
        if found is not None:
            state = "sent" if batch.state == "sending" else batch.state
            self.book.write(replace(batch, state=state, provider_id=found))
        elif batch.state == "sending" and age_s > LOST_S:
            self._lose(batch)
        elif age_s > GIVEN_UP_S:
            self.book.close(batch)

    def _lose(self, batch: Batch) -> None:
        """Nobody knows whether it is paid for: so it counts as that, and its tasks go on."""
        log.error("batch %s of %d lines is not to be found at the provider", batch.id, batch.lines)
        self.book.write(replace(batch, state="lost"))
        for handful in self.book.pages(batch):
            claims = self.store.claims([holder for _, holder in handful], self.pool)
            self.store.release([claim for claim in claims if claim is not None], "its batch was lost")

    def _stopped(self, batch: Batch) -> Batch:
        if batch.cancelled:
            return batch
        self.door.cancel(batch.provider_id)
        self.book.write(batch := replace(batch, cancelled=True))
        return batch

    def _hurry(self, batch: Batch) -> None:
        """Near the first deadline in it the provider is asked to stop: what is answered is kept, the rest goes on."""
        overflow_us = round(self.row.batch_overflow_s * MICRO)
        if batch.due_us is not None and self.store.now_us() > batch.due_us - overflow_us:
            self._stopped(batch)

    def _settle(self, batch: Batch, lock: Lock, *, singly: bool) -> None:
        settled = kept = 0
        for handful in _handfuls(self.door.results(batch.provider_id)):
            if not lock.held():
                return
            done, unread = self._settled(batch, dict(handful))
            settled, kept = settled + done, kept + unread
        if kept:
            log.error(
                "batch %s: %d lines are of types that this node does not know; they wait", batch.id, kept
            )
            return
        left = self.book.count_left(batch)
        for rest in self.book.left(batch):
            if batch.state == "lost":
                never = CallCancelled("the provider did not work on it", usage=Usage())
                self._settled(batch, {line: never for line, _ in rest})
            else:
                self._put_back(batch, rest, singly=singly)
        self.door.forget(batch.provider_id)
        self.book.close(batch)
        log.info("batch %s: %d lines settled, %d were not worked on", batch.id, settled, left)

    def _settled(self, batch: Batch, results: dict[str, Any]) -> tuple[int, int]:
        """How many lines of a handful were settled, and how many could not be read for want of their type. One that was
        settled before, or is of no task of ours, is passed over."""
        names = list(results)
        holders = self.book.holders(batch, names)
        mine = [(name, holder) for name, holder in zip(names, holders, strict=True) if holder is not None]
        refs = [holder for _, holder in mine]
        claims = self.store.claims(refs, self.pool, stale=batch.state == "lost")
        now_us, day = self.store.now_us(), utc_day(batch.since_us)
        moves, done = [], []
        for (name, _), claim in zip(mine, claims, strict=True):
            job = None if claim is None else self.jobs.again(claim, day)
            if job is not None:
                said = results[name]
                result = said if isinstance(said, EngineError) else self.door.read(said, job.call)
                moves.append(self.jobs.settled(job, result, batch.since_us, now_us))
            if job is not None or claim is None:
                done.append(name)
        self.store.commit(moves)
        self.book.settled(batch, done)
        return len(moves), len(mine) - len(done)


def _due_us(claim: Claim) -> int | None:
    """When its deadline is, on Redis's clock."""
    if claim.task.deadline_s is None:
        return None
    return claim.submitted_us + claim.waited_us + round(claim.task.deadline_s * MICRO)


def line_id(claim: Claim) -> str:
    """The attempt's id as far as there is room, and what makes it unique among all workspaces."""
    digest = hashlib.blake2b(f"{claim.ref}|{claim.epoch}".encode(), digest_size=8).hexdigest()
    return f"{claim.attempt_id[: LINE_CHARS - 1 - len(digest)]}-{digest}"


def _handfuls(rows: Iterable[Row]) -> Iterator[list[Row]]:
    at = iter(rows)
    while handful := list(islice(at, HANDFUL)):
        yield handful
