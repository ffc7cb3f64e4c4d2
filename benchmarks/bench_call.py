"""What a call costs on our side: an engine against the bare SDK, streaming the same answer from a server that answers
at once.

The server is a process of its own on a real socket; what is counted is this process's CPU time, the SDK's and ours
together. Pairs are interleaved, and the ratio is the median of theirs. Run: python -m benchmarks.bench_call
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anthropic
import openai

from broker.call import Call
from broker.settings.lanes import Lane
from workers.engines import build

CALLS = 150
PAIRS = 7
SIZES = (1, 20, 200)
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me of the sea."}]
TEXT = "wave "


# --- the server


def chat_answer(tokens: int) -> bytes:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {
            "id": "c-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [choice],
        }

    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": TEXT}) for _ in range(tokens))]
    chunks += [chunk({}, "stop"), {**chunk({}), "choices": [], "usage": usage}]
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in chunks) + b"data: [DONE]\n\n"


def messages_answer(tokens: int) -> bytes:
    message = {
        "id": "m-1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "m",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 1},
    }
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(delta for _ in range(tokens)),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]
    return b"".join(
        b"event: %s\ndata: %s\n\n" % (one["type"].encode(), json.dumps(one).encode()) for one in events
    )


def as_asked(line: bytes, asked: dict[str, Any]) -> bytes:
    """As many tokens as the request wants."""
    return messages_answer(asked["max_tokens"]) if b"/messages" in line else chat_answer(asked["max_tokens"])


def serve(answer: Callable[[bytes, dict[str, Any]], bytes] = as_asked) -> None:
    """Answers each request, of which ``answer`` gets the first line and the body, until standard input ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(listening, answer), daemon=True).start()
        sys.stdin.read()


def _accept(listening: socket.socket, answer: Callable[[bytes, dict[str, Any]], bytes]) -> None:
    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_converse, args=(connection, answer), daemon=True).start()


def _converse(connection: socket.socket, answer: Callable[[bytes, dict[str, Any]], bytes]) -> None:
    with connection, connection.makefile("rb") as requests:
        while line := requests.readline():
            headers = {}
            while (header := requests.readline().strip()) != b"":
                name, _, value = header.partition(b":")
                headers[name.lower()] = value.strip()
            asked = json.loads(requests.read(int(headers[b"content-length"])))
            body = answer(line, asked)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)


@contextmanager
def server(module: str = "benchmarks.bench_call") -> Iterator[str]:
    """Its address; ``module`` has a ``serve``."""
    command = [sys.executable, "-c", f"from {module} import serve; serve()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


# --- the two sides


def engine(name: str, base_url: str, tokens: int) -> Callable[[], str]:
    ours = build("bench", Lane.model_validate({"engine": name, "model": "m", "base_url": base_url}), Path())
    ours.open()
    call = Call(tuple(MESSAGES), max_tokens=tokens, attempt_id="t-1-1")
    return lambda: ours.call(call, lambda: False).text


def bare_openai(base_url: str, tokens: int) -> Callable[[], str]:
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0)

    def call() -> str:
        parts = []
        with client.chat.completions.create(
            model="m",
            messages=MESSAGES,
            max_tokens=tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Client-Request-Id": "t-1-1"},
        ) as stream:
            for chunk in stream:
                parts += [choice.delta.content or "" for choice in chunk.choices]
        return "".join(parts)

    return call


def bare_anthropic(base_url: str, tokens: int) -> Callable[[], str]:
    client = anthropic.Anthropic(base_url=base_url, api_key="none", max_retries=0)

    def call() -> str:
        parts = []
        with client.messages.create(model="m", messages=MESSAGES, max_tokens=tokens, stream=True) as stream:
            for event in stream:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    parts.append(event.delta.text)
        return "".join(parts)

    return call


def cpu_us(call: Callable[[], str]) -> float:
    started = time.process_time_ns()
    for _ in range(CALLS):
        call()
    return (time.process_time_ns() - started) / 1000 / CALLS


def compare(name: str, ours: Callable[[], str], bare: Callable[[], str], tokens: int) -> float:
    assert ours() == bare() == TEXT * tokens
    pairs = []
    for n in range(PAIRS):
        sides = (ours, bare) if n % 2 else (bare, ours)
        first, second = cpu_us(sides[0]), cpu_us(sides[1])
        pairs.append((first, second) if n % 2 else (second, first))
    ratio = median(one / other for one, other in pairs)
    ours_us, bare_us = (median(side) for side in zip(*pairs, strict=True))
    print(
        f"{name}, {tokens:>3} tokens    {ours_us:7.0f} µs a call, bare SDK {bare_us:7.0f} µs, ratio {ratio:.2f}"
    )
    return ratio


def main() -> None:
    with server() as url:
        for tokens in SIZES:
            compare(
                "openai   ", engine("openai", f"{url}/v1", tokens), bare_openai(f"{url}/v1", tokens), tokens
            )
        for tokens in SIZES:
            compare("anthropic", engine("anthropic", url, tokens), bare_anthropic(url, tokens), tokens)


if __name__ == "__main__":
    main()
