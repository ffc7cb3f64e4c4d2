"""What an operator asks: lanes, queues, dead letters, files, figures, the doctor."""

import json
import os
import signal
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from accounting.files.ledger import ID, LocalStore
from accounting.intake import aside, home, ingest
from accounting.rollup import rollup
from laneway.cli import output


def test_lanes_tell_price_key_and_why_one_is_not_served(laneway: Any) -> None:
    laneway.store.keep([], ["local"])
    laneway.client.submit("hello", task_id="t")
    laneway.work()
    laneway.client.submit("hello", task_id="waits", mode="async")
    by_name = {row["lane"]: row for row in laneway.json("lanes")["lanes"]}
    local, frontier = by_name["local"], by_name["frontier"]
    assert (local["engine"], local["model"], local["key"], local["here"]) == (
        "echo",
        "small",
        "none needed",
        "ready",
    )
    assert (local["price"]["input_mtok_usd"], local["price"]["output_mtok_usd"]) == ("100.0", "400.0")
    assert local["seen_s_ago"] < 60
    assert local["available"] is True
    assert local["recent"] == {"ungated": 1}
    assert frontier["available"] is False
    assert frontier["key"] == "missing"
    assert "its key is not set" in frontier["reason"]
    words = laneway.process("lanes").stdout
    assert "frontier takes no tasks: no node serves it: its key is not set" in words
    assert "$100.00 in, $400.00 out a Mtok" in words


def test_lanes_count_the_latest_verdicts_in_the_stream_and_in_the_ledger(laneway: Any) -> None:
    laneway.client.submit("intent: a refund")
    laneway.work()
    laneway.run("rollup")
    laneway.client.submit("intent: be rude")
    laneway.work()
    laneway.store.client.xadd("laneway:events", {"b": b"nonsense"})
    laneway.store.client.xadd("laneway:events", {"c": b""})
    [local, _] = laneway.json("lanes")["lanes"]
    assert local["recent"] == {"fail": 1, "pass": 1}


def test_lanes_read_no_more_of_the_stream_than_they_count(laneway: Any) -> None:
    laneway.client.submit_many([{"prompt": "hello"} for _ in range(100)])
    laneway.work()
    client = laneway.store.client
    [(_, entry)] = client.xrevrange("laneway:events", count=1)  # a hundred calls and ends
    for _ in range(400):
        client.xadd("laneway:events", entry)
    before = client.info("stats")["total_net_output_bytes"]
    [local, _] = laneway.json("lanes")["lanes"]
    assert local["recent"] == {"ungated": 5000}
    read = client.info("stats")["total_net_output_bytes"] - before
    assert 50 * len(entry[b"b"]) < read < 100 * len(entry[b"b"])


def test_queues_tell_what_waits_and_what_is_in_hand(laneway: Any) -> None:
    for number in range(3):
        laneway.client.submit("hello", task_id=f"t{number}")
    laneway.store.fetch("dispatch", 1, idle=True)
    told = laneway.json("queues")
    states = {state["queue"]: state for state in told["queues"]}
    assert set(states) == {
        "dispatch", "lane-local-sync", "lane-local-async", "lane-frontier-sync", "lane-frontier-async",
    }  # fmt: skip
    assert (states["dispatch"]["depth"], states["dispatch"]["in_flight"]) == (2, 1)
    assert states["dispatch"]["oldest_s"] >= 0
    assert (told["open"], told["parked"], told["dead"]) == (3, 0, 0)
    assert "3 tasks are under way" in laneway.run("queues").stdout


def test_dead_letters_are_grouped_shown_replayed_and_dropped(laneway: Any) -> None:
    for name, cause in (("a", "out of memory"), ("b", "out of memory"), ("c", "segfault")):
        laneway.bury(name, cause)
    letters = laneway.json("dead", "list")["dead"]
    assert [(row["id"], row["cause"]) for row in letters] == [
        ("default/a", "out of memory"), ("default/b", "out of memory"), ("default/c", "segfault"),
    ]  # fmt: skip
    words = laneway.run("dead", "list").stdout
    assert words.count("out of memory") == 1
    shown = laneway.json("dead", "show", "a")
    assert (shown["cause"], shown["task"]["status"]) == ("out of memory", "failed")
    assert "poison a" in laneway.run("dead", "show", "default/a").stdout
    assert "say --yes" in laneway.run("dead", "replay", "--all", code=2).stderr
    assert laneway.json("dead", "replay", "a", "--yes") == {"done": ["default/a"], "failed": {}}
    assert laneway.client.record("a").status == "queued"
    assert laneway.json("dead", "drop", "--cause", "memory", "--yes")["done"] == ["default/b"]
    assert "no dead letter 'a'" in laneway.run("dead", "drop", "a", "--yes", code=1).stderr
    assert laneway.run("dead", "drop", "--all", "--yes").stdout == "drop: 1 done\n"
    assert laneway.run("dead", "list").stdout == "no dead letters\n"
    assert laneway.json("dead", "replay", "--all") == {"done": [], "failed": {}}


