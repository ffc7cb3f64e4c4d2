"""What the scripts let leave and what they book, by hand and to the nano-dollar, over a real Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
import redis

from broker import keys
from broker.events import Allotted, Attempted, Fact, Finished, Resumed
from broker.limits import PERIODS
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.state import Intent, Move, Rate, Share
from broker.store import Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task

SCOPES = ("fleet", "workspace:acme", "lane:x")
Q = "lane-x-sync"


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, Fleet(lease_s=5, max_starts=3))


def claimed(store: Store, task_id: str = "") -> Claim:
    """A new task in hand."""
    name = task_id or f"t{store.client.incr('count')}"
    store.submit([Task(name, "acme", ({"role": "user", "content": "hi"},))])
    (claim,) = store.fetch(DISPATCH, 1, idle=True).claims
    return claim


def call(claim: Claim, cost: int = 0) -> Attempted:
    return Attempted(claim.attempt_id, 0, "x", "echo", "m", "task", 1, 2, 0.0, 0.0, cost, settled=False)


def begun(store: Store, claim: Claim, worst: int | None, hard: int | None = None) -> str:
    return store.begin([Intent(claim, worst, call(claim), SCOPES, hard)])[0]


def ended(store: Store, claim: Claim, cost: int, status: str = "succeeded", **said: Any) -> str:
    outcome = None if status in ("queued", "running") else Outcome(status)
    facts = (Finished(status, True),) if status == "succeeded" else ()
    move = Move(
        claim, status, said.pop("progress", claim.progress), Q if status == "queued" else "", cost_nano=cost,
        outcome=outcome, attempts=(call(claim, cost),), facts=facts, scopes=SCOPES, **said,
    )  # fmt: skip
    return store.commit([move])[0].partition("|")[0]


def spent(store: Store, cost: int) -> None:
    claim = claimed(store)
    assert begun(store, claim, cost) == "go"
    assert ended(store, claim, cost) == "moved"


def taken(store: Store) -> Claim:
    (claim,) = store.fetch(Q, 1, idle=True).claims
    return claim


def counted(store: Store) -> tuple[int, int]:
    """What each scope has used, and what of it is reserved: the same in all three windows, and in no other scope."""
    found = set()
    for window in store.limits.windows().values():
        both: list[Any] = [store.client.hgetall(key(window)) for key in (keys.used_key, keys.held_key)]
        assert {name.decode() for one in both for name in one} <= set(SCOPES)
        found |= {tuple(int(one.get(scope.encode(), 0)) for one in both) for scope in SCOPES}
    [(used, held)] = found
    return used, held


def test_a_call_reserves_its_worst_case_in_every_scope_and_settles_at_what_it_cost(store: Store) -> None:
    claim = claimed(store)
    assert begun(store, claim, 60) == "go"
    assert begun(store, claim, 60) == "go", "a reply that was lost reserves nothing twice"
    assert (counted(store), store.records.one(claim.ref).reserved_nano) == ((60, 60), 60)
    assert ended(store, claim, 25) == "moved"
    assert counted(store) == (25, 0)
    record = store.records.one(claim.ref)
    assert (record.cost_nano, record.reserved_nano, record.status) == (25, 0, "succeeded")
    assert ended(store, claim, 25) == "done before"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((25, 0), 25)


DAY_100 = {("workspace:acme", "day"): 100}


@pytest.mark.parametrize(
    ("limits", "worst", "hard", "word"),
    [
        ({}, 10**12, None, "go"),
        ({}, None, None, "go"),
        (DAY_100, 40, None, "go"),
        (DAY_100, 41, None, "over|workspace:acme|day|40|100"),
        ({("fleet", "month"): 100}, 40, None, "go"),
        ({("fleet", "month"): 100}, 41, None, "over|fleet|month|40|100"),
        ({("lane:x", "total"): 100}, 40, None, "go"),
        ({("lane:x", "total"): 100}, 41, None, "over|lane:x|total|40|100"),
        ({("workspace:globex", "day"): 1, ("lane:y", "total"): 1}, 41, None, "go"),
        ({("fleet", "month"): 90, ("fleet", "total"): 80, ("lane:x", "day"): 80}, 31, None, "over|fleet|month|30|90"),
        ({("fleet", "month"): 90, ("fleet", "total"): 80, ("lane:x", "day"): 80}, 20, None, "go"),
        ({("fleet", "month"): 90, ("fleet", "total"): 80, ("lane:x", "day"): 80}, 21, None, "over|fleet|total|20|80"),
        ({("fleet", "day"): 10}, 1, None, "over|fleet|day|-50|10"),
        ({("fleet", "day"): 60}, 0, None, "go"),
        (DAY_100, None, None, "unpriced|workspace:acme|day"),
        ({}, 10, 10, "go"),
        ({}, 11, 10, "over|task||10"),
        ({}, 0, 0, "go"),
        ({}, None, 10, "unpriced|task"),
        (DAY_100, 41, 10, "over|task||10"),
    ],
)  # fmt: skip
def test_a_call_leaves_where_its_worst_case_fits_into_every_limit_and_else_reserves_nothing(
    store: Store, limits: Mapping[tuple[str, str], int], worst: int | None, hard: int | None, word: str
) -> None:
    """60 are spent before."""
    spent(store, 60)
    for (scope, period), limit in limits.items():
        store.limits.override(scope, period, limit)
    claim = claimed(store)
    assert begun(store, claim, worst, hard) == word
    reserved = (worst or 0) if word == "go" else 0
    assert counted(store) == (60 + reserved, reserved)
    record = store.records.one(claim.ref)
    assert (record.reserved_nano, record.cost_nano) == (reserved, 0)
    assert record.status == ("running" if word == "go" else "queued")


def test_calls_that_ask_together_fit_together_or_some_do_not(store: Store) -> None:
    store.limits.override("fleet", "day", 100)
    claims = [claimed(store) for _ in range(4)]
    words = store.begin([Intent(one, 40, call(one), SCOPES) for one in claims])
    assert words == ["go", "go", "over|fleet|day|20|100", "over|fleet|day|20|100"]
    assert counted(store) == (80, 80)


@pytest.mark.parametrize(
    ("file", "operator", "goes"), [(50, None, False), (50, 100, True), (100, 50, False), (100, None, True)]
)
def test_what_an_operator_says_goes_over_the_file(
    store: Store, file: int, operator: int | None, goes: bool
) -> None:
    store.limits.declare([BudgetRow(scope="fleet", period="day", usd=Decimal(file).scaleb(-9))])
    if operator is not None:
        store.limits.override("fleet", "day", operator)
    assert (begun(store, claimed(store), 60) == "go") is goes


def test_what_is_switched_off_or_closed_lets_nothing_leave_not_even_what_is_free(store: Store) -> None:
    store.limits.override("lane:x", "day", 100)
    store.limits.kill("workspace:acme")
    assert begun(store, claimed(store), 0) == "killed|workspace:acme"
    store.limits.override("fleet", "day", 0)
    assert begun(store, claimed(store), 1) == "killed|workspace:acme", "before any limit is looked at"
    store.limits.override("fleet", "day", None)
    store.limits.unkill("workspace:acme")
    store.client.hset(keys.RULES, "closed|lane:x|day", "2020-02-02")
    assert begun(store, claimed(store), 0) == "go", "another window is closed"
    store.client.hset(keys.RULES, "closed|lane:x|day", store.limits.windows()["day"])
    assert begun(store, claimed(store), 0) == "closed|lane:x|day"
    assert counted(store) == (0, 0)


def test_a_call_whose_claim_is_over_or_cancelled_does_not_leave(store: Store) -> None:
    over, stopped = claimed(store), claimed(store)
    assert begun(store, over, 10) == "go"
    assert ended(store, over, 5, "queued") == "moved"
    assert begun(store, over, 10) == "lost"
    assert begun(store, taken(store), 10) == "go"
    assert begun(store, over, 10) == "lost"
    assert store.cancel(stopped.ref) == "cancelling"
    assert begun(store, stopped, 10) == "cancel"
    assert counted(store) == (15, 10)


def test_the_call_of_a_task_that_is_cancelled_meanwhile_is_paid_for(store: Store) -> None:
    claim = claimed(store)
    assert begun(store, claim, 60) == "go"
    assert store.cancel(claim.ref) == "cancelling"
    assert ended(store, claim, 25) == "cancelled"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((25, 0), 25)
    assert store.records.one(claim.ref).status == "cancelled"


def test_a_lost_call_is_booked_at_its_worst_case_until_it_is_known_what_it_cost(store: Store) -> None:
    claim = claimed(store)
    assert begun(store, claim, 60) == "go"
    store.release([claim], "its worker was lost")
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((60, 0), 60)
    assert ended(store, claim, 25) == "late"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((25, 0), 25)
    assert ended(store, claim, 25) == "done before"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((25, 0), 25)
    (again,) = store.fetch(DISPATCH, 1, idle=True).claims
    assert begun(store, again, 60, 60) == "over|task||35", "what it cost counts in its own limit"


def test_what_was_never_begun_costs_nothing(store: Store) -> None:
    claim = claimed(store)
    store.release([claim], "its worker was lost")
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((0, 0), 0)


@pytest.mark.parametrize(("worst", "word"), [(70, "go"), (71, "over|task||70")])
def test_a_tasks_own_limit_counts_all_of_its_calls_and_nothing_of_peoples_work(
    store: Store, worst: int, word: str
) -> None:
    """A call of 30 before a person took half a thousand for it."""
    claim = claimed(store)
    assert begun(store, claim, 40) == "go"
    assert ended(store, claim, 30, "parked") == "moved"
    assert store.parked.resume(claim.ref, "queued", [], queue=Q, cost_nano=500, scopes=SCOPES) == "parked"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((530, 0), 530)
    assert begun(store, taken(store), worst, 100) == word


@pytest.mark.parametrize(("worst", "word"), [(170, "go"), (171, "over|task||170")])
def test_a_limit_that_was_raised_holds_whatever_the_type_says(store: Store, worst: int, word: str) -> None:
    claim = claimed(store)
    assert begun(store, claim, 40) == "go"
    assert ended(store, claim, 30, "parked") == "moved"
    assert store.parked.raise_limits(claim.ref, 200) == "parked"
    assert begun(store, store.fetch(DISPATCH, 1, idle=True).claims[0], worst, 100) == word


@pytest.mark.parametrize(
    ("hard", "raised", "worst", "word"),
    [
        (100, None, 50, "go"),
        (100, None, 51, "over|task:acme/whole||50"),
        (100, None, None, "unpriced|task:acme/whole"),
        (100, 200, 150, "go"),
        (100, 200, 151, "over|task:acme/whole||150"),
        (-1, None, 10**9, "go"),
        (-1, None, None, "go"),
        (-1, 60, 11, "over|task:acme/whole||10"),
    ],
)
def test_a_part_fits_into_what_its_whole_has_left(
    store: Store, hard: int, raised: int | None, worst: int | None, word: str
) -> None:
    """The whole has spent 20 and reserved 30, and a person's 500 are no part of its limit."""
    whole = claimed(store, "whole")
    assert begun(store, whole, 20) == "go"
    assert ended(store, whole, 20, "parked") == "moved"
    store.parked.resume(whole.ref, "queued", [], queue=Q, cost_nano=500, scopes=SCOPES, hard_nano=raised)
    assert begun(store, taken(store), 30) == "go"
    part = claimed(store)
    progress = Progress(family=((whole.ref, hard), ("acme/long-gone", 0)))
    part = Claim(part.task, progress, part.epoch, part.queue, 0, 0, 0, 0)
    assert begun(store, part, worst) == word
    reserved = (worst or 0) if word == "go" else 0
    assert store.records.one(whole.ref).family_nano == reserved
    assert counted(store) == (550 + reserved, 30 + reserved)
    if word == "go":
        assert ended(store, part, 7) == "moved"
        assert store.records.one(whole.ref).family_nano == 7
        assert counted(store) == (557, 30)


