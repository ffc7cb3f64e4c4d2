"""What a task's limits make of its next step: tables of cases."""

from dataclasses import replace
from decimal import Decimal

import pytest

from broker.events import Attempted
from broker.settings.budgets import TaskBudget
from dispatcher.budget import (
    LIMIT_WAIT_S,
    Exceeded,
    Limits,
    ParkForBudget,
    Unusable,
    Wait,
    explain,
    limits_of,
    may_retry,
    over_soft,
    own_nano,
    parse_refusal,
    refused,
    spare,
    stopped,
    tool_stopped,
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

#: 1 + 2 + 4 + 8 + 16 + 32 tokens, of which the last were written for an hour and are among those that were written.
ALL_KINDS = replace(
    SPENT, input_tokens=1, cached_input_tokens=2, cache_write_tokens=4 + 32, cache_write_1h_tokens=32,
    output_tokens=8, reasoning_tokens=16,
)  # fmt: skip


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
        (Limits(tokens=63), [ALL_KINDS], 0, "63 tokens is reached: it has used 63"),
        (Limits(tokens=64), [ALL_KINDS, replace(ALL_KINDS, purpose="tool")], 0, None),
        (Limits(failures=1), [replace(SPENT, verdict="fail")], 0, "1 failures"),
        (Limits(failures=1), [replace(SPENT, verdict="pass")], 0, None),
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
        ("over|fleet|day|0", 7.5, 7.5, None, ""),
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


def test_where_tools_may_be_used_a_loop_ends_though_nobody_says_when() -> None:
    guarded = limits_of(TaskBudget(), {}, {}, guarded=True)
    assert guarded == Limits(llm_calls=30, tool_calls=50, same_tool_calls=3, wall_s=900.0)
    said = limits_of(TaskBudget(tool_calls=0), {"llm_calls": 200}, {"wall_s": 1.5}, guarded=True)
    assert said == Limits(llm_calls=200, tool_calls=0, same_tool_calls=3, wall_s=1.5)
    assert limits_of(TaskBudget(), {}, {}) == Limits()


@pytest.mark.parametrize(
    ("retry_nano", "attempts", "worst", "may"),
    [
        (None, [call("a", 10**12, "retry")], None, True),
        (10, [], 10, True),
        (10, [], 11, False),
        (10, [call("a", 4, "retry"), call("a", 3, "reprompt")], 3, True),
        (10, [call("a", 4, "retry"), call("b", 3, "reprompt")], 4, False),
        (10, [call("a", 500), call("a", 500, "tool"), call("a", 500, "judge")], 10, True),
        (10, [replace(call("a", purpose="retry"), cost_nano=None)], 10, True),
        (10, [], None, False),
        (0, [], 0, True),
    ],
)
def test_a_retry_is_made_as_long_as_all_of_them_fit_into_their_limit(
    retry_nano: int | None, attempts: list[Attempted], worst: int | None, may: bool
) -> None:
    assert may_retry(Limits(retry_nano=retry_nano), attempts, worst) is may


@pytest.mark.parametrize(
    ("limits", "used", "running_s", "why"),
    [
        (Limits(), 10**6, 1e6, None),
        (Limits(tool_calls=3), 2, 1e6, None),
        (Limits(tool_calls=3), 3, 0, "its limit of 3 tool calls is reached"),
        (Limits(tool_calls=0), 0, 0, "its limit of 0 tool calls is reached"),
        (Limits(wall_s=2.5), 10**6, 2.4, None),
        (Limits(wall_s=2.5), 0, 2.5, "its limit of 2.5 s of running is reached"),
    ],
)
def test_no_tool_is_used_once_a_limit_is_reached(
    limits: Limits, used: int, running_s: float, why: str | None
) -> None:
    assert tool_stopped(limits, used, running_s) == why


COSTS = "the call may cost $0.00000003"


@pytest.mark.parametrize(
    ("word", "worst", "words"),
    [
        ("over|workspace:acme|day|20|100", 30, f"{COSTS}, workspace:acme per day has $0.00000002 left"),
        ("over|task||20|100", 30, f"{COSTS}, the task's own limit has $0.00000002 left"),
        ("over|task:acme/whole||20|100", 30, f"{COSTS}, the limit of task acme/whole has $0.00000002 left"),
        ("over|fleet|day", 30, f"{COSTS}, fleet per day has $0.00 left"),
        ("unpriced|fleet|total", None, "the call has no known price, and fleet per total is limited"),
        ("killed|lane:x", 30, "lane:x is switched off"),
        ("closed|fleet|day", 30, "fleet per day is closed: a provider used more than was reserved"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_has_how_much_left(word: str, worst: int | None, words: str) -> None:
    assert explain(parse_refusal(word), worst) == words
    found = refused(parse_refusal(word), mode="sync", spent=True, worst_nano=worst, window_s=1, left_s=None)
    assert found == (Unusable(words) if word.startswith("unpriced") else ParkForBudget(words))


def test_a_call_without_a_price_is_nothing_that_people_or_the_soft_limit_count() -> None:
    person = replace(call("human", purpose="human"), cost_nano=None)
    assert own_nano(7, [person]) == 7
    unpriced = replace(call("local"), cost_nano=None)
    assert [over_soft(Limits(soft_nano=10), before, (), unpriced) for before in (9, 10)] == [False, True]
