"""The human lane over a real Redis: what a person says of a parked task, what it costs, and what it leaves behind."""

import json
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from broker import keys
from broker.task import Progress, encode_progress
from tests.accounting.reference import fold
from tests.events import events_of
from workers.human import approved, carry_out, priced

PRICED = '\n[human]\nusd_per_minute = "0.80"\nusd_per_review = "2.50"\n'


def park(laneway: Any, task_id: str = "t", more: str = "", **task: Any) -> None:
    """A task whose lane answered and whose gate did not let it pass."""
    if more:
        laneway.configure(laneway.config.read_text() + more)
    laneway.client.submit("intent: be rude", task_id=task_id, **task)
    laneway.work()
    assert laneway.client.record(task_id).status == "parked"


def row_of(laneway: Any, task_id: str = "t") -> Any:
    return fold(event for event in events_of(laneway.store.client) if event.task_id == task_id)


def test_the_list_shows_how_long_each_has_waited_the_longest_or_the_most_urgent_first(laneway: Any) -> None:
    park(laneway, "first")
    park(laneway, "second", priority=9)
    rows = laneway.json("review", "list")["parked"]
    assert [row["task_id"] for row in rows] == ["first", "second"]
    assert rows[0]["waiting_s"] >= rows[1]["waiting_s"] >= 0
    urgent = laneway.json("review", "list", "--sort", "priority")["parked"]
    assert [row["task_id"] for row in urgent] == ["second", "first"]
    assert "waits" in laneway.run("review", "list").stdout


def test_a_persons_answer_is_judged_and_becomes_the_output_and_its_price_a_part_of_the_cost(
    laneway: Any,
) -> None:
    park(laneway, more=PRICED, user="u-1")
    before = laneway.client.record("t").cost_nano
    refused = laneway.run("review", "answer", "t", "--text", "whatever", code=1).stderr
    assert "does not pass its gate (choice): Answer with exactly one of these" in refused
    assert "--force" in refused
    assert laneway.client.record("t").status == "parked"
    done = laneway.json("review", "answer", "t", "--text", "refund", "--minutes", "1.5", "--by", "ann")
    assert (done["status"], done["verdict"], done["human_usd"]) == ("succeeded", "pass", "1.2")
    result = laneway.client.result("t")
    assert (result.status, result.output, result.lane, result.lanes) == (
        "succeeded", "refund", "human", ("local", "human"),
    )  # fmt: skip
    assert result.reason == "answered by ann"
    assert laneway.client.record("t").cost_nano == before + 1_200_000_000
    told = laneway.json("show", "t")
    assert told["cost"]["parts"]["human_usd"] == "1.2"
    task, attempts = row_of(laneway)
    assert (task.status, task.succeeded, task.final_lane, task.cost.human) == (
        "succeeded", True, "human", 1_200_000_000,
    )  # fmt: skip
    human = next(row for row in attempts if row.purpose == "human")
    assert (human.lane, human.engine, human.model, human.price_ref) == (
        "human",
        "human",
        "ann",
        "human:minute",
    )
    assert human.latency_ms == 90_000
    record = laneway.client.record("t")
    assert record.submitted_us < record.progress.attempts[-1].started_us < record.finished_us
    assert task.llm_calls == 1


def test_a_gate_can_be_overruled_by_a_person_and_the_verdict_stays(laneway: Any) -> None:
    park(laneway, more=PRICED)
    said = laneway.run("review", "answer", "t", "--text", "-", "--force", given="neither of them")
    assert "is overruled" in said.stderr
    assert laneway.client.result("t").output == "neither of them"
    task, attempts = row_of(laneway)
    assert task.succeeded is True
    assert [row.verdict for row in attempts if row.purpose == "human"] == ["fail"]
    assert task.cost.human == 2_500_000_000


def test_an_answer_comes_from_a_file(laneway: Any) -> None:
    park(laneway)
    (laneway.folder / "answer.txt").write_text("card\n")
    laneway.run("review", "answer", "t", "--file", "answer.txt")
    assert laneway.client.result("t").output == "card\n"
    assert "cannot be read" in laneway.run("review", "answer", "t", "--file", "nowhere", code=1).stderr


def test_without_a_price_a_persons_work_is_unpriced_and_said_so(laneway: Any) -> None:
    park(laneway)
    said = laneway.run("review", "approve", "t", "--minutes", "3")
    assert "unpriced" in said.stdout
    assert "booked as unpriced" in said.stderr
    assert "set one in [human]" in said.stderr
    task, _ = row_of(laneway)
    assert (task.unpriced_calls, task.cost.human) == (1, 0)


def test_approving_takes_the_last_models_answer(laneway: Any) -> None:
    park(laneway, more=PRICED)
    laneway.run("review", "approve", "t", "--by", "ann")
    result = laneway.client.result("t")
    assert (result.status, result.output, result.reason) == ("succeeded", "go away", "approved by ann")
    assert row_of(laneway)[0].succeeded is True


