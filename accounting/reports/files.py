"""The report as files for others: tables for spreadsheets, a page, a picture. Each is written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accounting.report import Report, to_dict
from accounting.reports import page, plots
from broker.errors import LedgerError

#: Spreadsheets take a cell that begins with one of these for a formula; the wide forms too.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - the wide forms are meant
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def write_tables(report: Report, folder: Path) -> list[Path]:
    """One file a table, with exact amounts. Raises LedgerError where they cannot be written."""
    return [_put(folder / f"{name}.csv", _csv(rows)) for name, rows in tables(report).items()]


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
    return {name: rows for name, rows in _tables(to_dict(report), "report") if rows}


def _tables(value: Mapping[str, Any], name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    plain = {key: one for key, one in value.items() if not isinstance(one, Mapping | list)}
    if plain:
        yield name, [plain]
    for key, one in value.items():
        inner = key if name == "report" else f"{name}-{key}"
        if isinstance(one, list) and all(isinstance(row, Mapping) for row in one):
            yield inner, one
        elif isinstance(one, Mapping):
            yield from _tables(one, inner)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: safe(value) for name, value in row.items()} for row in rows)
    return out.getvalue().encode("utf-8-sig")  # without the mark, spreadsheets take it for another encoding


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
        raise LedgerError(
            f"cannot write {path}: {error.strerror or error}", mend="name a place where this user may write"
        ) from error
    return path
