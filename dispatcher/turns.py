"""What a task has said and done beside its first words: the turns of a conversation with tools, read as plain data.

A turn is a message in OpenAI's form: an assistant's, with the tool calls that it asks for, or a tool's, with what came
of one of them. They are a task's checkpoint: whoever goes on with it begins where they end. An assistant's turn also
names its ``lane``, which no model is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from broker.call import ToolCall
from broker.settings.types import TaskType
from broker.task import Task

Turn = Mapping[str, Any]
GIST_CHARS = 160


def tools_of(task_type: TaskType, task: Task) -> tuple[str, ...]:
    """Names of the tools that the task's model may use."""
    return tuple(name for name in task_type.tools if task.tools is None or name in task.tools)


def asked(before: Sequence[Turn], text: str, calls: Sequence[ToolCall], lane: str) -> Turn:
    """The model's turn in which it asks for tools, after those before it.

    The calls get ids of ours, unique within the task: some engines give the same ones again and again, and the form of
    these is one that every provider takes back (Mistral: nine letters or digits). Those that begin with t had a claim's
    number in them, which the number of turns may be as well.
    """
    named = [
        {
            "id": f"c{len(before):05d}{number:03d}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for number, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": text, "tool_calls": named, "lane": lane}


def told(call: ToolCall, result: str) -> Turn:
    """What came of one of them."""
    return {"role": "tool", "tool_call_id": call.id, "content": result}


def messages(turns: Sequence[Turn], in_full: int | None = None) -> list[Turn]:
    """As a model is told of them.

    ``in_full`` steps or more are told in full at the end, and of what came of those before only how it began; that is
    cut from as many steps at a time, so that what was told stays as it was for a while.
    """
    told: list[Turn] = [{key: value for key, value in turn.items() if key != "lane"} for turn in turns]
    starts = [at for at, turn in enumerate(told) if turn["role"] == "assistant"]
    if in_full is None or len(starts) < 2 * in_full:
        return told
    before = starts[(len(starts) - in_full) // in_full * in_full]
    return [*(_short(turn) if turn["role"] == "tool" else turn for turn in told[:before]), *told[before:]]


def _short(turn: Turn) -> Turn:
    text = turn["content"]
    return {**turn, "content": f"{text[:GIST_CHARS]} […]"} if len(text) > GIST_CHARS else turn


def pending(turns: Sequence[Turn]) -> list[ToolCall]:
    """The calls that nothing was told of yet, in order."""
    answered = {turn.get("tool_call_id") for turn in turns}
    return [call for turn in turns for call in _calls(turn) if call.id not in answered]


def used(turns: Sequence[Turn], last: ToolCall) -> int:
    """How many calls were asked for before ``last``."""
    before = [call.id for turn in turns for call in _calls(turn)]
    return before.index(last.id)


def same(turns: Sequence[Turn], last: ToolCall) -> int:
    """How often ``last``'s lane had asked for the same before, whatever the order of its arguments."""
    lane = next(turn["lane"] for turn in turns if any(call.id == last.id for call in _calls(turn)))
    count = 0
    for turn in turns:
        for call in _calls(turn):
            if call.id == last.id:
                return count
            alike = (call.name, _canonical(call.arguments)) == (last.name, _canonical(last.arguments))
            count += alike and turn["lane"] == lane
    return count


def _calls(turn: Turn) -> list[ToolCall]:
    return [
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in turn.get("tool_calls") or ()
    ]


def _canonical(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except ValueError:
        return arguments
