"""What a run submits and under which limits: a pure function of its size and seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

POISON = 3
LEASE_S = 3.0
MAX_STARTS = 3
RENTED, FRONTIER = "small-model", "large-model"


@dataclass(frozen=True, slots=True)
class Planned:
    """One task: the arguments of its submission, and what its producer does besides.

    ``again``: submitted once more although it was accepted. ``cancel_s``: cancelled so long after. ``raise_usd``: the
    task's own limit is raised to this where it is parked for want of it.
    """

    arguments: Mapping[str, Any]
    again: bool = False
    cancel_s: float | None = None
    raise_usd: str | None = None


def planned(number: int, seed: int) -> Planned:
    pick = random.Random(f"{seed}-{number}")
    task_id = f"soak-{number:05d}"
    if number % 1000 in range(100, 100 + POISON):
        return Planned({"prompt": f"poison {task_id}", "type": "poison", "task_id": task_id})
    kind = pick.choices(
        ["plain", "picky", "hopeless", "limited", "tight"], weights=[55, 20, 5, 15, 5]
    )[0]  # fmt: skip
    arguments: dict[str, Any] = {
        "prompt": f"{task_id}: " + " ".join(pick.choices(WORDS, k=pick.randint(2, 12))),
        "type": {"limited": "picky", "tight": "plain"}.get(kind, kind),
        "task_id": task_id,
        "workspace": pick.choice(["acme", "beta", "gamma", "delta"]),
        "workflow": pick.choice(["", "support", "batch"]),
        "pipeline": pick.choice(["", "p1"]),
        "user": pick.choice(["", "u1", "u2"]),
        "mode": "async" if pick.random() < 0.3 else "sync",
        "priority": pick.choice([0, 0, 0, 5]),
    }
    if kind == "limited":
        arguments["budget"] = {"hard_usd": "0.6"}
    if kind == "tight":
        arguments["budget"] = {"hard_usd": "0.0001"}
    return Planned(
        arguments,
        again=pick.random() < 0.08,
        cancel_s=pick.uniform(0.05, 1.5) if pick.random() < 0.12 else None,
        raise_usd="50" if kind == "limited" and pick.random() < 0.5 else None,
    )


WORDS = (
    "when",
    "where",
    "card",
    "lost",
    "arrive",
    "transfer",
    "money",
    "back",
    "account",
    "please",
    "tell",
    "help",
)


def configuration(provider_port: int, tasks: int) -> str:
    """The fleet's file. Limits grow with the run, so that some of its tasks meet them and most do not."""
    per_task = 0.3  # dollars that a task of this mix costs, about
    share = per_task * tasks

    def usd(part: float) -> str:
        return f"{share * part:.4f}"

    return f"""
[fleet]
ledger = "ledger"
var = "var"
lease_s = {LEASE_S}
max_starts = {MAX_STARTS}
ingest_flush_s = 2
ingest_flush_events = 2000
lane_absent_s = 120

[lanes.local]
engine = "echo"
price = "free"
threads = 2
echo = {{ reply = "done", latency_ms = 5, kill_on = "poison" }}

[lanes.rented]
engine = "openai"
model = "{RENTED}"
base_url = "http://127.0.0.1:{provider_port}/v1"
threads = 8
timeout_s = 12
retries = 2
retry_delay_s = 0.3
max_tokens = 64
price = {{ input_mtok = "1000", output_mtok = "2000" }}

[lanes.frontier]
engine = "openai"
model = "{FRONTIER}"
base_url = "http://127.0.0.1:{provider_port}/v1"
threads = 8
timeout_s = 12
retries = 2
retry_delay_s = 0.3
max_tokens = 64
price = {{ input_mtok = "10000", output_mtok = "20000" }}

[types.plain]
chain = ["rented", "frontier", "human"]

[types.picky]
chain = ["rented", "frontier", "human"]
gate = {{ kind = "regex", pattern = "{FRONTIER}" }}

[types.hopeless]
chain = ["rented", "human"]
reprompts = 1
gate = {{ kind = "regex", pattern = "^no model says this$" }}

[types.poison]
chain = ["local", "human"]

[types.general]
chain = ["rented", "human"]

[[budgets]]
scope = "fleet"
period = "month"
usd = "{usd(20)}"

[[budgets]]
scope = "workspace:acme"
period = "day"
usd = "{usd(0.2)}"

[[budgets]]
scope = "workspace:beta"
period = "total"
usd = "{usd(0.12)}"

[[budgets]]
scope = "workflow:batch"
period = "total"
usd = "{usd(0.25)}"

[[budgets]]
scope = "user:u1"
period = "month"
usd = "{usd(0.3)}"

[[budgets]]
scope = "pipeline:p1"
period = "total"
usd = "{usd(1)}"

[[budgets]]
scope = "lane:frontier"
period = "total"
usd = "{usd(0.75)}"
"""