def test_what_has_no_answer_cannot_be_approved(laneway: Any) -> None:
    laneway.client.submit("hello", task_id="t", budget={"hard_usd": "0.000001"})
    laneway.work()
    assert "is budget_exceeded" in laneway.run("review", "approve", "t", code=1).stderr
    park(laneway, "unanswered")
    record = laneway.client.record("unanswered")
    laneway.store.client.hset(
        keys.task_key("default/unanswered"),
        "progress",
        encode_progress(Progress(task_type="intent", chain=record.progress.chain, lane="human")),
    )
    assert "no answer to approve" in laneway.run("review", "approve", "unanswered", code=1).stderr


def test_rejecting_ends_the_task_as_failed_with_its_reason(laneway: Any) -> None:
    park(laneway)
    laneway.run("review", "reject", "t", "--reason", "no such customer", "--by", "ann")
    result = laneway.client.result("t")
    assert (result.status, result.reason) == ("failed", "rejected by ann: no such customer")
    task, _ = row_of(laneway)
    assert (task.status, task.succeeded) == ("failed", False)


def test_a_corrected_task_goes_back_to_a_lane_of_its_chain_with_what_the_person_adds(laneway: Any) -> None:
    park(laneway, more=PRICED)
    assert (
        "is no lane of this task's chain" in laneway.run("review", "retry", "t", "--lane", "x", code=1).stderr
    )
    assert "no node serves it" in laneway.run("review", "retry", "t", "--lane", "frontier", code=1).stderr
    done = laneway.json(
        "review", "retry", "t", "--instruction", "The customer wants a refund.", "--by", "ann"
    )
    assert (done["status"], done["lane"]) == ("queued", "local")
    record = laneway.client.record("t")
    assert record.progress.instruction == "The customer wants a refund."
    laneway.work()
    told = laneway.json("show", "t")
    assert [one["purpose"] for one in told["attempts"]] == ["task", "human", "retry"]
    tokens = [one["input_tokens"] for one in told["attempts"] if one["lane"] == "local"]
    assert tokens[1] > tokens[0]
    assert told["status"] == "parked"
    assert sum(Decimal(part) for part in told["cost"]["parts"].values()) == Decimal(told["cost"]["total_usd"])


def test_peoples_work_does_not_use_up_the_limit_of_the_task_that_they_send_back(laneway: Any) -> None:
    park(laneway, more=PRICED, budget={"hard_usd": "0.50"})
    laneway.run("review", "retry", "t")
    laneway.work()
    told = laneway.json("show", "t")
    assert (told["decision"]["lane"], [one["purpose"] for one in told["attempts"]]) == (
        "human", ["task", "human", "retry"],
    )  # fmt: skip
    words = laneway.run("show", "t").stdout
    assert "moved       human → local: sent back to local" in words
    assert "to go on    laneway review answer, approve, reject or retry t" in words


def test_one_of_two_persons_at_the_same_task_comes_too_late(laneway: Any) -> None:
    park(laneway)
    laneway.run("review", "reject", "t")
    said = laneway.run("review", "answer", "t", "--text", "refund", code=1).stderr
    assert "does not wait for a person: it is failed" in said
    assert laneway.client.result("t").status == "failed"


def test_a_word_about_a_task_that_was_sent_back_and_parked_again_is_refused(laneway: Any) -> None:
    park(laneway)
    seen = laneway.client.record("t")
    work = priced(laneway.settings.human, by="bob", at_us=laneway.store.clock.now_us(), minutes=None)
    laneway.run("review", "retry", "t")
    laneway.work()
    assert laneway.client.record("t").status == "parked"
    assert carry_out(laneway.store, seen, approved(seen, work)) == "gone on"
    assert laneway.client.record("t").status == "parked"


def test_a_word_repeated_after_a_lost_reply_counts_once(laneway: Any) -> None:
    park(laneway, more=PRICED)
    record = laneway.client.record("t")
    work = priced(laneway.settings.human, by="bob", at_us=laneway.store.clock.now_us(), minutes=None)
    word = approved(record, work)
    assert carry_out(laneway.store, record, word) == "done"
    assert carry_out(laneway.store, record, word) == "done"
    assert laneway.client.record("t").cost_nano == record.cost_nano + 2_500_000_000


def test_waiting_for_a_person_does_not_count_against_the_deadline(laneway: Any) -> None:
    park(laneway, deadline_s=60)
    for moment in ("submitted", "enqueued"):  # as if an hour had passed since
        laneway.store.client.hincrby(keys.task_key("default/t"), moment, -3600 * 10**6)
    laneway.run("review", "retry", "t")
    laneway.work()
    told = laneway.json("show", "t")
    assert told["status"] == "parked"  # its gate did not let it pass again
    assert [one["purpose"] for one in told["attempts"]] == ["task", "human", "retry"]