def test_what_its_parts_used_counts_in_a_tasks_own_limit(store: Store) -> None:
    whole = claimed(store, "whole")
    part = claimed(store)
    part = Claim(part.task, Progress(family=((whole.ref, 100),)), part.epoch, part.queue, 0, 0, 0, 0)
    words = store.begin([Intent(part, 60, call(part), SCOPES), Intent(whole, 41, call(whole), SCOPES, 100)])
    assert words == ["go", "over|task||40"], "also what is reserved in the same moment"
    assert begun(store, whole, 41, 100) == "over|task||40"
    store.release([part], "its worker was lost")
    assert begun(store, whole, 41, 100) == "over|task||40"
    assert ended(store, part, 59) == "late"
    assert store.records.one(whole.ref).family_nano == 59
    assert begun(store, whole, 41, 100) == "go"


def test_who_watches_is_told_when_a_task_reaches_its_soft_limit(store: Store) -> None:
    def told() -> int:
        return int(store.client.llen("laneway:alerts"))

    claim = claimed(store)
    assert ended(store, claim, 49, "queued", soft_nano=50) == "moved"
    assert told() == 0
    assert ended(store, taken(store), 1, "parked", soft_nano=50) == "moved"
    assert told() == 1
    person = claimed(store)
    ended(store, person, 10, "parked", soft_nano=50)
    store.parked.resume(person.ref, "queued", [], queue=Q, cost_nano=500, scopes=SCOPES)
    assert ended(store, taken(store), 39, "queued", soft_nano=50) == "moved"
    assert told() == 1, "people's work is no part of it"
    assert ended(store, taken(store), 10**6, "queued") == "moved"
    assert told() == 1, "without a limit nobody is told"


