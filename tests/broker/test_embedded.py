"""The embedded server against real crashes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from broker import embedded
from broker.errors import RedisUnavailable
from tests.awaited import eventually

ROOT = Path(__file__).parents[2]
START = """
import json, sys
from pathlib import Path
from broker import embedded
server = embedded.start(Path(sys.argv[1]))
print(json.dumps({"url": server.url, "pid": server.pid, "started_here": server.started_here}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    """A folder whose server is ended after the test."""
    folder = tmp_path / "var"
    yield folder
    server = embedded.running(folder)
    if server:
        embedded.stop(server)


def starter(var: Path) -> subprocess.Popen[str]:
    """Another process that starts the server and then stays, until its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", START, str(var)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    answer: dict[str, object] = json.loads(process.stdout.readline())
    return answer


def connect(server: embedded.Embedded) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def test_a_started_server_answers_and_keeps_what_it_acknowledged(var: Path) -> None:
    server = embedded.start(var)

    assert server.started_here
    with connect(server) as client:
        assert client.config_get("appendonly", "appendfsync", "maxmemory-policy", "port", "dir") == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "dir": str(var / "redis"),
        }
    assert os.getsid(server.pid) != os.getsid(0)  # Ctrl-C in our terminal does not reach it


def test_a_second_start_finds_the_first(var: Path) -> None:
    first = embedded.start(var)
    second = embedded.start(var)

    assert (second.url, second.pid, second.started_here) == (first.url, first.pid, False)
    assert embedded.running(var) == second


def test_nothing_runs_where_nothing_was_started(var: Path) -> None:
    assert embedded.running(var) is None
    assert not var.exists()


def test_it_survives_the_kill_of_its_starter(var: Path) -> None:
    with starter(var) as process:
        pid = told(process)["pid"]
        found = embedded.running(var)
        assert found is not None
        with connect(found) as client:
            client.set("k", "v")
        process.kill()

    again = embedded.start(var)
    assert (again.pid, again.started_here) == (pid, False)
    with connect(again) as client:
        assert client.get("k") == "v"


def test_its_own_kill_loses_nothing_that_is_on_disk(var: Path) -> None:
    server = embedded.start(var)
    with connect(server) as client:
        for number in range(100):
            client.set(f"k{number}", number)
        assert client.waitaof(1, 0, 10_000)[0] == 1  # a disk that is busy holds up what was answered already
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: embedded.running(var) is None)

    again = embedded.start(var)
    assert again.started_here
    assert again.pid != server.pid
    assert again.url == server.url  # clients reconnect to where they were
    with connect(again) as client:
        assert client.dbsize() == 100


def test_concurrent_starts_of_processes_give_one_server(var: Path) -> None:
    processes = [starter(var) for _ in range(4)]
    answers = [told(process) for process in processes]
    for process in processes:
        process.communicate("")

    assert len({answer["pid"] for answer in answers}) == 1
    assert sum(bool(answer["started_here"]) for answer in answers) == 1


def test_concurrent_starts_of_threads_give_one_server(var: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        servers = list(pool.map(embedded.start, [var] * 8))

    assert len({server.pid for server in servers}) == 1
    assert sum(server.started_here for server in servers) == 1


def test_stop_ends_it_and_its_data_are_there_at_the_next_start(var: Path) -> None:
    server = embedded.start(var)
    with connect(server) as client:
        client.set("k", "v")

    embedded.stop(server)
    assert embedded.running(var) is None
    embedded.stop(server)  # a second time is fine

    with connect(embedded.start(var)) as client:
        assert client.get("k") == "v"


def test_two_folders_are_two_servers(var: Path, tmp_path: Path) -> None:
    one, other = embedded.start(var), embedded.start(tmp_path / "other")
    try:
        with connect(one) as client, connect(other) as elsewhere:
            client.set("k", "v")
            assert elsewhere.get("k") is None
    finally:
        embedded.stop(other)
    assert embedded.running(var) is not None


@pytest.mark.parametrize("name", ["long " * 25, "spaces % and ümlaut"])
def test_any_path_works(tmp_path: Path, name: str) -> None:
    var = tmp_path / name.strip()
    server = embedded.start(var)
    try:
        with connect(server) as client:
            assert client.ping()
        assert embedded.start(var).pid == server.pid
    finally:
        embedded.stop(server)


def test_a_server_with_a_socket_elsewhere_is_found_under_another_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    var = tmp_path / ("long" * 25)
    server = embedded.start(var)
    try:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        found = embedded.running(var)
        assert found is not None
        assert found.url == server.url
    finally:
        embedded.stop(server)


def test_a_stopped_process_is_waited_for_only_so_long(var: Path) -> None:
    server = embedded.start(var)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedded, "ANSWER_TIMEOUT_S", 0.1)
            assert embedded.running(var) is None
            with pytest.raises(RedisUnavailable, match="runs but does not answer"):
                embedded.start(var, timeout_s=0.3)
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_starter_that_dies_before_the_server_is_ready_leaves_one_to_be_found(
    var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path, deadline: float) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_wait_until_ready", die)
        with pytest.raises(KeyboardInterrupt):
            embedded.start(var)

    assert not embedded.start(var).started_here


def test_a_server_that_dies_at_its_start_tells_why(var: Path) -> None:
    embedded.stop(embedded.start(var))
    (var / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("broken")

    with pytest.raises(RedisUnavailable, match=r"(?s)ended at its start.*manifest"):
        embedded.start(var)


def fake_server(folder: Path, name: str, says: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("name", "says", "chosen"),
    [
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", True),
        ("redis-server", "Redis server v=6.2.7 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64", False),
        ("valkey-server", "Valkey server v=8.1.3 sha=00000000:0 malloc=libc bits=64", True),
        ("redis-server", "something else", False),
    ],
)
def test_a_server_on_path_is_chosen_when_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str, chosen: bool
) -> None:
    program = fake_server(tmp_path, name, says)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert (embedded.find_server() == program) is chosen


def test_without_any_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)

    with pytest.raises(RedisUnavailable) as raised:
        embedded.find_server()
    assert "make install" in raised.value.mend


def test_the_program_that_wrote_the_data_reads_them_again(
    var: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.stop(embedded.start(var))
    fake_server(tmp_path, "redis-server", "Redis server v=7.0.15")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert embedded.start(var).started_here
