"""What a producer may say of a task: one table of checks, for the client and the command line alike.

A check takes the argument's name and its value and gives what the task stores, or raises BadTask that names the
argument, the value's kind and what is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from broker.errors import BadTask, TaskConflict, TaskTooLarge
from broker.events import Rated
from broker.money import dollars, nano, text
from broker.rows import PAYLOAD_LIMIT_BYTES, digest
from broker.settings.budgets import TaskBudget
from broker.settings.gates import complaint, parse_gate
from broker.settings.values import COUNT_LIMIT, NAME
from broker.task import GUARDS, LABEL, MODES, TASK_ID, Task, encode_task, new_task_id

ROLES = ("system", "user", "assistant", "tool")
MAX_DEPTH = 64
LONGEST_S = 2**31
MONEY_LIMIT_NANO = 2**53  # Redis's scripts count in doubles
SHOWN_CHARS = 60
COMMENT_CHARS = 4_000  # it stands in the ledger's facts
SAME_ID = "give the new task an id of its own, or submit the same content"

Check = Callable[[str, object], Any]


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one task; None leaves a side open. Money as a decimal string or Decimal, never a float."""

    hard_usd: str | Decimal | None = None
    soft_usd: str | Decimal | None = None
    retry_usd: str | Decimal | None = None
    llm_calls: int | None = None
    tool_calls: int | None = None
    same_tool_calls: int | None = None
    tokens: int | None = None
    failures: int | None = None
    wall_s: float | None = None

    def __post_init__(self) -> None:
        _budget("budget", {one.name: getattr(self, one.name) for one in fields(self)})


def task_of(row: Mapping[str, Any]) -> Task:
    """The task of ``submit``'s keyword arguments; None is as good as left out. Raises BadTask, TaskTooLarge."""
    if not isinstance(row, Mapping):
        raise _bad("a task", row, "an object with the arguments of submit")
    unknown = [shown(name) for name in row if name not in _CHECKS]
    if unknown:
        raise BadTask(
            f"unknown argument {', '.join(sorted(unknown))}", mend=f"use {', '.join(sorted(_CHECKS))}"
        )
    given = {name: _CHECKS[name](name, value) for name, value in row.items() if value is not None}
    if ("prompt" in given) == ("messages" in given):
        raise BadTask("a task needs either a prompt or messages", mend="give exactly one of them")
    stored = {_STORED_AS.get(name, name): value for name, value in given.items()}
    task = Task(**{"workspace": "default", "task_id": new_task_id(), **stored})
    if task.parent == task.task_id:
        raise BadTask(
            f"parent: {task.parent!r} is the task itself", mend="name the task that it is a part of"
        )
    try:
        size = len(encode_task(task))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadTask(f"the task is not plain JSON: {error}") from None
    if size > PAYLOAD_LIMIT_BYTES:
        raise TaskTooLarge(
            f"the task is {size:,} bytes; the limit is {PAYLOAD_LIMIT_BYTES:,}",
            mend="shorten the prompt or put the long part behind a link",
        )
    return task


def stored_now(task: Task) -> Task:
    """A task that an earlier version stored, as this one would store it. Raises BadTask."""
    deadline_s = None if task.deadline_s is None else _seconds("deadline_s", task.deadline_s)
    return replace(task, deadline_s=deadline_s, budget=_budget("budget", task.budget))


def rated(*, ok: object = None, value_usd: object = None, comment: object = "") -> Rated:
    """What ``feedback`` was told. Raises BadTask."""
    if ok is not None and not isinstance(ok, bool):
        raise _bad("ok", ok, "true, false or nothing")
    value_nano = None if value_usd is None else _money("value_usd", value_usd)
    words = _text("comment", comment)
    if len(words) > COMMENT_CHARS:
        raise BadTask(
            f"comment: {len(words):,} characters; the limit is {COMMENT_CHARS:,}", mend="shorten it"
        )
    return Rated(ok, value_nano, words)


