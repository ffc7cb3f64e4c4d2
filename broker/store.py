"""Task state in Redis: each method is one round trip for many tasks, and one atomic script for each.

Nothing here decides anything: a script refuses what is stale or double and otherwise does what its caller decided.
Every call may be repeated after a lost reply without doing anything twice, but for ``note``, whose fact then stands
twice; ``replay`` and ``drop_dead`` say False the second time.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import chain, islice
from math import inf
from operator import attrgetter
from typing import Any, TypeVar

import msgpack
import redis

from broker import keys
from broker.errors import (
    BadTask,
    CallNeverMade,
    RedisFull,
    RedisUnavailable,
    ResultGone,
    TaskTooLarge,
    UnknownTask,
)
from broker.events import (
    Allotted,
    Attempted,
    DeadLettered,
    Fact,
    Finished,
    Resumed,
    Submitted,
    decode_fact,
    encode_fact,
    encode_group,
)
from broker.group import Grouped
from broker.money import nano
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.settings.lanes import HUMAN
from broker.task import (
    DISPATCH,
    Claim,
    Outcome,
    Progress,
    Task,
    decode_outcome,
    decode_progress,
    decode_task,
    encode_outcome,
    encode_progress,
    encode_task,
    reference,
)

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
MICRO = 1_000_000
ASK_AGAIN_S = 0.2
PAYLOAD_LIMIT_BYTES = 256 * 1024
PRIORITY_LIMIT = 1000
#: Above all priorities: on a queue that both modes share, no async task goes before a sync one.
SYNC_FIRST = 2 * PRIORITY_LIMIT + 1
#: So many facts of one call go into the stream together, packed as columns.
GROUP_FACTS = 32
PERIODS = ("day", "month", "total")
LEVELS = (50, 80, 100)
#: What is asked of Redis of any number of names is asked of so many at a time: it does nothing else meanwhile.
AT_ONCE = 1000
#: Entries of the stream that are read at a time: the facts of one call are one entry, which may have hundreds of them.
ENTRIES_AT_ONCE = 50
#: Fields of a task that each digest has: those up to guards. What later versions add counts where it is said.
DIGESTED = [one.name for one in fields(Task)].index("guards") + 1
_digested = attrgetter(*(one.name for one in fields(Task)[:DIGESTED]))
_CANCELLED = Outcome("cancelled", "cancelled by its producer")
_DEAD = Outcome("failed", "dead letter: it took its worker along again and again")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought. ``wait_s`` is when a timed task falls due (None: none waits); ``alone``: a suspect
    waits, and only a process with nothing else in hand gets it."""

    claims: tuple[Claim, ...]
    wait_s: float | None
    alone: bool


