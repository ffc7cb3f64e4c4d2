import json
from dataclasses import replace
from typing import Any

import pytest

from broker.call import Call
from broker.settings.gates import ChoiceGate
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.task import Claim, Progress, Task
from workers.compose import FORM_TOKENS, PART_TOKENS, compose, input_bound

LANE = Lane(engine="echo", max_tokens=200, system="Be brief.", shots=(("2+2", "4"),), timeout_s=30)
TYPE = TaskType.model_validate({"chain": ["local"], "instruction": "Add.", "max_tokens": 8})
TASK = Task("a", "w", ({"role": "user", "content": "3+3"},))


def claim(progress: Progress | None = None, task: Task = TASK) -> Claim:
    return Claim(task, progress or Progress(task_type="t"), 1, "q", 0, 0, 0, 0)


def test_the_stable_parts_come_first_and_the_task_s_own_words_last() -> None:
    call = compose(claim(), LANE, TYPE, (), None)
    assert [message["content"] for message in call.messages] == ["Be brief.\n\nAdd.", "2+2", "4", "3+3"]
    assert (call.max_tokens, call.timeout_s) == (8, 30)


def test_a_reprompt_shows_the_answer_and_what_was_wrong_with_it() -> None:
    told = Progress(task_type="t", complaint="It is no number.", last_answer="six")
    *_, answer, complaint = compose(claim(told), LANE, TYPE, (), None).messages
    assert (answer["role"], answer["content"]) == ("assistant", "six")
    assert "It is no number." in complaint["content"]


def test_choices_are_what_all_gates_let_pass_and_have_room() -> None:
    gates = (
        ChoiceGate(kind="choice", choices=("a", "bb", "c")),
        ChoiceGate(kind="choice", choices=("c", "bb")),
    )
    call = compose(claim(), LANE, TYPE, gates, None)
    assert call.choices == ("bb", "c")
    assert call.max_tokens == 26
    apart = (gates[0], ChoiceGate(kind="choice", choices=("z",)))
    assert compose(claim(), LANE, TYPE, apart, None).choices is None


def test_a_sync_task_goes_before_every_async_one_and_then_its_own_priority_counts() -> None:
    tasks = [
        Task("a", "w", TASK.messages, mode=mode, priority=priority)
        for mode in ("async", "sync")
        for priority in (-(2**63), -1, 0, 7, 2**63)
    ]
    priorities = [compose(claim(task=task), LANE, TYPE, (), None).priority for task in tasks]
    assert priorities == sorted(set(priorities))
    assert max(map(abs, priorities)) < 2**31


def test_a_call_ends_by_its_task_s_deadline() -> None:
    assert compose(claim(), LANE, TYPE, (), 3.5).timeout_s == 3.5


def test_the_input_bound_is_above_any_tokenizer() -> None:
    call = compose(claim(), LANE, TYPE, (), None)
    assert input_bound(call) > sum(len(message["content"]) for message in call.messages)


def test_the_bound_of_the_input_covers_tools_forms_and_earlier_tool_calls() -> None:
    plain = Call(({"role": "user", "content": "hi"},))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    used = {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "x" * 500}}]}
    bound = input_bound(plain)
    assert bound < 100
    assert input_bound(replace(plain, tools=(tool,))) > bound + FORM_TOKENS + len(json.dumps(tool)) - 10
    assert input_bound(replace(plain, schema={"type": "object"})) > bound + FORM_TOKENS
    assert input_bound(replace(plain, choices=("a", "b"))) > bound + FORM_TOKENS
    assert input_bound(replace(plain, messages=(*plain.messages, used))) > bound + 500


@pytest.mark.parametrize(
    "beside", [{"name": "A" * 9000}, {"function_call": {"name": "f", "arguments": "B" * 9000}}]
)
def test_the_bound_of_the_input_covers_all_that_is_sent_of_a_message(beside: dict[str, Any]) -> None:
    message = {"role": "user", "content": "hi", **beside}
    assert input_bound(Call((message,))) > len(json.dumps(message))


def test_an_image_is_bounded_by_the_largest_that_a_provider_counts_and_not_by_its_address() -> None:
    text = {"type": "text", "text": "What is it?"}
    image = {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}
    plain, shown = (Call(({"role": "user", "content": parts},)) for parts in ((text,), (text, image, image)))
    assert input_bound(plain) < 200
    assert 2 * PART_TOKENS < input_bound(shown) < 2 * PART_TOKENS + 400


def test_a_type_that_begins_with_tools_requires_one_until_one_was_used() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
    row = TYPE.model_copy(update={"tools": ("f",), "tools_first": True})
    used = Progress("general", turns=({"role": "assistant", "content": "", "lane": "local"},))
    again = Progress("general", complaint="no number", last_answer="x")
    chosen = [
        compose(claim(one), LANE, row, (), None, (tool,)).tool_choice for one in (Progress(), used, again)
    ]
    assert chosen == ["required", "auto", "none"]
    assert compose(claim(), LANE, row, (), None).tool_choice == "auto"
