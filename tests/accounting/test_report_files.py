"""The report as files: spreadsheets, a page, a picture."""

from __future__ import annotations

import csv
import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import redis

from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.reports import figures, files, plots, report
from accounting.reports.report import Question, Report
from accounting.rollup import rollup
from broker.errors import LedgerError
from broker.events import Finished, Routed, Submitted
from broker.settings.prices import FlatCost
from tests.accounting.stories import CHAIN, DAY, attempted, entry, publish, story

EVIL = [
    '=HYPERLINK("https://evil.example")',
    "+1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "<script>alert(1)</script>",
    "$x^$",
]


@pytest.fixture
def made(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> Report:
    """Users with names that spreadsheets, browsers and formulas of matplotlib would take for more."""
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    stories = [
        story(
            f"t-{n}",
            [
                Submitted("sync", user=name),
                routed,
                attempted(f"t-{n}-1", cost_nano=10**7, verdict="pass"),
                Finished("succeeded", True, "local"),
            ],
        )
        for n, name in enumerate(EVIL)
    ]
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    return report.build(store, since=DAY, until=DAY, asked=Question(by=["user"], price_nano=0))


def test_no_cell_of_a_spreadsheet_is_a_formula_and_amounts_stay_numbers(made: Report, tmp_path: Path) -> None:
    written, _ = files.write_tables(made, tmp_path)
    assert {path.stem for path in written} >= {
        "report",
        "totals",
        "groups-user",
        "days",
        "lanes",
        "parts",
        "cells",
    }
    for path in written:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                for cell in row.values():
                    assert cell[:1] not in "=+@" or not cell
    with (tmp_path / "groups-user.csv").open(encoding="utf-8-sig", newline="") as file:
        found = {row["name"]: row for row in csv.DictReader(file)}
    assert set(found) == {f"'{name}" if name[0] in "=+@" else name for name in EVIL}
    assert {(row["cost_usd"], row["margin_usd"]) for row in found.values()} == {("0.01", "-0.01")}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_say_what_was_chosen_what_is_missing_and_when_the_limit_was_broken(
    made: Report, store: LocalStore, tmp_path: Path
) -> None:
    (store.root / "events" / "date=2026-01-02").mkdir()
    (store.root / "events" / "date=2026-01-03").mkdir()
    asked = Question(where={"user": EVIL[:2], "lane": ["local"]}, p95_nano=1)
    some = report.build(store, since=DAY, until="2026-01-03", asked=asked)
    files.write_tables(some, tmp_path)
    assert [(row["column"], row["value"]) for row in rows_of(tmp_path / "where.csv")] == [
        ("user", f"'{EVIL[0]}"), ("user", f"'{EVIL[1]}"), ("lane", "local"),
    ]  # fmt: skip
    [row] = rows_of(tmp_path / "report.csv")
    assert (row["unrolled"], row["unfired"]) == ("2026-01-02 2026-01-03", "")
    [row] = rows_of(tmp_path / "goal.csv")
    assert row["broken_on"] == DAY


def test_tables_of_an_earlier_report_go_and_nothing_else_does(
    made: Report, store: LocalStore, tmp_path: Path
) -> None:
    folder, foreign = tmp_path / "tables", "a,b\r\n1,2\r\n"
    folder.mkdir()
    (folder / "odd.csv").write_text(foreign, encoding="utf-8-sig")
    both = report.build(store, since="2026-01-02", until="2026-01-02", asked=Question(against=DAY))
    written, removed = files.write_tables(both, folder)
    assert (removed, folder / "change.csv" in written) == ([], True)
    assert (folder / "odd.csv").exists(), "no report was there before"
    (folder / "odd.csv").unlink()
    mine = {folder / name for name in ("mine.csv", "flat.csv")}
    for path in mine:
        path.write_text(foreign, encoding="utf-8")
    written, removed = files.write_tables(made, folder)
    assert {path.name for path in removed} >= {"change.csv", "change-before.csv", "change-groups-type.csv"}
    assert set(folder.iterdir()) == mine | set(written)
    assert files.write_tables(made, folder)[1] == []


def test_every_table_and_every_list_of_a_report_is_known(made: Report, store: LocalStore) -> None:
    nouns = [one for one in vars(figures).values() if is_dataclass(one)]
    texts = {one.name for noun in nouns for one in fields(noun) if one.type == "tuple[str, ...]"}
    assert texts == set(files._TEXTS)
    tables = {
        one.name
        for one in fields(Report)
        if one.name not in texts and not re.fullmatch(r"(str|int)( \| None)?", str(one.type))
    }
    assert tables <= {name.partition("-")[0] for name in files.TABLES}
    seat = FlatCost.model_validate({"name": "seat", "usd_per_month": "31"})
    asked = Question(by=list(report.BY), against=DAY, where={}, monthly=[seat], p95_nano=1)
    for one in (made, report.build(store, since="2026-01-02", until="2026-01-02", asked=asked)):
        assert files.tables(one).keys() <= set(files.TABLES)


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("-0.5", "-0.5"), ("-1+1", "'-1+1"), ("\t=1", "'\t=1"), ("＝1", "'＝1"), (" =1", "' =1"), ("a=1", "a=1"),  # noqa: RUF001
        (-3, -3), (None, None), (["=1", "b"], "'=1 b"),
    ],
)  # fmt: skip
def test_what_counts_as_a_formula(cell: object, written: object) -> None:
    assert files.safe(cell) == written


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_asks_for_nothing_runs_nothing_and_says_the_same(made: Report, tmp_path: Path) -> None:
    read = _Reader()
    read.feed(files.write_page(made, tmp_path / "deep" / "report.html").read_text(encoding="utf-8"))
    assert "script" not in read.tags
    assert "svg" in read.tags
    assert all(address.startswith("#") for address in read.addresses)
    for said in (
        *EVIL,
        "Cost per successful task",
        "Where the money went",
        "$0.0100",
        "Cost per successful task = all",
    ):
        assert said in read.text


