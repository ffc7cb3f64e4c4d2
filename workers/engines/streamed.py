"""A streamed answer while it comes in, whichever SDK brings it: what has been read, and what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from broker.call import Call, Quota, Reply, ToolCall, Usage
from broker.errors import CallCancelled, EngineConnectionLost, EngineError, MalformedReply
from dispatcher.text import encodable
from workers.engines.constrain import Read, called
from workers.engines.watch import CURRENT, Watch

CONNECT_S = 10.0
SAID_LIMIT = 100
#: No model takes or makes as many in one call: a larger count is an error of the provider's.
MOST_TOKENS = 100_000_000
#: No token of today's models has more characters, and there is room for what a server says without counting it.
CHARS_A_TOKEN, CHARS_BESIDE = 128, 65_536
Raised = tuple[type[Exception], ...]


@dataclass(slots=True)
class Calling:
    """A tool call whose arguments are still coming."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def whole(self) -> ToolCall:
        name, arguments = encodable(self.name), encodable("".join(self.arguments))
        return ToolCall(encodable(self.id), name, arguments) if self.id else called(name, arguments)


@dataclass(slots=True)
class Answer:
    """What has come so far. ``started`` is on ``time.perf_counter``; ``finish`` is a ``Reply.finish_reason``, "" until
    its end came; ``usage`` None until the provider has told all of it. ``max_tokens`` were asked for: what is far more
    than that is read to its end, so that its usage is known, but not kept.
    """

    started: float
    max_tokens: int = 0
    chars: int = 0
    parts: list[str] = field(default_factory=list)
    usage: Usage | None = None
    model: str = ""
    finish: str = ""
    first_token_ms: float | None = None
    is_stream: bool = False
    quota: Quota | None = None
    calling: list[Calling] = field(default_factory=list)
    at_index: dict[int, Calling] = field(default_factory=dict)

    def began(self) -> None:
        if self.first_token_ms is None:
            self.first_token_ms = (time.perf_counter() - self.started) * 1000

    @property
    def known_usage(self) -> Usage | None:
        """None: not known, also where an answer came and the provider counts no token for it."""
        came = self.first_token_ms is not None or self.chars > 0
        return None if came and self.usage == Usage() else self.usage

    def take(self, text: str, into: list[str]) -> None:
        """Keep ``text`` in ``into``, or only count it where the answer is too long."""
        self.chars += len(text)
        if not self.too_long:
            into.append(text)

    @property
    def too_long(self) -> bool:
        return self.chars + len(self.model) > CHARS_BESIDE + CHARS_A_TOKEN * self.max_tokens

    def call_tool(self, calling: Calling, index: int | None) -> Calling:
        self.chars += len(calling.id) + len(calling.name)
        self.calling.append(calling)
        if index is not None:
            self.at_index[index] = calling
        return calling

    def reply(self, read: Read, model: str, revision: str = "") -> Reply:
        """``model`` is for a provider that names none.

        Raises ValueError where it ends in tool calls and has none, or is far longer than was asked for.
        """
        if self.too_long:
            raise ValueError(f"{self.chars:,} characters for {self.max_tokens:,} tokens")
        text, told = read(encodable("".join(self.parts)))
        calls = (*(one.whole() for one in self.calling), *told)
        if self.finish == "tool_calls" and not calls:
            raise ValueError("it ends in tool calls and has none")
        usage = self.known_usage
        return Reply(
            text=text,
            usage=usage or Usage(),
            usage_known=usage is not None,
            model=self.model or model,
            model_revision=revision,
            finish_reason="tool_calls" if calls and self.finish == "stop" else self.finish,
            latency_ms=(time.perf_counter() - self.started) * 1000,
            time_to_first_token_ms=self.first_token_ms,
            tool_calls=calls,
            quota=self.quota,
        )


@contextmanager
def reading(
    lane_name: str,
    call: Call,
    cancelled: Callable[[], bool],
    answer: Answer,
    raised: Raised,
    translate: Callable[[Exception], EngineError],
) -> Iterator[None]:
    """Everything that goes wrong inside comes out as a leaf of ours with what is known of its usage.

    ``raised`` is what the SDK raises and ``translate`` knows. The SDKs check nothing of what they parse, so that an
    answer that is none shows as one of Python's own errors where it is read.
    """
    watch = Watch(call.timeout_s, cancelled)
    token = CURRENT.set(watch)
    try:
        yield
    except EngineError as error:
        raise _known(error, answer) from error.__cause__
    except raised as error:
        if watch.cancelled:
            why = f"lane {lane_name!r}: the call was cancelled"
            raise _known(CallCancelled(why), answer) from error
        raise _known(translate(error), answer) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"an answer that cannot be read: {type(error).__name__}: {str(error)[:SAID_LIMIT]}"
        raise _known(malformed(lane_name, what), answer) from error
    finally:
        CURRENT.reset(token)


def _known(error: EngineError, answer: Answer) -> EngineError:
    error.usage = answer.known_usage or error.usage
    error.quota = error.quota or answer.quota
    return error


def malformed(lane_name: str, what: str) -> MalformedReply:
    mend = (
        f"check that lanes.{lane_name}.base_url is an endpoint of the kind that the lane's engine speaks to"
    )
    return MalformedReply(f"lane {lane_name!r}: {what}", mend=mend)


def ended_early(lane_name: str) -> EngineConnectionLost:
    return EngineConnectionLost(f"lane {lane_name!r}: the stream ended before the answer did")


def text_of(part: Any, name: str) -> str:
    """A text in the provider's JSON, "" where there is none. Raises TypeError where it is none."""
    value = part.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value or ""


def counted(value: Any) -> int:
    """A count of tokens in the provider's JSON. Raises ValueError where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MOST_TOKENS:
        raise ValueError(f"{str(value)[:SAID_LIMIT]} is no count of tokens")
    return value
