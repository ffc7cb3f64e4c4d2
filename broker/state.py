"""The nouns of task state: what a worker says of its claims and hears, and what is known of tasks and the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.events import Allotted, Attempted, Fact
from broker.task import Claim, Outcome, Progress, Task


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought. ``wait_s`` is when a timed task falls due (None: none waits); ``alone``: a suspect
    waits, and only a process with nothing else in hand gets it."""

    claims: tuple[Claim, ...]
    wait_s: float | None
    alone: bool


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
    """How a call to an endpoint went. ``answered`` False: the endpoint failed; None: the call says nothing of
    its health. ``tokens`` is what the call used beyond what it was let in for, ``blocked_s`` for how long the endpoint
    wants no further calls, ``rpm`` and ``tpm`` what it told of its limits a minute (0: nothing).
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
class Kept:
    """A keeper's round: claims (ref, epoch) to break off here, how many lost claims and places the fleet got back.
    ``more``: it left some of what is lost or has been kept long enough to the next one, which need not wait."""

    broken: frozenset[tuple[str, int]]
    recovered: int
    replaced: int
    more: bool


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
class QueueState:
    """``oldest_s`` is the age of what has waited longest, 0 for an empty queue."""

    queue: str
    depth: int
    later: int
    suspects: int
    in_flight: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Rate:
    """What calls of one kind came to: how many, how many of them ended their task well, what they cost together."""

    tries: int
    successes: int
    nano: int


@dataclass(frozen=True, slots=True)
class Share:
    """What an attempt has of its machine's day, and the scopes that it counts in. A task of the same id that was
    submitted at another time has no part of it."""

    ref: str
    submitted_us: int
    fact: Allotted
    scopes: tuple[str, ...]
