"""The answers that ``docs/econ.md`` shows, made by its own commands.

`python -m tests.laneway.econ_page` writes the page anew after a change; a test runs the commands and compares.

The ledger behind the page has two days of one type: four of five tasks pass on the lane local, the others on frontier.
From the second day on a prompt is half as long again, and there are half as many tasks again.
"""

from __future__ import annotations

import io
import re
import shlex
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import redis

from accounting.files.ledger import US_PER_DAY, LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker import embedded
from broker.events import Escalated, Event, Fact, Finished, Routed, Submitted
from broker.settings import load
from laneway import cli
from laneway.cli.econ import prices
from tests.accounting.stories import NOON_US, attempted, entry, publish, story

PAGE = Path(__file__).parents[2] / "docs" / "econ.md"
DAY = "2026-03-01"  # whose prices the page shows
CHAIN = ("local", "frontier")
TYPE = "intent-classification"


def day_of(tasks: int, day: int, input_tokens: int) -> list[list[Event]]:
    """A day's tasks; a try on local costs by the second, on frontier by the token."""
    routed = Routed(TYPE, "extractive", "regex", "", 1.0, CHAIN, "local", "cheapest")
    stories = []
    for number in range(tasks):
        name = f"d{day}-{number}"
        hard = number % 5 == 0
        facts: list[Fact] = [
            Submitted("sync"),
            routed,
            attempted(
                f"{name}-1", verdict="fail" if hard else "pass", cost_nano=40_000, marginal_nano=8_000,
                input_tokens=input_tokens, output_tokens=12,
            ),
        ]  # fmt: skip
        if hard:
            dear = attempted(
                f"{name}-2", hop=1, lane="frontier", model="gpt-4o", verdict="pass", latency_ms=900.0,
                cost_nano=input_tokens * 2_500 + 20 * 10_000, input_tokens=input_tokens, output_tokens=20,
            )  # fmt: skip
            facts += [Escalated("local", "frontier", "gate"), dear]
        facts.append(Finished("succeeded", True, "frontier" if hard else "local"))
        stories.append(story(name, facts, at_us=NOON_US + day * US_PER_DAY))
    return stories


def write_ledger(client: redis.Redis, folder: Path) -> None:
    """The ledger, and a configuration that names it."""
    store = LocalStore(folder / "ledger")
    publish(client, map(entry, [*day_of(200, 0, 400), *day_of(300, 1, 600)]))
    ingest.drain_all(client, store, LocalStore(folder / "quarantine"))
    rollup.rollup_dirty(client, store)
    (folder / "laneway.toml").write_text(f'[fleet]\nledger = "{store.root}"\n', encoding="utf-8")


def answered(page: str, folder: Path) -> str:
    """The page with what its commands say now. Raises AssertionError for one that fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANEWAY_CONFIG", str(folder / "laneway.toml"))
        patch.setattr(prices, "today", lambda: DAY)
        load.cache_clear()
        filled = re.sub(r"(?s)```console\n(\$ [^\n]+\n).*?```", lambda block: _block(block[1]), page)
    load.cache_clear()
    return filled


def _block(prompt: str) -> str:
    words = shlex.split(prompt.removeprefix("$ "))
    out = io.StringIO()
    with redirect_stdout(out):
        code = cli.run(words[1:])
    assert (words[0], code) == ("laneway", 0), prompt
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return f"```console\n{prompt}" + "".join(f"{line}\n" for line in lines if line) + "```"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        server = embedded.start(folder)
        try:
            write_ledger(redis.Redis.from_url(server.url), folder)
            PAGE.write_text(answered(PAGE.read_text(encoding="utf-8"), folder), encoding="utf-8")
        finally:
            embedded.stop(server)


if __name__ == "__main__":
    main()