def test_calls_are_counted_by_type_lane_and_purpose_with_what_came_of_them(store: Store) -> None:
    tally = ("intent", "x", "task")
    for status, cost in (("queued", 3), ("succeeded", 5), ("parked", 7), ("failed", 11)):
        assert ended(store, claimed(store), cost, status, tally=tally) == "moved"
    assert store.lanes.rates() == {tally: Rate(4, 1, 26)}
    assert ended(store, claimed(store), 100, "running", tally=tally) == "goes on"
    assert store.lanes.rates() == {tally: Rate(4, 1, 126)}, "a step is paid for; its task is tried once"
    stopped = claimed(store)
    store.cancel(stopped.ref)
    assert ended(store, stopped, 1000, tally=tally) == "cancelled"
    assert store.lanes.rates() == {tally: Rate(5, 1, 1126)}
    assert ended(store, claimed(store), 1) == "moved"
    assert store.lanes.rates() == {tally: Rate(5, 1, 1126)}


def test_each_step_of_a_task_is_settled_and_the_next_one_reserved(store: Store) -> None:
    claim = claimed(store)
    assert begun(store, claim, 60) == "go"
    [again] = store.step(
        [Move(claim, "running", Progress(), cost_nano=25, attempts=(call(claim, 25),), scopes=SCOPES)]
    )
    assert (counted(store), again.cost_nano, store.records.one(claim.ref).cost_nano) == ((25, 0), 25, 25)
    assert ended(store, claim, 25, "running") == "goes on", "a reply that was lost settles nothing twice"
    assert counted(store) == (25, 0)
    assert begun(store, again, 10, 34) == "over|task||9"
    assert begun(store, again, 9, 34) == "go"
    assert counted(store) == (34, 9)
    assert ended(store, again, 4) == "moved"
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((29, 0), 29)


