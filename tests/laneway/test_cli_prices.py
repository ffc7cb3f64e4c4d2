"""The price book, past calls reckoned again, and a provider's bill, on the command line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest


@pytest.fixture
def rolled(laneway: Any) -> Any:
    """A day of three calls of the lane `local`, at $100 and $400 a million tokens."""
    for number in range(3):
        laneway.client.submit(f"hello {number}", task_id=f"t{number}")
    laneway.work()
    laneway.run("rollup")
    return laneway


def test_a_models_rows_are_shown_by_its_bare_name(laneway: Any) -> None:
    told = laneway.json("prices", "show", "claude-sonnet-4-5")
    assert told["model"] == "anthropic/claude-sonnet-4-5"
    by_condition = {row["condition"]: row for row in told["rows"]}
    assert by_condition[""]["input_mtok"] == "3.0"
    assert by_condition[">200000"]["output_mtok"] == "22.5"
    assert by_condition["+batch"]["cache_write_1h_mtok"] == "3.0"
    assert "claude-sonnet-4-5" in laneway.run("prices", "show", "claude-sonnet-4-5").stdout
    assert "no 'gpt-0'" in laneway.run("prices", "show", "gpt-0", code=1).stderr


def test_a_day_reckoned_again_comes_to_the_same_amount(rolled: Any) -> None:
    spent = rolled.json("report")["totals"]["cost_usd"]
    told = rolled.json("prices", "reprice")
    [kind] = [one for one in told["kinds"] if one["lane"] == "local"]
    assert (kind["calls"], kind["kept"], told["totals"]["differ"], told["examples"]) == (3, 0, 0, [])
    assert Decimal(told["totals"]["booked_usd"]) == Decimal(told["totals"]["again_usd"]) == Decimal(spent)
    dearer = rolled.config.read_text().replace('"100"', '"200"').replace('"400"', '"800"')
    rolled.configure(dearer)
    assert rolled.json("prices", "reprice")["totals"] == told["totals"]  # the ref has the figures of then
    twice = rolled.json("prices", "reprice", "--at", "2030-01-01")
    [twofold] = [one for one in twice["kinds"] if one["lane"] == "local"]
    assert Decimal(twofold["again_usd"]) == 2 * Decimal(kind["booked_usd"])
    assert "lane:local@" in rolled.run("prices", "reprice", "--date", told["days"][0]).stdout
    assert "no nightly files" in rolled.run("prices", "reprice", "--date", "2020-01-01", code=1).stderr
    assert (
        "not both"
        in rolled.run("prices", "reprice", "--date", "2020-01-01", "--since", "2020-01-01", code=2).stderr
    )


def test_another_book_is_compared_and_a_file_that_is_none_refused(laneway: Any) -> None:
    row = {"litellm_provider": "openai", "input_cost_per_token": 2.6e-06, "output_cost_per_token": 1e-05}
    (laneway.folder / "theirs.json").write_text(json.dumps({"gpt-4o": row}))
    told = laneway.json("prices", "compare", "theirs.json")
    assert (told["both"], told["agree"]) == (1, 0)
    assert told["differences"] == [{"model": "openai/gpt-4o", "of": "input", "ours": "2.5", "theirs": "2.6"}]
    assert "openai/gpt-4o" in laneway.run("prices", "compare", "theirs.json").stdout
    (laneway.folder / "theirs.json").write_text("[]")
    assert "is no price book" in laneway.run("prices", "compare", "theirs.json", code=2).stderr


def test_a_bill_is_reconciled_to_the_nano_dollar(rolled: Any) -> None:
    [kind] = [one for one in rolled.json("prices", "reprice")["kinds"] if one["lane"] == "local"]
    day = rolled.json("prices", "reprice")["days"][0]
    bill = Decimal(kind["booked_usd"]) + Decimal("0.25")
    path = rolled.folder / "bill.csv"
    path.write_text(f"date,model,requests,cost_usd\n{day},{kind['model']},3,{bill}\n{day},,,0.01\n")
    told = rolled.json("reconcile", "--provider", "acme", "--lane", "local", "bill.csv")
    assert told["causes"] == {"price": "0.25", "beside tokens": "0.01"}
    assert (Decimal(told["difference_usd"]), told["since"], told["until"]) == (Decimal("0.26"), day, day)
    words = rolled.run("reconcile", "--provider", "acme", "--lane", "local", "bill.csv").stdout
    assert "price: $0.25" in words
    alone = rolled.json("reconcile", "--provider", "ACME", "bill.csv")
    assert alone["provider"] == "acme"
    assert set(alone["causes"]) == {"not in the ledger", "beside tokens"}
    assert (
        "no lane 'x'"
        in rolled.run("reconcile", "--provider", "acme", "--lane", "x", "bill.csv", code=2).stderr
    )
    (rolled.folder / "copy.csv").write_text((rolled.folder / "bill.csv").read_text())
    twice = rolled.run("reconcile", "--provider", "acme", "bill.csv", "copy.csv", code=2).stderr
    assert "copy.csv: says what bill.csv says, which would count twice" in " ".join(twice.split())
    path.write_bytes(b"\xff\xfe")
    odd = rolled.run("reconcile", "--provider", "openai", "bill.csv", code=2).stderr
    assert "bill.csv: is no text in UTF-8; save it as such" in " ".join(odd.split())
