"""One run: a fleet, its provider and its producers under a nemesis, then calm, then everything into files.

``run`` leaves in its folder all that the checker reads: ``history.jsonl``, ``journal.jsonl``, ``arrivals.jsonl``,
``ledger/`` and ``final.json``.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from accounting.files import ledger
from accounting.rollup import nightly
from broker import keys
from broker.errors import LanewayError
from broker.settings import Settings, parse
from broker.state import Record
from broker.store import Store
from broker.task import TERMINAL
from laneway.client import Client
from tests.soak.history import History
from tests.soak.nemesis import Nemesis
from tests.soak.plan import LEASE_S, Planned, configuration, planned
from tests.soak.processes import (
    Fleet,
    RedisServer,
    fleet_process,
    free_port,
    provider_process,
    quick_client,
    wait_for_port,
)
from tests.soak.producers import Producers, observed, sample
from tests.soak.proxy import Proxy

FAR_S = 120.0
CALM_S = 90.0
LAST_ACT = 24


@dataclass(frozen=True, slots=True)
class Size:
    """``minutes`` is for how long tasks come in under the nemesis; the calm afterwards is on top. ``deeds`` are the
    nemesis's, all where none is named."""

    tasks: int
    minutes: float
    seed: int
    pause_s: tuple[float, float] = (0.2, 1.5)
    deeds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stage:
    """Everything that runs. ``direct`` reaches Redis past the proxy."""

    folder: Path
    size: Size
    history: History
    server: RedisServer
    proxy: Proxy
    fleet: Fleet
    settings: Settings
    direct: Store
    producers: Producers


def run(folder: Path, size: Size, say: Callable[[str], None]) -> None:
    """Raises what a part of the test itself fails with; what the product does wrong is the checker's to say."""
    with _staged(folder, size) as stage:
        say(f"{size.tasks} tasks over {size.minutes:g} minutes, seed {size.seed}, in {folder}")
        with _watched(stage):
            lost = _storm(stage)
            say(f"all submitted, {lost} replies lost; the fleet comes to rest")
            _rest(stage)
            _last_act(stage)
            _rest(stage)
        stage.fleet.end()
        stage.producers.look(sorted(stage.producers.accepted))
        files, aside = (ledger.LocalStore(folder / name) for name in ("ledger", "quarantine"))
        nightly.run(stage.direct.client, files, aside, stage.settings)
        say("the ledger is rolled up")
        (folder / "final.json").write_text(json.dumps(_final(stage), indent=1))


@contextmanager
def _staged(folder: Path, size: Size) -> Iterator[_Stage]:
    """Redis, the proxy before it, the provider and the fleet, all up; ended whatever happens."""
    (folder / "logs").mkdir(parents=True)
    with ExitStack() as ending:
        history = History(folder / "history.jsonl")
        ending.callback(history.close)
        server = RedisServer(folder / "redis")
        ending.callback(server.end)
        server.start()
        port = free_port()
        provider = provider_process(folder, port, size.seed)
        ending.callback(provider.end)
        provider.start()
        wait_for_port(port)
        proxy = Proxy(server.port)
        ending.callback(proxy.stop)
        proxy.start()
        text = configuration(port, size.tasks)
        (folder / "laneway.toml").write_text(text)
        url = f"redis://127.0.0.1:{proxy.port}"
        settings = parse(text, folder=folder).model_copy(update={"redis_url": url})
        direct = Store(quick_client(server.port), settings.fleet)
        ending.callback(direct.client.close)
        fleet = Fleet()
        _enlist(fleet, folder, url)
        ending.callback(fleet.end)
        fleet.start()
        client = Client(settings)
        ending.callback(client.store.client.close)
        _load(client.store)
        _until(lambda: {b"local", b"rented", b"frontier"} <= set(direct.client.hgetall(keys.LANES)), 60)
        history.add("began", wall=time.time(), seed=size.seed, tasks=size.tasks, lease_s=LEASE_S)
        producers = Producers(client, history)
        yield _Stage(folder, size, history, server, proxy, fleet, settings, direct, producers)


