"""Tables on a narrow page: a figure is whole or not there, a name is wrapped, and no row loses its name."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from accounting.reports.present import draw
from accounting.reports.wording import Grid, parted

LANES = ("local_guided", "rented_llama_70b", "rented_qwen_32b", "midtier_gpt_4o_mini", "midtier_haiku", "frontier",
         "frontier_thinking", "human")  # fmt: skip
TYPES = ("intent-classification", "structured-json-extraction", "短い日本語の要約と翻訳")


def drawn(grid: Grid, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(grid, width))
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(cell_len, lines)) <= width
    return lines


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_of_many_lanes_each_figure_is_there_once_and_beside_the_name_of_its_row(width: int) -> None:
    amounts = [[f"${row + 1},{place:03}.25" for place in range(len(LANES))] for row in range(len(TYPES))]
    rows = [(name, *cells) for name, cells in zip(TYPES, amounts, strict=True)]
    lines = drawn(Grid("Cost of 1,000 tasks", ("type", *LANES), rows), width)
    text = "\n".join(lines)
    assert "…" not in text
    for name, cells in zip(TYPES, amounts, strict=True):
        for amount in cells:
            assert text.count(amount) == 1
        assert all(line.startswith(name[:6]) for line in lines if any(amount in line for amount in cells))


@pytest.mark.parametrize("width", [30, 60])
def test_two_models_whose_names_differ_at_their_ends_can_be_told_apart(width: int) -> None:
    names = [f"accounts/fireworks/models/llama-v3p1-{size}-instruct" for size in ("70b", "405b")]
    lines = drawn(Grid("", ("model", "USD"), [(name, "$1,234.56") for name in names]), width)
    written = "".join(line.replace("$1,234.56", "").strip() for line in lines)
    assert all(name in written for name in names)
    assert sum("$1,234.56" in line for line in lines) == 2


@pytest.mark.parametrize("width", [30, 40, 60])
def test_of_a_row_with_two_names_the_second_is_wrapped_too_and_takes_no_room_from_figures(width: int) -> None:
    names = ("intent-classification", "accounts/fireworks/models/llama-v3p1-70b")
    lines = drawn(
        Grid(
            "", ("type", "ended on", "judged", "per success"), [(*names, "12,345", "$12,345,678.25")], keys=2
        ),
        width,
    )
    assert sum("$12,345,678.25" in line for line in lines) == 1
    assert sum("12,345" in line.split() for line in lines) == 1


def test_a_column_that_is_left_out_has_a_name_and_the_rest_stays_one_table() -> None:
    grid = Grid("T", ("name", "one", "two"), [("a", "1" * 20, "2" * 20)], yields=("two",))
    assert [line.split() for line in drawn(grid, 30)] == [
        ["T", "(too", "narrow", "for:", "two)"],
        ["name", "one"],
        ["a", "1" * 20],
    ]


@pytest.mark.parametrize(
    ("widths", "width", "keys", "parts"),
    [
        ([5, 5, 5], 17, 1, [[0, 1, 2]]),
        ([5, 5, 5], 16, 1, [[0, 1], [0, 2]]),
        ([5, 5, 5, 5], 18, 2, [[0, 1, 2], [0, 1, 3]]),
        ([5, 90, 5], 10, 1, [[0, 1], [0, 2]]),
        ([5, 5], 100, 2, [[0, 1]]),
    ],
)
def test_columns_stand_in_as_few_tables_as_they_fit_into(
    widths: list[int], width: int, keys: int, parts: list[list[int]]
) -> None:
    assert parted(widths, 1, width, keys) == parts
