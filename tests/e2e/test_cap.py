"""One cap, 200 threads in 4 processes: never above it, and to the nano-dollar what the callers were told."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import redis

from broker import embedded
from broker.settings.budgets import BudgetRow
from broker.settings.fleet import Fleet
from broker.store import Store
from broker.task import DISPATCH, Task

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROCESSES, THREADS, ROUNDS = 4, 50, 10
WORST_NANO = 1_000_000
LIMIT_NANO = PROCESSES * THREADS * ROUNDS * WORST_NANO // 3

#: Each thread takes tasks, reserves the worst case and settles at a part of it that is its own; one call in seven is
#: left as a killed worker leaves it. Prints what its process was told, and the highest use that it ever saw.
CALLER = """
import json, sys, threading
import redis
from collections import Counter
from broker.events import Attempted
from broker.settings.fleet import Fleet
from broker.state import Intent, Move
from broker.store import Store
from broker.task import DISPATCH, Outcome

url, process, threads, rounds, worst = sys.argv[1], *map(int, sys.argv[2:])
store = Store(redis.Redis.from_url(url), Fleet())
told, lock, ready = Counter(), threading.Lock(), threading.Barrier(threads)
SCOPES = ("fleet", "workspace:acme", "lane:rented")

def caller(number):
    ready.wait()
    for turn in range(rounds):
        claims = store.fetch(DISPATCH, 1, idle=False).claims
        for claim in claims:
            fact = Attempted(claim.attempt_id, 0, "rented", "echo", "m", "task", 0, 0, 0.0, 0.0, worst, settled=False)
            word = store.begin([Intent(claim, worst, fact, SCOPES)])[0]
            state = next(one for one in store.limits.states() if one.scope == "workspace:acme")
            cost = worst * (1 + (number * 7 + turn * 3) % 10) // 10
            lost = word == "go" and (number + turn) % 7 == 0
            with lock:
                told["highest"] = max(told["highest"], state.spent_nano + state.reserved_nano)
                told["refused" if word.startswith("over|workspace:acme") else word] += 1
                told["spent"] += 0 if word != "go" else worst if lost else cost
            if lost:
                store.release([claim], "killed")
            elif word == "go":
                end = Move(claim, "succeeded", claim.progress, cost_nano=cost, outcome=Outcome("succeeded"),
                           attempts=(fact,), scopes=SCOPES)
                assert store.commit([end]) == ["moved"]
                assert store.commit([end]) == ["done before"]
            else:
                refused = Move(claim, "failed", claim.progress, outcome=Outcome("failed", word))
                assert store.commit([refused]) == ["moved"]

running = [threading.Thread(target=caller, args=(process * threads + n,)) for n in range(threads)]
for one in running: one.start()
for one in running: one.join()
print(json.dumps(told))
"""


def test_200_threads_in_4_processes_never_pass_one_cap(
    client: redis.Redis, server: embedded.Embedded
) -> None:
    store = Store(client, Fleet())
    usd = f"0.{LIMIT_NANO:09d}"
    store.limits.declare(
        [BudgetRow.model_validate({"scope": "workspace:acme", "period": "total", "usd": usd})]
    )
    calls = PROCESSES * THREADS * ROUNDS
    hello = ({"role": "user", "content": "hello"},)
    store.submit([Task(f"task-{number}", "acme", hello) for number in range(calls)])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, server.url, *map(str, (number, THREADS, ROUNDS, WORST_NANO))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    told: Counter[str] = Counter()
    highest = 0
    for process in running:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        row = json.loads(said)
        highest = max(highest, row.pop("highest"))
        told.update(row)

    state = next(one for one in store.limits.states() if one.scope == "workspace:acme")
    assert state.limit_nano == LIMIT_NANO
    assert highest <= LIMIT_NANO, "overshoot"
    assert state.spent_nano == told["spent"] <= LIMIT_NANO, "mismatch"
    assert state.reserved_nano == 0
    assert told["refused"] > calls // 10, "the cap was never met"
    assert LIMIT_NANO - state.spent_nano < WORST_NANO, "a call that had room was refused"
    assert set(told) == {"go", "refused", "spent"}
    assert store.lanes.queues([DISPATCH])[0].in_flight == 0
