"""The producer's side: submit, wait, cancel, say what an outcome was worth."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from time import monotonic
from typing import Any

from broker.connect import connect
from broker.errors import BadTask, RedisFull, ResultTimeout, TaskConflict, UnknownTask
from broker.events import Rated
from broker.money import dollars, nano, text
from broker.settings import Settings, load, parse_gate
from broker.store import Record, Store, unknown
from broker.task import LABEL, MODES, TASK_ID, TERMINAL, Task, new_task_id, reference

ADMISSION_CHECK_S = 1.0
LONGEST_WAIT_S = 5.0
BATCH = 500


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one task; None leaves a side open. Money as a decimal string or Decimal, never a float."""

    hard_usd: str | Decimal | None = None
    soft_usd: str | Decimal | None = None
    retry_usd: str | Decimal | None = None
    llm_calls: int | None = None
    tool_calls: int | None = None

    def __post_init__(self) -> None:
        for name in ("hard_usd", "soft_usd", "retry_usd"):
            value = getattr(self, name)
            if value is not None and _nano(f"budget.{name}", value) < 0:
                raise BadTask(f"budget.{name} is {value!r}, below nothing")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a task. ``output`` is the accepted answer, or the last one where none was accepted.

    ``cost_usd`` is all that was booked for the task so far. ``lanes`` are those tried, in order; ``attempts`` tells of
    each call. ``reason`` says why it is not a plain success.
    """

    task_id: str
    workspace: str
    status: str
    output: str | None
    reason: str
    task_type: str
    lane: str
    lanes: tuple[str, ...]
    cost_usd: Decimal
    attempts: tuple[Mapping[str, Any], ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: money as a decimal string."""
        row = asdict(self)
        return row | {
            "cost_usd": text(nano(self.cost_usd)),
            "lanes": list(self.lanes),
            "attempts": list(self.attempts),
        }


class Handle:
    """A submitted task."""

    def __init__(self, client: Client, workspace: str, task_id: str) -> None:
        self._client = client
        self.workspace = workspace
        self.task_id = task_id

    def __repr__(self) -> str:
        return f"Handle({self.workspace}/{self.task_id})"

    def result(self, timeout_s: float | None = 60.0) -> Result:
        """Wait for the end, or for the task to be parked. None waits for ever.

        Raises ResultTimeout when the time is over (the task goes on), UnknownTask.
        """
        return self._client.result(self.task_id, workspace=self.workspace, timeout_s=timeout_s)

    def cancel(self) -> str:
        """Stop it; what was spent is settled. Gives ``cancelled``, ``cancelling``, or the end it had reached."""
        return self._client.cancel(self.task_id, workspace=self.workspace)

    def feedback(
        self, *, ok: bool | None = None, value_usd: str | Decimal | None = None, comment: str = ""
    ) -> None:
        """Say what the outcome was worth."""
        self._client.feedback(
            self.task_id, workspace=self.workspace, ok=ok, value_usd=value_usd, comment=comment
        )


