"""The task: what a producer asked for, how far it has come, and what it ended as."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from os import urandom
from typing import Any, TypeVar

import msgpack

from broker.errors import BadTask
from broker.events import Attempted

VERSION = 1
TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
LABEL = re.compile(r"[A-Za-z0-9_.@-]{1,128}")
MODES = ("sync", "async")
#: Beside a lane's queues for the two modes: the pool of what waits for a provider's batch.
BATCH = "batch"
HISTORY, PASSAGES = "history", "passages"
GUARDS = (HISTORY, PASSAGES)
TERMINAL = frozenset({"succeeded", "failed", "budget_exceeded", "cancelled"})
DISPATCH = "dispatch"

Noun = TypeVar("Noun")


def new_task_id() -> str:
    """A UUIDv7 as 36 characters: sortable by the millisecond in which it was made."""
    millis = time.time_ns() // 1_000_000
    number = (millis << 80) | int.from_bytes(urandom(10))
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def reference(workspace: str, task_id: str) -> str:
    """The fleet-wide name of a task: ``workspace/task_id``."""
    return f"{workspace}/{task_id}"


def lane_queue(lane: str, mode: str) -> str:
    """The queue of a lane for a mode, or its pool; a lane is addressed by this name and nothing else."""
    return f"lane-{lane}-{mode}"


@dataclass(frozen=True, slots=True)
class Task:
    """One submission, never changed afterwards.

    ``type`` None lets the dispatcher classify it. ``deadline_s`` counts from submission. A higher ``priority`` goes
    first within its queue. ``schema`` and ``gate`` add to what the type demands. ``value_nano`` is what a success is
    worth, in nano-dollars; None: unknown. ``budget`` are the task's own limits as decimal strings and counts.
    ``tools`` are the names of those of its type's tools that it may use, None: all of them; ``guards`` those of its
    type's context guards (``history``, ``passages``) that hold for it. ``role`` is "" for a task of its own,
    ``critic`` for one that judges the answer of its parent, ``eval`` for one that tries something out.
    """

    task_id: str
    workspace: str
    messages: tuple[Mapping[str, Any], ...] = field(repr=False)
    type: str | None = None
    mode: str = "sync"
    deadline_s: float | None = None
    priority: int = 0
    schema: Mapping[str, Any] | None = None
    gate: Mapping[str, Any] | None = None
    tools: tuple[str, ...] | None = None
    parent: str | None = None
    value_nano: int | None = None
    callback_url: str | None = None
    workflow: str = ""
    pipeline: str = ""
    user: str = ""
    budget: Mapping[str, Any] = field(default_factory=dict)
    guards: tuple[str, ...] | None = None
    role: str = ""

    @property
    def ref(self) -> str:
        return reference(self.workspace, self.task_id)

    @property
    def prompt(self) -> str:
        """The text of the last user message, by which a task is classified."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return _text(message.get("content"))
        return ""


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task has come; replaced as a whole at each hop.

    ``by`` is what classified it: ``declared``, ``regex``, ``embedding`` or ``default`` (abstained); ``rule`` the
    pattern or the nearest example.
    ``skipped`` are the lanes passed over, each with its reason. ``retries`` and ``reprompts``
    count on the present lane. ``complaint`` is what the gate said of the last answer, for a re-prompt. ``instruction``
    is what a person who sent it back added to the task. ``turns`` is what came after the task's own messages: each use
    of tools that the model asked for, and what came of it. ``started`` is the id of a tool call with effects that was
    begun, and of which nobody knows how it ended, "" for none. ``family`` are the tasks that this one is a part of, the
    nearest first, each with its own hard limit in nano-dollars (-1: it has none). ``critic`` is the id of the sub-task
    that judges the last answer, "" for none; ``rounds`` how many have. ``kept`` are the passages that are told of long
    messages: (place of the message, places of its passages). Of the last call: ``history_tokens`` and
    ``passages_tokens`` is about how much it was not told, ``unused_tokens`` how much of what it was told its answer
    shows no trace of. ``waits_for`` is why its call was put off, "" once it is in hand again.
    """

    task_type: str = ""
    category: str = ""
    by: str = ""
    rule: str = ""
    confidence: float = 0.0
    chain: tuple[str, ...] = ()
    lane: str = ""
    hop: int = 0
    retries: int = 0
    reprompts: int = 0
    complaint: str = ""
    last_answer: str = field(default="", repr=False)
    why: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    attempts: tuple[Attempted, ...] = ()
    instruction: str = field(default="", repr=False)
    turns: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    started: str = ""
    family: tuple[tuple[str, int], ...] = ()
    critic: str = ""
    rounds: int = 0
    kept: tuple[tuple[int, tuple[int, ...]], ...] = ()
    history_tokens: int = 0
    passages_tokens: int = 0
    unused_tokens: int = 0
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task ended as, or why it is parked. ``output`` is the accepted answer, or the last one where none was."""

    status: str
    reason: str = ""
    output: str | None = field(default=None, repr=False)
    lane: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A worker's hold on a task: valid while the task's record carries the same epoch.

    ``epoch`` grows with every claim and fences off stale holders; none comes twice. Times are microseconds of Redis's
    clock; ``cost_nano`` is what it has cost without its parts of machines' days, ``waited_us`` how long it has waited
    for a person in all. ``raised`` are limits that an operator gave the task, over what it and its type say.
    """

    task: Task
    progress: Progress
    epoch: int
    queue: str
    submitted_us: int
    enqueued_us: int
    claimed_us: int
    cost_nano: int
    waited_us: int = 0
    raised: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        return self.task.ref

    @property
    def attempt_id(self) -> str:
        """Unique per task and stable over a redelivery of the same claim."""
        return f"{self.task.task_id}-{self.epoch}"


def encode_task(task: Task) -> bytes:
    return msgpack.packb([VERSION, *(getattr(task, name) for name in _TASK_FIELDS)])  # type: ignore[no-any-return]


def decode_task(data: bytes) -> Task:
    """Raises BadTask for bytes that are no task of any released version."""
    task = _decode(Task, data)
    plausible = (
        isinstance(task.task_id, str)
        and isinstance(task.workspace, str)
        and isinstance(task.messages, tuple)
        and all(isinstance(message, dict) for message in task.messages)
        and task.mode in MODES
        and (task.type is None or isinstance(task.type, str))
        and isinstance(task.role, str)
        and isinstance(task.budget, dict)
        and all(
            names is None or (isinstance(names, tuple) and all(isinstance(name, str) for name in names))
            for names in (task.tools, task.guards)
        )
    )
    if not plausible:
        raise BadTask(f"{len(data)} bytes whose fields are not those of a task")
    return task


def encode_progress(progress: Progress) -> bytes:
    """Letters that UTF-8 cannot hold are replaced, as in a fact."""
    row = {name: getattr(progress, name) for name in _PROGRESS_FIELDS}
    row["attempts"] = [[getattr(one, name) for name in _ATTEMPT_FIELDS] for one in progress.attempts]
    return msgpack.packb([VERSION, *row.values()], unicode_errors="replace")  # type: ignore[no-any-return]


def decode_progress(data: bytes) -> Progress:
    """Raises BadTask for bytes that are no progress of any released version."""
    progress = _decode(Progress, data)
    rows: Any = progress.attempts
    words = (
        progress.task_type,
        progress.lane,
        *(progress.chain if isinstance(progress.chain, tuple) else (None,)),
    )
    if not all(isinstance(word, str) for word in words) or not isinstance(rows, tuple):
        raise BadTask(f"{len(data)} bytes whose fields are not those of a task's progress")
    try:
        return replace(progress, attempts=tuple(Attempted(*row[: len(_ATTEMPT_FIELDS)]) for row in rows))
    except TypeError as error:
        raise BadTask(f"{len(data)} bytes whose attempts are of no known version") from error


def encode_outcome(outcome: Outcome) -> bytes:
    """Letters that UTF-8 cannot hold are replaced, as in a fact."""
    row = [VERSION, outcome.status, outcome.reason, outcome.output, outcome.lane]
    return msgpack.packb(row, unicode_errors="replace")  # type: ignore[no-any-return]


def decode_outcome(data: bytes) -> Outcome:
    return _decode(Outcome, data)


def _decode(noun: type[Noun], data: bytes) -> Noun:
    """Positional: what a newer version added at the end is passed over, what an older one lacks takes its default."""
    try:
        row = msgpack.unpackb(data, use_list=False)
        return noun(*row[1 : 1 + len(fields(noun))])  # type: ignore[arg-type]
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise BadTask(f"{len(data)} bytes that are no {noun.__name__.lower()} of a known version") from error


_TASK_FIELDS = tuple(one.name for one in fields(Task))
_PROGRESS_FIELDS = tuple(one.name for one in fields(Progress))
_ATTEMPT_FIELDS = tuple(one.name for one in fields(Attempted))