@pytest.mark.parametrize(
    ("limits", "cost", "over", "word"),
    [
        ({}, 10**9, False, "parked"),
        (DAY_100, 40, False, "parked"),
        (DAY_100, 41, False, "over|workspace:acme|day|40|100"),
        (DAY_100, 41, True, "parked"),
        ({("fleet", "day"): 10}, 0, False, "parked"),
    ],
)
def test_peoples_work_fits_into_the_limits_or_is_not_booked(
    store: Store, limits: Mapping[tuple[str, str], int], cost: int, over: bool, word: str
) -> None:
    """60 are spent before, 20 of them by this task."""
    spent(store, 40)
    claim = claimed(store)
    assert begun(store, claim, 20) == "go"
    assert ended(store, claim, 20, "parked") == "moved"
    for (scope, period), limit in limits.items():
        store.limits.override(scope, period, limit)
    facts: list[Fact] = [Resumed("answer", "human"), Finished("succeeded", True, "human")]
    end = Outcome("succeeded", output="by hand")
    found = store.parked.resume(
        claim.ref, "succeeded", facts, outcome=end, cost_nano=cost, scopes=SCOPES, over=over
    )
    assert found == word
    booked = cost if word == "parked" else 0
    record = store.records.one(claim.ref)
    assert (counted(store), record.cost_nano) == ((60 + booked, 0), 20 + booked)
    assert record.status == ("succeeded" if word == "parked" else "parked")
    assert store.parked.resume(claim.ref, "failed", [], cost_nano=1, scopes=SCOPES, epoch=99) == (
        "succeeded" if word == "parked" else "changed"
    )
    assert counted(store) == (60 + booked, 0)


