"""The README's own words, run: its examples work, its commands exist, its configuration is read."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.settings import parse
from tests.e2e.conftest import LiveFleet

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


ECHO = """
[lanes.local]
engine = "echo"
price = "free"
echo = { replies = { "card has not arrived" = "card_arrival" } }
[types.general]
chain = ["local", "human"]
"""


def test_the_producer_s_example_runs_as_it_stands(live: Callable[[str], LiveFleet]) -> None:
    (example,) = blocks("python")
    fleet = live(ECHO)
    fleet.start("dispatcher.node")
    fleet.start("workers.lane_local")
    done = subprocess.run(
        [sys.executable, "-c", example],
        env=fleet.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["succeeded", "card_arrival", "local"]


def test_the_configuration_s_example_is_read() -> None:
    whole, lanes = blocks("toml")
    assert parse(whole).types["intent-classification"].chain == ("local", "midtier", "human")
    settings = parse(lanes)
    assert len(settings.lanes["rented"].doors()) == 2
    assert settings.lanes["midtier"].batches


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", README))
    assert named <= targets, named - targets


def test_every_laneway_command_and_option_exists() -> None:
    lines = re.findall(r"^(?:\.venv/bin/)?laneway (.+)$", README, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line.split("#")[0])
        shown = subprocess.run(
            [sys.executable, "-m", "laneway", words[0], "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert shown.returncode == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.stdout, f"{option} of {line!r}"


def test_every_process_that_is_named_can_be_started() -> None:
    for module in re.findall(r"dramatiq ([a-z_.]+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