class Ids:
    """The ids of one batch, to find the one that comes twice with two contents before anything is stored."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str]] = {}

    def add(self, task: Task, place: str) -> None:
        """Raises TaskConflict that names both places."""
        content = digest(task)
        first, known = self._first.setdefault(task.ref, (place, content))
        if known != content:
            raise TaskConflict(
                f"task_id: {task.ref} is at {first} and at {place}, with two contents", mend=SAME_ID
            )


def shown(value: object) -> str:
    """A stranger's value in an error: short, and never more work than its own kind's name."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]!r}…"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 128):
        return repr(value)
    return str(value) if isinstance(value, Decimal) and len(value.as_tuple().digits) <= SHOWN_CHARS else "it"


def _bad(where: str, value: object, expected: str) -> BadTask:
    if value is None:
        return BadTask(f"{where} is missing or null; expected {expected}")
    kinds = (
        (bool, "a boolean"), (str, "text"), (int, "an integer"), (Mapping, "an object"), (list | tuple, "a list"),
    )  # fmt: skip
    kind = next((words for kind, words in kinds if isinstance(value, kind)), f"a {type(value).__name__}")
    return BadTask(f"{where}: {shown(value)} is {kind}; expected {expected}")


def _text(where: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(where, value, "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadTask(
            f"{where}: text that is no Unicode: {error.reason} at {error.start}; expected text that UTF-8 can hold"
        ) from None
    return value


def _matching(pattern: re.Pattern[str], expected: str, *, empty: bool = False) -> Check:
    def check(where: str, value: object) -> str:
        if isinstance(value, str) and (pattern.fullmatch(value) or (empty and not value)):
            return value
        raise _bad(where, value, expected)

    return check


def _mode(where: str, value: object) -> str:
    if isinstance(value, str) and value in MODES:
        return value
    raise _bad(where, value, " or ".join(MODES))


def _whole(low: int, limit: int) -> Check:
    def check(where: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value < limit:
            return value
        raise _bad(where, value, f"an integer from {low} to {limit - 1}")

    return check


def _seconds(where: str, value: object) -> float:
    """30 and 30.0 are stored alike, as one id has one content."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LONGEST_S:
        return float(value)
    raise _bad(where, value, f"seconds, above 0 and at most {LONGEST_S}")


def _money(where: str, value: object) -> int:
    """Nano-dollars."""
    limit = dollars(MONEY_LIMIT_NANO)
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        with suppress(InvalidOperation):
            amount = Decimal(value)
            if amount.is_finite() and 0 <= amount < limit and (found := nano(amount)) < MONEY_LIMIT_NANO:
                return found
        raise BadTask(f"{where}: {shown(value)} is no amount of dollars from 0 to below {limit:,.0f}")
    raise _bad(where, value, 'dollars as text or Decimal, as "1.50"')


def _plain(where: str, value: object, depth: int = 0) -> Any:
    """A copy that is plain JSON and nothing else, with tuples for lists: what a worker will read."""
    if depth > MAX_DEPTH:
        raise BadTask(
            f"{where.partition('[')[0]}: nested deeper than {MAX_DEPTH} levels; expected plain JSON"
        )
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(where, value)
    if isinstance(value, int):
        return _whole(-(2**63), 2**63)(where, value)
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {
            _text(f"a key of {where}", key): _plain(f"{where}[{shown(key)}]", one, depth + 1)
            for key, one in value.items()
        }
    if isinstance(value, list | tuple):
        return tuple(_plain(f"{where}[{index}]", one, depth + 1) for index, one in enumerate(value))
    raise _bad(where, value, "plain JSON")


def _object(where: str, value: object) -> Any:
    if not isinstance(value, Mapping):
        raise _bad(where, value, "an object")
    return _plain(where, value)


def _gate(where: str, value: object) -> Any:
    table = {"kind": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise _bad(where, value, "a kind of gate, or an object with a kind")
    stored = _plain(where, {key: str(one) if isinstance(one, Decimal) else one for key, one in table.items()})
    try:
        parsed = parse_gate(stored)
    except ValueError as error:
        raise BadTask(f"{where}: {complaint(error)}") from None
    if parsed.kind.startswith("python:"):
        raise BadTask(
            f"{where}: python gates come from the fleet's configuration only",
            mend="name it in the type's gate",
        )
    return stored


def _budget(where: str, value: object) -> dict[str, Any]:
    """Money as exact text. Limits that are equal are stored alike however they were said, as one id has one content."""
    if isinstance(value, Budget):
        value = {one.name: getattr(value, one.name) for one in fields(value)}
    if not isinstance(value, Mapping):
        raise _bad(where, value, "a Budget or an object of limits")
    unknown = [shown(name) for name in value if name not in TaskBudget.model_fields]
    if unknown:
        raise BadTask(
            f"{where}: unknown limit {', '.join(sorted(unknown))}",
            mend=f"use {', '.join(TaskBudget.model_fields)}",
        )
    row = {}
    for name in TaskBudget.model_fields:
        if (limit := value.get(name)) is not None:
            checked = _limit_check(name)(f"{where}.{name}", limit)
            row[name] = text(checked) if name.endswith("_usd") else checked
    return row


def _limit_check(name: str) -> Check:
    return _money if name.endswith("_usd") else _seconds if name.endswith("_s") else _whole(0, COUNT_LIMIT)


def _prompt(where: str, value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, str) or not value.strip():
        raise _bad(where, value, "text that is not empty")
    return ({"role": "user", "content": _text(where, value)},)


def _messages(where: str, value: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _bad(where, value, "a list with at least one message")
    for index, message in enumerate(value):
        here = f"{where}[{index}]"
        if not isinstance(message, Mapping):
            raise _bad(here, message, "an object with a role and content")
        if message.get("role") not in ROLES:
            raise _bad(f"{here}.role", message.get("role"), f"one of {', '.join(ROLES)}")
        _content(f"{here}.content", message)
    return tuple(_plain(where, value))


def _content(where: str, message: Mapping[str, Any]) -> None:
    """OpenAI's form: text, parts, or nothing beside tool calls."""
    content = message.get("content")
    if isinstance(content, str) or (content is None and message.get("tool_calls")):
        return
    if not isinstance(content, list | tuple) or not content:
        raise _bad(where, content, "text, a list of parts, or null beside tool_calls")
    for index, part in enumerate(content):
        if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
            raise _bad(f"{where}[{index}]", part, "a part: an object with a type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise _bad(f"{where}[{index}].text", part.get("text"), "text")


def _names(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(
        isinstance(one, str) and NAME.fullmatch(one) for one in value
    ):
        raise _bad(where, value, "a list of names of tools of the task's type")
    return tuple(value)


def _guards(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(one in GUARDS for one in value):
        raise _bad(where, value, f"a list of context guards out of {', '.join(GUARDS)}")
    return tuple(value)


def _role(where: str, value: object) -> str:
    if value in ("", "eval"):
        return str(value)
    raise _bad(where, value, "eval, or nothing")


def _no_callback(where: str, value: object) -> None:
    if value not in ("", [], ()):
        raise BadTask(
            f"{where}: callbacks are not made yet by this version", mend="leave it out and read the result"
        )


_id = _matching(TASK_ID, "a task id: 1 to 128 of A-Z a-z 0-9 _ -")
_label = _matching(LABEL, "1 to 128 of A-Z a-z 0-9 _ . @ -", empty=True)
_CHECKS: Mapping[str, Check] = {
    "prompt": _prompt,
    "messages": _messages,
    "type": _matching(NAME, "the name of a task type: lower-case letters, digits and dashes"),
    "mode": _mode,
    "deadline_s": _seconds,
    "priority": _whole(-(2**63), 2**63),
    "schema": _object,
    "gate": _gate,
    "tools": _names,
    "guards": _guards,
    "parent": _id,
    "value_usd": _money,
    "callback_url": _no_callback,
    "workspace": _matching(LABEL, "1 to 128 of A-Z a-z 0-9 _ . @ -"),
    "workflow": _label,
    "pipeline": _label,
    "user": _label,
    "budget": _budget,
    "task_id": _id,
    "role": _role,
}
_STORED_AS = {"prompt": "messages", "value_usd": "value_nano"}
