"""The README's own words, run: its examples work, its commands exist, its configuration is read."""

import plistlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from broker.settings import parse
from broker.tariff import price_of
from laneway.cli import laneway
from tests.e2e.conftest import LiveFleet

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NODES = sorted((ROOT / "docs" / "nodes").glob("*.md"))
PRICES = ROOT / "docs" / "prices.md"
PAGES = [ROOT / "README.md", *NODES]
ALL = [*PAGES, *sorted((ROOT / "docs").glob("*.md"))]


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


def test_the_prices_page_s_configuration_is_read() -> None:
    (example,) = re.findall(
        r"^```toml\n(.*?)^```$", PRICES.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    settings = parse(f'{example}\n[types.general]\nchain = ["frontier", "night"]\n')
    assert [price_of(name, lane, "2026-11-25") is None for name, lane in settings.lanes.items()] == [
        False,
        False,
    ]


def test_the_prices_page_s_commands_and_options_exist() -> None:
    words = [
        one.split()
        for one in re.findall(r"`laneway ((?:prices|reconcile) [^`]+)`", PRICES.read_text("utf-8"))
    ]
    assert {one[1] for one in words if one[0] == "prices"} == {"show", "reprice", "compare"}
    for one in words:
        command = one[:2] if one[0] == "prices" else one[:1]
        shown = subprocess.run(
            [sys.executable, "-m", "laneway", *command, "--help"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert [word for word in one if word.startswith("--") and word not in shown.stdout] == []


@pytest.mark.parametrize("page", NODES, ids=lambda page: page.stem)
def test_a_node_page_s_lanes_are_read(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for example in re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        lane = re.findall(r"^\[lanes\.([a-z-]+)\]", example, re.MULTILINE)
        assert parse(f'{example}\n[types.general]\nchain = ["{lane[0]}", "human"]\n').lanes[lane[0]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_file_of_ours_that_is_named_is_there(page: Path) -> None:
    for name in re.findall(r"\bdeploy/[\w./@-]+\w", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or name == "deploy/laneway.env", name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)\b", page.read_text(encoding="utf-8")))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_laneway_command_and_option_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lines = re.findall(r"(?:^|bin/|laneway )laneway ([a-z].*)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        words = shlex.split(line.split("#")[0].partition("`")[0])
        if words[0] == "dramatiq":
            continue
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


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_every_command_within_a_sentence_exists_with_its_options(page: Path) -> None:
    for text in re.findall(r"`laneway\s+([a-z][^`]*)`", page.read_text(encoding="utf-8")):
        words = shlex.split(text)
        found: click.Command = laneway
        while words and isinstance(found, click.Group):
            named = found.get_command(click.Context(found), words.pop(0))
            assert named is not None, text
            found = named
        known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_process_that_is_named_can_be_started(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"(?:dramatiq |laneway@)((?:workers|dispatcher|accounting)\.\w+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_what_launchd_starts_is_a_command_of_ours() -> None:
    unit = plistlib.loads((ROOT / "deploy" / "launchd" / "org.laneway.node.plist").read_bytes())
    program, *words = unit["ProgramArguments"]
    assert Path(program).name == "laneway"
    assert words[:2] == ["up", "--only"]
    assert words[2] in (ROOT / "Procfile").read_text()
