"""Budgets from the command line, over a real Redis."""

from typing import Any

import pytest

from broker.events import Attempted
from broker.keys import later_key
from broker.money import nano
from broker.settings import parse
from broker.state import Intent
from dispatcher.budget import LIMIT_WAIT_S

SECOND = """
[lanes.second]
engine = "echo"
price = { input_mtok = "1", output_mtok = "1" }
echo = { reply = "fine" }

[types.picky]
chain = ["local", "second", "human"]
gate = { kind = "regex", pattern = "fine" }
"""
FILE = '\n[[budgets]]\nscope = "workspace:acme"\nperiod = "day"\nusd = "1"\n'


def limited(laneway: Any) -> None:
    """As a node does when it starts."""
    text = laneway.config.read_text() + FILE
    laneway.config.write_text(text)
    laneway.store.limits.declare(parse(text).budgets)


def test_the_list_shows_what_is_spent_and_left_and_who_said_so(laneway: Any) -> None:
    limited(laneway)
    laneway.client.submit("hello there", workspace="acme", task_id="t")
    laneway.work()
    spent = laneway.client.record("t").cost_nano
    (row,) = laneway.json("budget", "list")["budgets"]
    assert (row["scope"], row["period"], row["limit_usd"], row["configured_usd"]) == (
        "workspace:acme", "day", "1.0", "1.0",
    )  # fmt: skip
    assert nano(row["spent_usd"]) == spent
    assert nano(row["left_usd"]) == nano("1") - spent
    assert (row["reserved_usd"], row["overridden"], row["alerts"], row["killed"]) == ("0.0", False, [], False)
    assert "open" in laneway.run("budget", "list").stdout
    laneway.run("budget", "set", "workspace:acme", "--period", "day", "--usd", row["spent_usd"])
    laneway.client.submit("hello there", workspace="acme", task_id="u")
    laneway.work()
    assert laneway.client.result("u").status == "budget_exceeded"
    (row,) = laneway.json("budget", "list")["budgets"]
    assert (row["overridden"], row["configured_usd"], row["used_share"]) == (True, "1.0", 1.0)
    assert nano(row["left_usd"]) <= 0  # what classifying cost is booked, not asked for
    assert row["alerts"] == [50, 80, 100]
    assert "the file says $1.00" in laneway.run("budget", "list").stdout


def test_a_task_that_waits_for_a_limit_says_so_and_asks_again_within_minutes(laneway: Any) -> None:
    laneway.run("budget", "set", "user:mm", "--period", "month", "--usd", "0.25")
    laneway.client.submit("hello there", user="mm", task_id="other")
    (other,) = laneway.claim()
    lost = Attempted("a", 0, "local", "echo", "m", "task", 0, 0, 0.0, 0.0, nano("0.2"), settled=False)
    assert laneway.store.begin([Intent(other, nano("0.2"), lost, ("user:mm",))]) == ["go"]
    laneway.client.submit("hello there", user="mm", mode="async", task_id="t")
    laneway.work()
    now = laneway.json("show", "t")["now"]
    assert now["where"] == "waits in queue lane-local-async"
    assert "user:mm per month has $0.04999" in now["waits_for"]
    assert "until its limit is raised or the next month in UTC begins" in now["waits_for"]
    assert "put off     the call may cost" in laneway.run("show", "t").stdout
    wait_s = laneway.store.fetch("lane-local-async", 1, idle=True).wait_s
    assert 0 < wait_s <= LIMIT_WAIT_S
    laneway.run("budget", "set", "user:mm", "--period", "month", "--usd", "5")
    laneway.store.client.zadd(later_key("lane-local-async"), {"default/t": 0})  # they are over
    laneway.work()
    told = laneway.json("show", "t")
    assert (told["status"], told["now"]["waits_for"]) == ("succeeded", None)
    assert laneway.store.records.one("default/t").progress.waits_for == ""


def test_an_operators_limit_goes_over_the_files_and_back(laneway: Any) -> None:
    limited(laneway)
    set_to = laneway.json("budget", "set", "workspace:acme", "--period", "day", "--usd", "2.5")["budget"]
    assert (set_to["limit_usd"], set_to["overridden"]) == ("2.5", True)
    back = laneway.json("budget", "set", "workspace:acme", "--period", "day", "--usd", "-")["budget"]
    assert (back["limit_usd"], back["overridden"]) == ("1.0", False)
    assert (
        laneway.json("budget", "set", "user:u-1", "--period", "total", "--usd", "3")["budget"]["left_usd"]
        == "3.0"
    )
    said = laneway.run("budget", "set", "user:u-1", "--period", "total", "--usd", "-").stdout
    assert said == "user:u-1 per total has no limit\n"


