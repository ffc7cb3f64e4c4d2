"""OpenAI's chat protocol over a batch: what a request asks for, and the pieces of its answer.

Imports MLX, so that nothing may import it before OpenBLAS is loaded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx_lm
from llguidance import LLTokenizer
from llguidance.hf import from_tokenizer
from mlx_lm.tokenizer_utils import TokenizerWrapper

from workers.engines import model_folder
from workers.engines.http_door import HttpDoor, Refused, Reply, Request
from workers.engines.mlx_batch import HEAD_TOKENS, Batch, Overloaded, Ticket
from workers.engines.mlx_form import Form, FormRefused, choice_grammar, schema_grammar
from workers.engines.mlx_text import PromptRefused, Speech, prompt_of

#: Pieces of an answer go out together that come within this time: reading them is work for the client too.
FLUSH_S = 0.05
#: A turn that takes longer than this has not ended: the machine is frozen or the model hangs.
STUCK_S = 30.0
RETRY_AFTER_S = 1


@dataclass(slots=True, eq=False)
class _Line:
    """Tokens on their way from the batch's thread to the request that waits for them."""

    tokens: list[tuple[int, str]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


def serve(order: Mapping[str, Any]) -> tuple[int, str, Callable[[], None]]:
    """Port and revision of the model that is served, and how to end it."""
    folder = model_folder.found(Path(order["model_path"]), Path(order["models"]))
    loaded: list[TokenizerWrapper] = []

    def load() -> tuple[Any, set[int]]:
        model, tokenizer, *_ = mlx_lm.load(str(folder))
        loaded.append(tokenizer)
        return model, set(tokenizer.eos_token_ids)

    batch = Batch(load, order["slots"], order["waiting"])
    batch.start()
    (tokenizer,) = loaded
    context = model_folder.context_of(folder, order["context_tokens"])
    chat = Chat(batch, tokenizer, order["model"], context)
    door = HttpDoor(chat.answer, order["key"])
    batch.after_turn = lambda: door.loop.call_soon_threadsafe(chat.turned)
    return door.open(), model_folder.revision(folder), batch.stop


class Chat:
    """The door's answers. ``model`` is the name that it tells, ``context_tokens`` the most that a prompt and its answer
    may have.
    """

    def __init__(self, batch: Batch, tokenizer: TokenizerWrapper, model: str, context_tokens: int) -> None:
        self.batch, self.tokenizer = batch, tokenizer
        self.forms: LLTokenizer = from_tokenizer(
            tokenizer._tokenizer, eos_token=sorted(tokenizer.eos_token_ids)
        )
        self.model, self.context_tokens = model, context_tokens
        self._fresh: set[_Line] = set()

    async def answer(self, request: Request, reply: Reply) -> None:
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                await self._chat(request.json(), reply)
            case "GET", "/health":
                well = self.batch.alive() and self.batch.stats()["turned_s_ago"] < STUCK_S
                reply.json(200 if well else 503, {"status": "ok" if well else "the batch does not turn"})
            case "GET", "/stats":
                reply.json(200, {**self.batch.stats(), "takes_tools": self.tokenizer.has_tool_calling})
            case "GET", "/v1/models":
                reply.json(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
            case _:
                raise Refused(404, "not_found", f"no {request.method} {request.path}")

    def turned(self) -> None:
        """Wake those for whom a turn of the batch made tokens. On the door's loop."""
        fresh, self._fresh = self._fresh, set()
        for line in fresh:
            line.ready.set()

    async def _chat(self, body: Any, reply: Reply) -> None:
        if not isinstance(body, Mapping):
            raise Refused(400, "invalid_request", "a request that is no object")
        line = _Line()
        speech, ticket = await self._asked(body, line)
        try:
            self.batch.join(ticket)
        except Overloaded as error:
            raise Refused(503, "overloaded_error", str(error), {"Retry-After": str(RETRY_AFTER_S)}) from error
        try:
            await (_streamed if body.get("stream") else _whole)(self, line, speech, ticket, reply)
        finally:
            self.batch.leave(ticket)

    async def _asked(self, body: Mapping[str, Any], line: _Line) -> tuple[Speech, Ticket]:
        tools = body.get("tools") or () if body.get("tool_choice") != "none" else ()
        if tools and not self.tokenizer.has_tool_calling:
            raise Refused(400, "invalid_request", "the model's chat template knows nothing of tools")
        grammar = _grammar(body)
        try:
            prompt, head = prompt_of(
                self.tokenizer, body.get("messages") or (), tools, thinks=grammar is None
            )
            form = await asyncio.to_thread(Form, self.forms, grammar) if grammar is not None else None
        except (PromptRefused, FormRefused) as error:
            raise Refused(400, "invalid_request", str(error)) from error
        left = self.context_tokens - len(prompt)
        if left < 1:
            raise Refused(
                400,
                "context_length_exceeded",
                f"a prompt of {len(prompt)} tokens in a context of {self.context_tokens}",
            )
        ticket = _ticket(body, prompt, left, self._teller(line))
        ticket.form, ticket.head = form, head if head >= HEAD_TOKENS else 0
        return self._speech(body, tools, prompt), ticket

    def _speech(self, body: Mapping[str, Any], tools: Any, prompt: list[int]) -> Speech:
        stop = body.get("stop") or ()
        speech = Speech(self.tokenizer, (stop,) if isinstance(stop, str) else tuple(stop), tools)
        tokenizer = self.tokenizer
        if tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt):
            speech.think()
        return speech

    def _teller(self, line: _Line) -> Callable[[int, str], None]:
        def told(token: int, finish: str) -> None:
            line.tokens.append((token, finish))
            self._fresh.add(line)

        return told

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"object": "chat.completion.chunk", "model": self.model, "choices": [choice]}


