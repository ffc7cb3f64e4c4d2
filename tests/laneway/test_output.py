"""Tables for a person, on a terminal that is too narrow for them."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from laneway.cli import output

HEADS = ("task type", "lane", "tries", "success share", "attempts per success", "per try", "per success", "tokens",
         "seconds", "why")  # fmt: skip
RIGHT = HEADS[2:-1]
ROW = ("email, triage", "frontier", "1,172", "49.2%", "2.031", "$0.000144", "-$0.000304", "6,138.25", "0.654",
       "its calls read far more")  # fmt: skip
FIGURES = ROW[2:-1]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_number_is_never_broken_and_each_part_of_a_table_names_its_rows(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Console(file=io.StringIO(), width=width)
    monkeypatch.setattr(output, "console", lambda: page)
    output.table(HEADS, [ROW, ROW], right=RIGHT)
    assert isinstance(page.file, io.StringIO)
    lines = page.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    for figure in FIGURES:
        found = [line for line in lines if figure in line.split()]
        assert len(found) == 2
        assert all(line.split()[0].startswith("email") for line in found)


def test_words_in_a_column_of_numbers_are_wrapped_as_words_are(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr(output, "console", lambda: page)
    models = "gpt-4o, claude-3-5-haiku-20241022, deepseek-v3"
    output.table(("given", "is", "from"), [("--price", models, "given")], right=("is",))
    assert isinstance(page.file, io.StringIO)
    assert "deepseek-v3" in page.file.getvalue()
    assert max(map(len, page.file.getvalue().splitlines())) <= 40