def test_a_report_shows_what_is_paid_by_the_month_beside_the_ledger(laneway: Any) -> None:
    laneway.configure(
        laneway.config.read_text() + '[[prices.monthly]]\nname = "seat"\nusd_per_month = "280"\n'
    )
    laneway.client.submit("hello")
    laneway.work()
    laneway.run("rollup")
    told = laneway.json("report")
    [seat], loaded = told["flat"], told["loaded"]
    assert (seat["name"], seat["days"]) == ("seat", 1)
    assert 9 < Decimal(seat["usd"]) <= 10  # of the 28 to 31 days of this month
    assert Decimal(loaded["cost_usd"]) == Decimal(told["totals"]["cost_usd"]) + Decimal(seat["usd"])
    assert "Spent with monthly prices" in laneway.run("report").stdout


def test_a_report_that_reads_many_calls_says_how_far_it_is(
    laneway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PROGRESS_S", 0.0)
    laneway.client.submit("hello")
    laneway.work()
    day = laneway.json("rollup")["days"][0]["date"]
    told = laneway.run("report", "--json")
    assert told.stderr == f"{day}: the calls of 1 of 1 days are read\n"
    assert json.loads(told.stdout)["totals"]["tasks"] == 1
    assert laneway.run("report", "--no-calls").stderr == ""


def test_an_amount_below_nothing_has_its_sign_first() -> None:
    assert [output.price(amount) for amount in ("-38.83", "0.5", None)] == ["-$38.83", "$0.50", "unpriced"]


def test_rollup_drains_the_stream_and_report_adds_up(laneway: Any) -> None:
    laneway.configure(
        '[fleet]\ncpu_usd_per_hour = "0"\n' + laneway.config.read_text()
    )  # routing has no row then
    for number in range(5):
        laneway.client.submit(f"hello {number}", task_id=f"t{number}", workspace="acme")
    laneway.work()
    assert "no nightly files" in laneway.run("report", code=1).stderr
    told = laneway.json("rollup")
    [day] = told["days"]
    assert (day["tasks"], day["attempts"]) == (5, 5)
    assert told["ingested"]["events"] > 0
    for path in day["written"]:
        assert pq.read_table(f"{told['ledger']}/{path}", partitioning=None).num_rows > 0
    spent = sum(laneway.client.record(f"t{number}").cost_nano for number in range(5))
    made = laneway.json("report", "--by", "type,workspace")
    assert made["totals"]["tasks"] == 5
    assert Decimal(made["totals"]["cost_usd"]) == Decimal(spent).scaleb(-9) == Decimal(day["cost_usd"])
    assert set(made["groups"]) == {"type", "workspace"}
    assert laneway.json("report", "--date", day["date"])["totals"] == made["totals"]
    assert laneway.json("report", "--since", "2020-01-01")["totals"] == made["totals"]
    assert "acme" in laneway.process("report").stdout
    _ask_for_more(laneway, day["date"], made["totals"]["cost_usd"])
    assert laneway.run("rollup").stdout.endswith("nothing new to roll\n")
    assert "unchanged" in laneway.run("rollup", "--date", day["date"]).stdout
    assert "no events of that day" in laneway.run("rollup", "--date", "2020-01-01").stdout
    alone = laneway.run("rollup", "--since", day["date"], "--json", LANEWAY_REDIS_URL="redis://127.0.0.1:1/0")
    assert json.loads(alone.stdout)["days"][0]["tasks"] == 5
    assert "rolled as it is" in alone.stderr


def test_what_no_gate_judged_has_no_price_of_judging(laneway: Any) -> None:
    laneway.configure('[fleet]\ncpu_usd_per_hour = "999999999"\n' + laneway.config.read_text())
    laneway.client.submit("hello", task_id="free")
    laneway.client.submit("intent: a refund", task_id="judged")
    laneway.work()
    [last], [judged] = (laneway.client.record(name).progress.attempts for name in ("free", "judged"))
    assert last.gate_cost_nano == 0
    assert judged.gate_cost_nano > 0


def _ask_for_more(laneway: Any, day: str, cost_usd: str) -> None:
    """What else a report can be asked for, of the five tasks of the workspace acme."""
    until = laneway.json("report", "--since", "2020-01-01", "--until", day, "--only", "workspace=acme")
    assert (until["totals"]["tasks"], until["where"]) == (5, {"workspace": ["acme"]})
    assert laneway.json("report", "--only", "workspace=other")["totals"]["tasks"] == 0
    assert laneway.json("report", "--no-calls")["lanes"] == []
    assert f"meet {day} to {day}" in laneway.run("report", "--against", day, code=2).stderr
    assert "to compare with" in laneway.run("report", "--against", "2020-01-01", code=1).stderr
    assert "No tasks" in laneway.run("report", "--date", "2020-01-01").stdout
    backwards = laneway.run("report", "--since", "2020-01-02", "--until", "2020-01-01", code=2)
    assert "is before --since" in backwards.stderr
    assert "more than any price" in laneway.run("report", "--price", "1e400", code=2).stderr
    sold = laneway.json("report", "--price", "1.00", "--currency", "usd")
    assert sold["price_usd"] == "1.0"
    files = laneway.run("report", "--html", "r.html", "--plot", "r.svg", "--csv", "tables")
    assert "What tasks cost" in files.stdout
    assert files.stderr.count("written: ") > 10
    assert cost_usd in (laneway.folder / "tables" / "totals.csv").read_text(encoding="utf-8-sig")
    assert "<svg" in (laneway.folder / "r.html").read_text(encoding="utf-8")
    assert "no rates for 'EUR'" in laneway.run("report", "--currency", "EUR", code=1).stderr
    assert "no picture of kind" in laneway.run("report", "--plot", "r.pdf", code=1).stderr
    assert "COLUMN=VALUE" in laneway.run("report", "--only", "acme", code=2).stderr
    assert "not an amount" in laneway.run("report", "--price", "dear", code=2).stderr
    assert "not both" in laneway.run("report", "--date", day, "--until", day, code=2).stderr
    assert "No tasks" in laneway.run("report", "--until", "2020-01-01").stdout


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import redis
from accounting.intake import ingest
from accounting.rollup import rollup
from accounting.files.ledger import ID, LocalStore

class Dying(LocalStore):
    def put(self, path, data, *, over=None):
        os.kill(os.getpid(), signal.SIGKILL)

url, root = sys.argv[1:]
client = redis.Redis.from_url(url)
ingest.drain(client, Dying(Path(root) / "ledger"), LocalStore(Path(root) / "quarantine"))
"""


def test_a_rollup_waits_until_the_lock_of_a_killed_writer_runs_out(laneway: Any) -> None:
    laneway.client.submit("hello")
    laneway.work()
    killed = subprocess.run([sys.executable, "-c", KILLED_WRITER, laneway.url, laneway.folder], check=False)
    assert killed.returncode == -signal.SIGKILL
    laneway.store.client.pexpire(ingest.LOCK, 4000)
    said = laneway.run("rollup", "--json")
    told = json.loads(said.stdout)
    assert "another writer holds the ledger: waiting for up to " in said.stderr
    assert [day["tasks"] for day in told["days"]] == [1]
    assert (told["ingested"]["parts"], told["ingested"]["busy"]) == (1, False)


def test_a_rollup_that_does_not_get_its_turn_fails_and_says_when_to_try_again(laneway: Any) -> None:
    laneway.client.submit("hello")
    laneway.work()
    laneway.store.client.set(ingest.LOCK, "a writer that goes on and on", px=1500)
    renewal = threading.Timer(1.2, laneway.store.client.pexpire, (ingest.LOCK, ingest.LOCK_MS))
    renewal.start()
    said = laneway.run("rollup", code=1)
    renewal.join()
    assert said.stdout == ""
    assert "error: another writer holds the ledger\nmend: try again in " in said.stderr
    assert 20 < int(said.stderr.split("try again in ")[1].split(" s")[0]) <= 30


def test_the_doctor_finds_a_sound_node_sound(laneway: Any) -> None:
    told = laneway.json("doctor")
    assert told["ok"] is True
    by_name = {row["name"]: row for row in told["checks"]}
    assert {"python", "packages", "config", "redis", "gates", "lane local", "ledger", "var"} <= set(by_name)
    assert by_name["lane frontier"]["status"] == "warn"
    assert "LANEWAY_TEST_KEY_THAT_IS_NOT_SET" in by_name["lane frontier"]["what"]


def test_the_doctor_names_models_without_a_price_at_each_endpoint_and_discounts_on_nothing(
    laneway: Any,
) -> None:
    laneway.configure(
        laneway.config.read_text()
        + """
[[prices.discounts]]
provider = "OpenAI"
factor = "0.9"
[[prices.discounts]]
provider = "openai"
model = "gpt-4o-2024-08-06"
factor = "0.9"
[lanes.two]
engine = "openai"
api_key_env = "LANEWAY_TEST_KEY_THAT_IS_NOT_SET"
endpoints = [{ model = "gpt-4o" }, { model = "gpt-nobody" }, { model = "m", price = "book:openai/nope" }]
"""
    )
    warned = [
        (row["name"], row["what"]) for row in laneway.json("doctor")["checks"] if row["status"] == "warn"
    ]
    assert (
        "lane two",
        "no price of book:openai/nope, gpt-nobody is known: such calls are booked as unpriced",
    ) in warned
    assert [what for name, what in warned if name == "discounts"] == [
        "the price book has no OpenAI/…: nothing is taken off"
    ]


def test_the_doctor_fails_where_facts_went_into_another_ledger_and_warns_where_none_went_into_its_own(
    laneway: Any,
) -> None:
    def facts(code: int) -> Any:
        done = laneway.run("doctor", "--json", code=code)
        [check] = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "facts"]
        assert "went into another ledger" in check["what"]
        return check

    home.enter(laneway.store.client, LocalStore(laneway.folder / "elsewhere"))
    assert facts(code=0)["mend"].startswith("none where this node does not keep the ledger")
    LocalStore(Path(laneway.settings.fleet.ledger)).put(ID, b"mine")
    check = facts(code=1)
    assert "set fleet.ledger to the same" in check["mend"]


def test_the_doctor_tells_of_facts_that_were_set_aside(laneway: Any) -> None:
    aside.place(laneway.settings).put("7-1.msgpack", b"nonsense")
    [check] = [one for one in laneway.json("doctor")["checks"] if one["name"] == "quarantine"]
    assert check["status"] == "warn"
    assert "has 1 of facts that could not be read" in check["what"]


def test_the_doctor_tells_of_a_quarantine_that_it_may_not_look_at_and_of_all_else(laneway: Any) -> None:
    folder = aside.place(laneway.settings).root
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(folder)
    checks = laneway.json("doctor")["checks"]
    assert [(one["name"], one["status"]) for one in checks if "cannot list" in one["what"]] == [
        ("quarantine", "warn")
    ]


def test_the_doctor_has_each_engine_of_this_machine_make_a_token(laneway: Any) -> None:
    checks = laneway.json("doctor", "--probe")["checks"]
    assert [one["status"] for one in checks if "its engine works" in one["what"]] == ["ok"]
    assert [one["what"] for one in checks if one["name"] == "clock"] == ["as Redis's"]


def test_the_doctor_names_a_key_and_never_shows_it(laneway: Any) -> None:
    said = laneway.process("doctor", LANEWAY_TEST_KEY_THAT_IS_NOT_SET="sk-very-secret")
    assert "key in LANEWAY_TEST_KEY_THAT_IS_NOT_SET" in said.stdout
    assert "sk-very-secret" not in said.stdout + said.stderr
    listed = laneway.run("lanes", "--json", LANEWAY_TEST_KEY_THAT_IS_NOT_SET="sk-very-secret")
    assert "sk-very-secret" not in listed.stdout + listed.stderr


def test_the_doctor_fails_for_a_wrong_configuration_and_names_every_problem(laneway: Any) -> None:
    laneway.config.write_text(
        '[lanes.local]\nengine = "echo"\ncolour = 1\n[types.general]\nchain = ["lokal"]\ncost = 1\n'
    )
    told = laneway.json("doctor", code=1)
    failed = [row["what"] for row in told["checks"] if row["status"] == "fail"]
    assert any("lanes.local.colour" in what for what in failed)
    assert any("types.general.cost" in what for what in failed)
    assert all(row["mend"] for row in told["checks"] if row["status"] == "fail")


def test_the_doctor_fails_for_a_redis_that_does_not_answer_and_a_gate_that_cannot_be_imported(
    laneway: Any,
) -> None:
    laneway.config.write_text(
        laneway.config.read_text() + '[types.odd]\nchain = ["local"]\ngate = "python:no.such:gate"\n'
    )
    told = laneway.json("doctor", code=1, LANEWAY_REDIS_URL="redis://127.0.0.1:1/0")
    status = {row["name"]: row["status"] for row in told["checks"]}
    assert (status["redis"], status["gates"], status["lane local"]) == ("fail", "fail", "ok")
    words = laneway.run("doctor", code=1, LANEWAY_REDIS_URL="redis://127.0.0.1:1/0").stdout
    assert any(line.startswith("fail  gates") and "mend: " in line for line in words.splitlines())


def test_a_gate_that_cannot_be_used_stops_the_start_and_one_of_this_folder_can(laneway: Any) -> None:
    config = laneway.config.read_text() + '[types.odd]\nchain = ["local"]\ngate = "python:GATE"\n'
    laneway.config.write_text(config.replace("GATE", "os:nothere"))
    said = laneway.run("up", code=1).stderr
    assert "types.odd.gate: python:os:nothere: 'os' has no function 'nothere'" in said
    (laneway.folder / "our_gates.py").write_text("def short(answer, task):\n    return True\n")
    laneway.config.write_text(config.replace("GATE", "our_gates:short"))
    told = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "laneway",
            "doctor",
            "--json",
        ],  # as the console script, without this folder
        cwd=laneway.folder,
        env=os.environ | laneway.own(PYTHONPATH=os.getcwd()),
        capture_output=True,
        check=False,
    )
    assert {row["name"]: row["status"] for row in json.loads(told.stdout)["checks"]}["gates"] == "ok"


def test_the_doctor_tries_each_tool_and_says_why_one_is_off(laneway: Any) -> None:
    laneway.config.write_text(
        laneway.config.read_text()
        + '[tools.sums]\nkind = "calculator"\n[tools.shop]\nkind = "sql"\ndatabase = "no-such-folder"\n'
        '[tools.clock]\nkind = "mcp"\ncommand = ["/no/such/server"]\nfunctions = ["tell"]\n'
        '[tools.parts]\nkind = "subtask"\n'
    )
    checks = {row["name"]: row for row in laneway.json("doctor", code=1)["checks"]}
    assert checks["tool sums"]["status"] == "ok"
    assert (checks["tool shop"]["status"], checks["tool clock"]["status"]) == ("fail", "warn")
    assert "off on this node" in checks["tool clock"]["what"]
    assert "no-such-folder is not there" in checks["tool shop"]["what"]
    assert all(checks[name]["mend"] for name in ("tool shop", "tool clock"))


def test_every_reading_command_prints_one_json_document_and_nothing_else(laneway: Any) -> None:
    laneway.client.submit("hello", task_id="t")
    laneway.work()
    laneway.run("rollup")
    for words in (
        ["result", "t"], ["show", "t"], ["explain", "a"], ["lanes"], ["queues"], ["dead", "list"],
        ["review", "list"], ["report"], ["doctor"], ["rollup"],
    ):  # fmt: skip
        said = laneway.run(*words, "--json")
        json.loads(said.stdout)
        assert said.stdout.count("\n") == 1, words
        assert said.stderr == "", words


def test_a_part_that_is_damaged_ends_a_shared_rollup_with_its_mend(
    laneway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        laneway.client.submit(f"hello {number}")
    laneway.work()
    laneway.run("rollup")
    [part] = laneway.folder.glob("var/ledger/events/*/*.parquet")
    data = part.read_bytes()
    part.write_bytes(data[:4] + bytes(200) + data[204:])
    laneway.store.client.hset(ingest.DIRTY, part.parent.name.removeprefix("date="), "1-1")
    monkeypatch.setattr(rollup, "SLICE_ROWS", 10)
    said = laneway.run("rollup", code=1)
    assert f"{part.name} is damaged" in said.stderr
    assert "mend: put the file back from a copy, then roll the day again" in said.stderr
    assert laneway.store.client.hlen(ingest.DIRTY) == 1
    assert not laneway.store.client.keys("laneway:rollup*")
