"""From messages to the tokens of a prompt, and from an answer's tokens to words, thoughts and tool calls."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper

#: What the parsers of tool calls raise for a call that is none.
NO_CALL = (ValueError, KeyError, IndexError, AttributeError, TypeError, SyntaxError)


class PromptRefused(ValueError):
    """The chat template cannot make a prompt of these messages."""


def prompt_of(
    tokenizer: TokenizerWrapper, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], *, thinks: bool
) -> tuple[list[int], int]:
    """The tokens of the prompt, and how many of them stand before the last message, which others may begin with too.
    ``thinks`` False: the model is told to leave its thoughts out, where its template knows how. Raises PromptRefused.
    """
    plain = [_plain(message) for message in messages]
    if not plain:
        raise PromptRefused("no messages")
    options: dict[str, Any] = {"add_generation_prompt": True, "tools": list(tools) or None}
    if not thinks:
        options["enable_thinking"] = False
    try:
        prompt = list(tokenizer.apply_chat_template(plain, **options))
        other = tokenizer.apply_chat_template([*plain[:-1], {**plain[-1], "content": ""}], **options)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise PromptRefused(f"the model's chat template refuses these messages: {error}") from error
    return prompt, _common(prompt[:-1], other)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """As chat templates want it: the text in one piece, the arguments of past tool calls as objects."""
    if not isinstance(message, Mapping):
        raise PromptRefused("a message that is none")
    plain = dict(message)
    content = plain.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content):
            raise PromptRefused("a part of a message that is no text")
        content = "".join(part["text"] for part in content)
    plain["content"] = content or ""
    if plain.get("tool_calls"):
        plain["tool_calls"] = [_past_call(used) for used in plain["tool_calls"]]
    return plain


def _past_call(used: Mapping[str, Any]) -> Mapping[str, Any]:
    function = dict(used.get("function") or {})
    try:
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    except (ValueError, TypeError):
        return used
    return {**used, "function": function}


@dataclass(slots=True)
class Speech:
    """One answer while it is written. ``take`` and ``end`` give deltas in OpenAI's form."""

    tokenizer: TokenizerWrapper
    stop: tuple[str, ...] = ()
    tools: Sequence[Any] = ()
    tokens: int = 0
    thought: int = 0
    stopped: bool = False
    calls: int = 0
    _held: str = ""
    _call: list[str] = field(default_factory=list)
    _detokenizer: Any = None
    _state: Any = None

    def __post_init__(self) -> None:
        self._detokenizer = self.tokenizer.detokenizer
        self._state = make_text_state_machine(self.tokenizer).make_state(self._begins())

    def _begins(self) -> str:
        return str(self.tokenizer.response_initial_state or "normal")

    def think(self) -> None:
        """The prompt ends in the middle of the model's thoughts."""
        self._state = make_text_state_machine(self.tokenizer).make_state("reasoning")

    def take(self, token: int) -> list[dict[str, Any]]:
        self.tokens += 1
        self.thought += self._state[0] == "reasoning"
        self._detokenizer.add_token(token)
        return self._deltas(self._cut(self._detokenizer.last_segment))

    def end(self) -> list[dict[str, Any]]:
        """What was held back."""
        self._detokenizer.finalize()
        deltas = self._deltas(self._cut(self._detokenizer.last_segment, whole=True))
        self._state, rest, state = TextStateMachine.flush(self._state)
        deltas += self._spoken(state, rest)
        if self._call:  # cut off in the middle of a call
            deltas.append({"content": "".join(self._call)})
        return deltas

    def _cut(self, text: str, whole: bool = False) -> str:
        """The text up to a stop string; what may be the beginning of one is held back."""
        if not self.stop or self.stopped:
            return "" if self.stopped else text
        text = self._held + text
        ends = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = 0 if whole else max(_overlap(text, stop) for stop in self.stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _deltas(self, text: str) -> list[dict[str, Any]]:
        self._state, segments = TextStateMachine.split(self._state, text)
        deltas = []
        for at, (state, part) in enumerate(segments):
            deltas += self._spoken(state, part)
            if self._call and at + 1 < len(segments):  # another state comes after it
                deltas += self._called("".join(self._call))
                self._call = []
        return deltas

    def _spoken(self, state: str, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        if state == "tool":
            self._call.append(text)
            return []
        return [{"reasoning_content" if state == "reasoning" else "content": text}]

    def _called(self, text: str) -> list[dict[str, Any]]:
        """The calls in the model's own form; a form that cannot be read stays text."""
        try:
            found = self.tokenizer.tool_parser(text, list(self.tools))
            calls = found if isinstance(found, list) else [found]
            return [self._call_delta(call["name"], call["arguments"]) for call in calls]
        except NO_CALL:
            return [{"content": text}]

    def _call_delta(self, name: str, arguments: Any) -> dict[str, Any]:
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        index, self.calls = self.calls, self.calls + 1
        function = {"name": name, "arguments": written}
        one = {
            "index": index,
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": function,
        }
        return {"tool_calls": [one]}


def _overlap(text: str, stop: str) -> int:
    """How long an end of ``text`` is that ``stop`` begins with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)
