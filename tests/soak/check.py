"""The verdict over a run: a pure function of its evidence. One function an invariant, one complaint a violation.

The numbers are those of the list of invariants that the product promises to hold; ``RULES`` says each in a line.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from broker.events import Attempted, Escalated, Event, Finished, Submitted
from broker.money import nano, text
from broker.task import TERMINAL
from tests.accounting.reference import fold
from tests.soak.evidence import Evidence, Row
from tests.soak.plan import FRONTIER, MAX_STARTS, RENTED

#: Calls that were begun, and need not have reached the provider.
UNSENT = {"worker_lost", "connection_lost", "timeout", "cancelled", "never_made", "unavailable"}
#: Seconds in which a call that was begun before Redis went away may still leave.
GRACE_S = 1.0
#: What judging an answer costs is processor time, which no worst case holds.
JUDGING_NANO = nano("0.001")
PRICES_NANO = {RENTED: (1_000_000, 2_000_000), FRONTIER: (10_000_000, 20_000_000)}
PAID = frozenset(PRICES_NANO)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``facts`` are lines for a person; ``broken`` has the complaints of each invariant that did not hold."""

    facts: list[str]
    broken: dict[str, list[str]] = field(default_factory=dict)


def check(run: Evidence) -> Verdict:
    broken = {name: complaints for name, (_, rule) in RULES.items() if (complaints := list(rule(run)))}
    return Verdict(list(_facts(run)), broken)


def under_every_limit(run: Evidence) -> Iterator[str]:
    excepted = _overrun_scopes(run)
    for sample in _of(run, "budgets"):
        for scope, period, window, limit, spent, reserved, _ in sample["rows"]:
            if spent + reserved > limit and scope not in excepted:
                yield f"{scope} per {period} ({window}): {text(spent)} + {text(reserved)} above {text(limit)}"
            if spent < 0 or reserved < 0:
                yield f"{scope} per {period}: {text(spent)} spent, {text(reserved)} reserved"
    for name, limit in run.final["limits"].items():
        scope, _, period = name.rpartition("|")
        for window, used in run.final["used"].items():
            if _period(window) == period and used.get(scope, 0) > limit and scope not in excepted:
                yield f"at the end {scope} in {window}: {text(used[scope])} above {text(limit)}"


def nothing_stays_reserved(run: Evidence) -> Iterator[str]:
    for scope, reserved in run.final["held"].items():
        if reserved:
            yield f"{scope} has {text(reserved)} reserved at the end"


def counters_equal_the_ledger(run: Evidence) -> Iterator[str]:
    booked = _ledger_by_scope(run)
    for period in ("total", "month", "day"):
        counted: Counter[str] = Counter()
        for window, used in run.final["used"].items():
            if _period(window) == period:
                counted.update(used)
        for scope in sorted(booked.keys() | counted.keys()):
            if booked[scope] != counted[scope]:
                yield f"{scope} by {period}: Redis {text(counted[scope])}, ledger {text(booked[scope])}"
    costs = {_ref(row): row["cost_nano"] for row in run.tasks}
    for ref, record in run.final["records"].items():
        if record["cost"] != costs.get(ref):
            yield f"{ref}: its record says {record['cost']}, the ledger {costs.get(ref)}"


def no_call_while_redis_is_away(run: Evidence) -> Iterator[str]:
    attempts = _calls(run)
    began = _one(run, "began")
    for down in _of(run, "down"):
        first = down["since"] + GRACE_S
        for request in run.journal:
            if first < request["started_at"] < down["until"]:
                attempt = attempts.get(request["id"])
                start = attempt["started_at"].timestamp() - began["wall"] + began["at"] if attempt else None
                if start is None or start > first:
                    yield f"{request['id']} left while Redis was away ({down['how']})"


def every_request_is_booked(run: Evidence) -> Iterator[str]:
    attempts = _calls(run)
    for request in run.journal:
        if request["id"] not in attempts:
            yield f"the provider was asked {request['id'] or 'without a name'}, the ledger knows nothing of it"
    if run.final["stream"]:
        yield f"{run.final['stream']} entries wait in the stream after the last rollup"
    known = Counter(request["id"] for request in run.journal)
    for name in run.arrivals:
        if name not in attempts and name not in known:
            yield f"{name} arrived, and the ledger knows nothing of it"


def replay_changes_nothing(run: Evidence) -> Iterator[str]:
    for path in run.unlike:
        yield f"{path} came out otherwise when its facts came again in another order"
    pick = random.Random(5)
    rows = {_ref(row): row for row in run.tasks}
    for ref, events in _stories(run).items():
        again = [event for event in events for _ in range(pick.randint(1, 5))]
        pick.shuffle(again)
        folded = fold(again).task
        row = rows.get(ref)
        if row is None or (folded.cost.total, folded.status, folded.attempts) != (
            row["cost_nano"], row["status"], row["attempts"]
        ):  # fmt: skip
            yield f"{ref}: another row after a replay"


