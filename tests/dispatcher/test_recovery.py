"""The choice after a failure, against every fixed policy and against the figures worked by hand."""

import random
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.state import Rate
from dispatcher.recovery import Option, again_is_cheapest, choose

RUN = 1_000_000


def option(kind: str, cost: float, success: str) -> Option:
    return Option(kind, kind, round(RUN * cost), Decimal(success))  # type: ignore[arg-type]


#: Situations after a first failure: what each way on costs in runs, and how often it succeeds.
CASES = {
    "one in ten fails, resuming costs 30% of a run": [
        option("restart", 1, "0.9"), option("resume", 0.3, "0.9"), option("human", 50, "1"),
    ],
    "the checkpoint is where it goes wrong": [
        option("restart", 1, "0.9"), option("resume", 0.3, "0.05"), option("human", 50, "1"),
    ],
    "the cheap lane seldom can": [
        option("restart", 1, "0.02"), option("next_lane", 20, "0.95"), option("human", 400, "1"),
    ],
    "at 20 times the price the cheap lane pays from 5% on": [
        option("restart", 1, "0.08"), option("next_lane", 20, "1"), option("human", 400, "1"),
    ],
    "nothing but a person can": [
        option("restart", 1, "0.001"), option("next_lane", 20, "0.01"), option("human", 400, "1"),
    ],
}  # fmt: skip


def simulate(pick: Callable[[], Option], rng: random.Random, runs: int = 20_000) -> float:
    """The mean cost until a success."""
    spent = 0
    for _ in range(runs):
        while True:
            chosen = pick()
            spent += chosen.cost_nano
            if rng.random() < chosen.success:
                break
    return spent / runs / RUN


@pytest.mark.parametrize("name", CASES)
def test_it_costs_no_more_than_any_fixed_policy(name: str) -> None:
    options = CASES[name]
    best = choose(options)
    assert best is not None
    mine = simulate(lambda: best.option, random.Random(1))
    assert mine == pytest.approx(float(best.expected_nano) / RUN, rel=0.05)
    for fixed in options:
        assert mine <= simulate(lambda fixed=fixed: fixed, random.Random(2), 4_000) * 1.05  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ([option("restart", 1, "0.85")], "restart", 1.176),
        ([option("restart", 1, "0.9")], "restart", 1.111),
        ([option("restart", 1, "0.9"), option("resume", 0.3, "0.9")], "resume", 0.33333),
        ([option("restart", 1, "0.04"), option("next_lane", 20, "1")], "next_lane", 20),
        ([option("restart", 1, "0.06"), option("next_lane", 20, "1")], "restart", 16.67),
    ],
)
def test_worked_by_hand(options: Sequence[Option], kind: str, expected: float) -> None:
    choice = choose(options)
    assert choice is not None
    assert choice.option.kind == kind
    assert float(choice.expected_nano) / RUN == pytest.approx(expected, rel=0.001)


def test_one_in_ten_failing_costs_1_111_by_restart_and_1_033_by_resuming() -> None:
    """A run, and in one of ten cases a way on from there."""
    restart = choose([option("restart", 1, "0.9")])
    resume = choose([option("resume", 0.3, "0.9")])
    assert restart is not None
    assert resume is not None
    assert 1 + 0.1 * float(restart.expected_nano) / RUN == pytest.approx(1.111, abs=0.001)
    assert 1 + 0.1 * float(resume.expected_nano) / RUN == pytest.approx(1.033, abs=0.001)


def test_what_may_still_be_spent_rules_options_out_but_never_a_person() -> None:
    options = [option("next_lane", 20, "0.9"), option("human", 400, "1")]
    choice = choose(options, left_nano=RUN)
    assert choice is not None
    assert choice.option.kind == "human"
    assert choose(options[:1], left_nano=RUN) is None
    assert choose([option("restart", 1, "0")]) is None


several = st.lists(
    st.builds(
        Option,
        st.just("next_lane"),
        st.text("abc", max_size=2),
        st.integers(1, 10**9),
        st.integers(1, 100).map(lambda part: Decimal(part) / 100),
    ),
    min_size=1,
    max_size=5,
)


@given(several)
def test_a_further_way_on_never_makes_it_dearer(options: list[Option]) -> None:
    whole, part = choose(options), choose(options[:1])
    assert whole is not None
    assert part is not None
    assert whole.expected_nano <= part.expected_nano


OWN = ("t", "local", "retry")
NEXT = ("t", "frontier", "task")


@pytest.mark.parametrize(
    ("rates", "human_nano", "again"),
    [
        ({}, None, True),
        ({OWN: Rate(1000, 20, 1000)}, None, True),
        ({OWN: Rate(1000, 20, 1000), NEXT: Rate(10, 10, 10)}, None, True),
        ({OWN: Rate(1000, 20, 1000), NEXT: Rate(1000, 990, 20_000)}, None, False),
        ({OWN: Rate(1000, 900, 1000), NEXT: Rate(1000, 990, 20_000)}, None, True),
        ({OWN: Rate(1000, 0, 10**9), NEXT: Rate(1000, 1, 10**12)}, 10**8, False),
        ({OWN: Rate(1000, 900, 1000), NEXT: Rate(1000, 1, 10**12)}, 10**8, True),
    ],
)
def test_a_lane_is_tried_again_where_that_was_measured_to_be_cheapest_or_nothing_was(
    rates: dict[tuple[str, str, str], Rate], human_nano: int | None, again: bool
) -> None:
    further = ["frontier", "human"]
    assert again_is_cheapest("t", "local", "retry", further, rates, human_nano=human_nano) == again
