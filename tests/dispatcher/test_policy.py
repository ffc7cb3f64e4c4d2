import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.policy import (
    Answered,
    Bounds,
    Broken,
    Complete,
    Fail,
    LaneSight,
    Park,
    Reprompt,
    Retry,
    Run,
    Step,
    absent,
    after,
    start,
)

CHAIN = ("local", "guided", "frontier", "human")
FRESH = Bounds(retries_left=2, reprompts_left=1, retry_delay_s=0.5)
SPENT = Bounds(retries_left=0, reprompts_left=0, retry_delay_s=0.5, retries=2)
OUT = Broken("rejected", transient=False)


@pytest.mark.parametrize(
    ("outcome", "lane", "bounds", "unavailable", "step"),
    [
        (Answered(True), "local", FRESH, {}, Complete()),
        (Answered(None), "local", SPENT, {}, Complete()),
        (Answered(False, "no"), "local", FRESH, {}, Reprompt("no")),
        (Answered(False, "no"), "local", SPENT, {}, Run("guided", "gate failed on local: no")),
        (Broken("timeout", True), "local", FRESH, {}, Retry(0.5)),
        (Broken("timeout", True), "local", Bounds(1, 0, 0.5, retries=1), {}, Retry(1.0)),
        (Broken("rate_limited", True, 7.0), "local", FRESH, {}, Retry(7.0)),
        (Broken("rate_limited", True, 3600.0), "local", FRESH, {}, Run("guided", "rate_limited on local")),
        (Broken("timeout", True), "local", SPENT, {}, Run("guided", "timeout on local")),
        (Broken("timeout", True), "local", FRESH, {"local": "ailing"}, Run("guided", "timeout on local")),
        (OUT, "local", FRESH, {}, Run("guided", "rejected on local")),
        (
            OUT,
            "local",
            FRESH,
            {"guided": "gone"},
            Run("frontier", "rejected on local", (("guided", "gone"),)),
        ),
        (
            OUT,
            "local",
            FRESH,
            {"guided": "gone", "frontier": "no key"},
            Park("rejected on local", (("guided", "gone"), ("frontier", "no key"))),
        ),
        (OUT, "frontier", FRESH, {}, Park("rejected on frontier")),
    ],
)
def test_what_follows_an_attempt(
    outcome: Answered | Broken, lane: str, bounds: Bounds, unavailable: dict[str, str], step: Step
) -> None:
    assert after(outcome, lane, CHAIN, bounds, unavailable) == step


def test_a_chain_without_a_person_ends_as_failed() -> None:
    assert after(OUT, "local", ("local",), FRESH, {}) == Fail(
        "rejected on local; no lane of its chain is left"
    )


def test_the_cheapest_lane_that_can_take_it_is_first_and_the_others_are_named() -> None:
    assert start(CHAIN, {}) == Run("local", "the cheapest lane of its chain")
    assert start(CHAIN, {"local": "no model"}) == Run(
        "guided", "the cheapest lane of its chain that can take it", (("local", "no model"),)
    )
    assert start(("local", "human"), {"local": "no model"}) == Park(
        "no lane of its chain can take it", (("local", "no model"),)
    )
    assert start(("human",), {}) == Park("its chain is a person alone")


names = st.sampled_from(["a", "b", "c", "d", "e"])
outcomes = st.one_of(
    st.builds(Answered, st.sampled_from([True, False, None])),
    st.builds(Broken, st.just("x"), st.booleans(), st.none() | st.floats(0, 100)),
)
bounds = st.builds(Bounds, st.integers(0, 3), st.integers(0, 3), st.floats(0, 10), st.integers(0, 3))


@given(st.lists(names, min_size=1, unique=True), st.data())
def test_no_chain_reaches_a_lane_that_it_does_not_name_and_every_task_ends(
    lanes: list[str], data: st.DataObject
) -> None:
    chain = (*lanes, *(["human"] if data.draw(st.booleans()) else []))
    unavailable = dict.fromkeys(data.draw(st.lists(names, unique=True)), "gone")
    step: Step = start(chain, unavailable)
    visited = []
    while isinstance(step, Run):
        assert step.lane in chain
        assert step.lane not in unavailable
        visited.append(step.lane)
        step = after(data.draw(outcomes.filter(lambda one: one != Answered(True))), step.lane, chain,
                     Bounds(0, 0, 0.5), unavailable)  # fmt: skip
    assert visited == sorted(visited, key=chain.index)
    assert len(set(visited)) == len(visited)
    assert isinstance(step, Complete | Park | Fail)
    assert isinstance(step, Park) <= ("human" in chain)


@given(outcomes, bounds)
def test_a_lane_is_tried_again_only_within_its_bounds(outcome: Answered | Broken, bound: Bounds) -> None:
    step = after(outcome, "local", CHAIN, bound, {})
    assert isinstance(step, Retry) <= (bound.retries_left > 0)
    assert isinstance(step, Reprompt) <= (bound.reprompts_left > 0)


@pytest.mark.parametrize(
    ("sight", "is_absent"),
    [
        (LaneSight(None, needs_key=True, watched_s=0), True),
        (LaneSight(None, needs_key=False, watched_s=999), False),
        (LaneSight(5, needs_key=True, watched_s=999), False),
        (LaneSight(90, needs_key=True, watched_s=5), False),
        (LaneSight(90, needs_key=False, watched_s=90), True),
        (LaneSight(math.inf, needs_key=False, watched_s=0), True),
        (LaneSight(1, needs_key=False, watched_s=0, ailing=True), True),
    ],
)
def test_a_lane_counts_as_absent_only_when_it_was_watched_to_be(sight: LaneSight, is_absent: bool) -> None:
    assert (absent(sight, 60) is not None) == is_absent
