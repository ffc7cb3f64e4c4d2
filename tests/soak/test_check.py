"""The checker over evidence made by hand: what is whole passes, and each planted violation is told of."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.events import Attempted, Escalated, Event, Finished, Submitted
from tests.soak.check import RULES, check
from tests.soak.evidence import Evidence
from tests.soak.plan import RENTED

REF, DEAD_REF = "acme/a", "default/p"
COST = 2 * 1_000_000 + 3 * 2_000_000
BEGAN_S = 1_000.0
CLIMB = Escalated("rented", "frontier", "gate failed")


def event(seq: int, fact: Any, task_id: str = "a", workspace: str = "acme") -> Event:
    return Event(workspace, task_id, seq, 10 + seq, 10, fact)


def answered(attempt_id: str = "a-2", **more: Any) -> Attempted:
    return Attempted(
        attempt_id, 0, "rented", "openai", RENTED, "task", 20, 30, 0.0, 0.01, COST,
        input_tokens=2, output_tokens=3, **more,
    )  # fmt: skip


def whole() -> Evidence:
    call = {
        "attempt_id": "a-2", "parent_attempt_id": None, "task_id": "a", "lane": "rented", "model": RENTED,
        "engine": "openai", "failure": None, "settled": True, "cost_nano": COST, "input_tokens": 2,
        "output_tokens": 3, "hop": 0, "started_at": datetime.fromtimestamp(BEGAN_S + 5, UTC),
    }  # fmt: skip
    result = {"status": "succeeded", "digest": "d", "reason": "", "cost": COST, "attempts": ["a-2"]}
    dead = {"status": "failed", "digest": "", "reason": "dead letter: it kills", "cost": 0, "attempts": []}
    task = {"workspace": "acme", "task_id": "a", "status": "succeeded", "attempts": 1, "cost_nano": COST}
    labels = {"workflow": "", "pipeline": "", "user_id": ""}
    poison = {"workspace": "default", "task_id": "p", "status": "failed", "attempts": 0, "cost_nano": 0}
    used = {"fleet": COST, "workspace:acme": COST, "lane:rented": COST}
    return Evidence(
        history=[
            {"kind": "began", "at": 0.0, "wall": BEGAN_S, "lease_s": 3.0},
            {"kind": "submitting", "ref": REF, "type": "plain", "hard_usd": "0.5"},
            {"kind": "submitting", "ref": DEAD_REF, "type": "poison", "hard_usd": None},
            {"kind": "accepted", "ref": REF},
            {"kind": "accepted", "ref": DEAD_REF},
            {"kind": "down", "how": "kill", "since": 7.0, "until": 12.0},
            {"kind": "budgets", "rows": [["fleet", "total", "total", 2 * COST, 0, COST, False]]},
            {"kind": "seen", "ref": REF, **result},
            {"kind": "calm", "replies_lost": {}},
            {"kind": "last act", "held": 3, "back_s": 4.0},
        ],
        journal=[
            {
                "id": "a-2", "started_at": 5.1, "status": 200, "fault": None,
                "body": {"messages": [{"content": "12345678"}]},
            }
        ],
        arrivals=["a-2"],
        events=[
            event(1, Submitted("sync")), event(2, answered()), event(3, Finished("succeeded", None)),
            event(1, Submitted("sync"), "p", "default"),
            event(2, Finished("failed", False), "p", "default"),
        ],
        tasks=[task | labels, poison | labels],
        attempts=[call],
        final={
            "records": {REF: result, DEAD_REF: dead}, "open": [], "stream": 0, "held": {"fleet": 0}, "dead": [DEAD_REF],
            "used": {"total": used, "2026-01": used, "2026-01-31": used}, "limits": {"fleet|total": 2 * COST},
        },
        unlike=[],
    )  # fmt: skip


def test_a_whole_run_passes() -> None:
    assert check(whole()).broken == {}


def more_history(run: Evidence, **row: Any) -> Evidence:
    return replace(run, history=[*run.history, row])


def more_events(run: Evidence, fact: Any, seq: int = 9) -> Evidence:
    return replace(run, events=[*run.events, event(seq, fact)])


def attempt(run: Evidence, **fields: Any) -> Evidence:
    return replace(run, attempts=[run.attempts[0] | fields])


def final(run: Evidence, **fields: Any) -> Evidence:
    return replace(run, final=run.final | fields)


def record(run: Evidence, **fields: Any) -> Evidence:
    records = run.final["records"]
    return final(run, records=records | {REF: records[REF] | fields})


def over_a_limit(run: Evidence) -> Evidence:
    return more_history(run, kind="budgets", rows=[["fleet", "total", "total", COST, COST, 1, False]])


def asked_twice(run: Evidence) -> Evidence:
    return replace(run, journal=run.journal * 2)


def asked_namelessly(run: Evidence) -> Evidence:
    return replace(run, journal=[*run.journal, run.journal[0] | {"id": ""}])


def without_redis(run: Evidence) -> Evidence:
    later = datetime.fromtimestamp(BEGAN_S + 9, UTC)
    return replace(attempt(run, started_at=later), journal=[run.journal[0] | {"started_at": 9.5}])


def cancelled_unbooked(run: Evidence) -> Evidence:
    tasks = [row | {"status": "cancelled"} if row["task_id"] == "a" else row for row in run.tasks]
    return replace(run, tasks=tasks, attempts=[])


def paid_again(run: Evidence) -> Evidence:
    again = {"status": "succeeded", "digest": "d", "reason": "", "cost": 1, "attempts": ["b-3"]}
    parked = again | {"status": "parked", "attempts": ["b-1"]}
    for row in (
        {"kind": "seen", "ref": "acme/b", **parked},
        {"kind": "raised", "ref": "acme/b", "before": "parked"},
        {"kind": "seen", "ref": "acme/b", **again},
    ):
        run = replace(run, history=[*run.history, row])
    return run


PLANTED: list[tuple[str, Callable[[Evidence], Evidence]]] = [
    ("I1", over_a_limit),
    ("I1", lambda run: final(run, limits={"fleet|total": COST - 1})),
    ("I2a", lambda run: final(run, held={"fleet": 5})),
    ("I2b", lambda run: final(run, used=run.final["used"] | {"total": {"fleet": COST + 1}})),
    ("I2b", lambda run: record(run, cost=COST + 1)),
    ("I3", without_redis),
    ("I4", asked_namelessly),
    ("I4", lambda run: replace(run, arrivals=["a-2", "a-3"])),
    ("I4", lambda run: final(run, stream=1)),
    ("I5", lambda run: replace(run, unlike=["tasks.parquet"])),
    ("I5", lambda run: more_events(run, answered("a-4"))),
    ("I6", asked_twice),
    ("I6", lambda run: replace(run, journal=[], arrivals=[])),
    ("I7", lambda run: attempt(run, cost_nano=COST - 1)),
    ("I7", lambda run: attempt(run, settled=False, cost_nano=0)),
    ("I9", lambda run: replace(run, tasks=[run.tasks[0] | {"cost_nano": 10**9}, run.tasks[1]])),
    ("I10", cancelled_unbooked),
    ("I11", paid_again),
    ("I15", lambda run: record(run, status="running")),
    ("I15", lambda run: record(run, status="parked")),
    ("I15", lambda run: more_events(run, Finished("failed", False))),
    ("I15", lambda run: more_events(more_events(run, CLIMB), CLIMB, seq=10)),
    ("I15", lambda run: more_history(run, kind="accepted", ref="acme/gone")),
    ("I16", lambda run: replace(run, history=[*run.history[:-1], run.history[-1] | {"back_s": 6.5}])),
    ("I17", lambda run: final(run, dead=[])),
    ("I18", lambda run: record(run, digest="other")),
    ("I18", lambda run: more_events(run, answered())),
    ("I19", lambda run: more_events(run, Submitted("sync"))),
]


@pytest.mark.parametrize(("invariant", "plant"), PLANTED)
def test_a_violation_is_told_of(invariant: str, plant: Callable[[Evidence], Evidence]) -> None:
    assert invariant in check(plant(whole())).broken


def test_each_rule_was_seen_to_complain() -> None:
    assert {invariant for invariant, _ in PLANTED} == set(RULES)
