"""What an MLX model's tokens say: words, stop strings across tokens, tool calls in the model's own form, and forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conformance import tiny_llama

pytest.importorskip("mlx_lm")
pytest.importorskip("llguidance")

from llguidance.hf import from_tokenizer
from mlx_lm.tokenizer_utils import load

from workers.engines.mlx_batch import PREFILL_TOKENS, Pace
from workers.engines.mlx_form import Form, FormRefused, choice_grammar, schema_grammar
from workers.engines.mlx_text import PromptRefused, Speech, prompt_of

mx: Any = pytest.importorskip("mlx.core")
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_llama.make(tmp_path_factory.mktemp("m") / "tools", tiny_llama.WITH_TOOLS))


def spoken(speech: Speech, text: str) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = []
    for byte in text.encode():
        deltas += speech.take(byte_token(speech.tokenizer, byte))
        if speech.stopped:
            break
    return deltas + speech.end()


def byte_token(tokenizer: Any, byte: int) -> int:
    return int(tokenizer.convert_tokens_to_ids(tiny_llama.byte_letters()[byte]))


def words(deltas: list[dict[str, Any]]) -> str:
    return "".join(delta.get("content", "") for delta in deltas)


def test_letters_of_several_tokens_come_whole(tokenizer: Any) -> None:
    deltas = spoken(Speech(tokenizer), "größer 漢 🙂")
    assert words(deltas) == "größer 漢 🙂"
    assert not any("\ufffd" in delta["content"] for delta in deltas)


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("one two three", ("two",), "one "),
        ("aab", ("ab",), "a"),
        ("no end", ("end!",), "no end"),
        ("xyz", ("z", "y"), "x"),
    ],
)
def test_an_answer_ends_before_its_stop_string(
    tokenizer: Any, text: str, stop: tuple[str, ...], left: str
) -> None:
    speech = Speech(tokenizer, stop)
    assert words(spoken(speech, text)) == left
    assert speech.stopped == (left != text)


def test_tool_calls_in_the_models_own_form_are_read(tokenizer: Any) -> None:
    one = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'
    speech = Speech(tokenizer, tools=[TOOL])
    deltas = spoken(speech, f"Let me see.{one}\n{one}")
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert words(deltas).strip() == "Let me see."
    assert [call["index"] for call in calls] == [0, 1]
    assert {call["function"]["name"] for call in calls} == {"get_weather"}
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Paris"}
    assert calls[0]["id"] != calls[1]["id"]


@pytest.mark.parametrize(
    "text", ["<tool_call>no JSON</tool_call>", '<tool_call>{"name": 1}</tool_call>', "<tool_call>cut"]
)
def test_a_call_that_is_none_stays_text(tokenizer: Any, text: str) -> None:
    speech = Speech(tokenizer, tools=[TOOL])
    assert words(spoken(speech, text)) == text.removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert speech.calls == 0


def test_what_stands_before_the_last_message_is_what_others_begin_with(tokenizer: Any) -> None:
    system = {"role": "system", "content": "Sort letters."}
    one, head = prompt_of(tokenizer, [system, {"role": "user", "content": "A bill"}], (), thinks=True)
    other, _ = prompt_of(tokenizer, [system, {"role": "user", "content": "Praise"}], (), thinks=True)
    assert one[:head] == other[:head]
    assert len("Sort letters.") < head < len(one)


@pytest.mark.parametrize(
    "messages", [[], ["text"], [{"content": [{"type": "image_url"}]}], [{"role": 3, "content": "x"}]]
)
def test_messages_of_which_no_prompt_can_be_made(tokenizer: Any, messages: list[Any]) -> None:
    with pytest.raises(PromptRefused):
        prompt_of(tokenizer, messages, (), thinks=True)


def allowed(form: Form, tokenizer: Any, text: str) -> set[str]:
    """The bytes that may come after ``text``."""
    zeros = mx.zeros((1, 258))
    logits = form(mx.array([1]), zeros)
    for byte in text.encode():
        logits = form(mx.array([byte_token(tokenizer, byte)]), zeros)
    values: Any = logits[0].tolist()
    free = [number for number, value in enumerate(values) if value == 0]
    return {"END" if number == tiny_llama.EOS else tokenizer.decode([number]) for number in free}


def test_a_form_lets_only_its_answers_through(tokenizer: Any) -> None:
    words_of = from_tokenizer(tokenizer._tokenizer, eos_token=tiny_llama.EOS)
    choice = choice_grammar(('say "yes"', "no", "näh"))
    assert allowed(Form(words_of, choice), tokenizer, "") == {"s", "n"}
    assert allowed(Form(words_of, choice), tokenizer, 'say "yes"') == {"END"}
    assert allowed(Form(words_of, choice), tokenizer, "no") == {"END"}
    schema = schema_grammar({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
    assert allowed(Form(words_of, schema), tokenizer, '{"a": ') == {"t", "f"}
    with pytest.raises(FormRefused):
        Form(words_of, schema_grammar({"type": "nonsense"}))
    deep: Any = {}
    for _ in range(2000):
        deep = {"items": deep}
    with pytest.raises(FormRefused):
        schema_grammar(deep)


def test_a_step_of_reading_takes_about_the_same_time_on_any_machine() -> None:
    slow, fast = Pace(), Pace()
    for _ in range(8):
        slow.measured(tokens=100, seconds=1.0)
        fast.measured(tokens=4000, seconds=0.1)
    least, most = PREFILL_TOKENS
    assert slow.step(1) == 40
    assert slow.step(8) == least
    assert fast.step(1) == most
    assert fast.step(16) == 1000
