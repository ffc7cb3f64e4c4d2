"""One suite over every provider's batches, on real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.call import Call, Reply, Usage
from broker.errors import (
    AuthenticationFailed,
    ContextOverflow,
    EngineConnectionLost,
    EngineError,
    MalformedReply,
)
from broker.settings.lanes import Lane
from tests.batch_provider import BatchProvider, batch_provider
from workers.engines import Engine, build
from workers.engines.batches import BatchDoor

LONG_AGO_S = 0.0


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    with batch_provider() as provider:
        yield provider


@pytest.fixture(params=["openai", "anthropic"])
def engine(request: pytest.FixtureRequest, provider: BatchProvider, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "openai":
        lane = Lane(engine="openai", model="m", base_url=f"{provider.url}/v1", dialect="openai")
    else:
        lane = Lane(engine="anthropic", model="claude-x", base_url=provider.url)
    engine = build("midtier", lane, tmp_path)
    engine.open()
    yield engine
    engine.close()


@pytest.fixture
def door(engine: Engine) -> BatchDoor:
    door = engine.batches()
    assert door is not None
    return door


def asked(prompt: str) -> Call:
    return Call(({"role": "user", "content": prompt},), max_tokens=16)


def sent(door: BatchDoor, folder: Path, *prompts: str, name: str = "ours") -> str:
    path = folder / "lines.jsonl"
    path.write_bytes(b"".join(door.line(f"line-{n}", asked(prompt)) for n, prompt in enumerate(prompts)))
    return door.send(name, path, len(prompts))


def results(door: BatchDoor, provider_id: str) -> dict[str, Reply | EngineError | None]:
    rows = door.results(provider_id, door.standing(provider_id).answered)
    return {line: None if row is None else door.read(row, asked("x")) for line, row in rows}


def test_each_line_comes_back_under_its_own_name(door: BatchDoor, tmp_path: Path) -> None:
    batch = sent(door, tmp_path, "a", "b", "c")
    assert door.standing(batch).ended
    found = results(door, batch)
    assert set(found) == {"line-0", "line-1", "line-2"}
    for reply in found.values():
        assert isinstance(reply, Reply)
        assert (reply.text, reply.model, reply.finish_reason) == ("fine", "the-model", "stop")
        assert reply.usage == Usage(input_tokens=10, output_tokens=100)


def test_the_provider_gets_the_calls_as_it_would_singly(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    sent(door, tmp_path, "Grüße")
    ((line, body),) = provider.batches["batch_1"].lines
    assert line == "line-0"
    assert body["messages"][-1]["content"] in ("Grüße", [{"type": "text", "text": "Grüße"}])
    assert "stream" not in body
    assert "stream_options" not in body


def test_a_batch_that_goes_on_is_not_ended(door: BatchDoor, provider: BatchProvider, tmp_path: Path) -> None:
    provider.ended = False
    batch = sent(door, tmp_path, "a")
    assert not door.standing(batch).ended
    door.cancel(batch)
    assert door.standing(batch).ended
    assert results(door, batch) == {"line-0": None}


def test_lines_that_expired_have_no_result(door: BatchDoor, provider: BatchProvider, tmp_path: Path) -> None:
    provider.expire = "late"
    batch = sent(door, tmp_path, "a", "late", "b")
    assert [line for line, reply in results(door, batch).items() if reply is None] == ["line-1"]


def test_a_line_that_failed_is_the_error_that_it_would_be_singly_and_costs_nothing(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    provider.fail = "long"
    found = results(door, sent(door, tmp_path, "a", "long"))
    assert isinstance(found["line-0"], Reply)
    assert isinstance(found["line-1"], ContextOverflow)
    assert found["line-1"].usage == Usage()


def test_an_answer_may_hold_whatever_ends_a_line_elsewhere(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    provider.says = "one\u2028two\x85three"
    (reply,) = results(door, sent(door, tmp_path, "a")).values()
    assert isinstance(reply, Reply)
    assert reply.text == provider.says


@pytest.mark.parametrize("odd", [b'{"custom_id": "li', b"[1]", b'{"id": "x"}', b'{"custom_id": "\xff\xfe"}'])
def test_a_line_that_is_none_comes_without_a_name_and_stops_no_other(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path, odd: bytes
) -> None:
    provider.torn, provider.odd = "b", odd
    assert set(results(door, sent(door, tmp_path, "a", "b", "c"))) == {"line-0", "", "line-2"}


def test_a_download_that_ends_early_is_told(door: BatchDoor, provider: BatchProvider, tmp_path: Path) -> None:
    batch = sent(door, tmp_path, "a", "b", "c", "d")
    assert door.standing(batch).answered == 4
    provider.cut = True
    with pytest.raises(EngineConnectionLost):
        results(door, batch)


def test_a_batch_whose_reply_was_lost_is_found_again(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    other = sent(door, tmp_path, "a", "b", name="another")
    began_s = time.time()
    provider.lose = ["create"]
    with pytest.raises(EngineConnectionLost) as failed:
        sent(door, tmp_path, "c", "d")
    assert failed.value.usage is None, "nobody knows whether it was made"
    assert len(provider.batches) == 2
    assert door.find("ours", 2, began_s, frozenset({other})) == "batch_2"
    assert door.find("ours", 2, LONG_AGO_S, frozenset({"batch_1", "batch_2"})) is None


def test_a_provider_that_refuses_is_told_as_ever(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    provider.status = 401
    with pytest.raises(AuthenticationFailed) as failed:
        sent(door, tmp_path, "a")
    assert failed.value.usage == Usage()
    with pytest.raises(AuthenticationFailed):
        door.standing("batch_1")


def test_what_is_read_is_forgotten_by_the_provider(
    door: BatchDoor, provider: BatchProvider, tmp_path: Path
) -> None:
    door.forget(sent(door, tmp_path, "a"))
    assert provider.forgotten
    provider.status = 500
    door.forget("batch_1")


def test_an_answer_that_is_none_is_a_malformed_reply(door: BatchDoor) -> None:
    for nonsense in (
        {},
        {"type": "succeeded"},
        {"response": {"status_code": 200, "body": {}}},
        {"response": 5},
    ):
        error = door.read(nonsense, asked("x"))
        assert isinstance(error, EngineError)


def test_a_line_far_longer_than_was_asked_for_is_malformed_and_its_usage_known(
    door: BatchDoor, tmp_path: Path
) -> None:
    ((_, row),) = door.results(sent(door, tmp_path, "a"), 1)
    long = json.loads(json.dumps(row).replace('"fine"', json.dumps("x" * 100_000)))
    error = door.read(long, asked("x"))
    assert isinstance(error, MalformedReply)
    assert error.usage == Usage(input_tokens=10, output_tokens=100)


def test_openai_says_why_it_took_nothing(tmp_path: Path, provider: BatchProvider) -> None:
    lane = Lane(engine="openai", model="m", base_url=f"{provider.url}/v1", dialect="openai")
    engine = build("midtier", lane, tmp_path)
    engine.open()
    door = engine.batches()
    assert door is not None
    provider.refuse = "token_limit_exceeded"
    standing = door.standing(sent(door, tmp_path, "a"))
    assert (standing.ended, standing.refused) == (True, "token_limit_exceeded: refused")
    engine.close()


def test_a_server_of_another_dialect_has_no_batches(tmp_path: Path) -> None:
    engine = build("rented", Lane(engine="openai", model="m", base_url="http://127.0.0.1:9/v1"), tmp_path)
    engine.open()
    assert engine.batches() is None
    engine.close()
