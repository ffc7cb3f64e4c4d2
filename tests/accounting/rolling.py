"""A ledger with facts in it and their nightly files; what DuckDB finds there, and a report as it is read."""

from __future__ import annotations

import io
from typing import Any

import duckdb
import redis
from rich.console import Console

from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.reports import present, report
from accounting.rollup import rollup
from broker.events import Event
from tests.accounting.stories import entry, publish


def rolled(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, stories: list[list[Event]]
) -> LocalStore:
    """The store, with these facts in its nightly files."""
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    return store


def query(sql: str) -> list[Any]:
    return duckdb.connect().execute(sql).fetchall()


def page(made: report.Report, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    present.render(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
