"""The door of an engine process: real sockets, requests in any pieces, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers.engines.http_door import HEAD_LIMIT, HttpDoor, Refused, Reply, Request

KEY = "a-key"


class Kitchen:
    """What stands behind the door of the tests."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def answer(self, request: Request, reply: Reply) -> None:
        match request.path:
            case "/echo":
                reply.json(200, {"method": request.method, "body": request.json()})
            case "/events":
                reply.events()
                for number in range(3):
                    reply.event({"n": number})
                reply.last_event()
            case "/slow":
                reply.events()
                try:
                    await asyncio.sleep(60)
                finally:
                    self.left.set()
            case _:
                raise Refused(503, "overloaded_error", "no room", {"Retry-After": "1"})


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


@pytest.fixture
def port(kitchen: Kitchen) -> Iterator[int]:
    door = HttpDoor(kitchen.answer, KEY)
    yield door.open()
    door.close()


def request(path: str, body: Any = None, key: str = KEY, method: str = "POST") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def answers(port: int, *pieces: bytes, count: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        for piece in pieces:
            client.sendall(piece)
        stream = client.makefile("rb")
        return [_answer(stream) for _ in range(count)]


def _answer(stream: Any) -> tuple[int, dict[str, str], bytes]:
    status = int(stream.readline().split()[1])
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name] = value
    return status, headers, stream.read(int(headers["Content-Length"]))


def test_a_request_may_come_in_any_pieces_and_several_in_one(port: int) -> None:
    whole = request("/echo", {"a": "ä" * 5000})
    ((status, _, body),) = answers(port, *(whole[at : at + 997] for at in range(0, len(whole), 997)))
    assert status == 200
    assert json.loads(body) == {"method": "POST", "body": {"a": "ä" * 5000}}
    both = answers(port, request("/echo", 1) + request("/echo", 2), count=2)
    assert [json.loads(body)["body"] for _, _, body in both] == [1, 2]


def test_events_come_as_a_stream_with_an_end(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request("/events"))
        seen = b""
        while not seen.endswith(b"0\r\n\r\n"):
            seen += client.recv(65536)
    assert b"text/event-stream" in seen
    assert [f'data: {{"n": {n}}}'.encode() in seen for n in range(3)] == [True] * 3
    assert b"data: [DONE]" in seen


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/echo", {}, key="another"), 401),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 401),
        (request("/elsewhere"), 503),
        (request("/echo"), 400),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (HEAD_LIMIT + 1), 431),
    ],
)
def test_what_is_no_request_of_ours_is_answered_and_the_door_stays_open(
    port: int, sent: bytes, status: int
) -> None:
    ((found, headers, body),) = answers(port, sent)
    assert found == status
    assert json.loads(body)["error"]["code"]
    assert (headers.get("Retry-After") == "1") == (status == 503)
    assert answers(port, request("/echo", 1))[0][0] == 200


def test_what_is_done_for_a_client_that_goes_away_ends(port: int, kitchen: Kitchen) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request("/slow"))
        assert client.recv(100)
        assert not kitchen.left.is_set()
    assert kitchen.left.wait(5)


def test_a_burst_of_connections_is_taken(port: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(200)]
    for client in clients:
        client.sendall(request("/echo", 1))
    assert all(_answer(client.makefile("rb"))[0] == 200 for client in clients)
    for client in clients:
        client.close()


THREAD_THAT_DIES = """
import threading, time
from workers.engines.mlx_process import end
threading.excepthook = end
threading.Thread(target=lambda: 1 / 0).start()
time.sleep(30)
"""


def test_a_thread_of_the_process_that_dies_takes_it_along() -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", THREAD_THAT_DIES],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert ran.returncode == 1
    assert "ZeroDivisionError" in ran.stderr
