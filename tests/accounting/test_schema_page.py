"""The page of the schema says what the code writes."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from accounting.files import otel, schema
from broker.purpose import PART_OF

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
SETS = {"tasks": schema.TASKS, "attempts": schema.ATTEMPTS, "daily": schema.DAILY, "events": schema.EVENTS}
TYPES = {
    "usd": schema.MONEY, "time": schema.TIME, "count": schema.COUNT, "real": schema.REAL, "flag": schema.FLAG,
    "text": schema.TEXT, "texts": schema.TEXTS, "bytes": pa.binary(), "int": pa.int32(),
}  # fmt: skip
OF_A_CALL = {"failure", *otel.HISTOGRAMS.values()}
#: What ``gen_ai.operation.name`` may be by the conventions' own list (v0.1.0), of what a router of tasks does.
WELL_KNOWN = {
    "chat", "create_agent", "embeddings", "execute_tool", "fetch_response", "generate_content", "invoke_agent",
    "invoke_workflow", "plan", "retrieval", "text_completion",
}  # fmt: skip


def convention(column: str) -> str:
    """What the page says of a column: its own names, and those that it is summed into."""
    own = [name for name, columns in otel.ATTRIBUTES.items() if columns == (column,)]
    own += [name for name, measured in otel.HISTOGRAMS.items() if measured == column]
    sums = [name for name, columns in otel.ATTRIBUTES.items() if column in columns and len(columns) > 1]
    return ", ".join(own + [f"part of {name}" for name in sums])


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
    for name, _, meaning, said in section(dataset):
        assert meaning, name
        assert said == (convention(name) if of_calls or name not in OF_A_CALL else ""), name


def test_all_that_was_read_is_input_in_opentelemetry_and_all_that_was_written_output() -> None:
    summed = [otel.ATTRIBUTES[f"gen_ai.usage.{way}_tokens"] for way in ("input", "output")]
    assert [name for names in summed for name in names] == list(schema.TOKENS)
    assert convention("attempt_id") == ""


def test_every_purpose_has_the_operation_of_the_code_and_one_that_the_conventions_know() -> None:
    rows = re.findall(r"(?m)^\| ([a-z, ]+) \| (\w*) ?\|$", PAGE.partition("gen_ai.operation.name |")[2])
    told = {purpose: operation for purposes, operation in rows for purpose in purposes.split(", ")}
    assert {purpose: one for purpose, one in told.items() if one} == otel.OPERATIONS
    assert set(told) == set(PART_OF)
    assert set(otel.OPERATIONS.values()) <= WELL_KNOWN


def test_the_page_names_every_purpose() -> None:
    [[_, _, said, _]] = [row for row in section("attempts") if row[0] == "purpose"]
    assert set(re.findall(r"\w+", said)) - {"or"} == set(PART_OF)


@pytest.mark.parametrize("dataset", SETS)
def test_the_version_is_the_one_that_files_say_of_themselves(dataset: str) -> None:
    said = SETS[dataset].metadata
    assert told(dataset).strip().startswith(f"Version {said[b'laneway.v'].decode()}. ")
    assert said[b"laneway.dataset"].decode() == dataset
