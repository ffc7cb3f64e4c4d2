"""What a task's limits make of its next step: tables of cases."""

from decimal import Decimal

import pytest

from broker.events import Attempted
from broker.settings import TaskBudget
from dispatcher.budget import (
    LIMIT_WAIT_S,
    Exceeded,
    Limits,
    ParkForBudget,
    Wait,
    limits_of,
    over_soft,
    own_nano,
    parse_refusal,
    refused,
    spare,
    stopped,
)
from dispatcher.policy import Complete, Park, Reprompt, Retry, Run, Step

CHAIN = ("local", "rented", "midtier", "human")


def call(lane: str, cost: int = 5, purpose: str = "task", failure: str = "") -> Attempted:
    return Attempted(f"t-{lane}", 0, lane, "echo", "m", purpose, 1, 2, 0.0, 0.0, cost, failure=failure)


@pytest.mark.parametrize(
    ("step", "lane", "tried", "away", "then"),
    [
        (Retry(1.0), "midtier", ["midtier"], (), "local"),
        (Reprompt("no"), "midtier", ["midtier"], (), "local"),
        (Reprompt("no"), "midtier", ["midtier", "local"], (), "rented"),
        (Retry(1.0), "midtier", ["midtier"], ("local",), "rented"),
        (Run("midtier", "why"), "rented", ["rented"], (), "local"),
        (Run("rented", "why"), "local", ["local"], (), None),
        (Retry(1.0), "local", ["local"], (), None),
        (Retry(1.0), "midtier", ["local", "rented", "midtier"], (), None),
        (Complete(), "midtier", ["midtier"], (), None),
        (Park("why"), "midtier", ["midtier"], (), None),
        (Retry(1.0), "elsewhere", ["elsewhere"], (), None),
    ],
)
def test_over_its_soft_limit_a_task_goes_to_the_cheapest_lane_not_tried_or_stays_as_it_is(
    step: Step, lane: str, tried: list[str], away: tuple[str, ...], then: str | None
) -> None:
    found = spare(step, lane, CHAIN, [call(one) for one in tried], dict.fromkeys(away, "away"))
    if then is None:
        assert found is step
    else:
        assert isinstance(found, Run)
        assert found.lane == then
        assert "soft limit" in found.why


def test_the_soft_limit_is_passed_when_it_is_reached_with_what_checking_cost() -> None:
    last = Attempted("t", 0, "a", "e", "m", "task", 1, 2, 0.0, 0.0, 5, gate_cost_nano=2)
    assert [over_soft(Limits(soft_nano=10), before, (), last) for before in (2, 3, 4)] == [False, True, True]
    assert not over_soft(Limits(), 10**9, (), last)


def test_peoples_work_is_no_part_of_a_tasks_own_limits() -> None:
    earlier = (call("local", 3), call("human", 10**9, "human"))
    assert own_nano(10**9 + 3, earlier) == 3
    assert not over_soft(Limits(soft_nano=10), 10**9 + 3, earlier, call("local", 5))


@pytest.mark.parametrize(
    ("worst", "spent", "then"),
    [
        (
            100,
            False,
            Wait(
                LIMIT_WAIT_S,
                "the call may cost $0.0000001, workspace:acme per day has $0.00000002 left;"
                " waits until its limit is raised or the next day in UTC begins",
            ),
        ),
        (101, False, Exceeded("the call may cost $0.000000101, workspace:acme per day has $0.00000002 left")),
        (
            101,
            True,
            ParkForBudget("the call may cost $0.000000101, workspace:acme per day has $0.00000002 left"),
        ),
    ],
)
def test_what_no_window_has_room_for_waits_for_none(worst: int, spent: bool, then: object) -> None:
    refusal = parse_refusal("over|workspace:acme|day|20|100")
    assert refused(refusal, mode="async", spent=spent, worst_nano=worst, window_s=3600, left_s=None) == then


SPENT = Attempted(
    "t",
    0,
    "a",
    "e",
    "m",
    "task",
    1,
    2,
    0.0,
    0.0,
    5,
    input_tokens=60,
    cached_input_tokens=10,
    output_tokens=30,
)


@pytest.mark.parametrize(
    ("limits", "attempts", "running_s", "why"),
    [
        (Limits(), [SPENT] * 99, 1e6, None),
        (Limits(llm_calls=2), [SPENT, call("human", purpose="human"), call("x", purpose="tool")], 0, None),
        (Limits(llm_calls=2), [SPENT, call("x", purpose="embed"), call("x", purpose="unforeseen")], 0, None),
        (Limits(llm_calls=1), [SPENT], 0, "1 model calls"),
        (Limits(failures=2), [call("a", failure="worker_lost"), call("a", failure="timeout")], 0, None),
        (Limits(failures=2), [call("a", failure="timeout")] * 2, 0, "2 failures"),
        (Limits(tokens=101), [SPENT], 0, None),
        (Limits(tokens=100), [SPENT], 0, "100 tokens"),
        (Limits(wall_s=2.5), [SPENT], 2.4, None),
        (Limits(wall_s=2.5), [SPENT], 2.5, "2.5 s of running"),
    ],
)
def test_no_call_begins_once_a_limit_is_reached(
    limits: Limits, attempts: list[Attempted], running_s: float, why: str | None
) -> None:
    found = stopped(limits, attempts, running_s)
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize(
    ("word", "window_s", "left_s", "delay_s", "until"),
    [
        (
            "over|fleet|month|0",
            2e6,
            None,
            LIMIT_WAIT_S,
            "until its limit is raised or the next month in UTC begins",
        ),
        ("over|fleet|day|0", 7.5, 8.0, 7.5, "until its limit is raised or the next day in UTC begins"),
        (
            "closed|fleet|day",
            9e4,
            None,
            LIMIT_WAIT_S,
            "until it is switched on or the next day in UTC begins",
        ),
        ("killed|fleet", None, None, 30, "until it is switched on"),
        ("over|fleet|month|0", 2e6, 1e6, None, ""),
        ("over|fleet|total|0", None, None, None, ""),
    ],
)
def test_what_waits_for_a_window_asks_again_before_it_opens_as_limits_are_raised_meanwhile(
    word: str, window_s: float | None, left_s: float | None, delay_s: float | None, until: str
) -> None:
    found = refused(
        parse_refusal(word), mode="async", spent=False, worst_nano=5, window_s=window_s, left_s=left_s
    )
    if delay_s is None:
        assert isinstance(found, Exceeded)
    else:
        assert isinstance(found, Wait)
        assert found.delay_s == delay_s
        assert found.why.endswith(until)


def test_an_operators_limit_goes_over_the_producers_and_that_over_the_types() -> None:
    of_type = TaskBudget(hard_usd=Decimal("0.5"), llm_calls=30, tokens=1000, wall_s=9.0)
    found = limits_of(of_type, {"llm_calls": 5, "hard_usd": "0.25"}, {"llm_calls": 8})
    assert found == Limits(hard_nano=250_000_000, llm_calls=8, tokens=1000, wall_s=9.0)