def one_request_an_attempt(run: Evidence) -> Iterator[str]:
    requests: dict[str, list[Row]] = defaultdict(list)
    for request in run.journal:
        requests[request["id"]].append(request)
    for name, several in requests.items():
        if len(several) > 1:
            yield f"{name} was asked {len(several)} times"
    arrived = set(run.arrivals)
    for name, attempt in _calls(run).items():
        asked = name in requests or name in arrived
        if attempt["model"] in PAID and not asked and (attempt["failure"] or "") not in UNSENT:
            yield f"{name} stands in the ledger ({attempt['failure'] or 'answered'}), and nobody was asked"


def priced_as_the_provider_counts(run: Evidence) -> Iterator[str]:
    requests = {request["id"]: request for request in run.journal}
    for name, attempt in _calls(run).items():
        request = requests.get(name)
        if request is None or attempt["model"] not in PAID:
            continue
        if attempt["settled"] and attempt["failure"] is None:
            prompt = sum(len(message["content"]) // 4 for message in request["body"]["messages"])
            per_input, per_output = PRICES_NANO[attempt["model"]]
            cost = prompt * per_input + attempt["output_tokens"] * per_output
            if (attempt["input_tokens"], attempt["cost_nano"]) != (prompt, cost) or not attempt[
                "output_tokens"
            ]:
                yield f"{name}: {attempt['cost_nano']} for {attempt['input_tokens']} tokens; it is {cost} for {prompt}"
        elif attempt["settled"] and attempt["failure"] == "rate_limited" and attempt["cost_nano"]:
            yield f"{name} was turned away and cost {text(attempt['cost_nano'])}"
        if not attempt["settled"] and not attempt["cost_nano"]:
            yield f"{name} is unsettled at nothing"
        if request["status"] == 200 and not attempt["cost_nano"]:
            yield f"{name} was answered and stands at {attempt['cost_nano']}"


def no_hop_escapes_the_task_s_limit(run: Evidence) -> Iterator[str]:
    raised = {row["ref"] for row in _of(run, "raised")}
    costs = {_ref(row): row for row in run.tasks}
    for row in _of(run, "submitting"):
        if row["hard_usd"] and row["ref"] not in raised and row["ref"] in costs:
            cost = costs[row["ref"]]["cost_nano"]
            if cost > nano(row["hard_usd"]) + JUDGING_NANO:
                yield f"{row['ref']} cost {text(cost)}, its limit is {row['hard_usd']}"


def cancelled_tasks_are_settled(run: Evidence) -> Iterator[str]:
    attempts = _calls(run)
    cancelled = {row["task_id"] for row in run.tasks if row["status"] == "cancelled"}
    for request in run.journal:
        attempt = attempts.get(request["id"])
        unbooked = request["status"] == 200 and (attempt is None or not attempt["cost_nano"])
        if unbooked and _task_of(request) in cancelled:
            yield f"{request['id']} of a cancelled task was answered and is not booked"


def a_raise_pays_the_remainder_only(run: Evidence) -> Iterator[str]:
    parked: dict[str, list[str]] = {}
    raised: set[str] = set()
    for row in run.history:
        if row["kind"] == "raised" and row["before"] == "parked":
            raised.add(row["ref"])
        elif row["kind"] == "seen" and row["ref"] in raised:
            before = parked[row["ref"]]
            if row["attempts"][: len(before)] != before:
                yield f"{row['ref']} had paid {before}, and after its raise {row['attempts']}"
        elif row["kind"] == "seen" and row["status"] == "parked":
            parked[row["ref"]] = row["attempts"]
    hops: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for row in _with_workspace(run):
        if _ref(row) in raised and row["engine"] == "openai":
            hops[_ref(row)].append((row["started_at"], row["hop"]))
    for ref, calls in hops.items():
        climbs = [hop for _, hop in sorted(calls)]
        if climbs != sorted(climbs):
            yield f"{ref} went down its chain again after its raise: {climbs}"


def each_task_ends_once(run: Evidence) -> Iterator[str]:
    accepted = {row["ref"] for row in _of(run, "accepted")}
    records = run.final["records"]
    rows = Counter(_ref(row) for row in run.tasks)
    status = {_ref(row): row["status"] for row in run.tasks}
    ends = Counter(f"{e.workspace}/{e.task_id}" for e in _unique(run) if isinstance(e.fact, Finished))
    climbs = Counter((e.workspace, e.task_id, e.fact) for e in _unique(run) if isinstance(e.fact, Escalated))
    for (workspace, task_id, climb), count in climbs.items():
        if count > 1:
            yield f"{workspace}/{task_id} climbed {count} times from {climb.from_lane} to {climb.to_lane}"
    for row in _of(run, "gave up"):
        yield f"{row['ref']}: its producer was refused for two minutes"
    for row in _of(run, "restless"):
        yield f"the fleet did not come to rest: {row['open']} open, {row['leased']} in hand"
    for ref in sorted(accepted):
        record = records.get(ref)
        if record is None:
            yield f"{ref} was accepted and is gone"
        elif record["status"] == "parked" and not record["reason"]:
            yield f"{ref} is parked without a reason"
        elif record["status"] not in TERMINAL and record["status"] != "parked":
            yield f"{ref} is {record['status']} at the end"
        elif rows[ref] != 1 or status[ref] != record["status"]:
            yield f"{ref} is {record['status']}, and has {rows[ref]} rows in the ledger ({status.get(ref)})"
        elif ends[ref] != (record["status"] in TERMINAL):
            yield f"{ref} is {record['status']} and ended {ends[ref]} times"


def claims_come_back(run: Evidence) -> Iterator[str]:
    act = _one(run, "last act")
    lease_s = _one(run, "began")["lease_s"]
    if not act["held"]:
        yield "the killed workers had nothing in hand: nothing was shown"
    elif act["back_s"] is None or act["back_s"] > 2 * lease_s:
        yield f"{act['held']} claims of killed workers were back after {act['back_s']} s; a lease is {lease_s} s"


def poison_becomes_a_dead_letter(run: Evidence) -> Iterator[str]:
    poison = [row["ref"] for row in _of(run, "submitting") if row["type"] == "poison"]
    attempts = Counter(_ref(row) for row in _with_workspace(run) if row["lane"])
    for ref in poison:
        record = run.final["records"].get(ref, {"status": "gone", "reason": ""})
        if (
            record["status"] != "failed"
            or "dead letter" not in record["reason"]
            or ref not in run.final["dead"]
        ):
            yield f"{ref} is {record['status']}: {record['reason']}"
        elif attempts[ref] > MAX_STARTS:
            yield f"{ref} was started {attempts[ref]} times"


def a_result_stays_what_it_was(run: Evidence) -> Iterator[str]:
    first: dict[str, tuple[str, str]] = {}
    for row in run.history:
        if row["kind"] in ("seen", "waited") and (row["status"] in TERMINAL or row["ref"] in first):
            now = (row["status"], row["digest"])
            if first.setdefault(row["ref"], now) != now:
                yield f"{row['ref']} was {first[row['ref']]}, then {now}"
    for ref, record in run.final["records"].items():
        now = (record["status"], record["digest"])
        if first.setdefault(ref, now) != now:
            yield f"{ref} was {first[ref]}, at the end {now}"
    booked: dict[str, list[Attempted]] = defaultdict(list)
    for event in sorted(_unique(run), key=lambda one: one.seq):
        if isinstance(event.fact, Attempted):
            booked[event.fact.attempt_id].append(event.fact)
    for name, facts in booked.items():
        if len(facts) > 2 or (len(facts) == 2 and facts[0].settled):
            yield f"{name} was booked {len(facts)} times"


def one_task_an_id(run: Evidence) -> Iterator[str]:
    submitted = Counter(f"{e.workspace}/{e.task_id}" for e in _unique(run) if isinstance(e.fact, Submitted))
    asked = {row["ref"] for row in _of(run, "submitting")}
    for ref, count in submitted.items():
        if count != 1:
            yield f"{ref} was submitted {count} times over"
    for ref in submitted.keys() - asked:
        yield f"{ref} was never submitted by anybody"


RULES: dict[str, tuple[str, Callable[[Evidence], Iterable[str]]]] = {
    "I1": ("settled and reserved stay under every limit, in each sample and at the end", under_every_limit),
    "I2a": ("nothing stays reserved", nothing_stays_reserved),
    "I2b": ("Redis's counters equal the ledger, by scope, to the nano-dollar", counters_equal_the_ledger),
    "I3": ("no call leaves while Redis is away", no_call_while_redis_is_away),
    "I4": ("every request that the provider saw is in the ledger", every_request_is_booked),
    "I5": ("facts that come again, in any order, change nothing", replay_changes_nothing),
    "I6": ("an attempt is one request, and a request one attempt", one_request_an_attempt),
    "I7": ("a call costs what the provider counts, a lost one its worst case", priced_as_the_provider_counts),
    "I9": ("a climb to a dearer lane stays under the task's limit", no_hop_escapes_the_task_s_limit),
    "I10": ("a cancelled task is settled", cancelled_tasks_are_settled),
    "I11": ("a raised limit pays the remainder only", a_raise_pays_the_remainder_only),
    "I15": ("each accepted task ends once, or is parked with its reason", each_task_ends_once),
    "I16": ("what a killed worker held is back within two leases", claims_come_back),
    "I17": ("a task that kills its worker becomes a dead letter", poison_becomes_a_dead_letter),
    "I18": ("a result stays what it was, a call is booked once", a_result_stays_what_it_was),
    "I19": ("one id, one task", one_task_an_id),
}


def _facts(run: Evidence) -> Iterator[str]:
    statuses = Counter(record["status"] for record in run.final["records"].values())
    yield f"{len(run.final['records']):,} tasks: " + _counts(statuses)
    yield f"{len(run.journal):,} requests on the journal, by fault: " + _counts(
        Counter((row["fault"] or "none").partition("@")[0] for row in run.journal)
    )
    calls = _calls(run).values()
    yield f"{len(calls):,} attempts in the ledger: " + _counts(
        Counter(row["failure"] or "answered" for row in calls)
    )
    late = Counter(event.fact.attempt_id for event in _unique(run) if isinstance(event.fact, Attempted))
    unsettled = sum(not row["settled"] for row in calls)
    yield f"{unsettled:,} stand unsettled at their worst case, {sum(n > 1 for n in late.values())} settled late"
    yield f"{len(_of(run, 'budgets')):,} samples of {len(run.final['limits'])} limits; " + _counts(
        Counter(
            row["kind"]
            for row in run.history
            if row["kind"] not in ("budgets", "seen", "submitting", "accepted")
        )
    )
    yield "replies lost: " + _counts(Counter(_one(run, "calm")["replies_lost"]))
    yield "Redis was away: " + _counts(Counter(row["how"] for row in _of(run, "down")))
    reasons = Counter(
        "limit"
        if record["status"] == "budget_exceeded" or record["reason"].startswith("budget")
        else record["status"]
        for record in run.final["records"].values()
    )
    yield f"{reasons['limit']} tasks met a limit"
    act = _one(run, "last act")
    yield f"last act: {act['held']} claims of killed workers back after {act['back_s'] or 0:.1f} s"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counter.most_common())