class Client:
    """A producer's connection: ``LANEWAY_REDIS_URL``, else the embedded server that a fleet started here.

    Thread-safe. Raises RedisUnavailable or ConfigError at once where there is nothing to talk to.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load()
        self.store: Store = connect(self.settings)
        self._admitted = 0.0

    def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        type: str | None = None,
        mode: str = "sync",
        deadline_s: float | None = None,
        priority: int = 0,
        schema: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        parent: str | None = None,
        value_usd: str | Decimal | None = None,
        callback_url: str | None = None,
        workspace: str = "default",
        workflow: str = "",
        pipeline: str = "",
        user: str = "",
        budget: Budget | Mapping[str, Any] | None = None,
        task_id: str | None = None,
    ) -> Handle:
        """Queue one task and return at once. The same ``task_id`` with the same content is the same task.

        Raises BadTask (nothing was stored), TaskConflict (the id has another content), RedisFull, RedisUnavailable.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        return self.submit_many([arguments])[0]

    def submit_many(self, tasks: Iterable[Mapping[str, Any]]) -> list[Handle]:
        """Queue many, each given as the keyword arguments of ``submit``; one round trip for up to 500.

        All are checked before any is stored. Raises as ``submit`` does.
        """
        built = [task_of(row) for row in tasks]
        self._admit()
        conflicts = []
        for start in range(0, len(built), BATCH):
            part = built[start : start + BATCH]
            words = self.store.submit(part)
            conflicts += [task.ref for task, word in zip(part, words, strict=True) if word == "conflict"]
        if conflicts:
            raise TaskConflict(
                f"{', '.join(conflicts[:5])}: already submitted with another content",
                mend="give the new task an id of its own, or submit the same content",
            )
        return [Handle(self, task.workspace, task.task_id) for task in built]

    def handle(self, task_id: str, *, workspace: str | None = None) -> Handle:
        """The handle of a task submitted elsewhere. Raises UnknownTask."""
        workspace, _, task_id = self.find(task_id, workspace).partition("/")
        return Handle(self, workspace, task_id)

    def result(self, task_id: str, *, workspace: str | None = None, timeout_s: float | None = 60.0) -> Result:
        """See ``Handle.result``."""
        ref = self.find(task_id, workspace)
        for _ in self._ends([ref], timeout_s):
            return result_of(self.store.record(ref))
        raise ResultTimeout(
            f"task {task_id!r} has not ended within {timeout_s} s; it goes on", mend="ask again later"
        )

    def results(self, handles: Sequence[Handle], timeout_s: float | None = None) -> Iterator[Result]:
        """The results of many, as they end. Stops early when the time is over."""
        refs = [reference(one.workspace, one.task_id) for one in handles]
        for ended in self._ends(refs, timeout_s):
            yield from map(result_of, self.store.records(ended))

    def _ends(self, refs: Sequence[str], timeout_s: float | None) -> Iterator[list[str]]:
        """The refs, handful by handful as they end or are parked.

        Asks anew now and then: a Redis that restarted and forgot who waits is no reason to wait for ever.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        waiting = set(refs)
        while waiting:
            reader = uuid.uuid4().hex
            missing = self.store.watch(reader, sorted(waiting))
            if missing:
                raise UnknownTask(
                    f"{missing} of {len(waiting)} tasks are unknown", mend="check ids and workspaces"
                )
            silent = False
            while waiting and not silent:
                left_s = LONGEST_WAIT_S if until is None else min(LONGEST_WAIT_S, until - monotonic())
                ended = self.store.next_ends(reader, left_s) if left_s > 0 else []
                news = [ref for ref in dict.fromkeys(ended) if ref in waiting]
                waiting.difference_update(news)
                if news:
                    yield news
                silent = not ended
            if until is not None and monotonic() >= until:
                return

    def cancel(self, task_id: str, *, workspace: str | None = None) -> str:
        """See ``Handle.cancel``. Raises UnknownTask."""
        return self.store.cancel(self.find(task_id, workspace))

    def feedback(
        self,
        task_id: str,
        *,
        workspace: str | None = None,
        ok: bool | None = None,
        value_usd: str | Decimal | None = None,
        comment: str = "",
    ) -> None:
        """See ``Handle.feedback``. Raises UnknownTask."""
        value = None if value_usd is None else _nano("value_usd", value_usd)
        self.store.note(self.find(task_id, workspace), Rated(ok, value, comment))

    def record(self, task_id: str, *, workspace: str | None = None) -> Record:
        """All that is known of a task. Raises UnknownTask."""
        return self.store.record(self.find(task_id, workspace))

    def find(self, task_id: str, workspace: str | None = None) -> str:
        """The ref of a task id. Raises UnknownTask, or BadTask where several workspaces have that id."""
        if workspace is not None:
            return reference(workspace, task_id)
        refs = self.store.find(task_id)
        if not refs:
            raise unknown(task_id)
        if len(refs) > 1:
            raise BadTask(
                f"{task_id!r} is a task of several workspaces: {', '.join(refs)}", mend="name the workspace"
            )
        return refs[0]

    def _admit(self) -> None:
        """Refuse early, while there is still room for the queues to drain."""
        if monotonic() - self._admitted < ADMISSION_CHECK_S:
            return
        used = self.store.memory_used()
        if used > self.settings.fleet.redis_admission:
            raise RedisFull(
                f"Redis is {used:.0%} full, above the admission limit of {self.settings.fleet.redis_admission:.0%};"
                " nothing was stored",
                mend="let the fleet drain its queues, or raise maxmemory, and submit again",
            )
        self._admitted = monotonic()


def task_of(row: Mapping[str, Any]) -> Task:
    """The task of ``submit``'s keyword arguments. Raises BadTask that names the argument and what is wrong with it."""
    known = dict(row)
    budget = known.pop("budget", None)
    value_usd = known.pop("value_usd", None)
    prompt, messages = known.pop("prompt", None), known.pop("messages", None)
    unknown_names = sorted(set(known) - _ARGUMENTS)
    if unknown_names:
        raise BadTask(
            f"unknown argument {', '.join(map(repr, unknown_names))}",
            mend=f"use {', '.join(sorted(_ARGUMENTS))}",
        )
    plain = {name: value for name, value in known.items() if value is not None}
    task = Task(
        **{
            "workspace": "default",
            **plain,
            "task_id": plain.get("task_id") or new_task_id(),
            "messages": _messages(prompt, messages),
            "value_nano": None if value_usd is None else _nano("value_usd", value_usd),
            "budget": _budget(budget),
            "gate": _gate(plain.get("gate")),
            "tools": tuple(plain["tools"]) if plain.get("tools") else None,
        }
    )
    _check(task)
    return task


