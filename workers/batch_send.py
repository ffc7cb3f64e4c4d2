"""Filling a provider's batch from what waits, and sending it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from broker.ask import patiently
from broker.batches import Batch, Holder, State
from broker.clock import US_PER_S
from broker.errors import CallRejected, EngineError, PermanentEngineError
from broker.lock import Lock
from broker.state import Move
from broker.task import Claim, lane_queue
from dispatcher.batching import fill_ready
from dispatcher.budget import parse_refusal
from workers.attempt import cancelled
from workers.batch import HANDFUL, Batches
from workers.jobs import Job

log = logging.getLogger(__name__)
AGAIN_S = 60.0  # after a provider did not take a batch
HOLD_S = 60.0
LINE_CHARS = 64


class BatchSender:
    """``send`` is called every so often, on a worker's thread. ``folder`` is where a file is made before its upload."""

    def __init__(self, batches: Batches, folder: Path) -> None:
        self.batches, self.folder = batches, folder
        self.jobs, self.store, self.door, self.book = batches.jobs, batches.store, batches.door, batches.book
        self.row, self.lane, self.pool = batches.row, batches.lane, batches.pool
        self._waiting_since = 0.0
        self._not_before = 0.0

    def send(self) -> None:
        """What is near its deadline goes on singly, and all where batches were switched off; a batch is sent where
        enough waits, or for long enough."""
        self._overflow()
        if not self.row.batches:
            return
        waiting = self.store.waiting(self.pool)
        now = time.monotonic()
        if not waiting:
            self._waiting_since = 0.0
            return
        self._waiting_since = self._waiting_since or now
        if now < self._not_before or self.jobs.hands.paused:
            return
        if fill_ready(waiting, now - self._waiting_since, self.row):
            self._waiting_since = now  # of what is left then, or comes meanwhile
            with self.book.lock(f"filling-{self.lane}") as lock:
                if lock is not None:
                    self._fill(lock)

    def _overflow(self) -> None:
        due_us: int | None = self.store.clock.now_us() + round(self.row.batch_overflow_s * US_PER_S)
        why, mode = "its deadline is near, so it is not batched", "sync"
        if not self.row.batches:
            due_us, why, mode = None, "its lane has no batches any more", "async"
        claims = self.store.fetch(self.pool, HANDFUL, idle=True, due_us=due_us).claims
        queue = lane_queue(self.lane, mode)
        self.store.commit(
            [Move(one, "queued", replace(one.progress, why=why), queue=queue) for one in claims]
        )

    def _fill(self, filling: Lock) -> None:
        batch = self.book.new(self.lane, self.jobs.endpoints.first.id)
        with self.book.lock(batch.id) as lock:
            assert lock is not None, "nobody else knows it"
            self.book.write(batch, over=None)
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{batch.id}.jsonl"
            try:
                with path.open("wb") as file:
                    batch, holders = self._filled(batch, file, (filling, lock))
                if batch.lines and lock.held():
                    self._send(batch, path, lock, holders)
                elif lock.held():
                    self.book.close(batch)
            finally:
                path.unlink(missing_ok=True)

    def _filled(self, batch: Batch, file: IO[bytes], locks: Sequence[Lock]) -> tuple[Batch, Sequence[Holder]]:
        """Handful by handful, until the pool is empty or the batch is full; with whose its lines are."""
        holders: list[Holder] = []
        limit = min(self.row.batch_lines, self.door.line_limit)
        while (
            batch.lines < limit and file.tell() < self.door.bytes_limit and all(one.held() for one in locks)
        ):
            fetched = self.store.fetch(self.pool, min(HANDFUL, limit - batch.lines), idle=True)
            if not fetched.claims:
                break
            self.jobs.hands.take(fetched.claims, self.pool, messages=1, hold_s=HOLD_S)
            try:
                batch, joined = self._handful(batch, fetched.claims, file)
                holders += joined
            finally:
                self.jobs.hands.drop(fetched.claims, self.pool)
        return batch, holders

    def _handful(
        self, batch: Batch, claims: Sequence[Claim], file: IO[bytes]
    ) -> tuple[Batch, Sequence[Holder]]:
        jobs, moves = self.jobs.prepare(claims, batch=True)
        lines: dict[str, tuple[Job, bytes]] = {}
        for job in jobs:
            name = line_id(job.claim)
            try:
                lines[name] = (job, self.door.line(name, job.call))
            except CallRejected as error:
                now_us = self.store.clock.now_us()
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
                moves.append(cancelled(job.claim))
            elif word != "lost":
                moves.append(self.jobs.refused(job.claim, parse_refusal(word), job.worst_nano))
        self.store.commit(moves)
        deadlines = [due for due in (batch.due_us, *map(_due_us, joined)) if due is not None]
        holders = [(line_id(claim), (claim.ref, claim.epoch)) for claim in joined]
        batch = replace(batch, lines=batch.lines + len(joined), due_us=min(deadlines, default=None))
        return batch, holders

    def _send(self, batch: Batch, path: Path, lock: Lock, holders: Sequence[Holder]) -> None:
        batch = replace(batch, state="sending", since_us=self.store.clock.now_us())
        if not self.book.write(batch, over="open", under=lock):
            log.error(
                "a batch of %d lines is not sent, for this process stood still for too long", batch.lines
            )
            return
        try:
            provider_id = self.door.send(batch.id, path, batch.lines)
        except EngineError as error:
            log.error("a batch of %d lines was not sent: %s", batch.lines, error)
            self._not_before = time.monotonic() + AGAIN_S
            if error.usage is not None:  # it is known that the provider has nothing of it
                self.batches.take_apart(batch, singly=isinstance(error, PermanentEngineError))
            return
        now = patiently(lambda: self.book.get(batch.id))
        if now is None or now.state == "open":  # Redis has lost meanwhile that it was to leave
            sent = replace(batch, state="lost", provider_id=provider_id)
            patiently(lambda: self.book.write_again(sent, holders, over=now.state if now else None))
        else:  # in another state where we were thought dead
            state: State = "sent" if now.state == "sending" else now.state
            self.book.write(replace(now, state=state, provider_id=provider_id), over=now.state)
        log.info("batch %s: %d lines are with the provider as %s", batch.id, batch.lines, provider_id)


def _due_us(claim: Claim) -> int | None:
    """When its deadline is, on Redis's clock."""
    if claim.task.deadline_s is None:
        return None
    return claim.submitted_us + claim.waited_us + round(claim.task.deadline_s * US_PER_S)


def line_id(claim: Claim) -> str:
    """The attempt's id as far as there is room, and what makes it unique among all workspaces."""
    digest = hashlib.blake2b(f"{claim.ref}|{claim.epoch}".encode(), digest_size=8).hexdigest()
    return f"{claim.attempt_id[: LINE_CHARS - 1 - len(digest)]}-{digest}"