def test_a_changed_limit_is_told_of_anew(laneway: Any) -> None:
    limited(laneway)
    laneway.client.submit("hello", workspace="acme", task_id="t")
    laneway.work()
    spent = laneway.client.record("t").cost_nano
    for parts in (19, 15):
        limit = f"{spent * parts / 10**10:.9f}"
        laneway.run("budget", "set", "workspace:acme", "--period", "day", "--usd", limit)
        laneway.client.submit("hello", workspace="acme")
        laneway.work()
        assert [row["alerts"] for row in laneway.json("budget", "list")["budgets"]] == [[50]]
    assert laneway.store.client.llen("laneway:alerts") == 2


def test_what_the_file_says_and_no_node_has_declared_is_said(laneway: Any) -> None:
    laneway.config.write_text(laneway.config.read_text() + FILE)
    said = laneway.run("budget", "list")
    assert said.stdout == "no limits\n"
    assert "workspace:acme per day: the file's $1.00 holds once a node has started with it" in said.stderr


def test_a_switch_stops_a_scope_at_once_and_back(laneway: Any) -> None:
    assert laneway.json("budget", "kill", "workspace:acme") == {"scope": "workspace:acme", "killed": True}
    laneway.client.submit("hello", workspace="acme", task_id="t")
    laneway.work()
    assert laneway.client.result("t").reason == "workspace:acme is switched off"
    assert laneway.json("budget", "list") == {"budgets": [], "killed": ["workspace:acme"]}
    assert "workspace:acme is switched off" in laneway.run("budget", "list").stdout
    laneway.run("budget", "unkill", "workspace:acme")
    laneway.client.submit("hello", workspace="acme", task_id="u")
    laneway.work()
    assert laneway.client.result("u").status == "succeeded"


def test_raising_a_tasks_limit_says_whether_it_goes_on(laneway: Any) -> None:
    laneway.client.submit("intent: be rude", task_id="t")
    queued = laneway.json("budget", "raise", "t", "--usd", "1")
    assert (queued["before"], queued["goes_on"]) == ("queued", False)
    assert "holds from its next call on" in laneway.run("budget", "raise", "t", "--usd", "1").stdout
    laneway.work()
    assert laneway.json("budget", "raise", "t", "--usd", "2")["before"] == "human"
    assert laneway.client.record("t").status == "parked"
    assert "but it waits for a person" in laneway.run("budget", "raise", "t", "--usd", "2").stdout
    laneway.run("review", "retry", "t", "--hard-usd", "0.0000001")
    laneway.work()
    parked = laneway.client.record("t")
    assert (parked.status, parked.progress.lane) == ("parked", "local")
    assert "so far; it could not go on" in laneway.run("budget", "raise", "t", "--usd", "0", code=1).stderr
    told = laneway.json("budget", "raise", "t", "--usd", "2")
    assert (told["before"], told["goes_on"]) == ("parked", True)
    assert "the task's own limit" in told["why_parked"]
    laneway.work()
    assert laneway.client.record("t").progress.lane == "human"
    laneway.run("review", "reject", "t")
    assert "has ended as failed" in laneway.run("budget", "raise", "t", "--usd", "9", code=1).stderr


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ({"llm_calls": 1}, ["--llm-calls", "2"]),
        ({"tokens": 5}, ["--tokens", "500"]),
        ({"wall_s": 0.0001}, ["--wall-s", "60", "--llm-calls", "30"]),
    ],
)
def test_a_task_that_is_parked_at_a_limit_of_calls_goes_on_where_it_was_when_it_is_raised(
    laneway: Any, limits: dict[str, Any], raised: list[str]
) -> None:
    laneway.configure(laneway.config.read_text() + SECOND)
    laneway.client.submit("be rude or so", type="picky", task_id="t", budget=limits)
    laneway.work()
    parked = laneway.client.record("t")
    assert (parked.status, parked.progress.lane) == ("parked", "second")
    assert parked.outcome is not None
    assert "is reached" in parked.outcome.reason
    assert laneway.json("budget", "raise", "t", *raised)["goes_on"]
    laneway.work()
    result = laneway.client.result("t")
    assert (result.status, result.lanes) == ("succeeded", ("local", "second"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget", "set", "acme", "--period", "day", "--usd", "1"], "as workspace:acme"),
        (["budget", "set", "lane:x", "--period", "day", "--usd", "1"], "no lane 'x'; there are local"),
        (["budget", "set", "fleet", "--period", "week", "--usd", "1"], "'week' is not one of"),
        (["budget", "set", "fleet", "--period", "day", "--usd", "x"], "'x' is not an amount of money"),
        (["budget", "set", "fleet", "--period", "day", "--usd=-1"], "below nothing"),
        (
            ["budget", "set", "fleet", "--period", "day", "--usd", "1e30"],
            "is not below 1,000,000,000 dollars",
        ),
        (["budget", "set", "fleet", "--period", "day", "--usd", "1e999999"], "more than any amount of money"),
        (["budget", "raise", "t", "--usd", "1e9"], "is not below 9,007,199 dollars"),
        (["budget", "kill", "team:x"], "unknown scope 'team:x'"),
        (["budget", "raise", "t", "--usd", "-"], "is an amount"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_told_with_the_right_one(laneway: Any, words: list[str], told: str) -> None:
    assert told in laneway.run(*words, code=2).stderr