@dataclass(frozen=True, slots=True)
class Share:
    """What an attempt has of its machine's day, and the scopes that it counts in. A task of the same id that was
    submitted at another time has no part of it."""

    ref: str
    submitted_us: int
    fact: Allotted
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that is about to leave: what it may cost at most (nano-dollars), and the fact to book if it is lost.

    ``reserved_nano`` None: no price is known. ``hard_nano`` is the task's own limit, None where it has none.
    ``endpoint`` names where it goes, "" where nobody counts; ``tokens`` is about what it will use there, ``rpm`` and
    ``tpm`` what the configuration lets the endpoint take a minute (0: what it tells of itself). ``batch`` and ``line``:
    the provider batch that the call goes into, and under which line; "" for a call that is made now. It counts in the
    limits of the claim's ``family`` too.
    """

    claim: Claim
    reserved_nano: int | None
    lost: Fact
    scopes: tuple[str, ...] = ()
    hard_nano: int | None = None
    endpoint: str = ""
    tokens: int = 0
    rpm: int = 0
    tpm: int = 0
    batch: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """How a call to an endpoint went. ``answered`` False: the endpoint failed; None: it was neither its merit nor its
    fault. ``tokens`` is what the call used beyond what it was let in for, ``blocked_s`` for how long the endpoint wants
    no further calls, ``rpm`` and ``tpm`` what it told of its limits a minute (0: nothing).
    """

    endpoint: str
    answered: bool | None
    tokens: int = 0
    blocked_s: float = 0.0
    rpm: int = 0
    tpm: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """Where a claimed task goes next, with everything that is settled in the same step.

    ``status`` ``queued`` puts it on ``queue`` (after ``delay_s``), ``parked`` or an end takes ``outcome``, ``running``
    is a step after which it stays in the same hands. ``attempts`` are booked even when the claim turns out stale,
    ``facts`` only when the move is made. ``late`` is booked in place of ``attempts`` where the claim was lost: a call
    that was never made is an attempt only where it was booked as one. A ``cause`` makes it a dead letter.
    ``tally`` (type, lane, purpose) is what the call counts under in ``rates``. ``awaits`` is the ref of a sub-task: the
    queued task comes back when that has ended or waits for a person, and after ``delay_s`` at the latest.
    """

    claim: Claim
    status: str
    progress: Progress
    queue: str = ""
    delay_s: float = 0.0
    cost_nano: int = 0
    outcome: Outcome | None = None
    attempts: tuple[Fact, ...] = ()
    facts: tuple[Fact, ...] = ()
    cause: str = ""
    scopes: tuple[str, ...] = ()
    overrun: bool = False
    tally: tuple[str, str, str] | None = None
    soft_nano: int | None = None
    awaits: str = ""
    late: tuple[Attempted, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known of a task. Times in microseconds of Redis's clock, None where it has not come to that.

    ``since_us`` is when it came to where it is: into its queue, or to a person. ``raised`` are limits other than money
    that an operator gave it, ``batch`` is the provider batch that holds it, "" for none. ``family_nano`` is what its
    sub-tasks have spent and reserved, ``shares_nano`` what of ``cost_nano`` is of machines' days beside its calls.
    """

    task: Task
    progress: Progress
    outcome: Outcome | None
    status: str
    queue: str
    epoch: int
    cost_nano: int
    reserved_nano: int
    submitted_us: int
    started_us: int | None
    finished_us: int | None
    since_us: int
    raised: Mapping[str, Any]
    batch: str
    family_nano: int
    shares_nano: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """A keeper's round: claims (ref, epoch) to break off here, how many lost claims and places the fleet got back.
    ``more``: it left some of what is lost or has been kept long enough to the next one, which need not wait."""

    broken: frozenset[tuple[str, int]]
    recovered: int
    replaced: int
    more: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What is heard of a lane. ``s_ago``: seconds since a node last served it, infinite where none ever did and a fleet
    said that it cannot. ``well`` and ``ailing`` are how many nodes spoke within a lease, by whether their engines make
    tokens.
    """

    s_ago: float
    well: int = 0
    ailing: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """``body`` are the bytes of a message that was no task, b"" for a task (its record holds everything)."""

    id: str
    at_us: int
    cause: str
    queue: str
    starts: int
    body: bytes


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A limited scope in its present window, in nano-dollars. ``closed``: an overrun closed it until the next one.

    A reservation made before midnight counts in the window in which it was made. ``file_nano`` is what the
    configuration says, None for nothing; ``overridden``: an operator says otherwise. ``alerted`` are the levels that
    somebody was told of. ``killed``: the scope is switched off.
    """

    scope: str
    period: str
    window: str
    limit_nano: int
    spent_nano: int
    reserved_nano: int
    closed: bool
    file_nano: int | None
    overridden: bool
    alerted: tuple[int, ...]
    killed: bool

    @property
    def left_nano(self) -> int:
        return self.limit_nano - self.spent_nano - self.reserved_nano


@dataclass(frozen=True, slots=True)
class Rate:
    """What calls of one kind came to: how many, how many of them ended their task well, what they cost together."""

    tries: int
    successes: int
    nano: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """``oldest_s`` is the age of what has waited longest, 0 for an empty queue."""

    queue: str
    depth: int
    later: int
    suspects: int
    in_flight: int
    oldest_s: float


def digest(task: Task) -> str:
    """What makes two submissions of one id the same task: everything that the producer said.

    A task that says nothing of what a later version added has the digest that earlier versions gave it.
    """
    said = [1, *_digested(task)]
    for one in fields(task)[DIGESTED:]:
        value = getattr(task, one.name)
        if value != one.default:
            said.append((one.name, value))
    return hashlib.blake2b(msgpack.packb(said), digest_size=16).hexdigest()


