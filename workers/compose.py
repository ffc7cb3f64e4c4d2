"""The call that a lane makes for a task: a pure function of the claim and the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from broker.call import Call
from broker.settings.gates import ChoiceGate, GateSettings, JsonSchemaGate
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.task import Claim, Task
from dispatcher import turns

REPROMPT = "That answer was not accepted: {complaint} Answer again, and give the corrected answer only."
#: Room for the words that a chat template puts around each message, in tokens; a bound, not a measure.
TEMPLATE_TOKENS = 16
WRAPPING_TOKENS = 24
SYNC_FIRST, OWN_LIMIT = 2**30, 2**28
#: What providers and we say around a schema, choices or tools to make the model keep to them (Anthropic: up to 530).
FORM_TOKENS = 600
#: The most that a provider counts for an image today, rounded up: 2833 + 8 * 5667 of gpt-4o-mini (OpenAI's page on
#: images and vision, costs by tiles). Others count a third of it or less: GPT by patches of 32 x 32 pixels about 14,400
#: for 12 megapixels, Qwen-VL 16,384, Claude and Gemini below 5,000.
PART_TOKENS = 50_000


def compose(
    claim: Claim,
    lane: Lane,
    task_type: TaskType,
    gates: Sequence[GateSettings],
    left_s: float | None,
    tools: tuple[Mapping[str, Any], ...] = (),
    told: Sequence[Mapping[str, Any]] | None = None,
) -> Call:
    """``left_s`` is the time to the task's deadline or the end of its own time, None where it has none.
    ``told`` are its messages as its context guards left them, None: all as they are.

    A corrected answer is asked for without more use of tools, so that an engine can hold it to its form.
    """
    choices = _choices([gate.choices for gate in gates if isinstance(gate, ChoiceGate)])
    room = task_type.max_tokens or lane.max_tokens
    if choices is not None:  # some engines wrap a choice, and none may cut the longest one off
        room = max(room, WRAPPING_TOKENS + max(map(len, choices)))
    return Call(
        messages=tuple(_messages(claim, lane, task_type, claim.task.messages if told is None else told)),
        max_tokens=min(room, lane.max_tokens),
        schema=next(
            (gate.schema_ for gate in gates if isinstance(gate, JsonSchemaGate) and gate.schema_), None
        ),
        choices=choices,
        tools=tools,
        tool_choice=_tool_choice(claim, task_type, tools),
        temperature=lane.temperature,
        seed=lane.seed,
        timeout_s=lane.timeout_s if left_s is None else min(lane.timeout_s, left_s),
        attempt_id=claim.attempt_id,
        priority=_priority(claim.task),
    )


def _messages(
    claim: Claim, lane: Lane, task_type: TaskType, own: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """System text first (the stable prefix that providers cache) with what a person added, then the lane's shots, the
    task's ``own`` messages, what was said and done since, and for a re-prompt the last answer with what was wrong.
    """
    messages: list[Mapping[str, Any]] = []
    parts = (lane.system, task_type.instruction, claim.progress.instruction)
    system = "\n\n".join(part for part in parts if part)
    if system:
        messages.append({"role": "system", "content": system})
    for question, answer in lane.shots:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    messages += own
    messages += turns.messages(claim.progress.turns, task_type.context.turns)
    if claim.progress.complaint:
        messages += [
            {"role": "assistant", "content": claim.progress.last_answer},
            {"role": "user", "content": REPROMPT.format(complaint=claim.progress.complaint)},
        ]
    return messages


def _tool_choice(
    claim: Claim, task_type: TaskType, tools: Sequence[object]
) -> Literal["auto", "none", "required"]:
    if claim.progress.complaint:
        return "none"
    return "required" if task_type.tools_first and tools and not claim.progress.turns else "auto"


def _priority(task: Task) -> int:
    """Within an engine as in the queues: sync tasks first, then by the task's own."""
    own = max(-OWN_LIMIT, min(OWN_LIMIT, task.priority))
    return own + SYNC_FIRST if task.mode == "sync" else own


def _choices(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """What every choice gate would let pass; None where there is none, or where they leave nothing to choose."""
    if not lists:
        return None
    common = [choice for choice in lists[0] if all(choice in other for other in lists[1:])]
    return tuple(common) or None


def input_bound(call: Call) -> int:
    """More tokens than the call's input can have: a tokenizer makes no more tokens than there are bytes.

    Of what is no text, as a file that is named by its address, no more than ``PART_TOKENS`` a part can be known.
    """
    said = [json.dumps(message, ensure_ascii=False) for message in call.messages]
    forms = [str(form) for form in (call.schema, call.choices, call.tools) if form]
    size = sum(len(text.encode()) + TEMPLATE_TOKENS for text in said)
    size += PART_TOKENS * sum(map(_other_parts, call.messages))
    return size + sum(len(form.encode()) + FORM_TOKENS for form in forms)


def _other_parts(message: Mapping[str, Any]) -> int:
    """How many parts of a message are no text."""
    content = message.get("content")
    parts = () if content is None or isinstance(content, str) else content
    return sum(not isinstance(part, Mapping) or part.get("type") != "text" for part in parts)
