"""Which processes run on a node: a table of cases."""

from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.settings import parse
from broker.settings.lanes import Lane
from laneway.fleet import lane_of, plan, read_procfile, without_password

CONFIG = parse("""
[lanes.local]
engine = "echo"
[lanes.local-guided]
engine = "echo"
[lanes.rented]
engine = "openai"
threads = 100
[lanes.odd]
engine = "echo"
[types.general]
chain = ["local"]
""")
COMMANDS = {
    "dispatcher": ["dramatiq", "dispatcher.node"],
    "local": ["dramatiq", "workers.lane_local", "--threads", "8"],
    "guided": ["dramatiq", "workers.lane_local_guided", "--threads", "8"],
    "rented": ["dramatiq", "workers.lane_rented", "--threads", "64"],
    "frontier": ["dramatiq", "workers.lane_frontier", "--threads", "64"],
}


def everything(name: str, lane: Lane) -> None:
    return None


def test_a_lane_is_known_by_the_module_that_its_process_runs() -> None:
    assert lane_of(["dramatiq", "workers.lane_local_guided", "--threads", "8"]) == "local-guided"
    assert lane_of(["dramatiq", "dispatcher.node"]) is None


def test_all_that_can_run_runs_and_the_rest_is_named_with_its_reason() -> None:
    def missing(name: str, lane: Lane) -> str | None:
        return "no key" if name == "rented" else None

    made = plan(CONFIG, COMMANDS, missing)

    assert list(made.commands) == ["dispatcher", "local", "guided"]
    assert made.lanes == {"local": "local", "local-guided": "guided"}
    assert made.unavailable == {"rented": "no key", "odd": "no line of the Procfile serves it"}
    assert made.notes == ("frontier is not started: the configuration has no lane 'frontier'",)


def test_fewer_threads_than_the_lane_wants_are_noted() -> None:
    notes = plan(CONFIG, COMMANDS, everything).notes

    assert "lane rented has threads = 100, but its line in the Procfile gives it 64" in notes


def test_only_these() -> None:
    made = plan(CONFIG, COMMANDS, everything, ["guided"])

    assert list(made.commands) == ["guided"]
    assert made.lanes == {"local-guided": "guided"}
    with pytest.raises(ConfigError, match="no process is named 'local-guided'"):
        plan(CONFIG, COMMANDS, everything, ["local-guided"])


def test_a_procfile_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    assert "dispatcher" in read_procfile()
    with pytest.raises(ConfigError, match="Other"):
        read_procfile(tmp_path / "Other")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///var/redis.sock", "unix:///var/redis.sock"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
