"""An engine without a model: answers by a script, for tests, benchmarks and dry runs of a fleet."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from broker.call import Call, Reply, ToolCall, Usage
from broker.errors import CallCancelled, EngineError, EngineFault, EngineTimeout, EngineUnavailable
from broker.settings.lanes import Lane

POLL_S = 0.02
KILL = "kill"


def _leaves(error: type[EngineError]) -> Iterator[type[EngineError]]:
    yield error
    for child in error.__subclasses__():
        yield from _leaves(child)


FAILURES: dict[str, type[EngineError]] = {leaf.failure: leaf for leaf in _leaves(EngineError)}


class EchoEngine:
    name = "echo"

    def __init__(self, lane_name: str, lane: Lane, var: Path) -> None:
        self._lane_name = lane_name
        self._script = lane.echo
        self._model = lane.model or "echo"
        self._seed = str(lane.seed or 0).encode()
        self._replies = tuple((re.compile(pattern), reply) for pattern, reply in lane.echo.replies.items())
        self._kill_on = re.compile(lane.echo.kill_on) if lane.echo.kill_on else None
        self._failures = deque(lane.echo.failures)
        self._closed = threading.Event()

    def check(self) -> None:
        unknown = sorted(set(self._script.failures) - {"", KILL, *FAILURES})
        if unknown:
            raise EngineUnavailable(
                f"lanes.{self._lane_name}.echo.failures: no failure {unknown[0]!r}",
                mend=f"use {KILL}, an empty string or one of {', '.join(sorted(FAILURES))}",
            )

    def open(self) -> None:
        self._closed.clear()

    def beats(self) -> int:
        return 0

    def batches(self) -> None:
        """None: what it is called with at once already runs as one batch."""

    def probe(self, within_s: float) -> None:
        """Nothing: it is this process."""

    def close(self) -> None:
        self._closed.set()

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        started = time.perf_counter()
        prompt = _prompt(call.messages)
        usage = Usage(input_tokens=sum(len(_text(message).split()) for message in call.messages))
        self._fail_as_scripted(prompt, usage)
        if self._script.latency_ms:
            self._wait(started, call.timeout_s, cancelled, usage)
        tool_calls = self._tool_calls(call)
        text = "" if tool_calls else self._answer(prompt)
        written = [text, *(f"{one.name} {one.arguments}" for one in tool_calls)]
        words = self._script.output_tokens
        if words is None:
            words = sum(len(part.split()) for part in written)
        elapsed_ms = (time.perf_counter() - started) * 1000
        return Reply(
            text=text,
            usage=Usage(input_tokens=usage.input_tokens, output_tokens=words),
            model=self._model,
            latency_ms=elapsed_ms,
            time_to_first_token_ms=elapsed_ms,
            finish_reason="tool_calls" if tool_calls else "stop",
            tool_calls=tool_calls,
        )

    def _tool_calls(self, call: Call) -> tuple[ToolCall, ...]:
        if not call.tools or call.tool_choice == "none" or call.messages[-1].get("role") == "tool":
            return ()
        scripted = ((one.name, one.arguments) for one in self._script.tool_calls)
        return tuple(
            ToolCall(f"echo-{n}", name, told if isinstance(told, str) else json.dumps(told))
            for n, (name, told) in enumerate(scripted)
        )

    def _answer(self, prompt: str) -> str:
        for pattern, reply in self._replies:
            if pattern.search(prompt):
                return reply.replace("{prompt}", prompt)
        return prompt if self._script.reply is None else self._script.reply.replace("{prompt}", prompt)

    def _fail_as_scripted(self, prompt: str, usage: Usage) -> None:
        try:
            failure = self._failures.popleft() if self._failures else ""
        except IndexError:  # another thread took the last one
            failure = ""
        if failure == KILL or (self._kill_on is not None and self._kill_on.search(prompt)):
            os.kill(os.getpid(), signal.SIGKILL)
        if failure:
            leaf = FAILURES[failure]
            raise leaf(f"lane {self._lane_name!r}: the script says {failure!r}", usage=usage)
        if self._script.failure_rate and self._unlucky(prompt):
            raise EngineFault(f"lane {self._lane_name!r}: failure_rate struck this prompt", usage=usage)

    def _unlucky(self, prompt: str) -> bool:
        digest = hashlib.blake2b(prompt.encode(), key=self._seed, digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._script.failure_rate * 2**64

    def _wait(self, started: float, timeout_s: float, cancelled: Callable[[], bool], usage: Usage) -> None:
        latency_s = self._script.latency_ms / 1000
        until = started + min(latency_s, timeout_s)
        while (left := until - time.perf_counter()) > 0:
            if cancelled() or self._closed.wait(min(left, POLL_S)):
                raise CallCancelled(f"lane {self._lane_name!r}: the call was cancelled", usage=usage)
        if latency_s > timeout_s:
            raise EngineTimeout(f"lane {self._lane_name!r}: no answer within {timeout_s:g} s", usage=usage)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content)


def _prompt(messages: tuple[Mapping[str, Any], ...]) -> str:
    """The last thing that the user said."""
    return next((_text(message) for message in reversed(messages) if message.get("role") == "user"), "")
