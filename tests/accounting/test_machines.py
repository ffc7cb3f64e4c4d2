"""The calls of a machine sum to what its day did cost, however often the day is shared out."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from accounting.files import ledger, parts
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import machines, rollup
from accounting.rollup.machines import MachineDay, Sharing, allot, day_cost_nano
from broker import keys
from broker.clock import US_PER_S, utc_day
from broker.events import Attempted, Event, Finished, Submitted
from broker.money import nano
from broker.settings import Settings, parse
from broker.settings.prices import Hardware
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Claim, Outcome, Progress, Task
from tests.accounting.rolling import query
from tests.accounting.stories import DAY, NOON_US, attempted, entry, grouped_entry, publish, story

MACHINE = Hardware(
    price_usd=Decimal(3000), life_years=Decimal(4), watts=Decimal(200), idle_watts=Decimal(10),
    usd_per_kwh=Decimal("0.30"),
)  # fmt: skip
HOUR_US = 3600 * US_PER_S
WEAR = Decimal(3000) / (365 * 4)
TOML = """
[fleet]
cpu_usd_per_hour = "0"

[lanes.local]
engine = "echo"
threads = 2
hardware = { price_usd = 3000, life_years = 4, watts = 200, idle_watts = 10, usd_per_kwh = "0.30" }

[lanes.local-guided]
engine = "echo"
threads = 4
hardware = { price_usd = 3000, life_years = 4, watts = 200, idle_watts = 10, usd_per_kwh = "0.30" }

[lanes.rented]
engine = "echo"
price = { input_mtok = "1", output_mtok = "1" }

