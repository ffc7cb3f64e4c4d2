"""MCP servers as tools: one that we did not write, one on HTTP, and one that goes wrong in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ConfigError, ToolError, ToolUnavailable
from broker.settings import parse
from broker.settings.tools import McpTool
from tests.awaited import eventually
from workers.tools import Tool, build, mcp, mcp_server

HERE = Path(__file__).parent
BROKEN, ON_HTTP = HERE / "broken_mcp.py", HERE / "http_mcp.py"
TIME = (sys.executable, "-m", "mcp_server_time", "--local-timezone", "UTC")
NAMES = ("say", "die", "die_once", "hang", "slow", "rubbish", "long", "fail")
Make = Callable[..., Tool]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Tool] = []

    def one(**row: Any) -> Tool:
        made.append(build("mine", McpTool.model_validate({"kind": "mcp"} | row)))
        return made[-1]

    yield one
    for tool in made:
        tool.close()


class Broken:
    """The broken server as a tool."""

    def __init__(self, make: Make, place: Path, **row: Any) -> None:
        self.deeds = place / "deeds"
        command = [sys.executable, str(BROKEN), "well", str(self.deeds)]
        self.tool = make(command=command, functions=NAMES, timeout_s=1, **row)

    def run(self, function: str) -> str:
        return self.tool.run(f"mine_{function}", {"word": "hello"})

    def refusal(self, function: str) -> ToolError:
        with pytest.raises(ToolError) as refused:
            self.run(function)
        return refused.value

    def done(self) -> list[str]:
        return [line.split()[0] for line in self.deeds.read_text().splitlines()]

    def processes(self) -> list[int]:
        return [
            int(line.split()[1]) for line in self.deeds.read_text().splitlines() if line.startswith("start")
        ]


@pytest.fixture
def broken(make: Make, tmp_path: Path) -> Broken:
    return Broken(make, tmp_path)


def test_a_server_that_we_did_not_write_offers_what_the_configuration_allows(make: Make) -> None:
    tool = make(command=TIME, functions=["convert_time"], read_only=["convert_time"])
    [function] = tool.functions()
    assert (function.name, function.reads_only) == ("mine_convert_time", True)
    assert "source_timezone" in function.parameters["properties"]
    asked = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    assert json.loads(tool.run("mine_convert_time", asked))["time_difference"] in ("+7.0h", "+8.0h")
    with pytest.raises(ToolError, match="Nowhere"):
        tool.run("mine_convert_time", asked | {"target_timezone": "Nowhere"})


def test_what_a_server_says_of_its_own_harmlessness_counts_for_nothing(broken: Broken) -> None:
    assert not any(function.reads_only for function in broken.tool.functions())


def test_results_are_texts(broken: Broken) -> None:
    assert broken.run("say") == "hello\n(image that is not shown)"
    assert len(broken.run("long")) > 50_000, "the toolbox cuts it"
    failed = broken.refusal("fail")
    assert (failed.failure, str(failed)) == ("tool_failed", "hello\n(image that is not shown)")


def test_rubbish_among_the_answers_does_not_matter_and_is_not_logged(
    broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    assert broken.run("rubbish").startswith("hello")
    assert "no JSON" not in caplog.text


def test_a_server_that_dies_in_the_middle_is_started_again_for_the_next_call_and_not_asked_twice(
    broken: Broken,
) -> None:
    died = broken.refusal("die_once")
    assert died.failure == "tool_lost"
    assert "whether the call took effect is not known" in str(died)
    assert broken.run("say").startswith("hello")
    assert broken.done() == ["start", "die_once", "start", "say"]


def test_what_only_reads_is_asked_again_at_once(make: Make, tmp_path: Path) -> None:
    broken = Broken(make, tmp_path, read_only=["die_once", "die"])
    assert broken.run("die_once").startswith("hello")
    assert broken.done() == ["start", "die_once", "start", "die_once"]
    assert broken.refusal("die").failure == "tool_lost"
    assert broken.done()[4:] == ["die", "start", "die"], "twice and no more"


def test_a_server_that_died_while_nothing_was_asked_is_started_again_unseen(broken: Broken) -> None:
    [process] = broken.processes()
    os.kill(process, signal.SIGKILL)
    eventually(broken.tool._server._held.gone)  # type: ignore[attr-defined]
    assert broken.run("say").startswith("hello")
    assert broken.done() == ["start", "start", "say"]


def test_a_server_that_hangs_is_a_time_out_and_replaced(
    broken: Broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_server, "LOOK_S", 0.2)
    assert broken.refusal("hang").failure == "tool_timeout"
    assert broken.run("say").startswith("hello")
    assert len(broken.processes()) == 2


def test_a_call_that_is_only_slow_costs_nobody_the_server(broken: Broken) -> None:
    assert broken.refusal("slow").failure == "tool_timeout"
    assert broken.run("say").startswith("hello")
    assert len(broken.processes()) == 1


def test_a_server_ends_with_its_tool(broken: Broken) -> None:
    [process] = broken.processes()
    broken.tool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_started_server_gets_the_environment_that_it_is_named_and_no_secrets(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEWAY_SECRET", "open-sesame")
    monkeypatch.setenv("WANTED", "yes")
    broken = Broken(make, tmp_path, env=["WANTED", "NOT_SET"], folder=tmp_path)
    [process] = broken.processes()
    given = Path(f"/proc/{process}/environ")
    if not given.exists():
        pytest.skip("no /proc here")
    names = {one.partition(b"=")[0] for one in given.read_bytes().split(b"\0")}
    assert b"WANTED" in names
    assert not {b"LANEWAY_SECRET", b"NOT_SET"} & names
    assert Path(f"/proc/{process}/cwd").resolve() == tmp_path.resolve()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([sys.executable, str(BROKEN), "short", "DEEDS"], "Connection closed"),
        ([sys.executable, str(BROKEN), "dumb", "DEEDS"], "does not answer within"),
        (["/no/such/server"], "No such file"),
    ],
)
def test_a_server_that_does_not_come_up_is_a_tool_that_is_off(
    make: Make, command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp, "START_S", 1.0)
    with pytest.raises(ToolUnavailable, match=said):
        make(command=[one.replace("DEEDS", str(tmp_path / "deeds")) for one in command], functions=["say"])


def test_a_function_that_the_server_has_not_is_a_mistake_in_the_configuration(
    make: Make, tmp_path: Path
) -> None:
    command = [sys.executable, str(BROKEN), "well", str(tmp_path / "deeds")]
    with pytest.raises(ConfigError, match=r"no 'tell'[\s\S]*say"):
        make(command=command, functions=["tell"])


class Http:
    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ON_HTTP), str(self.port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == b"ready"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Http]:
    monkeypatch.setenv("MCP_TOKEN", "open sesame")
    server = Http()
    yield server
    server.kill()


def test_a_server_on_http_is_asked_with_its_token_and_found_again_after_its_death(
    make: Make, http: Http
) -> None:
    row = {"url": f"http://127.0.0.1:{http.port}/mcp", "functions": ["double"], "timeout_s": 5}
    with pytest.raises(ToolUnavailable):
        make(**row)
    tool = make(**row, token_env="MCP_TOKEN")
    assert tool.run("mine_double", {"number": 21}) == "42"
    http.kill()
    with pytest.raises(ToolError) as lost:
        tool.run("mine_double", {"number": 21})
    assert lost.value.failure == "tool_lost"
    with pytest.raises(ToolError, match="cannot be had"):
        tool.run("mine_double", {"number": 21})
    http.start()
    assert tool.run("mine_double", {"number": 4}) == "8"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ('functions = ["a"]', "either a command or a url"),
        ('command = ["x"]\nurl = "https://h/mcp"\nfunctions = ["a"]', "either a command or a url"),
        ('command = ["x"]', "functions"),
        ('command = ["x"]\nfunctions = []', "functions"),
        ('command = ["x"]\nfunctions = ["a"]\nread_only = ["b"]', "'b' is none of functions"),
        ('command = ["x"]\nfunctions = ["a"]\ntoken_env = "T"', "token_env with a url"),
        ('url = "https://h/mcp"\nfunctions = ["a"]\nenv = ["T"]', "go with a command"),
        ('url = "http://example.org/mcp"\nfunctions = ["a"]', "not encrypted"),
        ('url = "https://u:p@h/mcp"\nfunctions = ["a"]', "token_env"),
        ('command = ["x"]\nfunctions = ["a"]\nttl_s = 5', "read_only"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(row: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse(f'[tools.mine]\nkind = "mcp"\n{row}')
