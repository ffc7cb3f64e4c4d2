"""The page of the schema says what the code writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from accounting import otel, schema

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
SETS = {"tasks": schema.TASKS, "attempts": schema.ATTEMPTS, "daily": schema.DAILY, "events": schema.EVENTS}
TYPES = {
    "usd": schema.MONEY, "time": schema.TIME, "count": schema.COUNT, "real": schema.REAL, "flag": schema.FLAG,
    "text": schema.TEXT, "texts": schema.TEXTS, "bytes": pa.binary(), "int": pa.int32(),
}  # fmt: skip
CONVENTION = {**otel.ATTRIBUTES, **otel.HISTOGRAMS, "purpose": "gen_ai.operation.name"}
OF_A_CALL = {"failure", *otel.HISTOGRAMS}


def section(dataset: str) -> list[list[str]]:
    """The cells of the data set's table."""
    text = re.search(rf"(?ms)^## {dataset}$(.*?)(?=^## |\Z)", PAGE)
    assert text is not None
    lines = [line for line in text[1].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("dataset", SETS)
def test_columns_types_and_their_order_are_those_of_the_code(dataset: str) -> None:
    written = [(field.name, field.type) for field in SETS[dataset]]
    assert [(name, TYPES[kind]) for name, kind, *_ in section(dataset)] == written


@pytest.mark.parametrize("dataset", SETS)
def test_every_column_has_a_meaning_and_its_name_in_opentelemetry(dataset: str) -> None:
    of_calls = dataset in ("attempts", "events")
    for name, _, meaning, convention in section(dataset):
        assert meaning, name
        wanted = CONVENTION.get(name, "") if of_calls or name not in OF_A_CALL else ""
        assert convention == wanted, name


def test_the_version_is_the_one_that_files_say_of_themselves() -> None:
    versions: set[Any] = {one.metadata[b"laneway.v"].decode() for one in SETS.values()}
    assert versions == {re.search(r"Version (\d+)", PAGE)[1]}  # type: ignore[index]
    assert {one.metadata[b"laneway.dataset"].decode() for one in SETS.values()} == set(SETS)
