"""The producer's side: submit, wait, cancel, say what an outcome was worth."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from time import monotonic
from typing import Any

from broker.ask import AT_ONCE
from broker.connect import connect
from broker.errors import BadTask, RedisFull, ResultTimeout, TaskConflict, UnknownTask
from broker.events import Attempted
from broker.money import dollars, nano, text
from broker.records import unknown
from broker.rows import digest
from broker.settings import Settings, load
from broker.state import Record
from broker.store import Store
from broker.task import LABEL, TASK_ID, TERMINAL, Task, reference
from laneway.submission import SAME_ID, Ids, rated, shown, stored_now
from laneway.submission import Budget as Budget
from laneway.submission import task_of as task_of

ADMISSION_CHECK_S = 1.0
LONGEST_WAIT_S = 5.0
BATCH = 500
SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a task. ``output`` is the accepted answer, or the last one where none was accepted.

    ``cost_usd`` is all that was booked for the task so far, ``parts_usd`` what its parts (critics, sub-tasks) spent and
    have reserved, which is no part of it. ``lanes`` are those tried, in order; ``attempts`` tells of
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
    parts_usd: Decimal
    attempts: tuple[Mapping[str, Any], ...] = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: money as a decimal string."""
        row = asdict(self)
        return row | {
            "cost_usd": text(nano(self.cost_usd)),
            "parts_usd": text(nano(self.parts_usd)),
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
        """Say what the outcome was worth, and a word about it of at most 4,000 characters. Raises BadTask."""
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
        tools: Sequence[str] | None = None,
        guards: Sequence[str] | None = None,
        parent: str | None = None,
        value_usd: str | Decimal | None = None,
        callback_url: str | None = None,
        workspace: str = "default",
        workflow: str = "",
        pipeline: str = "",
        user: str = "",
        budget: Budget | Mapping[str, Any] | None = None,
        task_id: str | None = None,
        role: str = "",
    ) -> Handle:
        """Queue one task and return at once. The same ``task_id`` with the same content is the same task. ``role`` is
        ``eval`` for one that tries something out: its first call on each lane is booked as evaluation.

        Raises BadTask (nothing was stored), TaskConflict (the id has another content), RedisFull, RedisUnavailable.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        return self._submit([task_of(arguments)])[0]

    def submit_many(self, tasks: Iterable[Mapping[str, Any]]) -> list[Handle]:
        """Queue many, each given as the keyword arguments of ``submit``; one round trip for up to 500.

        All are checked before any is stored. Raises as ``submit`` does; a TaskConflict with what was there before is
        only found while storing, and says which of the others are stored.
        """
        if isinstance(tasks, str | bytes | Mapping) or not isinstance(tasks, Iterable):
            raise BadTask(f"tasks: {shown(tasks)} is no list; expected one object a task")
        built, ids = [], Ids()
        for index, row in enumerate(tasks):
            try:
                built.append(task_of(row))
            except BadTask as error:
                raise type(error)(f"tasks[{index}]: {error.message}", mend=error.mend) from None
            ids.add(built[-1], f"tasks[{index}]")
        return self._submit(built)

    def _submit(self, tasks: Sequence[Task]) -> list[Handle]:
        self._admit()
        words: list[str] = []
        for start in range(0, len(tasks), BATCH):
            words += self.store.submit(tasks[start : start + BATCH])
        refs = [task.ref for task in tasks]
        words = [
            "same" if word == "conflict" and self._stored_in_another_way(task) else word
            for task, word in zip(tasks, words, strict=True)
        ]
        conflicts = [ref for ref, word in zip(refs, words, strict=True) if word == "conflict"]
        if conflicts:
            stored = [ref for ref, word in zip(refs, words, strict=True) if word != "conflict"]
            besides = f"; stored: {_some(stored)}" if stored else ""
            raise TaskConflict(
                f"{_some(conflicts)}: already submitted with another content{besides}", mend=SAME_ID
            )
        return [Handle(self, task.workspace, task.task_id) for task in tasks]

    def _stored_in_another_way(self, task: Task) -> bool:
        """Whether the task of that id is the same, submitted with a version that stored equal limits in other ways."""
        try:
            return digest(stored_now(self.store.records.one(task.ref).task)) == digest(task)
        except (UnknownTask, BadTask):  # nobody can say any more
            return False

    def handle(self, task_id: str, *, workspace: str | None = None) -> Handle:
        """The handle of a task submitted elsewhere. Raises UnknownTask."""
        workspace, _, task_id = self.find(task_id, workspace).partition("/")
        return Handle(self, workspace, task_id)

    def result(self, task_id: str, *, workspace: str | None = None, timeout_s: float | None = 60.0) -> Result:
        """See ``Handle.result``."""
        ref = self.find(task_id, workspace)
        for _ in self._ends([ref], timeout_s):
            return result_of(self.store.records.one(ref))
        raise ResultTimeout(
            f"task {task_id!r} has not ended within {timeout_s} s; it goes on", mend="ask again later"
        )

    def results(self, handles: Sequence[Handle], timeout_s: float | None = None) -> Iterator[Result]:
        """The results of many, as they end. Stops early when the time is over."""
        refs = [reference(one.workspace, one.task_id) for one in handles]
        for ended in self._ends(refs, timeout_s):
            yield from map(result_of, self.store.records.many(ended))

    def _ends(self, refs: Sequence[str], timeout_s: float | None) -> Iterator[list[str]]:
        """The refs, handful by handful as they end or are parked.

        Asks anew now and then: a Redis that restarted and forgot who waits is no reason to wait for ever. The more
        wait, the more it has to do for that, and the less often it is asked.
        """
        until = None if timeout_s is None else monotonic() + timeout_s
        waiting = set(refs)
        reader = uuid.uuid4().hex
        while waiting:
            missing = self.store.watch(reader, sorted(waiting))
            if missing:
                raise UnknownTask(
                    f"{missing} of {len(waiting)} tasks are unknown", mend="check ids and workspaces"
                )
            silences = 1 + len(waiting) // AT_ONCE
            while waiting and silences:
                left_s = LONGEST_WAIT_S if until is None else min(LONGEST_WAIT_S, until - monotonic())
                ended = self.store.next_ends(reader, left_s) if left_s > 0 else []
                news = [ref for ref in dict.fromkeys(ended) if ref in waiting]
                waiting.difference_update(news)
                if news:
                    yield news
                silences -= not ended
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
        """See ``Handle.feedback``. Raises UnknownTask, BadTask."""
        said = rated(ok=ok, value_usd=value_usd, comment=comment)
        self.store.note(self.find(task_id, workspace), said)

    def record(self, task_id: str, *, workspace: str | None = None) -> Record:
        """All that is known of a task. Raises UnknownTask."""
        return self.store.records.one(self.find(task_id, workspace))

    def find(self, task_id: str, workspace: str | None = None) -> str:
        """The ref of a task id. Raises UnknownTask, or BadTask where several workspaces have that id."""
        if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
            raise BadTask(f"task_id: {shown(task_id)} is no task id; expected 1 to 128 of A-Z a-z 0-9 _ -")
        if workspace is not None:
            if not isinstance(workspace, str) or not LABEL.fullmatch(workspace):
                raise BadTask(
                    f"workspace: {shown(workspace)} is no name; expected 1 to 128 of A-Z a-z 0-9 _ . @ -"
                )
            return reference(workspace, task_id)
        refs = self.store.records.find(task_id)
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


def _some(refs: Sequence[str]) -> str:
    more = f" and {len(refs) - SHOWN_IDS} more" if len(refs) > SHOWN_IDS else ""
    return ", ".join(refs[:SHOWN_IDS]) + more


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
        parts_usd=dollars(record.family_nano),
        attempts=tuple(attempt_row(one) for one in progress.attempts),
    )


def attempt_row(one: Attempted) -> dict[str, Any]:
    """An attempt for people and JSON: money as decimal strings, None where a price is not known."""
    row = asdict(one)
    for name in ("cost", "marginal", "gate_cost", "avoided"):
        value = row.pop(f"{name}_nano")
        row[f"{name}_usd"] = None if value is None else text(value)
    return row