def test_peoples_money_counts_in_every_scope_and_in_a_budget_of_its_own(laneway: Any) -> None:
    budgets = "".join(
        f'\n[[budgets]]\nscope = "{scope}"\nperiod = "day"\nusd = "{usd}"\n'
        for scope, usd in (("lane:human", "2"), ("workspace:acme", "100"))
    )
    park(laneway, more=PRICED + budgets, workspace="acme")
    laneway.store.limits.declare(laneway.settings.budgets)
    refused = laneway.run("review", "approve", "t", code=1).stderr
    assert "the work costs $2.50, lane:human per day has $2.00 left; nothing was done" in refused
    assert laneway.client.record("t").status == "parked"
    laneway.run("review", "approve", "t", "--over-budget")
    spent = {one.scope: one.spent_nano for one in laneway.store.limits.states()}
    assert spent["lane:human"] == 2_500_000_000
    assert spent["workspace:acme"] > 2_500_000_000


def test_people_can_be_switched_off_as_any_lane(laneway: Any) -> None:
    park(laneway)
    laneway.run("budget", "kill", "lane:human")
    assert "people's work is switched off" in laneway.run("review", "approve", "t", code=1).stderr
    laneway.run("budget", "unkill", "lane:human")
    laneway.run("review", "approve", "t")


def test_answered_and_approved_tasks_are_golden_cases_and_rejected_ones_are_not(laneway: Any) -> None:
    park(laneway, "answered")
    park(laneway, "approved")
    park(laneway, "rejected")
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "which intent: rude"}]
    laneway.client.submit(messages=messages, type="intent", task_id="talk")
    laneway.work()
    laneway.run("review", "answer", "answered", "--text", "refund")
    laneway.run("review", "approve", "approved")
    laneway.run("review", "reject", "rejected")
    laneway.run("review", "answer", "talk", "--text", "card")
    assert laneway.json("review", "export", "--out", "golden.jsonl") == {"out": "golden.jsonl", "cases": 3}
    cases = [json.loads(line) for line in (laneway.folder / "golden.jsonl").read_text().splitlines()]
    assert cases == [
        {"prompt": "intent: be rude", "type": "intent", "expected": "refund"},
        {"prompt": "intent: be rude", "type": "intent", "expected": "go away"},
        {"messages": messages, "type": "intent", "expected": "card"},
    ]
    assert laneway.run("review", "export", "--out", "-", "--type", "general").stdout == ""


def test_a_golden_case_whose_record_goes_meanwhile_is_left_out(laneway: Any) -> None:
    for name in ("kept", "gone", "forgotten"):
        park(laneway, name)
        laneway.run("review", "answer", name, "--text", "refund")
    laneway.store.client.hdel(keys.task_key("default/gone"), "task", "progress", "outcome")
    laneway.store.client.delete(keys.task_key("default/forgotten"))
    assert len(laneway.run("review", "export", "--out", "-").stdout.splitlines()) == 1


def test_what_is_listed_and_exported_passes_through_memory_page_by_page(
    laneway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laneway.cli.review.PAGE", 4)
    tasks = [{"prompt": f"intent: be rude {'x' * 200_000}", "task_id": f"t{n:02}"} for n in range(30)]
    laneway.client.submit_many(tasks)
    laneway.work()
    assert peak_of(lambda: laneway.run("review", "list")) < 4_000_000
    said = laneway.run("review", "list").stdout
    assert [f"default/t{n:02}" in said for n in range(30)] == [True] * 30
    work = priced(laneway.settings.human, by="ann", at_us=laneway.store.clock.now_us(), minutes=None)
    for task in tasks:
        record = laneway.client.record(task["task_id"])
        assert carry_out(laneway.store, record, approved(record, work)) == "done"
    assert peak_of(lambda: laneway.run("review", "export", "--out", "golden.jsonl")) < 4_000_000
    prompts = [
        json.loads(line)["prompt"] for line in (laneway.folder / "golden.jsonl").read_text().splitlines()
    ]
    assert prompts == [task["prompt"] for task in tasks]


def peak_of(deed: Callable[[], object]) -> int:
    """The bytes that it has in memory at most, the second time, when all that it needs is loaded."""
    deed()
    tracemalloc.start()
    try:
        deed()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "words",
    [
        ["review", "answer", "t"],
        ["review", "answer", "t", "--text", " "],
        ["review", "answer", "t", "--text", "a", "--minutes", "-1"],
        ["review", "answer", "t", "--text", "a", "--minutes", "NaN"],
        ["review", "retry", "t", "--hard-usd", "x"],
        ["review", "retry", "t", "--hard-usd=-1"],
        ["review", "retry", "t", "--hard-usd", "1e30"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_does_nothing(laneway: Any, words: list[str]) -> None:
    park(laneway)
    laneway.run(*words, code=2)
    assert laneway.client.record("t").status == "parked"