@contextmanager
def _watched(stage: _Stage) -> Iterator[None]:
    """Budgets are sampled and results looked at all the while."""
    closing = threading.Event()
    threads = [
        threading.Thread(target=sample, args=(stage.direct, stage.history, closing, 0.2), daemon=True),
        threading.Thread(target=stage.producers.watch, daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stage.producers.closing.set()
        closing.set()
        for thread in threads:
            thread.join(15)


def _storm(stage: _Stage) -> int:
    """All tasks come in while the nemesis is at work. How many replies were lost."""
    size, scripts = stage.size, stage.producers.client.store.scripts.known
    digests = {name: script.sha for name, script in scripts.items()}
    nemesis = Nemesis(stage.fleet, stage.server, stage.proxy, digests, stage.history, size.seed, size.deeds)
    trouble = threading.Thread(target=nemesis.run, args=(size.pause_s,), daemon=True)
    trouble.start()
    try:
        tasks = (planned(number, size.seed) for number in range(size.tasks))
        stage.producers.submit_all(tasks, per_s=size.tasks / (size.minutes * 60))
    finally:
        nemesis.closing.set()
        trouble.join(60)
    lost = {name: stage.proxy.lost[digest] for name, digest in digests.items() if stage.proxy.lost[digest]}
    stage.history.add("calm", replies_lost=lost)
    return sum(lost.values())


def _enlist(fleet: Fleet, folder: Path, url: str) -> None:
    for name, module, threads in (
        ("dispatcher-1", "dispatcher.node", 2),
        ("local-1", "workers.lane_local", 2),
        ("rented-1", "workers.lane_rented", 8),
        ("rented-2", "workers.lane_rented", 8),
        ("frontier-1", "workers.lane_frontier", 8),
        ("frontier-2", "workers.lane_frontier", 8),
        ("accounting-1", "accounting.node", 2),
    ):
        fleet.add(fleet_process(name, module, folder, url, threads=threads))


def _load(store: Store) -> None:
    """So that each script has its digest by which the proxy knows its replies."""
    for script in store.scripts.known.values():
        store.client.script_load(script.script)


def _until(true: Callable[[], bool], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(redis.RedisError, LanewayError):
            if true():
                return True
        time.sleep(0.2)
    return False


def _rest(stage: _Stage) -> None:
    """Until nothing is open or in hand. What waits for a budget's next window is cancelled: nobody waits for that."""
    direct, history = stage.direct, stage.history
    until = time.monotonic() + CALM_S
    while time.monotonic() < until:
        with suppress(redis.RedisError, LanewayError):
            if not direct.client.zcard(keys.OPEN) and not direct.client.zcard(keys.LEASES):
                time.sleep(2 * LEASE_S)  # a worker that was stopped may still settle late
                return
            for ref in _far(direct):
                history.add("cancel", ref=ref, word=direct.cancel(ref))
        time.sleep(0.5)
    history.add("restless", open=direct.client.zcard(keys.OPEN), leased=direct.client.zcard(keys.LEASES))


def _far(direct: Store) -> list[str]:
    later = direct.clock.now_us() + FAR_S * 1e6
    found: list[Any] = []
    for name in direct.client.scan_iter(f"{keys.PREFIX}later:*"):
        found += direct.client.zrangebyscore(name, later, "+inf")
    return [ref.decode() for ref in found]


def _last_act(stage: _Stage) -> None:
    """No other trouble: both workers of a lane are killed with their hands full. What they held must be back, claimed
    or done by others, within two leases."""
    direct, producers = stage.direct, stage.producers
    producers.submit_together(
        [
            Planned({"prompt": f"last {n}", "type": "plain", "task_id": f"last-{n}", "workspace": "gamma"})
            for n in range(LAST_ACT)
        ]
    )
    _until(lambda: len(_held(direct)) >= LAST_ACT // 4, 20)
    for name in ("rented-1", "rented-2"):
        stage.fleet.processes[name].signal(signal.SIGKILL)
    killed = time.monotonic()
    held = _held(direct)
    back_s = None
    while held and time.monotonic() < killed + 10 * LEASE_S:
        with suppress(redis.RedisError):
            now = _held(direct)
            if not any(now.get(ref) == epoch for ref, epoch in held.items()):
                back_s = time.monotonic() - killed
                break
        time.sleep(0.05)
    stage.history.add("last act", held=len(held), back_s=back_s)


def _held(direct: Store) -> dict[str, int]:
    """What the lane's workers have in hand, with the claim's number."""
    leased: Any = direct.client.zrange(keys.LEASES, 0, -1)
    refs = [ref.decode() for ref in leased]
    return {
        ref: record.epoch
        for ref, record in zip(refs, direct.records.many(refs), strict=True)
        if record.queue.startswith("lane-rented-")
    }


def _final(stage: _Stage) -> dict[str, Any]:
    """Redis's own account at the end: records, and every counter of money."""
    direct, producers = stage.direct, stage.producers
    client = direct.client
    refs = sorted(producers.accepted)
    records: dict[str, Record] = {}
    for start in range(0, len(refs), 500):
        part = refs[start : start + 500]
        records.update(zip(part, direct.records.many(part), strict=True))
    used: dict[str, dict[str, int]] = {}
    for name in client.scan_iter(f"{keys.PREFIX}used:*"):
        used[name.decode().rpartition(":")[2]] = _amounts(client.hgetall(name))
    held: dict[str, int] = {}
    for name in client.scan_iter(f"{keys.PREFIX}held:*"):
        window = name.decode().rpartition(":")[2]
        held |= {f"{scope} in {window}": nano for scope, nano in _amounts(client.hgetall(name)).items()}
    return {
        "records": {ref: observed(record) for ref, record in records.items()},
        "open": [ref for ref, record in records.items() if record.status not in TERMINAL | {"parked"}],
        "used": used,
        "held": held,
        "limits": {f"{one.scope}|{one.period}": one.limit_nano for one in direct.limits.states()},
        "dead": [letter.id for letter in direct.dead_letters.all()],
        "stream": client.xlen(keys.EVENTS),
    }


def _amounts(row: Any) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in row.items()}
