"""Which days a report is of, and what it says where there is nothing to tell of them."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from accounting.files.ledger import ATTEMPTS, DAILY, TASKS, US_PER_DAY, LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker.events import Fact, Finished, Routed, Submitted
from tests.accounting.stories import CHAIN, NOON_US, attempted, entry, publish, story

NIGHTLY = (TASKS, ATTEMPTS, DAILY)
MONTHLY = '[[prices.monthly]]\nname = "watcher"\nusd_per_month = "310"\n'


def rolled(laneway: Any, days: Sequence[int], unrolled: Sequence[int] = ()) -> None:
    """A task for a dollar on each of these days of January 2026; of some of them the nightly files are gone."""
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    for day in days:
        name = f"t{day}"
        facts: list[Fact] = [
            Submitted("sync", "support"),
            routed,
            attempted(name, cost_nano=10**9, verdict="pass"),
            Finished("succeeded", True, "local"),
        ]
        told = story(name, facts, at_us=NOON_US + (day - 1) * US_PER_DAY)
        publish(laneway.store.client, [entry(told)])
    store = LocalStore(Path(laneway.settings.fleet.ledger))
    ingest.drain_all(laneway.store.client, store, LocalStore(laneway.folder / "quarantine"))
    rollup.rollup_dirty(laneway.store.client, store)
    for day in unrolled:
        for name in NIGHTLY:
            shutil.rmtree(store.root / name / f"date=2026-01-{day:02}")


def span(told: Any) -> tuple[str, str]:
    return told["since"], told["until"]


def test_an_unrolled_day_at_the_end_of_the_range_is_told(laneway: Any) -> None:
    rolled(laneway, (1, 2, 3), unrolled=(3,))
    told = laneway.json("report", "--since", "2026-01-01", "--until", "2026-01-03")
    assert span(told) == ("2026-01-01", "2026-01-03")
    assert (told["unrolled"], told["totals"]["tasks"]) == (["2026-01-03"], 2)
    assert span(laneway.json("report", "--since", "2026-01-01")) == ("2026-01-01", "2026-01-02")
    assert span(laneway.json("report")) == ("2026-01-02", "2026-01-02")


def test_a_lane_on_which_a_type_is_below_its_floor_is_named(laneway: Any) -> None:
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    for number in range(30):
        passed = number < 26
        call = attempted(f"t{number}", verdict="pass" if passed else "fail")
        end = Finished("succeeded" if passed else "failed", passed, "local")
        publish(laneway.store.client, [entry(story(f"t{number}", [Submitted("sync"), routed, call, end]))])
    laneway.run("rollup")
    text = laneway.config.read_text()
    for floor, below in (("0.9", True), ("0.8", False)):
        laneway.configure(text.replace("[types.intent]", f'[types.intent]\nquality_floor = "{floor}"'))
        [one] = laneway.json("report")["choices"]
        assert (one["task_type"], one["lane"], one["below_floor"]) == ("intent", "local", below)
        assert ("below its floor" in laneway.run("report").stdout) == below


def test_a_range_of_which_nothing_was_rolled_names_what_mends_it(laneway: Any) -> None:
    rolled(laneway, (1, 3, 4), unrolled=(3, 4))
    for words, said in (
        (["--date", "2026-01-03"], "of 2026-01-03\nmend: laneway rollup --date 2026-01-03"),
        (["--until", "2026-01-03"], "of 2026-01-03\nmend: laneway rollup --date 2026-01-03"),
        (
            ["--since", "2026-01-02", "--until", "2026-01-05"],
            "from 2026-01-02 to 2026-01-05\nmend: laneway rollup --since 2026-01-03",
        ),
    ):
        assert f"no nightly files {said}" in laneway.run("report", *words, code=1).stderr
    laneway.process("rollup", "--since", "2026-01-03")
    assert laneway.json("report", "--since", "2026-01-02", "--until", "2026-01-05")["totals"]["tasks"] == 2


def test_a_day_that_cannot_be_rolled_stops_none_of_those_after_it(laneway: Any) -> None:
    rolled(laneway, (1, 2), unrolled=(1, 2))
    [part] = (Path(laneway.settings.fleet.ledger) / "events" / "date=2026-01-01").iterdir()
    part.write_bytes(b"no part")
    assert "date=2026-01-01" in laneway.run("rollup", "--since", "2026-01-01", code=1).stderr
    assert span(laneway.json("report")) == ("2026-01-02", "2026-01-02")


def test_a_range_is_that_which_was_asked_for_and_so_is_what_is_paid_by_the_month(laneway: Any) -> None:
    laneway.configure(laneway.config.read_text() + MONTHLY)
    rolled(laneway, (1, 10))
    told = laneway.json("report", "--since", "2026-01-01", "--until", "2026-01-31")
    [flat] = told["flat"]
    assert span(told) == ("2026-01-01", "2026-01-31")
    assert (flat["days"], flat["usd"], told["loaded"]["cost_usd"]) == (31, "310.0", "312.0")
    assert told["window"]["since"] == "2026-01-02"


@pytest.mark.parametrize(
    ("words", "days"),
    [
        (["--since", "2026-01-02", "--until", "2026-01-09"], ("2026-01-02", "2026-01-09")),
        (["--since", "2026-02-01", "--until", "2026-02-28"], ("2026-02-01", "2026-02-28")),
        (["--since", "2020-01-01", "--until", "2020-01-31"], ("2020-01-01", "2020-01-31")),
        (["--until", "2026-01-05"], ("2026-01-05", "2026-01-05")),
        (["--date", "2026-01-05"], ("2026-01-05", "2026-01-05")),
    ],
)
def test_days_without_tasks_are_a_report_without_tasks(
    words: list[str], days: tuple[str, str], laneway: Any
) -> None:
    rolled(laneway, (1, 10))
    told = laneway.json("report", *words)
    assert (span(told), told["totals"]["tasks"]) == (days, 0)
    assert "No tasks in these days" in laneway.run("report", *words).stdout


def test_days_that_have_not_come_are_in_no_report(laneway: Any) -> None:
    laneway.configure(laneway.config.read_text() + MONTHLY)
    rolled(laneway, (1,))
    before = datetime.now(tz=UTC).date()
    told = laneway.json("report", "--since", "2026-01-01", "--until", "2099-01-01")
    passed = (datetime.fromisoformat(told["until"]) - datetime(2026, 1, 1)) // timedelta(days=1) + 1
    assert before.isoformat() <= told["until"] <= datetime.now(tz=UTC).date().isoformat()
    assert sum(one["days"] for one in told["flat"]) == passed
    for words in (["--date", "2099-01-01"], ["--until", "2099-01-01"], ["--since", "2099-01-01"]):
        assert "2099-01-01 has not come yet" in laneway.run("report", *words, code=2).stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--date", "0001-01-01"], "0001-01-01 is not within the years 1900 to 2199"),
        (["--since", "0001-01-01"], "0001-01-01 is not within the years 1900 to 2199"),
        (["--since", "2026-01-01", "--against", "9999-12-30"], "9999-12-30 is not within the years"),
        (["--date", "31.01.2026"], "'31.01.2026' is no day; write it as 2026-01-31"),
        (["--date", "2026-02-30"], "'2026-02-30' is no day"),
    ],
)
def test_what_is_no_day_of_a_ledger_is_a_wrong_call(laneway: Any, words: list[str], said: str) -> None:
    rolled(laneway, (1,))
    assert said in " ".join(laneway.run("report", *words, code=2).stderr.split())