def _grammar(body: Mapping[str, Any]) -> str | None:
    """Of ``response_format`` as OpenAI has it, or ``structured_outputs`` as vLLM does. Raises Refused."""
    choices = (body.get("structured_outputs") or {}).get("choice")
    wanted = body.get("response_format") or {}
    try:
        match wanted.get("type", "text"):
            case "json_schema":
                return schema_grammar(wanted["json_schema"]["schema"])
            case "json_object":
                return schema_grammar({"type": "object"})
            case "text":
                return choice_grammar(choices) if choices else None
    except (KeyError, TypeError, FormRefused) as error:
        raise Refused(400, "invalid_request", f"response_format: {error}") from error
    raise Refused(400, "invalid_request", f"response_format: unknown type {wanted['type']!r}")


def _ticket(
    body: Mapping[str, Any], prompt: list[int], left: int, told: Callable[[int, str], None]
) -> Ticket:
    try:
        wanted = int(body.get("max_tokens") or body.get("max_completion_tokens") or left)
        seed = body.get("seed")
        return Ticket(
            prompt,
            max(1, min(wanted, left)),
            told,
            temperature=float(body.get("temperature") or 0.0),
            seed=None if seed is None else int(seed),
            priority=-int(body.get("priority") or 0),
        )
    except (TypeError, ValueError) as error:
        raise Refused(400, "invalid_request", f"a number that is none: {error}") from error


async def _pieces(line: _Line, speech: Speech) -> tuple[list[dict[str, Any]], str]:
    """What has been written since the last time, once there is something, and how it ended."""
    await line.ready.wait()
    line.ready.clear()
    tokens, line.tokens = line.tokens, []
    deltas: list[dict[str, Any]] = []
    for token, finish in tokens:
        if finish == "stop":  # the token that says so is not part of the answer
            speech.tokens += 1
        else:
            deltas += speech.take(token)
        if speech.stopped or finish:
            deltas += speech.end()
            return _joined(deltas), "stop" if speech.stopped else finish
    return _joined(deltas), ""


def _joined(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one kind as one."""
    joined: list[dict[str, Any]] = []
    for delta in deltas:
        (kind,) = delta
        if joined and kind in joined[-1] and kind != "tool_calls":
            joined[-1] = {kind: joined[-1][kind] + delta[kind]}
        else:
            joined.append(delta)
    return joined


async def _streamed(chat: Chat, line: _Line, speech: Speech, ticket: Ticket, reply: Reply) -> None:
    reply.events()
    ended = ""
    while not ended:
        sent_at = time.monotonic()
        deltas, ended = await _pieces(line, speech)
        if deltas:
            reply.event(*(chat.chunk(delta) for delta in deltas))
        if not ended:
            await asyncio.sleep(FLUSH_S - (time.monotonic() - sent_at))
    finish = "tool_calls" if speech.calls else ended
    last = {**chat.chunk({}, finish), "usage": _usage(speech, ticket)}
    reply.event(last)
    reply.last_event()


async def _whole(chat: Chat, line: _Line, speech: Speech, ticket: Ticket, reply: Reply) -> None:
    deltas: list[dict[str, Any]] = []
    ended = ""
    while not ended:
        more, ended = await _pieces(line, speech)
        deltas += more
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    message = {
        "role": "assistant",
        "content": "".join(delta.get("content", "") for delta in deltas),
        **({"tool_calls": calls} if calls else {}),
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else ended}
    body = {
        "object": "chat.completion",
        "model": chat.model,
        "choices": [choice],
        "usage": _usage(speech, ticket),
    }
    reply.json(200, body)


def _usage(speech: Speech, ticket: Ticket) -> dict[str, Any]:
    return {
        "prompt_tokens": len(ticket.prompt),
        "completion_tokens": speech.tokens,
        "total_tokens": len(ticket.prompt) + speech.tokens,
        "prompt_tokens_details": {"cached_tokens": ticket.cached},
        "completion_tokens_details": {"reasoning_tokens": speech.thought},
    }