def test_pictures_are_what_their_names_say_and_the_same_each_time(made: Report, tmp_path: Path) -> None:
    png, svg = (files.write_plot(made, tmp_path / f"r.{kind}").read_bytes() for kind in plots.KINDS)
    assert png.startswith(b"\x89PNG\r\n")
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert "Spend by user, USD" in words
    assert "$x^$" in words
    assert svg == files.write_plot(made, tmp_path / "again.svg").read_bytes()


def test_a_name_in_letters_that_no_font_has_is_drawn_without_a_warning(made: Report, tmp_path: Path) -> None:
    named = replace(made, groups={"user": (replace(made.groups["user"][0], name="研究 😀"),)})
    svg = [files.write_plot(named, tmp_path / f"r.{kind}").read_bytes() for kind in plots.KINDS][1]
    assert "研究 😀" in "".join(ElementTree.fromstring(svg).itertext())


def test_what_cannot_be_drawn_or_written_names_the_mend(
    made: Report, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LedgerError, match=r"'\.pdf'") as refused:
        files.write_plot(made, tmp_path / "r.pdf")
    assert "png" in (refused.value.mend or "")
    empty = report.build(store, since="2020-01-01", until="2020-01-02")
    with pytest.raises(LedgerError, match="nothing to draw"):
        files.write_plot(empty, tmp_path / "r.png")
    assert "No tasks" in files.write_page(empty, tmp_path / "r.html").read_text(encoding="utf-8")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match="cannot write"):
        files.write_tables(made, tmp_path / "file")
    monkeypatch.setattr(plots, "installed", lambda: False)
    with pytest.raises(LedgerError, match="matplotlib") as missing:
        files.write_plot(made, tmp_path / "r.png")
    assert missing.value.mend == "pip install 'laneway[plot]'"
    assert "Charts are left out" in files.write_page(made, tmp_path / "r.html").read_text(encoding="utf-8")
