"""Parts of a task that are tasks themselves: what a model hands on, and what judges its answer.

A part is submitted under an id that follows from its place in its parent, so that whoever comes back to that place
finds it instead of paying for another. While it is under way its parent waits in its queue and holds no thread; its end
calls the parent back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from broker.call import ToolCall
from broker.errors import ResultGone, UnknownTask
from broker.scopes import scopes_of
from broker.settings.tools import SubtaskTool
from broker.state import Move, Record
from broker.store import Store
from broker.task import TERMINAL, Claim, Task, reference
from dispatcher.batching import left_s
from dispatcher.family import other_id, part_id
from dispatcher.text import cut, encodable
from workers.attempt import put_back
from workers.tools import Function

LOOK_AGAIN_S = 30.0  # where nobody told of a part's end
MOST_CHARS = 20_000  # of a task and of its answer that a critic is told, so that its own payload has room
CRITIC = "Judge the answer to the task below. Say in comment what must be better; ok is true where nothing must be."
CRITIC_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "comment": {"type": "string"}},
    "required": ["ok", "comment"],
    "additionalProperties": False,
}


def function_of(name: str, row: SubtaskTool) -> Function:
    """A sub-task as the model is told of it."""
    described = row.description or "Hands a part of the work to someone else, and gives what came of it."
    properties: dict[str, Any] = {
        "prompt": {"type": "string", "minLength": 1, "description": "all that is needed to do it"}
    }
    if len(row.types) > 1:
        properties["type"] = {"enum": list(row.types)}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Function(name, described, parameters, reads_only=True)


def handed_on(
    claim: Claim, call: ToolCall, row: SubtaskTool, arguments: Mapping[str, Any], now_us: int
) -> Task:
    """The part that a model's call asks for."""
    task_type = arguments.get("type") or (row.types[0] if row.types else None)
    return _part(claim, call.id, encodable(arguments["prompt"]), task_type, now_us)


def critic_of(claim: Claim, task_type: str, now_us: int) -> Task:
    """The part that judges the claim's last answer."""
    progress = claim.progress
    task, answer = (cut(text, MOST_CHARS) for text in (claim.task.prompt, progress.last_answer))
    asked = f"{CRITIC}\n\nTask:\n{task}\n\nAnswer:\n{answer}"
    part = _part(claim, progress.critic, asked, task_type, now_us)
    return replace(part, schema=CRITIC_SCHEMA, role="critic")


def _part(claim: Claim, name: str, prompt: str, task_type: str | None, now_us: int) -> Task:
    whole = claim.task
    return Task(
        part_id(whole.task_id, name),
        whole.workspace,
        ({"role": "user", "content": prompt},),
        type=task_type,
        mode=whole.mode,
        deadline_s=left_s(claim, now_us),
        priority=whole.priority,
        parent=whole.task_id,
        workflow=whole.workflow,
        pipeline=whole.pipeline,
        user=whole.user,
    )


def submitted(store: Store, parts: Sequence[Task]) -> tuple[str, Record | None]:
    """The first one's ref and record, with all of them on their way; None where it has ended and its result is not
    kept. One whose id some other task has goes under another one when it is the first.
    """
    word, *_ = store.submit(parts)  # those that are there already stay as they are
    first = parts[0]
    while word == "conflict" and not _is_there(store, first):
        first = replace(first, task_id=other_id(first.task_id))
        (word,) = store.submit([first])
    return first.ref, _record(store, first)


def _is_there(store: Store, part: Task) -> bool:
    """Whether the task of its id is this part, submitted before with another deadline. It may be a part with another
    prompt: of a turn or an answer of its parent that Redis has lost since."""
    if part.ref not in store.records.parts(reference(part.workspace, part.parent or "")):
        return False
    known = _record(store, part)
    return known is None or known.task.messages == part.messages


def _record(store: Store, part: Task) -> Record | None:
    try:
        return store.records.one(part.ref)
    except (UnknownTask, ResultGone):
        return None


def ended(part: Record | None) -> bool:
    return part is None or part.status in TERMINAL


def waiting(claim: Claim, part: str, lane: str) -> Move:
    """The parent's move until its part of that ref has ended."""
    return replace(put_back(claim, LOOK_AGAIN_S), awaits=part, scopes=scopes_of(claim.task, lane))