[types.general]
chain = ["local", "local-guided", "rented"]
"""

weights = st.lists(st.one_of(st.just(0), st.integers(0, 10**13)), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("on_h", "busy_h", "power"),
    [
        (0, 0, "0"),
        (24, 0, "0.072"),
        (24, 24, "1.44"),
        (24, 6, "0.414"),
        (0, 1, "0.06"),
        (1, 2, "0.06"),
    ],
)
def test_a_day_costs_its_wear_and_the_power_of_the_hours_it_was_on(
    on_h: int, busy_h: int, power: str
) -> None:
    found = day_cost_nano(MACHINE, on_us=on_h * HOUR_US, busy_us=busy_h * HOUR_US)
    assert found == nano(WEAR + Decimal(power))


def parts_of(amount: int, made: list[int], cut: int = 0) -> list[int]:
    sharing = Sharing(amount, sum(made))
    return [*sharing.parts(np.array(made[:cut], np.int64)), *sharing.parts(np.array(made[cut:], np.int64))]


@given(weights, st.integers(-(10**13), 10**13), st.integers(0, 30))
def test_parts_sum_to_the_amount_and_are_next_to_their_exact_share(
    made: list[int], amount: int, cut: int
) -> None:
    parts = parts_of(amount, made, cut)
    assert sum(parts) == amount
    assert parts == parts_of(amount, made), "however many come at a time"
    whole = sum(made)
    for part, weight in zip(parts if whole else (), made, strict=bool(whole)):
        assert abs(part - Fraction(amount * weight, whole)) < 1


@pytest.mark.parametrize(
    ("amount", "made", "parts"),
    [
        (1000, [3_000_000, 1_000_000, 0], [750, 250, 0]),
        (-10, [1, 1, 1], [-4, -3, -3]),
        (7, [0, 0, 0], [7, 0, 0]),
        (1, [1, 1, 1], [0, 0, 1]),
    ],
)
def test_parts_are_in_proportion_to_how_long_each_call_took(
    amount: int, made: list[int], parts: list[int]
) -> None:
    assert parts_of(amount, made) == parts


@pytest.fixture
def settings() -> Settings:
    return parse(TOML)


@pytest.fixture
def state(client: redis.Redis, settings: Settings) -> Store:
    return Store(client, settings.fleet)


def shared(*asked: Any) -> list[MachineDay]:
    """As ``allot``, by the one night that there is."""
    found = allot(*asked)
    assert found is not None
    return found


def made(state: Store, count: int) -> list[Claim]:
    state.submit(
        [Task(f"t{n}", "acme", ({"role": "user", "content": "hi"},), user="u") for n in range(count)]
    )
    return list(state.fetch(DISPATCH, count, idle=True).claims)


def call(claim: Claim, lane: str, took_ms: int, cost: int, node: str = "mac-1") -> Attempted:
    end_us = claim.claimed_us
    return Attempted(
        claim.attempt_id, 0, lane, "echo", "m", "task", end_us - took_ms * 1000, end_us, 0.0, float(took_ms), cost, 7,
        node=node,
    )  # fmt: skip


def end(state: Store, claim: Claim, fact: Attempted) -> None:
    scopes = ("fleet", "workspace:acme", "user:u", f"lane:{fact.lane}")
    move = Move(
        claim, "succeeded", Progress(), cost_nano=fact.cost_nano or 0, outcome=Outcome("succeeded"),
        attempts=(fact,), facts=(Finished("succeeded", True),), scopes=scopes,
    )  # fmt: skip
    state.commit([move])


def test_the_nightly_files_sum_to_the_days_of_the_machines(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    claims = made(state, 7)
    facts = [
        call(claims[0], "local", 4000, 1000),
        call(claims[1], "local-guided", 8000, 2000),
        call(claims[2], "local", 2000, 500, node="mac-2"),
        call(claims[3], "rented", 2000, 777, node="mac-1"),
        call(claims[4], "local", 1000, 250, node=""),
        replace(call(claims[5], "local", 1000, 40), purpose="tool"),
        call(claims[6], "local", -1, 0),  # the clock was set back while it ran
    ]
    for claim, fact in zip(claims, facts, strict=True):
        end(state, claim, fact)
    client: Any = state.client
    client.hset(keys.uptime_key(today), mapping={"mac-1": 3600 * 10**6})
    ingest.drain_all(client, store, quarantine)

    first = {one.machine: one for one in shared(store, state, settings, today)}
    assert {name: (one.booked_nano, one.calls) for name, one in first.items()} == {
        "mac-1": (3000, 3),
        "mac-2": (500, 1),
    }
    mac_1 = nano(WEAR + (4 * Decimal(200) + 3596 * Decimal(10)) / 1000 / 3600 * Decimal("0.30"))
    assert first["mac-1"].cost_nano == mac_1
    facts_written = client.xlen(keys.EVENTS)
    assert shared(store, state, settings, today) == list(first.values())
    assert client.xlen(keys.EVENTS) == facts_written, "what is shared out again changes nothing"

    ingest.drain_all(client, store, quarantine)
    rollup.rollup(store, today)
    mine = f"'{store.root}/attempts/*/*.parquet'"
    rows = dict(query(f"select attempt_id, cost_usd from {mine}"))
    assert nano(rows[claims[0].attempt_id] + rows[claims[1].attempt_id]) == mac_1
    assert (nano(rows[claims[5].attempt_id]), nano(rows[claims[6].attempt_id])) == (40, 0)
    assert nano(rows[claims[2].attempt_id]) == first["mac-2"].cost_nano
    assert (nano(rows[claims[3].attempt_id]), nano(rows[claims[4].attempt_id])) == (777, 250)
    assert {nano(one) for (one,) in query(f"select marginal_usd from {mine}")} == {7}
    (total,) = query(f"select sum(cost_usd) from '{store.root}/tasks/*/*.parquet'")[0]
    assert int(client.hget(keys.used_key("total"), "fleet")) == nano(total)
    assert sum(state.records.one(f"acme/t{n}").cost_nano for n in range(7)) == nano(total)


def test_a_call_that_settles_late_changes_what_the_others_have(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    early, late = made(state, 2)
    end(state, early, call(early, "local", 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    (before,) = shared(store, state, settings, today)
    end(state, late, call(late, "local", 3000, 300))
    ingest.drain_all(state.client, store, quarantine)
    (after,) = shared(store, state, settings, today)
    assert (before.calls, after.calls) == (1, 2)
    costs = [state.records.one(claim.ref).cost_nano for claim in (early, late)]
    assert sum(costs) == after.cost_nano
    assert abs(costs[1] - 3 * costs[0]) <= 4
    end(state, late, replace(call(late, "local", 3000, 300), node="mac-1"))
    assert sum(state.records.one(claim.ref).cost_nano for claim in (early, late)) == after.cost_nano


def a_day_of_machines(seed: int) -> list[Event]:
    """Tasks of six days with calls that end on several, some told again; of three nodes and of none."""
    chance = random.Random(seed)
    events: list[Event] = []
    for number in range(200):
        at_us = NOON_US - chance.choice((0, 0, 1, 2, 5)) * ledger.US_PER_DAY
        facts: list[Any] = [Submitted("sync", workflow="w", user=f"u{number % 3}")]
        for call in range(chance.randrange(4)):
            begun_us = at_us + chance.choice((60_000_000, 13 * 3_600_000_000, 60 * 3_600_000_000))
            one = attempted(
                f"{number}-{call}", started_us=begun_us, ended_us=begun_us + chance.randrange(-5, 10**9),
                lane=chance.choice(("local", "local-guided", "rented")), cost_nano=chance.randrange(10**6),
                node=chance.choice(("mac-1", "mac-2", "mac-3", "")), gate_cost_nano=chance.randrange(3),
                purpose=chance.choice(("task", "retry", "tool")),
            )  # fmt: skip
            facts += [one, replace(one, cost_nano=5)] if chance.random() < 0.2 else [one]
        made = story(f"t{number}", facts, at_us=at_us)
        # Written when the last of its calls had ended.
        after_us = max([0, *(one.ended_us - at_us for one in facts if isinstance(one, Attempted))])
        events += [replace(one, at_us=one.at_us + after_us) for one in made]
    chance.shuffle(events)
    return events


def test_a_call_is_found_however_long_its_task_has_waited(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    waited_us = 40 * ledger.US_PER_DAY
    ended = attempted("t-1", started_us=NOON_US, ended_us=NOON_US + 1_000_000, node="mac-1")
    made = story("t", [Submitted("async"), ended], at_us=NOON_US - waited_us)
    publish(state.client, [entry([replace(one, at_us=one.at_us + waited_us)]) for one in made])
    ingest.drain_all(state.client, store, quarantine)
    before = utc_day(NOON_US - 30 * ledger.US_PER_DAY)  # of which nothing is opened
    store.put(f"events/date={before}/1764590400000-0-1764590460000-0.parquet", b"no part")
    [day] = shared(store, state, settings, DAY)
    assert (day.machine, day.calls) == ("mac-1", 1)


def by_hand(events: list[Event], settings: Settings, day: str) -> dict[str, tuple[int, int, int]]:
    """Of each machine what its calls were booked at, how many and how long they were; fact by fact."""
    last: dict[str, Attempted] = {}
    for event in sorted(events, key=lambda one: one.seq):
        if isinstance(event.fact, Attempted):
            last[event.fact.attempt_id] = event.fact
    found: dict[str, tuple[int, int, int]] = {}
    for one in last.values():
        lane = settings.lanes[one.lane]
        if lane.hardware and one.node and one.purpose != "tool" and utc_day(one.ended_us) == day:
            booked, calls, busy_us = found.get(one.node, (0, 0, 0))
            busy_us += max(0, one.ended_us - one.started_us) // lane.threads
            found[one.node] = (booked + (one.cost_nano or 0), calls + 1, busy_us)
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("slice_rows", [20, machines.SLICE_ROWS])
def test_a_machines_day_is_the_same_read_at_once_as_fact_by_fact(
    seed: int, slice_rows: int, state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machines, "SLICE_ROWS", slice_rows)
    events = a_day_of_machines(seed)
    for start in range(0, len(events), 100):
        pack = grouped_entry if start % 200 else entry
        publish(state.client, [pack([one]) for one in events[start : start + 100]])
        ingest.drain_all(state.client, store, quarantine)
    expected = by_hand(events, settings, DAY)
    assert len(expected) == 3
    found = {one.machine: one for one in shared(store, state, settings, DAY)}
    assert found == {
        node: MachineDay(node, day_cost_nano(MACHINE, on_us=0, busy_us=busy_us), booked, calls)
        for node, (booked, calls, busy_us) in expected.items()
    }


def test_what_was_shared_out_is_told_before_all_of_it_is_in_the_stream(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(machines, "SLICE_ROWS", 20)
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    for claim in made(state, 60):
        end(state, claim, call(claim, "local", 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    drained: list[int] = []
    [day] = shared(
        store, state, settings, today,
        lambda: drained.append(ingest.drain_all(state.client, store, quarantine).events),
    )  # fmt: skip
    assert sum(drained) == day.calls == 60
    assert max(drained) < 30


def test_who_was_overtaken_tells_nothing_more(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A night that slept knows fewer calls than the one that began since; what it would tell is too much for each."""
    monkeypatch.setattr(machines, "SLICE_ROWS", 20)
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    claims = made(state, 60)
    for claim in claims[:40]:
        end(state, claim, call(claim, "local", 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    newer: list[MachineDay] = []

    def another_night() -> None:
        if not newer:
            for claim in claims[40:]:
                end(state, claim, call(claim, "local", 1000, 100))
            ingest.drain_all(state.client, store, quarantine)
            newer.extend(shared(store, state, settings, today))

    assert allot(store, state, settings, today, another_night) is None
    [day] = newer
    assert day.calls == 60
    assert sum(state.records.one(claim.ref).cost_nano for claim in claims) == day.cost_nano


def test_a_later_task_of_the_same_id_has_no_part_of_an_earlier_ones_call(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    [claim] = made(state, 1)
    end(state, claim, call(claim, "local", 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    state.client.delete(keys.task_key(claim.ref))
    made(state, 1)
    shared(store, state, settings, today)
    assert state.records.one(claim.ref).cost_nano == 0


def test_a_call_without_a_price_has_no_part_of_the_machine(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    priced, unpriced = made(state, 2)
    end(state, priced, call(priced, "local", 1000, 100))
    end(state, unpriced, replace(call(unpriced, "local", 1000, 0), cost_nano=None))
    ingest.drain_all(state.client, store, quarantine)
    [day] = shared(store, state, settings, today)
    ingest.drain_all(state.client, store, quarantine)
    rollup.rollup(store, today)
    [(total,)] = query(f"select sum(cost_usd) from '{store.root}/tasks/*/*.parquet'")
    assert (day.calls, day.cost_nano) == (1, nano(total))


def test_a_lane_that_was_taken_out_is_still_the_machines_when_its_day_is_shared_again(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    for claim, lane in zip(made(state, 2), ("local", "local-guided"), strict=True):
        end(state, claim, call(claim, lane, 1000, 100))
    ingest.drain_all(state.client, store, quarantine)
    before = shared(store, state, settings, today)
    rented = {name: lane for name, lane in settings.lanes.items() if lane.hardware is None}
    assert shared(store, state, settings.model_copy(update={"lanes": rented}), today) == before
    assert shared(store, state, settings.model_copy(update={"lanes": rented}), "2026-01-01") == []


def test_the_machines_day_is_none_of_a_tasks_own_limit(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    """It stands idle whatever the task does; what all tasks may spend together has it in."""
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    [claim] = made(state, 1)
    first = call(claim, "local", 1000, 1000)
    scopes = ("fleet", "lane:local")
    state.commit(
        [Move(claim, "queued", Progress(), queue=DISPATCH, cost_nano=1000, attempts=(first,), scopes=scopes)]
    )
    ingest.drain_all(state.client, store, quarantine)
    [day] = shared(store, state, settings, today)
    assert state.records.one(claim.ref).cost_nano == day.cost_nano > 10**9
    [again] = state.fetch(DISPATCH, 1, idle=True).claims
    intent = Intent(again, 10**6, first, scopes, hard_nano=10**6 + 1000)
    assert state.begin([replace(intent, hard_nano=10**6 + 999)]) == ["over|task||999999"]
    assert state.begin([intent]) == ["go"]
    assert int(state.client.hget(keys.used_key("total"), "fleet") or 0) == day.cost_nano + 10**6


def test_a_share_that_an_earlier_version_told_is_none_of_a_tasks_own_limit_once_it_is_told_again(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    claims = made(state, 2)
    first, other = (call(claim, "local", 1000, 1000) for claim in claims)
    move = Move(
        claims[0], "queued", Progress(), queue=DISPATCH, cost_nano=1000, attempts=(first,), scopes=("fleet",)
    )
    state.commit([move])
    ingest.drain_all(state.client, store, quarantine)
    shared(store, state, settings, today)
    state.client.hdel(keys.task_key(claims[0].ref), "shares")
    end(state, claims[1], other)
    ingest.drain_all(state.client, store, quarantine)
    shared(store, state, settings, today)
    [again] = state.fetch(DISPATCH, 1, idle=True).claims
    assert state.begin([Intent(again, 10**6, first, ("fleet",), hard_nano=10**6 + 1000)]) == ["go"]


def test_the_machines_day_is_none_of_a_soft_limit(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    today = datetime.fromtimestamp(state.clock.now_us() / 1e6, tz=UTC).date().isoformat()
    [claim] = made(state, 1)
    first = call(claim, "local", 1000, 1000)
    queued = Move(
        claim, "queued", Progress(), queue=DISPATCH, cost_nano=1000, attempts=(first,), scopes=("fleet",)
    )
    state.commit([queued])
    ingest.drain_all(state.client, store, quarantine)
    shared(store, state, settings, today)
    [again] = state.fetch(DISPATCH, 1, idle=True).claims
    state.commit([replace(queued, claim=again, cost_nano=500, soft_nano=1501)])
    assert not state.client.exists("laneway:alerts")
    [last] = state.fetch(DISPATCH, 1, idle=True).claims
    state.commit([replace(queued, claim=last, cost_nano=1, soft_nano=1501)])
    assert state.client.llen("laneway:alerts") == 1


def test_a_call_that_the_clock_ended_after_its_fact_was_written_is_found(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    midnight_us = ledger.midnight_us(DAY)
    one = attempted("a", started_us=midnight_us - 10**6, ended_us=midnight_us + 200_000, node="mac-1")
    [submitted, made_of] = story("t", [Submitted("sync"), one], at_us=midnight_us - 3 * 3_600_000_000)
    publish(state.client, [entry([submitted, replace(made_of, at_us=midnight_us - 100_000)])])
    ingest.drain_all(state.client, store, quarantine)
    assert [one.calls for one in shared(store, state, settings, DAY)] == [1]


def test_a_call_of_a_task_that_came_in_before_the_clock_was_set_back_over_midnight_is_found(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings
) -> None:
    midnight_us = ledger.midnight_us(DAY) + ledger.US_PER_DAY
    for task, ended_us in (("back", midnight_us - 10**7), ("next", midnight_us + 10**7)):
        one = attempted(f"{task}-1", started_us=ended_us - 10**6, ended_us=ended_us, node="mac-1")
        [submitted, made_of] = story(task, [Submitted("sync"), one], at_us=midnight_us + 10**6)
        publish(state.client, [entry([submitted]), entry([replace(made_of, at_us=ended_us)])])
        ingest.drain_all(state.client, store, quarantine)
    next_day = utc_day(midnight_us)
    assert [[one.calls for one in shared(store, state, settings, day)] for day in (DAY, next_day)] == [
        [1],
        [1],
    ]
    assert len(parts.of_day(store, next_day)) == 2
    read = list(parts.before(store, next_day, midnight_us, ["at"]))
    assert [table.num_rows for table in read] == [2], (
        "of the other part the footer says that it has nothing of it"
    )


def test_of_earlier_days_only_parts_whose_names_say_that_they_came_in_since_are_opened(
    state: Store, store: LocalStore, quarantine: LocalStore, settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each minute's facts of the week before are a part of their own; a call of one of its tasks ended on the day."""
    midnight_us = ledger.midnight_us(DAY)
    hour_us = 3_600_000_000
    told: list[tuple[int, Event]] = []  # when each came in
    for day in range(7):
        for minute in range(5):
            at_us = midnight_us - day * ledger.US_PER_DAY - 6 * hour_us + minute * 60_000_000
            one = attempted(f"{day}-{minute}", started_us=at_us, ended_us=at_us + 10**6, node="mac-1")
            told += [(at_us + 10**7, event) for event in story(f"t{day}-{minute}", [one], at_us=at_us)]
    ended_us, late_us = midnight_us + 2 * hour_us, midnight_us - 3 * ledger.US_PER_DAY
    late = attempted("late", started_us=midnight_us + hour_us, ended_us=ended_us, node="mac-1")
    told += [(ended_us, replace(event, at_us=ended_us)) for event in story("late", [late], at_us=late_us)]
    for came_us, event in sorted(told, key=lambda one: one[0]):
        state.client.xadd(keys.EVENTS, {"b": entry([event])}, id=f"{came_us // 1000}-1")
        ingest.drain_all(state.client, store, quarantine)
    opened: list[str] = []
    known = LocalStore.open

    def noted(self: LocalStore, path: str) -> Any:
        opened.append(path)
        return known(self, path)

    monkeypatch.setattr(LocalStore, "open", noted)

    [day_of_one] = shared(store, state, settings, DAY)
    assert day_of_one.calls == 1
    late_day, eve = (ledger.partition(ledger.EVENTS, utc_day(us)) for us in (late_us, midnight_us - 1))
    assert {path.rpartition("/")[0] for path in opened} == {late_day, eve}
    assert sum(path.startswith(eve) for path in opened) == 5, "looked at once, though written before midnight"

    for number, name in enumerate(store.list(late_day)):  # nothing is known of when these came in
        (store.root / late_day / name).rename(store.root / late_day / f"{number}.parquet")
    assert [one.calls for one in shared(store, state, settings, DAY)] == [1]


def test_a_machine_is_on_while_its_processes_speak(state: Store, client: redis.Redis) -> None:
    day = state.limits.windows()["day"]
    state.keep([], ["local"], node="p1")
    machine = state.fleet.node
    assert state.machine_days.uptimes_us(day) == {machine: 0}
    client.hincrby("laneway:machines", machine, -3_000_000)
    state.keep([], ["local"], node="p2")
    assert 3 * US_PER_S <= state.machine_days.uptimes_us(day)[machine] < 4 * US_PER_S
    client.hincrby("laneway:machines", machine, -3_600_000_000)
    state.keep([], ["local"], node="p1")
    assert state.machine_days.uptimes_us(day)[machine] < (3 + 1 + state.fleet.lease_s) * US_PER_S, (
        "a gap is time in which it was off"
    )
    state.keep([], [])
    assert set(state.machine_days.uptimes_us(day)) == {machine}
