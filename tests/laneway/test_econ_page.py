"""The page of the calculators tells the truth."""

import re
from pathlib import Path

import redis

from laneway.cli.econ import econ
from tests.laneway.econ_page import PAGE, answered, write_ledger


def test_every_command_of_the_page_answers_as_the_page_says(client: redis.Redis, tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    write_ledger(client, tmp_path)
    assert answered(page, tmp_path) == page, "python -m tests.laneway.econ_page writes it anew"


def test_the_page_shows_every_calculator() -> None:
    shown = re.findall(r"^\$ laneway econ (\S+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(shown) == set(econ.commands)
