"""Nouns as the scripts take and give them. ``prelude.lua`` and the head of each script say what stands where."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import islice
from operator import attrgetter
from typing import Any

import msgpack

from broker.clock import US_PER_S
from broker.errors import BadTask, CallNeverMade, TaskTooLarge
from broker.events import (
    Attempted,
    DeadLettered,
    Fact,
    Finished,
    Submitted,
    decode_fact,
    encode_fact,
    encode_group,
)
from broker.lua import pack
from broker.state import Heard, Intent, Move
from broker.task import (
    DISPATCH,
    Claim,
    Outcome,
    Progress,
    Task,
    decode_progress,
    decode_task,
    encode_outcome,
    encode_progress,
    encode_task,
    reference,
)

PAYLOAD_LIMIT_BYTES = 256 * 1024
PRIORITY_LIMIT = 1000
#: Above all priorities: on a queue that both modes share, no async task goes before a sync one.
SYNC_FIRST = 2 * PRIORITY_LIMIT + 1
#: So many facts of one call go into the stream together, packed as columns.
GROUP_FACTS = 32
#: Fields that are in every digest: those up to guards. One that a later version added is in it only where it is set.
DIGESTED = [one.name for one in fields(Task)].index("guards") + 1
_digested = attrgetter(*(one.name for one in fields(Task)[:DIGESTED]))


def digest(task: Task) -> str:
    """What makes two submissions of one id the same task: everything that the producer said.

    So a task that sets none of the later fields keeps the digest that earlier versions gave it.
    """
    said = [1, *_digested(task)]
    for one in fields(task)[DIGESTED:]:
        value = getattr(task, one.name)
        if value != one.default:
            said.append((one.name, value))
    return hashlib.blake2b(msgpack.packb(said), digest_size=16).hexdigest()


class PackedFacts:
    """The facts of one call as its script takes them: each packed alone, or, where they are many, their numbers and the
    one ``group`` that holds them."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        known = list(facts)
        many = len(known) >= GROUP_FACTS
        self.facts: Sequence[bytes | int] = range(len(known)) if many else [encode_fact(one) for one in known]
        self.group = (encode_group(known),) if many else ()


def of_tasks(tasks: Sequence[Task]) -> tuple[list[list[Any]], tuple[bytes, ...]]:
    """A row each, and the group of their facts where they are many. Raises BadTask or TaskTooLarge."""
    bodies = list(map(_body, tasks))
    packed = PackedFacts(map(_submitted, tasks))
    rows = [_of_task(*one) for one in zip(tasks, bodies, packed.facts, strict=True)]
    return rows, packed.group


def _of_task(task: Task, body: bytes, fact: bytes | int) -> list[Any]:
    priority = max(-PRIORITY_LIMIT, min(PRIORITY_LIMIT, task.priority))
    priority += SYNC_FIRST if task.mode == "sync" else 0
    return [
        task.ref,
        task.task_id,
        task.workspace,
        priority,
        DISPATCH,
        digest(task),
        body,
        fact,
        round((task.deadline_s or 0) * US_PER_S),
        reference(task.workspace, task.parent) if task.parent else "",
    ]


def _body(task: Task) -> bytes:
    body = encode_task(task)
    if len(body) > PAYLOAD_LIMIT_BYTES:
        raise TaskTooLarge(
            f"task {task.task_id!r} is {len(body):,} bytes; the limit is {PAYLOAD_LIMIT_BYTES:,}",
            mend="shorten the prompt or put the long part behind a link",
        )
    return body


def _submitted(task: Task) -> Submitted:
    return Submitted(
        task.mode, task.workflow, task.pipeline, task.user, task.type or "", task.parent, task.value_nano
    )


def of_intent(one: Intent) -> bytes:
    return pack(
        [
            one.claim.ref,
            str(one.claim.epoch),
            -1 if one.reserved_nano is None else one.reserved_nano,
            encode_fact(one.lost),
            "\n".join(one.scopes),
            -1 if one.hard_nano is None else one.hard_nano,
            one.endpoint,
            one.tokens,
            one.rpm,
            one.tpm,
            one.batch,
            one.line,
            one.claim.progress.family,
            _above(one.claim.progress),
            one.claim.submitted_us,
        ]
    )


def of_heard(one: Heard) -> list[Any]:
    words = {True: 1, False: 0, None: -1}
    blocked_us = round(one.blocked_s * US_PER_S)
    return [one.endpoint, words[one.answered], one.tokens, blocked_us, one.rpm, one.tpm]


def of_moves(moves: Sequence[Move]) -> tuple[list[bytes], tuple[bytes, ...]]:
    """A row each, and the group of their facts where they are many."""
    packed = PackedFacts(fact for move in moves for fact in (*move.attempts, *move.facts))
    facts = iter(packed.facts)
    rows = [
        pack(
            [
                move.claim.ref,
                str(move.claim.epoch),
                move.cost_nano,
                move.status,
                move.queue,
                round(move.delay_s * US_PER_S),
                encode_progress(move.progress),
                encode_outcome(move.outcome) if move.outcome else b"",
                list(islice(facts, len(move.attempts))),
                list(islice(facts, len(move.facts))),
                move.cause,
                "\n".join(move.scopes),
                int(move.overrun),
                -1 if move.soft_nano is None else move.soft_nano,
                "|".join(move.tally) if move.tally else "",
                _above(move.progress),
                move.awaits,
                # They are kept in the record, where they cannot lie in a group.
                [encode_fact(one) for one in move.late or (move.attempts if packed.group else ())],
                move.claim.submitted_us,
            ]
        )
        for move in moves
    ]
    return rows, packed.group


def of_burial(ref: str, epoch: str, cause: str) -> bytes:
    """A move of a task that cannot be read: it has failed, for that cause."""
    facts = [encode_fact(DeadLettered(cause)), encode_fact(Finished("failed", False, "", cause))]
    outcome = encode_outcome(Outcome("failed", cause))
    return pack(
        [ref, epoch, 0, "failed", "", 0, b"", outcome, [], facts, cause, "", 0, -1, "", "", "", [], 0]
    )


def _above(progress: Progress) -> str:
    return "\n".join(ref for ref, _ in progress.family)


def claim_of(row: Sequence[bytes], queue: str, now_us: int) -> Claim:
    """Raises BadTask, or ValueError for numbers and limits that are none."""
    ref, epoch, body, progress, submitted, enqueued, cost, waited, raised, losses = row
    task = decode_task(body)
    if task.ref.encode() != ref:
        raise BadTask(f"it says that it is {task.ref!r}")
    told = told_of(progress, losses)
    if told.waits_for:
        told = replace(told, waits_for="")
    return Claim(
        task,
        told,
        int(epoch),
        queue,
        int(submitted),
        int(enqueued),
        now_us,
        int(cost),
        int(waited),
        msgpack.unpackb(raised) if raised else {},
    )


def told_of(progress: bytes, losses: bytes) -> Progress:
    """The progress with what is known of the task's lost calls by now. One that was never made is no call of it.

    Raises BadTask.
    """
    told = decode_progress(progress) if progress else Progress()
    if not losses:
        return told
    try:
        facts = [decode_fact(fact) for fact in msgpack.unpackb(losses, raw=True)]
    except ValueError as error:
        raise BadTask(f"its lost calls are not those of a known version: {error}") from error
    known = {one.attempt_id: one for one in (*told.attempts, *facts) if isinstance(one, Attempted)}
    made = (one for one in known.values() if one.failure != CallNeverMade.failure)
    return replace(told, attempts=tuple(made))