def _of(run: Evidence, kind: str) -> list[Row]:
    return [row for row in run.history if row["kind"] == kind]


def _one(run: Evidence, kind: str) -> Row:
    return _of(run, kind)[0]


def _ref(row: Row) -> str:
    return f"{row['workspace']}/{row['task_id']}"


def _task_of(request: Row) -> str:
    """A request is named after its attempt, and an attempt after its task and the number of its claim."""
    return str(request["id"]).rpartition("-")[0]


def _period(window: str) -> str:
    return {5: "total", 7: "month", 10: "day"}[len(window)]


def _calls(run: Evidence) -> dict[str, Row]:
    """The attempts that are calls of a lane, by their ids."""
    return {row["attempt_id"]: row for row in run.attempts if row["lane"]}


def _unique(run: Evidence) -> list[Event]:
    """Every fact once: what was written twice into files has the same number and bytes."""
    return list({(e.workspace, e.task_id, e.seq, e.at_us, repr(e.fact)): e for e in run.events}.values())


def _stories(run: Evidence) -> dict[str, list[Event]]:
    stories: dict[str, list[Event]] = defaultdict(list)
    for event in run.events:
        stories[f"{event.workspace}/{event.task_id}"].append(event)
    return stories


def _with_workspace(run: Evidence) -> list[Row]:
    workspaces = {row["task_id"]: row["workspace"] for row in run.tasks}
    return [row | {"workspace": workspaces[row["task_id"]]} for row in run.attempts]


def _overrun_scopes(run: Evidence) -> set[str]:
    """No call of a run is meant to overrun its worst case; where one did, its task's scopes are excepted."""
    over = {
        f"{e.workspace}/{e.task_id}" for e in run.events if isinstance(e.fact, Attempted) and e.fact.overrun
    }
    return {scope for row in run.tasks if _ref(row) in over for scope in _scopes(row)}


def _scopes(row: Row) -> list[str]:
    kinds = ("workspace", "workflow", "pipeline", "user_id")
    named = [f"{kind.removesuffix('_id')}:{row[kind]}" for kind in kinds if row[kind]]
    return ["fleet", *named]


def _ledger_by_scope(run: Evidence) -> Counter[str]:
    """What the ledger's rows sum to in each scope. Judging an answer counts under the lane that gave it."""
    sums: Counter[str] = Counter()
    for row in run.tasks:
        for scope in _scopes(row):
            sums[scope] += row["cost_nano"]
    lanes = {row["attempt_id"]: row["lane"] for row in run.attempts}
    for row in run.attempts:
        lane = row["lane"] or lanes.get(row["parent_attempt_id"], "")
        if lane:
            sums[f"lane:{lane}"] += row["cost_nano"] or 0
    return sums
