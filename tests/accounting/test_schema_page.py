"""The page of the schema says what the code writes."""

from __future__ import annotations

import re
from pathlib import Path

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


def told(dataset: str) -> str:
    """What the page says of the data set."""
    text = re.search(rf"(?ms)^## {dataset}$(.*?)(?=^## |\Z)", PAGE)
    assert text is not None
    return text[1]


def section(dataset: str) -> list[list[str]]:
    """The cells of the data set's table."""
    lines = [line for line in told(dataset).splitlines() if line.startswith("| ")]
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


@pytest.mark.parametrize("dataset", SETS)
def test_the_version_is_the_one_that_files_say_of_themselves(dataset: str) -> None:
    said = SETS[dataset].metadata
    assert told(dataset).strip().startswith(f"Version {said[b'laneway.v'].decode()}. ")
    assert said[b"laneway.dataset"].decode() == dataset