_ARGUMENTS = {
    "type", "mode", "deadline_s", "priority", "schema", "gate", "tools", "parent", "callback_url", "workspace",
    "workflow", "pipeline", "user", "task_id",
}  # fmt: skip


def _check(task: Task) -> None:
    if not isinstance(task.task_id, str) or not TASK_ID.fullmatch(task.task_id):
        raise BadTask(f"task_id {task.task_id!r} is not 1 to 128 of A-Z a-z 0-9 _ -")
    for name in ("workspace", "workflow", "pipeline", "user"):
        value = getattr(task, name)
        if not isinstance(value, str) or (not LABEL.fullmatch(value) and (value or name == "workspace")):
            raise BadTask(f"{name} {value!r} is not 1 to 128 of A-Z a-z 0-9 _ . @ -")
    if task.mode not in MODES:
        raise BadTask(f"mode {task.mode!r} is neither sync nor async")
    if isinstance(task.priority, bool) or not isinstance(task.priority, int):
        raise BadTask(f"priority {task.priority!r} is not an integer")
    if task.type is not None and not isinstance(task.type, str):
        raise BadTask(f"type {task.type!r} is not a name")
    if task.deadline_s is not None and not (isinstance(task.deadline_s, int | float) and task.deadline_s > 0):
        raise BadTask(f"deadline_s {task.deadline_s!r} is not a time in seconds above 0")
    if task.schema is not None and not isinstance(task.schema, Mapping):
        raise BadTask("schema is not a JSON Schema object")
    for name, comes in (
        ("tools", "tools are not served yet"),
        ("callback_url", "callbacks are not made yet"),
    ):
        if getattr(task, name):
            raise BadTask(f"{name}: {comes} by this version", mend="leave it out and read the result")
    _json_only("messages", task.messages)
    _json_only("schema", task.schema)


def _messages(prompt: object, messages: object) -> tuple[Mapping[str, Any], ...]:
    if (prompt is None) == (messages is None):
        raise BadTask("a task needs either a prompt or messages", mend="give exactly one of them")
    if prompt is not None:
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadTask("prompt is empty or not text")
        return ({"role": "user", "content": prompt},)
    if not isinstance(messages, list | tuple) or not messages:
        raise BadTask("messages is not a list with at least one message")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in (
            "system",
            "user",
            "assistant",
            "tool",
        ):
            raise BadTask(f"messages[{index}] has no role of system, user, assistant or tool")
        if "content" not in message:
            raise BadTask(f"messages[{index}] has no content")
    return tuple(messages)


def _gate(value: object) -> Mapping[str, Any] | None:
    if value is None:
        return None
    table = {"kind": value} if isinstance(value, str) else value
    try:
        parsed = parse_gate(table)
    except ValueError as error:
        raise BadTask(f"gate: {error}") from None
    if parsed.kind.startswith("python:"):
        raise BadTask(
            "gate: python gates come from the fleet's configuration only", mend="name it in the type's gate"
        )
    return table  # type: ignore[return-value]


def _budget(value: Budget | Mapping[str, Any] | None) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        budget = value if isinstance(value, Budget) else Budget(**value)
    except TypeError as error:
        raise BadTask(f"budget: {error}") from None
    row = {name: one for name, one in asdict(budget).items() if one is not None}
    return {name: str(one) if name.endswith("_usd") else one for name, one in row.items()}


def _nano(name: str, value: str | Decimal) -> int:
    try:
        return nano(value)
    except ValueError as error:
        raise BadTask(f"{name}: {error}") from None


def _json_only(name: str, value: object) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadTask(f"{name} is not plain JSON: {error}") from None


def result_of(record: Record) -> Result:
    progress, outcome = record.progress, record.outcome
    lanes = tuple(dict.fromkeys(one.lane for one in progress.attempts))
    ended = record.status in TERMINAL or record.status == "parked"
    return Result(
        task_id=record.task.task_id,
        workspace=record.task.workspace,
        status=record.status,
        output=outcome.output if outcome and ended else None,
        reason=outcome.reason if outcome and ended else "",
        task_type=progress.task_type,
        lane=(outcome.lane if outcome and ended else "") or progress.lane,
        lanes=lanes,
        cost_usd=dollars(record.cost_nano),
        attempts=tuple(attempt_row(one) for one in progress.attempts),
    )


def attempt_row(one: Any) -> dict[str, Any]:
    """An attempt for people and JSON: money as decimal strings, None where a price is not known."""
    row = asdict(one)
    for name in ("cost", "marginal", "gate_cost"):
        value = row.pop(f"{name}_nano")
        row[f"{name}_usd"] = None if value is None else text(value)
    return row