def test_a_part_of_a_machines_day_replaces_the_one_before_it(store: Store) -> None:
    claim = claimed(store)
    assert begun(store, claim, 60) == "go"
    assert ended(store, claim, 25) == "moved"
    day = store.limits.windows()["day"]
    turn, _ = store.machine_days.begin(day, {"local": "a machine"})

    def share(
        nano: int, ref: str = claim.ref, attempt_id: str = claim.attempt_id, later_us: int = 0
    ) -> Share:
        return Share(ref, claim.submitted_us + later_us, Allotted(attempt_id, nano), SCOPES)

    def allotted(nano: int, **said: Any) -> tuple[int | None, tuple[int, int], int]:
        before: Any = store.client.xlen(keys.EVENTS)
        changed = store.machine_days.allot(day, turn, [share(nano, **said)])
        assert int(store.client.xlen(keys.EVENTS)) - before == changed
        return changed, counted(store), store.records.one(claim.ref).cost_nano

    assert allotted(0) == (0, (25, 0), 25)
    assert allotted(30) == (1, (55, 0), 55)
    assert allotted(30) == (0, (55, 0), 55)
    assert allotted(-5) == (1, (20, 0), 20)
    assert allotted(99, ref="acme/long-gone") == (0, (20, 0), 20)
    assert allotted(99, later_us=1) == (0, (20, 0), 20)
    other = share(4, attempt_id=f"{claim.attempt_id}-2")
    assert store.machine_days.allot(day, turn, [other] * 2) == 1
    store.machine_days.begin(day, {})
    assert store.machine_days.allot(day, turn, [share(77)]) is None
    assert (counted(store), store.records.one(claim.ref).cost_nano) == ((24, 0), 24)


@pytest.mark.parametrize(
    ("limit", "costs", "levels"),
    [
        (100, [49], []),
        (100, [50], [50]),
        (100, [49, 1], [50]),
        (100, [79], [50]),
        (100, [80], [50, 80]),
        (100, [99], [50, 80]),
        (100, [100], [50, 80, 100]),
        (0, [5], []),
    ],
)
@pytest.mark.parametrize("period", PERIODS)
def test_each_level_is_told_from_the_nano_on_that_reaches_it(
    store: Store, period: str, limit: int, costs: Sequence[int], levels: list[int]
) -> None:
    claims = [claimed(store) for _ in costs]
    for claim, cost in zip(claims, costs, strict=True):
        assert begun(store, claim, cost) == "go"
    store.limits.override("workspace:acme", period, limit)
    for claim, cost in zip(claims, costs, strict=True):
        assert ended(store, claim, cost) == "moved"
    [state] = store.limits.states()
    assert list(state.alerted) == levels
    assert store.client.llen("laneway:alerts") == len(levels)


@pytest.mark.parametrize(("spent_before", "told"), [(79, 1), (80, 3)])
def test_a_refusal_uses_a_budget_up_from_four_fifths_on(store: Store, spent_before: int, told: int) -> None:
    store.limits.override("fleet", "day", 100)
    spent(store, spent_before)
    assert begun(store, claimed(store), 30).startswith("over|")
    assert store.client.llen("laneway:alerts") == told


def test_money_counts_in_the_day_of_which_it_is_for_every_day_of_a_century(client: redis.Redis) -> None:
    prelude = (files("broker") / "scripts" / "prelude.lua").read_text()
    days = (
        "local told = {} for _, at in ipairs(ARGV) do told[#told + 1] = day_of(tonumber(at)) end return told"
    )
    first = datetime(2000, 1, 1, tzinfo=UTC)
    dates = [first + timedelta(days=number) for number in range(36_525)]
    for end_us in (0, 86_399_999_999):
        times = [round(one.timestamp()) * 1_000_000 + end_us for one in dates]
        found: list[bytes] = []
        for start in range(0, len(times), 5_000):
            found += client.eval(f"{prelude}\n{days}", 0, *times[start : start + 5_000])
        assert [one.decode() for one in found] == [one.date().isoformat() for one in dates]
