"""From the end of a call to the task's next move: the fact that is booked, and each step by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from broker.call import Reply, Usage
from broker.errors import CallCancelled, CallRejected, EngineError, EngineTimeout, RateLimited
from broker.events import Attempted, Escalated, Finished, Parked
from broker.settings import Settings, parse
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.state import Move
from broker.task import Claim, Outcome, Progress, Task
from dispatcher.batching import Places
from dispatcher.budget import Exceeded, ParkForBudget, Unusable, Wait
from dispatcher.gates import Verdict
from dispatcher.policy import Bounds, Complete, Fail, Park, Reprompt, Retry, Run, Step
from tests.accounting.stories import attempted as call
from workers.attempt import (
    Ended,
    attempted,
    booked_as,
    bounds_of,
    going_on,
    lost,
    move,
    next_step,
    overdue,
    put_back,
    rated_as,
    running_s,
    to_critic,
    to_others,
    wants_critic,
    without_call,
)
from workers.settle import Settlement

SETTINGS: Settings = parse(
    """
    [lanes.a]
    engine = "echo"
    [lanes.b]
    engine = "echo"
    [types.general]
    chain = ["a", "b", "human"]
    [types.judged]
    chain = ["a", "b"]
    gate = { kind = "choice", choices = ["x"] }
    """
)
PLACES = Places(SETTINGS.lanes, SETTINGS.types, 0)
SCOPES = ("fleet", "workspace:acme")
PASSED, UNJUDGED, NOT_PASSED = (
    Verdict(True, "choice", ""),
    Verdict(None, "", ""),
    Verdict(False, "choice", "no"),
)
USED = Usage(1, 2, 4, 8, 16, 32)
BOOKED = Settlement(70, 7, True, USED, "t", False, 5)
BEFORE = Progress(task_type="judged", chain=("a", "b"), lane="a", last_answer="before")


def claim(progress: Progress = BEFORE, **said: Any) -> Claim:
    of_task = {"deadline_s": said.pop("deadline_s", None), "role": said.pop("role", "")}
    task = Task("t", "acme", ({"role": "user", "content": "hi"},), **of_task)
    return Claim(
        task,
        progress,
        3,
        "lane-a-sync",
        0,
        **{"enqueued_us": 2_000, "claimed_us": 9_500, "cost_nano": 0, **said},
    )


def reply(text: str = "said", model: str = "ran") -> Reply:
    return Reply(text, USED, model, 5.0, "q4", time_to_first_token_ms=2.5)


def ended(result: Reply | EngineError, verdict: Verdict = PASSED, booked: Settlement = BOOKED) -> Ended:
    return Ended(result, verdict, booked, 10_000, 14_500, gate_cost_nano=3)


def progress(*purposes: str, **said: Any) -> Progress:
    calls = tuple(call(f"t-{place}", purpose=name, lane="a") for place, name in enumerate(purposes))
    return replace(BEFORE, attempts=calls, **said)


@pytest.mark.parametrize(
    ("before", "role", "booked", "rated"),
    [
        (progress(), "", "task", "task"),
        (progress(), "critic", "judge", "task"),
        (progress(), "eval", "eval", "task"),
        (progress("task"), "", "retry", "retry"),
        (progress("task"), "eval", "retry", "retry"),
        (progress(retries=1), "", "retry", "retry"),
        (progress("task", lane="b"), "", "task", "task"),
        (progress("task", complaint="no"), "", "reprompt", "reprompt"),
        (progress("task", reprompts=1), "critic", "reprompt", "reprompt"),
        (progress("task", "tool"), "", "task", "task"),
        (progress("task", "tool", "task"), "", "retry", "retry"),
        (progress("task", "tool", "tool"), "critic", "judge", "task"),
    ],
)
def test_a_call_is_booked_and_rated_by_why_it_is_made(
    before: Progress, role: str, booked: str, rated: str
) -> None:
    assert booked_as(claim(before, role=role)) == booked
    assert rated_as(booked) == rated


def test_all_that_is_known_of_a_call_is_in_its_fact() -> None:
    before = progress("task", lane="a", hop=2, complaint="no")
    fact = attempted(claim(before), "a", "echo", "asked", replace(ended(reply()), batch=True), "mac-1")
    assert fact == Attempted(
        "t-3", 2, "a", "echo", "ran", "reprompt", 10_000, 14_500, 7.5, 4.5, 70, 7, "t", "q4", "t-0", 2.5,
        1, 2, 4 + 32, 8, 16, True, "choice", "pass", "", "", True, 3, False, 32, "mac-1", 5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("result", "verdict", "model", "told"),
    [
        (reply(), PASSED, "ran", ("pass", "", "")),
        (reply(), NOT_PASSED, "ran", ("fail", "", "no")),
        (reply(), UNJUDGED, "ran", ("", "", "")),
        (reply(model=""), UNJUDGED, "asked", ("", "", "")),
        (EngineTimeout("late\nvery late"), UNJUDGED, "asked", ("", "timeout", "late")),
        (EngineTimeout(""), UNJUDGED, "asked", ("", "timeout", "")),
        (CallRejected("x" * 400), UNJUDGED, "asked", ("", "rejected", "x" * 300)),
    ],
)
def test_a_fact_says_what_came_of_the_call(
    result: Reply | EngineError, verdict: Verdict, model: str, told: tuple[str, str, str]
) -> None:
    fact = attempted(claim(), "a", "echo", "asked", ended(result, verdict))
    assert (fact.model, (fact.verdict, fact.failure, fact.complaint)) == (model, told)
    assert fact.time_to_first_token_ms == (2.5 if isinstance(result, Reply) else None)


def test_a_call_that_was_lost_before_stays_what_it_was_begun_as() -> None:
    begun = replace(lost(claim(), "b", "other", "m", 5, 99), hop=7, purpose="eval")
    since = replace(BEFORE, attempts=(call("t-1"), begun, call("t-5")), hop=9)
    fact = attempted(claim(since), "a", "echo", "asked", ended(reply()))
    assert (fact.attempt_id, fact.hop, fact.purpose, fact.lane, fact.engine) == (
        "t-3",
        7,
        "eval",
        "b",
        "other",
    )
    assert (fact.cost_nano, fact.settled, fact.failure, fact.parent_attempt_id) == (70, True, "", "")


def test_what_is_booked_should_a_call_be_lost_is_its_worst_case() -> None:
    fact = lost(claim(progress("task", "task")), "a", "echo", "m", 10_000, 99)
    assert fact == Attempted(
        "t-3", 0, "a", "echo", "m", "retry", 10_000, 10_000, 7.5, 0.0, 99, 99, parent_attempt_id="t-1",
        failure="worker_lost", settled=False,
    )  # fmt: skip
    early = claim(enqueued_us=9_501)
    assert lost(early, "a", "echo", "m", 1, None).queue_wait_ms == 0, "a clock that was set back is no wait"


@pytest.mark.parametrize(
    ("again", "retries", "reprompts", "left"),
    [
        (True, 0, 0, (2, 1)),
        (True, 1, 1, (1, 0)),
        (True, 5, 0, (-3, 1)),
        (False, 0, 0, (0, 0)),
        (False, 1, 1, (0, 0)),
    ],
)
def test_a_lane_is_tried_as_often_as_it_and_the_type_say(
    again: bool, retries: int, reprompts: int, left: tuple[int, int]
) -> None:
    lane = Lane(engine="echo", retries=2, retry_delay_s=0.5)
    task_type = TaskType.model_validate({"chain": ["a"], "reprompts": 1})
    made = bounds_of(progress(retries=retries, reprompts=reprompts), lane, task_type, again=again)
    assert made == Bounds(*left, 0.5, retries)


@pytest.mark.parametrize(
    ("result", "verdict", "step"),
    [
        (reply(), PASSED, Complete()),
        (reply(), UNJUDGED, Complete()),
        (reply(), NOT_PASSED, Reprompt("no")),
        (EngineTimeout("late"), UNJUDGED, Retry(0.5)),
        (RateLimited("later", retry_after_s=9.0), UNJUDGED, Retry(9.0)),
        (CallRejected("bad"), UNJUDGED, Run("b", "rejected on a")),
        (CallCancelled("enough"), UNJUDGED, Retry(0.0)),
    ],
    ids=str,
)
def test_what_follows_from_how_a_call_ended(
    result: Reply | EngineError, verdict: Verdict, step: Step
) -> None:
    assert next_step(claim(), "a", Bounds(2, 1, 0.5), ended(result, verdict), {}) == step


FACT = call("t-3", lane="a", purpose="judge", cost_nano=70, gate_cost_nano=3, overrun=True)


def moved(step: Step, said: str = "said", verdict: Verdict = PASSED, fact: Attempted = FACT) -> Move:
    result = reply(said) if said else EngineTimeout("late")
    return move(claim(progress("task")), step, fact, ended(result, verdict), PLACES, SCOPES, 500)


@pytest.mark.parametrize(
    "step", [Complete(), Retry(2.0), Reprompt("no"), Run("b", "why"), Park("why"), Fail("why")], ids=str
)
def test_whatever_follows_the_call_is_settled_in_the_same_step(step: Step) -> None:
    made = moved(step)
    assert (made.cost_nano, made.attempts, made.overrun) == (73, (FACT,), True)
    assert (made.tally, made.scopes, made.soft_nano) == (("judged", "a", "task"), SCOPES, 500)
    assert [one.attempt_id for one in made.progress.attempts] == ["t-0", "t-3"]
    unpriced = moved(step, fact=replace(FACT, cost_nano=None))
    assert unpriced.cost_nano == 3


@pytest.mark.parametrize(("said", "last"), [("said", "said"), ("", "before")])
def test_a_call_that_broke_leaves_the_answer_of_the_one_before(said: str, last: str) -> None:
    assert moved(Retry(1.0), said).progress.last_answer == last


def test_a_step_back_to_the_queue_counts_as_what_it_is() -> None:
    again = moved(Retry(2.0))
    assert (again.status, again.queue, again.delay_s) == ("queued", "lane-a-sync", 2.0)
    assert (again.progress.retries, again.progress.reprompts, again.progress.complaint) == (1, 0, "")
    told = moved(Reprompt("no"))
    assert (told.status, told.queue, told.delay_s) == ("queued", "lane-a-sync", 0.0)
    assert (told.progress.retries, told.progress.reprompts, told.progress.complaint) == (0, 1, "no")
    on = moved(Run("b", "why"))
    assert (on.status, on.queue, on.progress.hop) == ("queued", "lane-b-sync", 1)
    assert on.facts == (Escalated("a", "b", "why"),)


@pytest.mark.parametrize(("verdict", "succeeded"), [(PASSED, True), (UNJUDGED, None)])
def test_an_answer_that_nobody_judged_is_no_success(verdict: Verdict, succeeded: bool | None) -> None:
    made = moved(Complete(), verdict=verdict)
    assert (made.status, made.outcome) == ("succeeded", Outcome("succeeded", "", "said", "a"))
    assert made.facts == (Finished("succeeded", succeeded, "a"),)


@pytest.mark.parametrize(
    ("critic", "rounds", "done", "wants"),
    [("judged", 2, 0, True), ("judged", 2, 1, True), ("judged", 2, 2, False), (None, 2, 0, False)],
)
def test_a_critic_is_asked_as_many_times_as_there_are_rounds(
    critic: str | None, rounds: int, done: int, wants: bool
) -> None:
    task_type = TaskType.model_validate({"chain": ["a"], "critic": critic, "rounds": rounds})
    assert wants_critic(replace(BEFORE, rounds=done), task_type) is wants


def test_before_a_critic_the_answer_is_kept_and_its_call_paid_for() -> None:
    before = progress("task", rounds=1, turns=({"role": "user"},), complaint="no")
    made = to_critic(claim(before), FACT, ended(reply()), SCOPES, 500)
    assert (made.status, made.queue, made.cost_nano, made.attempts) == ("running", "", 73, (FACT,))
    told = made.progress
    assert (told.critic, told.rounds, told.last_answer, told.complaint) == ("critic2", 2, "said", "")
    assert (told.turns, told.started, len(told.attempts)) == (({"role": "user"},), "", 2)


@pytest.mark.parametrize(("purpose", "tally"), [("tool", None), ("judge", ("judged", "a", "task"))])
def test_a_tools_use_is_paid_for_and_no_try_of_its_lane(
    purpose: str, tally: tuple[str, str, str] | None
) -> None:
    fact = replace(FACT, purpose=purpose)
    made = going_on(claim(progress(complaint="no")), fact, ({"role": "tool"},), "c1", SCOPES, None)
    assert (made.cost_nano, made.attempts, made.overrun, made.tally) == (73, (fact,), True, tally)
    assert (made.progress.turns, made.progress.started, made.progress.complaint) == (
        ({"role": "tool"},),
        "c1",
        "",
    )
    assert going_on(claim(), replace(fact, cost_nano=None), (), "", SCOPES, None).cost_nano == 3


@pytest.mark.parametrize(("last", "output"), [("before", "before"), ("", None)])
def test_a_call_that_its_limits_did_not_let_leave_costs_nothing(last: str, output: str | None) -> None:
    held = claim(replace(progress("task"), last_answer=last))

    def after(decision: Wait | Exceeded | ParkForBudget | Unusable) -> Move:
        made = without_call(held, decision, {}, PLACES)
        assert (made.cost_nano, made.attempts, made.progress.attempts) == (0, (), held.progress.attempts)
        return made

    waits = after(Wait(30.0, "why"))
    assert (waits.status, waits.queue, waits.delay_s) == ("queued", "lane-a-sync", 30.0)
    assert waits.progress == replace(held.progress, waits_for="why")
    ends = after(Exceeded("why"))
    assert (ends.status, ends.outcome) == ("budget_exceeded", Outcome("budget_exceeded", "why", output, "a"))
    assert (ends.facts, ends.progress.why) == ((Finished("budget_exceeded", False, "a", "why"),), "why")
    parks = after(ParkForBudget("why"))
    assert (parks.status, parks.outcome) == ("parked", Outcome("parked", "budget: why", output, "a"))
    assert (parks.facts, parks.progress.lane) == ((Parked("budget", "why"),), "a")
    climbs = after(Unusable("why"))
    assert (climbs.status, climbs.queue, climbs.progress.hop) == ("queued", "lane-b-sync", 1)


@pytest.mark.parametrize(
    ("calls", "waited_us", "now_us", "ran_s"),
    [((), 0, 9_000_000, 0.0), (("task",), 0, 9_000_000, 8.0), (("task", "task"), 3_000_000, 9_000_000, 5.0),
     (("task",), 8_500_000, 9_000_000, 0.0)],
)  # fmt: skip
def test_a_task_runs_from_its_first_call_without_the_time_that_a_person_took(
    calls: tuple[str, ...], waited_us: int, now_us: int, ran_s: float
) -> None:
    made = tuple(call(f"t-{place}", started_us=(1 + place) * 1_000_000) for place, _ in enumerate(calls))
    assert running_s(claim(replace(BEFORE, attempts=made), waited_us=waited_us), now_us) == ran_s


@pytest.mark.parametrize(
    ("before", "why", "output"),
    [
        (replace(BEFORE, last_answer=""), "its deadline of 1.5 s passed in the queue", None),
        (progress("task"), "its deadline of 1.5 s passed before it was done", "before"),
    ],
)
def test_a_task_whose_deadline_passed_fails_without_a_call(
    before: Progress, why: str, output: str | None
) -> None:
    made = overdue(claim(before, deadline_s=1.5), SETTINGS.types["judged"])
    assert (made.status, made.outcome, made.cost_nano) == ("failed", Outcome("failed", why, output, "a"), 0)
    assert made.facts == (Finished("failed", False, "a", why),)


def test_a_worker_that_goes_home_leaves_what_it_is_in_to_its_lane() -> None:
    step = going_on(claim(), FACT, ({"role": "tool"},), "c1", SCOPES, None)
    left = to_others(step)
    assert (left.status, left.queue, left.progress.started) == ("queued", "lane-a-sync", "")
    assert left == replace(step, status="queued", queue="lane-a-sync", progress=left.progress)
    ends = moved(Complete())
    assert to_others(ends) is ends
    back = put_back(claim(), 2.0)
    assert (back.status, back.queue, back.delay_s, back.progress) == ("queued", "lane-a-sync", 2.0, BEFORE)
