"""The report as files for others: tables for spreadsheets, a page, a picture. Each is written whole or not at all."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accounting.reports import page, plots
from accounting.reports.report import BY, Report, to_dict
from broker.errors import LedgerError

#: Spreadsheets take a cell that begins with one of these for a formula; the wide forms too.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - the wide forms are meant
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
#: Without the mark, spreadsheets take a file for another encoding.
_MARK = codecs.BOM_UTF8
REPORT = "report"
#: Lists of names or days: a cell of their row, and no table.
_TEXTS = ("unrolled", "unfired", "broken_on")
#: Every table that a report may have.
TABLES = (
    REPORT, "where", "totals", "window", "flat", "loaded", "goal", "parts", "categories", "loaded_categories",
    "statuses", "days", "periods-day", "periods-week", "periods-month", *(f"groups-{name}" for name in BY), "work",
    "lanes", "within", "dearest", "costly", "cells", "visits", "choices", "drivers", "speeds", "odd", "drifts", "bands",
    "change", "change-before", "change-now", *(f"change-groups-{name}" for name in BY), "open",
)  # fmt: skip


def write_tables(report: Report, folder: Path) -> tuple[list[Path], list[Path]]:
    """One file a table, with exact amounts; and those of an earlier report's tables, which this one has not got, are
    removed. Both are named. Raises LedgerError where it cannot be done."""
    made = tables(report)
    stale = _stale(folder, made)
    written = [_put(folder / f"{name}.csv", _csv(rows)) for name, rows in made.items()]
    for path in stale:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused("remove", path, error) from error
    return written, stale


def _stale(folder: Path, made: Mapping[str, Any]) -> list[Path]:
    """What an earlier report left there: files of the names and with the mark of this module's, beside its own."""
    if not _is_ours(folder / f"{REPORT}.csv"):
        return []
    paths = (folder / f"{name}.csv" for name in TABLES if name not in made)
    return [path for path in paths if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MARK)) == _MARK
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError as error:
        raise _refused("read", path, error) from error


def write_page(report: Report, path: Path) -> Path:
    """One HTML file that needs no other. Raises LedgerError where it cannot be written."""
    charts = plots.draw(report, "svg").decode() if plots.installed() and report.days else None
    return _put(path, page.html(report, charts).encode())


def write_plot(report: Report, path: Path) -> Path:
    """Raises LedgerError for a file of another kind, and where it cannot be drawn or written."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in plots.KINDS:
        raise LedgerError(f"{path}: no picture of kind {path.suffix!r}", mend="name it .png or .svg")
    return _put(path, plots.draw(report, kind))


def tables(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Every table of the report by its name, rows as ``to_dict`` has them; one figure alone stands in ``report``."""
    return {name: rows for name, rows in _tables(to_dict(report), REPORT) if rows}


def _tables(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    plain = {key: one for key, one in value.items() if key in _TEXTS or not isinstance(one, Mapping | list)}
    if plain:
        yield name, [plain]
    for key, one in value.items():
        inner = key if name == REPORT else f"{name}-{key}"
        if key == "where":
            pairs = ((column, said) for column, values in one.items() for said in values)
            yield inner, [{"column": column, "value": said} for column, said in pairs]
        elif key not in plain and isinstance(one, list):
            yield inner, one
        elif isinstance(one, Mapping):
            yield from _tables(one, inner)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: safe(value) for name, value in row.items()} for row in rows)
    return _MARK + out.getvalue().encode()


def safe(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: text that could be one begins with an apostrophe."""
    if isinstance(value, list):
        return safe(" ".join(map(str, value)))
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def _put(path: Path, data: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(data)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _refused("write", path, error) from error
    return path


def _refused(verb: str, path: Path, error: OSError) -> LedgerError:
    return LedgerError(
        f"cannot {verb} {path}: {error.strerror or error}", mend="name a place where this user may write"
    )