class Store:
    """The task state of one fleet. Thread-safe, as its Redis client is."""

    def __init__(self, client: redis.Redis, fleet: Fleet) -> None:
        self.client = client
        self.fleet = fleet
        self.lease_us = round(fleet.lease_s * MICRO)
        self._clock_offset_us = 0
        prelude = _script("prelude")
        self._run = {
            name: client.register_script(f"{_flags(name)}\n{prelude}\n{_script(name)}")
            for name in (
                "submit", "fetch", "begin", "commit", "release", "keep", "cancel", "watch", "note", "replay", "drop",
                "note_down", "resume", "heard", "claims", "share", "shared", "allot",
            )
        }  # fmt: skip
        # Each caller packs its own rows, so that one that cannot be packed fails alone and not its whole group.
        self._begin: Grouped[bytes, bytes] = Grouped(lambda rows: self._call("begin", _joined(rows)))
        self._commit: Grouped[bytes, bytes] = Grouped(
            lambda rows: self._call("commit", _joined(rows), *self._commit_rules)
        )
        self._rules = [
            fleet.max_starts,
            fleet.idempotency_ttl_s,
            encode_fact(Finished("cancelled", None, "", _CANCELLED.reason)),
            encode_outcome(_CANCELLED),
            encode_outcome(_DEAD),
        ]
        self._commit_rules = [*self._rules, self.lease_us]

    def now_us(self) -> int:
        """Redis's clock as last seen by a fetch, carried on by this machine's monotonic one. Microseconds."""
        if not self._clock_offset_us:
            self._set_clock(_micros(self._ask(self.client.time)))
        return time.monotonic_ns() // 1000 + self._clock_offset_us

    def _set_clock(self, now_us: int) -> None:
        self._clock_offset_us = now_us - time.monotonic_ns() // 1000

    def submit(self, tasks: Sequence[Task]) -> list[str]:
        """One word a task: ``new``, ``same`` (it was there already) or ``conflict`` (the id has another payload).

        Raises BadTask or TaskTooLarge before anything is stored, RedisFull or RedisUnavailable when nothing was.
        """
        rows = []
        bodies = list(map(_body, tasks))
        packed = _Packed(map(_submitted, tasks))
        for task, body, fact in zip(tasks, bodies, packed.facts, strict=True):
            priority = max(-PRIORITY_LIMIT, min(PRIORITY_LIMIT, task.priority))
            priority += SYNC_FIRST if task.mode == "sync" else 0
            rows.append(
                [
                    task.ref,
                    task.task_id,
                    task.workspace,
                    priority,
                    DISPATCH,
                    digest(task),
                    body,
                    fact,
                    round((task.deadline_s or 0) * MICRO),
                    reference(task.workspace, task.parent) if task.parent else "",
                ]
            )
        return [word.decode() for word in self._call("submit", _pack(rows), *packed.group)]

    def fetch(self, queue: str, want: int, *, idle: bool, due_us: int | None = None) -> Fetched:
        """Take and claim up to ``want`` tasks. ``idle``: this process has nothing in hand.

        ``due_us``: of a pool only those whose deadline is before that, on Redis's clock; None: all.
        """
        due = "" if due_us is None else due_us
        now, until_due, alone, rows = self._call("fetch", queue, want, self.lease_us, int(idle), due)
        now_us = int(now)
        self._set_clock(now_us)
        claims = [claim for row in rows if (claim := self._claim(row, queue, now_us))]
        return Fetched(tuple(claims), None if until_due < 0 else until_due / MICRO, bool(alone))

    def waiting(self, queue: str) -> int:
        """How many tasks are in a queue or pool."""
        return int(self._ask(lambda: self.client.zcard(keys.queue_key(queue))))

    def claims(
        self, refs: Sequence[tuple[str, int]], queue: str, *, stale: bool = False
    ) -> list[Claim | None]:
        """The claims of tasks that a batch holds, as (ref, epoch): None for one that was lost or settled meanwhile.

        ``stale``: also those; what is committed for them only corrects what was booked.
        """
        rows = self._call("claims", _pack([[ref, str(epoch)] for ref, epoch in refs]), int(stale))
        return [row and self._claim(row, queue, int(row[5])) for row in rows]

    def _claim(self, row: list[bytes], queue: str, now_us: int) -> Claim | None:
        ref, epoch, body, progress, submitted, enqueued, cost, waited, raised, losses = row
        try:
            task = decode_task(body)
            if task.ref.encode() != ref:
                raise BadTask(f"it says that it is {task.ref!r}")
            told = _told(progress, losses)
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
        except (BadTask, ValueError) as error:
            self._bury(ref.decode(errors="replace"), epoch.decode(), str(error))
            return None

    def _bury(self, ref: str, epoch: str, why: str) -> None:
        """A task whose record cannot be read: ended and kept with its cause, its neighbours go on."""
        cause = f"unreadable record: {why}"
        facts = [encode_fact(DeadLettered(cause)), encode_fact(Finished("failed", False, "", cause))]
        outcome = encode_outcome(Outcome("failed", cause))
        row = [ref, epoch, 0, "failed", "", 0, b"", outcome, [], facts, cause, "", 0, -1, "", "", "", [], 0]
        self._commit([_pack(row)])

    def begin(self, intents: Sequence[Intent]) -> list[str]:
        """Reserve the worst case of each call in all of its scopes, or in none, and record the intent.

        One word each: ``go``, ``lost``, ``cancel``, or why it must not leave (see ``scripts/begin.lua``).
        """
        rows = [
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
            ]
            for one in intents
        ]
        return [word.decode() for word in self._begin([_pack(row) for row in rows])]

    def heard(self, rows: Sequence[Heard]) -> list[tuple[int, float, float]]:
        """Tell the fleet how calls to endpoints went. Of each endpoint: its failures in a row, and for how many seconds
        it is shut for them, and wants no calls by its own word."""
        words = {True: 1, False: 0, None: -1}
        packed = [
            [one.endpoint, words[one.answered], one.tokens, round(one.blocked_s * MICRO), one.rpm, one.tpm]
            for one in rows
        ]
        return [
            (int(failures), int(shut_us) / MICRO, int(blocked_us) / MICRO)
            for failures, shut_us, blocked_us in self._call("heard", _pack(packed))
        ]

    def step(self, moves: Sequence[Move]) -> list[Claim]:
        """``commit``, and the claims to go on with: those of steps after which the task is still ours."""
        words = [word.partition("|") for word in self.commit(moves)] if moves else []
        now_us = self.now_us()
        return [
            replace(
                move.claim,
                progress=move.progress,
                epoch=int(epoch),
                cost_nano=move.claim.cost_nano + move.cost_nano,
                claimed_us=now_us,
                enqueued_us=now_us,
            )
            for move, (word, _, epoch) in zip(moves, words, strict=True)
            if word == "goes on"
        ]

    def tool_result(self, key: str) -> str | None:
        """What a tool said of the same before, None where nothing is kept of it."""
        found = self._ask(lambda: self.client.get(keys.tool_result_key(key)))
        return None if found is None else found.decode()

    def keep_tool_result(self, key: str, text: str, ttl_s: float) -> None:
        self._ask(lambda: self.client.set(keys.tool_result_key(key), text, px=round(ttl_s * 1000)))

    def commit(self, moves: Sequence[Move]) -> list[str]:
        """Settle and move. One word each: ``moved``, ``goes on|epoch``, ``done before``, ``late`` or ``cancelled``."""
        packed = _Packed(fact for move in moves for fact in (*move.attempts, *move.facts))
        facts = iter(packed.facts)
        rows = [
            _pack(
                [
                    move.claim.ref,
                    str(move.claim.epoch),
                    move.cost_nano,
                    move.status,
                    move.queue,
                    round(move.delay_s * MICRO),
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
        if packed.group:  # large enough to go alone
            words = self._call("commit", _joined(rows), *self._commit_rules, *packed.group)
        else:
            words = self._commit(rows)
        return [word.decode() for word in words]

    def release(self, claims: Iterable[Claim], cause: str = "") -> None:
        """Give claims back: unharmed, or with the cause for which their worker failed on them."""
        self.release_held([(claim.ref, claim.epoch) for claim in claims], cause)

    def release_held(self, held: Iterable[tuple[str, int]], cause: str) -> None:
        """The same for claims of which (ref, epoch) alone is known."""
        rows = [[ref, str(epoch), cause] for ref, epoch in held]
        if rows:
            self._call("release", _pack(rows), *self._rules)

    def keep(
        self,
        held: Sequence[tuple[str, int]],
        lanes: Sequence[str],
        *,
        node: str = "",
        well: bool = True,
        again: bool = False,
    ) -> Kept:
        """Renew the leases of (ref, epoch) in hand, say which lanes ``node`` serves, look after what is lost.

        ``well`` False: the node's engine makes no tokens just now. ``again``: the round before left more.
        """
        rows = [[ref, str(epoch)] for ref, epoch in held]
        broken, recovered, replaced, more = self._call(
            "keep",
            _pack(rows),
            self.lease_us,
            _pack([[lane, node, int(well)] for lane in lanes]),
            *self._rules,
            self.fleet.result_ttl_s * MICRO,
            self.fleet.node if lanes else "",
            int(again),
        )
        claims = frozenset((ref.decode(), int(epoch)) for ref, epoch in broken)
        return Kept(claims, recovered, replaced, bool(more))

    def lanes_seen(self) -> dict[str, Seen]:
        """What nodes said of each lane that any of them ever spoke of."""
        now_us = self.now_us()
        words = {
            name.decode(): int(at) for name, at in self._ask(lambda: self.client.hgetall(keys.LANES)).items()
        }
        nodes = [
            (name.partition("|")[0], at)
            for name, at in words.items()
            if "|" in name and abs(at) >= now_us - self.lease_us
        ]
        served = {name: at for name, at in words.items() if "|" not in name}
        return {
            lane: Seen(
                max(0, now_us - at) / MICRO if (at := served.get(lane, 0)) else inf,
                well=sum(one == lane and at > 0 for one, at in nodes),
                ailing=sum(one == lane and at < 0 for one, at in nodes),
            )
            for lane in {*served, *(lane for lane, _ in nodes)}
        }

    def announce(self, lanes: Sequence[str]) -> None:
        """Say that these lanes are served, or are about to be."""
        self._note_down(keys.LANES, dict.fromkeys(lanes, str(self.now_us())))

    def renounce(self, lanes: Sequence[str]) -> None:
        """Say that these lanes cannot be served, where no node ever said that it serves them."""
        self._note_down(keys.LANES, dict.fromkeys(lanes, "0"), new_only=True)

    def _note_down(
        self, key: str, fields: Mapping[str, str], out: Sequence[str] = (), *, new_only: bool = False
    ) -> None:
        """Small facts about the fleet, written also when Redis is full."""
        self._call("note_down", key, _pack(dict(fields)), _pack(list(out)), int(new_only))

    def wait(self, queue: str, timeout_s: float) -> None:
        """Block until something is put on the queue, or the time is over."""
        self._ask(lambda: self.client.blpop([keys.wake_key(queue)], timeout=max(0.01, timeout_s)))

    def cancel(self, ref: str) -> str:
        """The status now: ``cancelled``, ``cancelling`` (a call is under way) or the end it had reached. Its sub-tasks
        are cancelled with it, also those that are submitted later.

        Raises UnknownTask.
        """
        _, ttl, fact, outcome, _ = self._rules
        word: bytes = self._call("cancel", ref, ttl, fact, outcome)
        if not word:
            raise unknown(ref)
        asked = {ref}
        parts = self.parts(ref)
        while parts:
            part = parts.pop()
            if part not in asked:
                asked.add(part)
                self._call("cancel", part, ttl, fact, outcome)
                parts += self.parts(part)  # what comes after its cancel ends of itself
        return word.decode()

    def parts(self, ref: str) -> list[str]:
        """The refs of its sub-tasks, in the order of their names."""
        found = self._ask(lambda: self.client.smembers(keys.parts_key(ref)))
        return sorted(part.decode() for part in found)

    def note(self, ref: str, fact: Fact) -> None:
        """Add a fact to a task. Raises UnknownTask."""
        if not self._call("note", ref, encode_fact(fact)):
            raise unknown(ref)

    def watch(self, reader: str, refs: Sequence[str]) -> int:
        """Have ``reader`` told of each ref's end. Gives how many of them are unknown."""
        return sum(int(self._call("watch", keys.reply_key(reader), *part)) for part in _parts(refs))

    def next_ends(self, reader: str, timeout_s: float, limit: int = 500) -> list[str]:
        """The next refs that ended or were parked, as many as there are; none when the time is over."""
        found = self._ask(
            lambda: self.client.blmpop(
                max(0.01, timeout_s), 1, keys.reply_key(reader), direction="LEFT", count=limit
            )
        )
        return [ref.decode() for ref in found[1]] if found else []

    def record(self, ref: str) -> Record:
        """Raises UnknownTask, its leaf ResultGone, or BadTask for a record that cannot be read."""
        return self.records([ref])[0]

    def records(self, refs: Sequence[str]) -> list[Record]:
        """Many in one round trip. Raises as ``record`` does."""
        return [_record(ref, row) for ref, row in zip(refs, self._rows(refs), strict=True)]

    def records_that_are(self, status: str, refs: Sequence[str]) -> list[Record]:
        """Those of this status that are still kept, in one round trip. Raises BadTask."""
        rows = zip(refs, self._rows(refs), strict=True)
        kept = ((ref, row) for ref, row in rows if b"task" in row and row[b"status"].decode() == status)
        return [_record(ref, row) for ref, row in kept]

    def _rows(self, refs: Sequence[str]) -> list[dict[bytes, bytes]]:
        pipe = self.client.pipeline(transaction=False)
        for ref in refs:
            pipe.hgetall(keys.task_key(ref))
        return self._ask(pipe.execute)  # type: ignore[no-any-return]

    def newest_entries(self, most: int, *, after: str = "-", until: str = "+") -> Iterator[bytes | None]:
        """The newest entries of the stream of facts, newest first and read as they are asked for: ``most`` at most,
        between these places. None: one that is no entry."""
        while most > 0:
            count = min(most, ENTRIES_AT_ONCE)
            page = self._read_back(until, after, count)
            for _, row in page:
                yield row.get(b"b")
            if len(page) < count:
                return
            most -= count
            until = f"({page[-1][0].decode()}"

    def _read_back(self, until: str, after: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return self._ask(lambda: self.client.xrevrange(keys.EVENTS, until, after, count))  # type: ignore[no-any-return]

    def record_status(self, ref: str) -> str | None:
        """The status alone, readable even where the rest of the record is not. None: unknown."""
        status = self._ask(lambda: self.client.hget(keys.task_key(ref), "status"))
        return None if status is None else status.decode()

    def find(self, task_id: str) -> list[str]:
        """The refs of that task id over all workspaces."""
        workspaces = self._ask(lambda: self.client.smembers(keys.ids_key(task_id)))
        return sorted(reference(workspace.decode(), task_id) for workspace in workspaces)

    def queues(self, names: Sequence[str]) -> list[QueueState]:
        now_us = self.now_us()
        pipe = self.client.pipeline(transaction=False)
        for name in names:
            pipe.zcard(keys.queue_key(name))
            pipe.zcard(keys.later_key(name))
            pipe.zcard(keys.suspects_key(name))
            pipe.zrange(keys.queue_key(name), 0, 0)
        pipe.zrange(keys.LEASES, 0, -1)
        *counts, leased = self._ask(pipe.execute)
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
        pipe = self.client.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(keys.task_key(ref), "enqueued")
        return {
            ref: max(0.0, (now_us - int(at or now_us)) / MICRO)
            for ref, at in zip(refs, self._ask(pipe.execute), strict=True)
        }

    def _held_by_queue(self, refs: list[str]) -> dict[str, int]:
        pipe = self.client.pipeline(transaction=False)
        for ref in refs:
            pipe.hget(keys.task_key(ref), "queue")
        held: dict[str, int] = {}
        for queue in self._ask(pipe.execute):
            name = (queue or b"").decode()
            held[name] = held.get(name, 0) + 1
        return held

    def memory_used(self) -> float:
        """The used part of Redis's maxmemory, 0.0 where it has none."""
        info = self._ask(lambda: self.client.info("memory"))
        return info["used_memory"] / info["maxmemory"] if info.get("maxmemory") else 0.0

    def parked(self, limit: int = 1000) -> list[str]:
        """The refs that wait for a person, longest first."""
        return [ref.decode() for ref in self._ask(lambda: self.client.zrange(keys.PARKED, 0, limit - 1))]

    def dead_letters(self) -> list[DeadLetter]:
        rows = self._ask(lambda: self.client.hgetall(keys.DEAD))
        letters = []
        for name, packed in rows.items():
            _, at_us, cause, queue, starts, body = msgpack.unpackb(packed, raw=True)
            letters.append(
                DeadLetter(
                    name.decode(errors="replace"),
                    int(at_us),
                    cause.decode(errors="replace"),
                    queue.decode(errors="replace"),
                    int(starts),
                    body,
                )
            )
        return sorted(letters, key=lambda letter: letter.at_us)

    def replay(self, ref: str) -> bool:
        """Put a dead letter of a task back on its queue, with its story and spend. False: there is none."""
        return bool(self._call("replay", ref, encode_fact(Resumed("replay", ""))))

    def resume(
        self,
        ref: str,
        status: str,
        facts: Sequence[Fact],
        *,
        queue: str = "",
        progress: Progress | None = None,
        outcome: Outcome | None = None,
        cost_nano: int = 0,
        scopes: Sequence[str] = (),
        hard_nano: int | None = None,
        raised: Mapping[str, Any] | None = None,
        epoch: int | None = None,
        over: bool = False,
    ) -> str:
        """A parked task goes on (``queued``, on its queue or another) or gets its end.

        ``epoch`` is the record's, as the caller saw it: where the task has gone on and is parked anew, the word is
        ``changed``. Else it is the status before; one that was not parked is left where it is. ``raised`` are limits by
        their names, put over those of the same name. A cost that fits no limit does nothing and the word is why (see
        ``scripts/begin.lua``), but with ``over``. Raises UnknownTask.
        """
        row = [
            ref,
            status,
            queue,
            encode_progress(progress) if progress else b"",
            encode_outcome(outcome) if outcome else b"",
            cost_nano,
            [encode_fact(fact) for fact in facts],
            "\n".join(scopes),
            -1 if hard_nano is None else hard_nano,
            "" if epoch is None else str(epoch),
            msgpack.packb(dict(raised)) if raised else b"",
            int(over),
        ]
        before = self._call("resume", _pack(row), self.fleet.idempotency_ttl_s)
        if not before:
            raise unknown(ref)
        return before.decode()  # type: ignore[no-any-return]

    def raise_limits(self, ref: str, hard_nano: int | None, others: Mapping[str, Any] | None = None) -> str:
        """Set a task's own limits: money, and any others by their names; one that is parked at a limit goes on, and so
        do its sub-tasks that are.

        Gives its status before, ``human`` for one that waits for a person and goes on waiting. Raises UnknownTask.
        """
        while True:
            record = self.record(ref)
            waits = record.status == "parked" and record.progress.lane == HUMAN
            facts = [Resumed("budget", record.progress.lane)]
            seen = -1 if waits else record.epoch
            word = self.resume(ref, "queued", facts, hard_nano=hard_nano, raised=others, epoch=seen)
            if word != "changed":
                for part in self.parts(ref):
                    if self.record_status(part) == "parked":
                        self.raise_limits(part, None)
                return word
            if waits:
                return HUMAN

    def reviewed(self) -> list[str]:
        """The refs that a person has ended and whose results are still kept, oldest first."""
        return [ref.decode() for ref in self._ask(lambda: self.client.zrange(keys.REVIEWED, 0, -1))]

    def declare_limits(self, rows: Sequence[BudgetRow]) -> None:
        """The limits that the configuration names, in place of those it named before."""
        named = {f"file|{row.scope}|{row.period}": str(nano(row.usd)) for row in rows}
        before = [name for name in self._rules_of_scopes("file|*") if name not in named]
        self._note_down(keys.RULES, named, before)

    def set_limit(self, scope: str, period: str, limit_nano: int | None) -> None:
        """An operator's limit, over what the configuration says, at once and fleet-wide. None takes it back.

        Its levels are told of anew.
        """
        name = f"limit|{scope}|{period}"
        fired = [f"{scope}|{period}|{level}" for level in LEVELS]
        self._note_down(keys.alerted_key(self.windows()[period]), {}, fired)
        if limit_nano is None:
            self._note_down(keys.RULES, {}, [name])
        else:
            self._note_down(keys.RULES, {name: str(limit_nano)})

    def kill(self, scope: str) -> None:
        """No call leaves under this scope any more, at once and fleet-wide."""
        self._note_down(keys.RULES, {f"killed|{scope}": str(self.now_us())})

    def unkill(self, scope: str) -> None:
        """The scope's switch is back, and what an overrun closed is open again."""
        names = [f"killed|{scope}", *(f"closed|{scope}|{period}" for period in PERIODS)]
        self._note_down(keys.RULES, {}, names)

    def killed(self) -> list[str]:
        return sorted(name.removeprefix("killed|") for name in self._rules_of_scopes("killed|*"))

    def is_killed(self, scope: str) -> bool:
        return bool(self._ask(lambda: self.client.hexists(keys.RULES, f"killed|{scope}")))

    def _rules_of_scopes(self, names: str = "*") -> dict[str, str]:
        """Those of such names, read page by page: every user may have a limit."""
        pages = self._ask(lambda: list(self.client.hscan_iter(keys.RULES, match=names, count=AT_ONCE)))
        return {name.decode(): value.decode() for name, value in pages}

    def budgets(self) -> list[BudgetState]:
        """Every limited scope in its present window."""
        return self._states(self._rules_of_scopes())

    def budget(self, scope: str, period: str) -> BudgetState | None:
        """The same of one limit, None where there is none."""
        names = [f"killed|{scope}", *(f"{kind}|{scope}|{period}" for kind in ("limit", "file", "closed"))]
        values = self._ask(lambda: self.client.hmget(keys.RULES, names))
        found = zip(names, values, strict=True)
        states = self._states({name: value.decode() for name, value in found if value is not None})
        return states[0] if states else None

    def _states(self, rules: Mapping[str, str]) -> list[BudgetState]:
        """Of the limits among these rules. Many more scopes have spent something than have a limit."""
        windows = self.windows()
        limited = {name.partition("|")[2] for name in rules if name.startswith(("file|", "limit|"))}
        states = []
        for period in PERIODS:
            for names in _parts(sorted(name for name in limited if name.endswith(f"|{period}"))):
                scopes = [name.rpartition("|")[0] for name in names]
                pipe = self.client.pipeline()
                pipe.hmget(keys.used_key(windows[period]), scopes)
                pipe.hmget(keys.held_key(windows[period]), scopes)
                levels = [f"{name}|{level}" for name in names for level in LEVELS]
                pipe.hmget(keys.alerted_key(windows[period]), levels)
                used, held, told = self._ask(pipe.execute)
                for at, name in enumerate(names):
                    fired = told[at * len(LEVELS) : (at + 1) * len(LEVELS)]
                    amounts = int(used[at] or 0), int(held[at] or 0)
                    states.append(_state(rules, name, windows[period], *amounts, fired))
        return sorted(states, key=lambda one: f"{one.scope}|{one.period}")

    def windows(self) -> dict[str, str]:
        """The present window of each period."""
        day = datetime.fromtimestamp(self.now_us() / MICRO, tz=UTC).date().isoformat()
        return {"day": day, "month": day[:7], "total": "total"}

    def rates(self) -> dict[tuple[str, str, str], Rate]:
        """What calls came to, by (type, lane, purpose), over this month and the last one."""
        today = datetime.fromtimestamp(self.now_us() / MICRO, tz=UTC).date()
        months = [f"{today:%Y-%m}", f"{today.replace(day=1) - timedelta(days=1):%Y-%m}"]
        pipe = self.client.pipeline(transaction=False)
        for month in months:
            pipe.hgetall(keys.rates_key(month))
        sums: dict[tuple[str, str, str], dict[str, int]] = {}
        for row in self._ask(pipe.execute):
            for name, amount in row.items():
                *tally, what = name.decode().split("|")
                counts = sums.setdefault((tally[0], tally[1], tally[2]), {})
                counts[what] = counts.get(what, 0) + int(amount)
        return {
            tally: Rate(counts.get("tries", 0), counts.get("successes", 0), counts.get("nano", 0))
            for tally, counts in sums.items()
        }

    def uptimes_us(self, day: str) -> dict[str, int]:
        """For how many microseconds each machine was on, in a UTC day."""
        found = self._ask(lambda: self.client.hgetall(keys.uptime_key(day)))
        return {machine.decode(): int(on) for machine, on in found.items()}

    def begin_sharing(self, day: str, machines: Mapping[str, str]) -> tuple[int, dict[str, str]]:
        """Begin to share out a day of ``machines`` (lane → what its machine is, as a text). Gives the turn, which ends
        all earlier ones of that day, and these with those of lanes that had one when the day was shared out before."""
        turn, *rows = self._call("share", day, *chain.from_iterable(machines.items())) or (0,)
        texts = [one.decode() for one in rows]
        return turn, dict(zip(texts[::2], texts[1::2], strict=True))

    def allot(self, day: str, turn: int, parts: Sequence[Share]) -> int | None:
        """Add to tasks what their attempts have of a machine's day. Gives how many were changed; None: nothing was, for
        somebody began to share out the day after this turn."""
        packed = _Packed(one.fact for one in parts)
        rows = [
            [one.ref, one.submitted_us, one.fact.attempt_id, one.fact.cost_nano, told, "\n".join(one.scopes)]
            for one, told in zip(parts, packed.facts, strict=True)
        ]
        changed = self._call("allot", _pack(rows), day, turn, *packed.group)
        return None if changed is None else int(changed)

    def end_sharing(self, day: str, turn: int) -> None:
        """All is told of that day of machines, but where somebody began to share it out after this turn."""
        self._call("shared", day, turn)

    def half_shared(self) -> list[str]:
        """Days of machines of which somebody began to tell what calls have of them, and did not come to the end."""
        return sorted(day.decode() for day in self._ask(lambda: self.client.hkeys(keys.SHARING)))

    def drop_dead(self, letter_id: str) -> bool:
        """Forget a dead letter; the task's record then ends with its time to live. False: there is none."""
        return bool(self._call("drop", letter_id, self.fleet.idempotency_ttl_s))

    def _call(self, name: str, *args: Any) -> Any:
        return self._ask(lambda: self._run[name](args=args))

    def _ask(self, question: Callable[[], Any]) -> Any:
        return ask(question)


class _Packed:
    """The facts of one call as its script takes them: each packed alone, or, where they are many, their numbers and the
    one ``group`` that holds them."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        known = list(facts)
        many = len(known) >= GROUP_FACTS
        self.facts: Sequence[bytes | int] = range(len(known)) if many else [encode_fact(one) for one in known]
        self.group = (encode_group(known),) if many else ()


def _above(progress: Progress) -> str:
    return "\n".join(ref for ref, _ in progress.family)


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


def _told(progress: bytes, losses: bytes) -> Progress:
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


def _record(ref: str, row: dict[bytes, bytes]) -> Record:
    if not row:
        raise unknown(ref)
    if b"task" not in row:
        raise ResultGone(
            f"task {ref!r} has ended ({row[b'status'].decode()}) and its payload and result are no longer kept",
            mend="its accounts are in the ledger; fleet.result_ttl_s says how long results are kept",
        )
    return Record(
        decode_task(row[b"task"]),
        _told(row.get(b"progress", b""), row.get(b"losses", b"")),
        decode_outcome(row[b"outcome"]) if b"outcome" in row else None,
        row[b"status"].decode(),
        row[b"queue"].decode(),
        int(row[b"epoch"]),
        int(row[b"cost"]),
        int(row.get(b"reserved", 0)),
        int(row[b"submitted"]),
        int(row[b"started"]) if b"started" in row else None,
        int(row[b"finished"]) if b"finished" in row else None,
        int(row[b"enqueued"]),
        msgpack.unpackb(row[b"raised"]) if b"raised" in row else {},
        row.get(b"batch", b"").decode(),
        int(row.get(b"family", 0)),
        int(row.get(b"shares", 0)),
    )


def _state(
    rules: Mapping[str, str],
    name: str,
    window: str,
    used_nano: int,
    held_nano: int,
    told: Sequence[bytes | None],
) -> BudgetState:
    """``told`` says of each level when somebody was told of it."""
    scope, _, period = name.rpartition("|")
    in_file = rules.get(f"file|{name}")
    return BudgetState(
        scope=scope,
        period=period,
        window=window,
        limit_nano=int(rules.get(f"limit|{name}") or rules[f"file|{name}"]),
        spent_nano=used_nano - held_nano,
        reserved_nano=held_nano,
        closed=rules.get(f"closed|{name}") == window,
        file_nano=None if in_file is None else int(in_file),
        overridden=f"limit|{name}" in rules,
        alerted=tuple(level for level, at in zip(LEVELS, told, strict=True) if at is not None),
        killed=f"killed|{scope}" in rules,
    )


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), AT_ONCE):
        yield names[start : start + AT_ONCE]


def patiently(question: Callable[[], Answer]) -> Answer:
    """The answer of a Redis that is waited for however long it is away.

    For what must not be lost with it: what a call cost, and its answer. ``question`` may be asked more than once.
    """
    told = False
    while True:
        try:
            return question()
        except RedisUnavailable as error:
            if not told:
                log.warning("what is in hand waits for Redis: %s", error.message)
            told = True
            time.sleep(ASK_AGAIN_S)


#: A server that was the master until a moment ago, has lost its master or its replicas, cannot write to its disk or is
#: at a long script says so, and does the same work later. Its library has classes for some of that.
_NOT_NOW = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
_NOT_NOW_CODES = ("NOREPLICAS ", "MISCONF ", "BUSY ", "UNBLOCKED ")


def ask(question: Callable[[], Answer]) -> Answer:
    """The answer of Redis, its library's failures told as ours. Raises RedisFull or RedisUnavailable."""
    try:
        return question()
    except redis.exceptions.OutOfMemoryError as error:
        raise full() from error
    except (redis.ConnectionError, redis.TimeoutError, *_NOT_NOW) as error:
        raise RedisUnavailable(
            f"Redis does not answer: {error}", mend="see that it runs and is reachable"
        ) from error
    except redis.ResponseError as error:
        if "OOM" in str(error):
            raise full() from error
        if str(error).startswith(_NOT_NOW_CODES):
            raise RedisUnavailable(
                f"Redis does not do its work at present: {error}", mend="see what its log says"
            ) from error
        raise


def full() -> RedisFull:
    return RedisFull(
        "Redis is full; nothing was stored",
        mend="let the fleet drain its queues, or raise maxmemory, and submit again",
    )


def unknown(ref: str) -> UnknownTask:
    return UnknownTask(
        f"no task {ref!r} is known", mend="check the id and its workspace; records live 30 days"
    )


def _script(name: str) -> str:
    return (files("broker") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


def _flags(name: str) -> str:
    """Only a submission is refused when Redis is full: whatever drains the queues must go on."""
    return "#!lua" if name == "submit" else "#!lua flags=allow-oom"


def _pack(rows: object) -> bytes:
    return msgpack.packb(rows, use_bin_type=False)  # type: ignore[no-any-return]


def _joined(rows: Sequence[bytes]) -> bytes:
    """The array of rows that are packed already."""
    return msgpack.Packer().pack_array_header(len(rows)) + b"".join(rows)  # type: ignore[no-any-return]


def _micros(pair: tuple[int, int]) -> int:
    return pair[0] * MICRO + pair[1]
