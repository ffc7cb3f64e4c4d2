"""One run: a fleet, its provider and its producers under a nemesis, then calm, then everything into files.

``run`` leaves in its folder all that the checker reads: ``history.jsonl``, ``journal.jsonl``, ``arrivals.jsonl``,
``ledger/`` and ``final.json``.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from accounting import ledger, nightly
from broker import keys
from broker.errors import LanewayError
from broker.settings import parse
from broker.store import Record, Store
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


def run(folder: Path, size: Size, say: Callable[[str], None]) -> None:
    (folder / "logs").mkdir(parents=True)
    history = History(folder / "history.jsonl")
    server = RedisServer(folder / "redis")
    provider_port = free_port()
    provider = provider_process(folder, provider_port, size.seed)
    proxy = Proxy(server.port)
    fleet = Fleet()
    closing = threading.Event()
    text = configuration(provider_port, size.tasks)
    (folder / "laneway.toml").write_text(text)
    try:
        server.start()
        provider.start()
        wait_for_port(provider_port)
        proxy.start()
        url = f"redis://127.0.0.1:{proxy.port}"
        settings = parse(text, folder=folder).model_copy(update={"redis_url": url})
        direct = Store(quick_client(server.port), settings.fleet)
        _enlist(fleet, folder, url)
        fleet.start()
        client = Client(settings)
        _load(client.store)
        _until(lambda: {b"local", b"rented", b"frontier"} <= set(direct.client.hgetall(keys.LANES)), 60)
        history.add("began", wall=time.time(), seed=size.seed, tasks=size.tasks, lease_s=LEASE_S)
        producers = Producers(client, history)
        digests = {name: script.sha for name, script in client.store._run.items()}
        nemesis = Nemesis(fleet, server, proxy, digests, history, size.seed, size.deeds)
        threads = [
            threading.Thread(target=sample, args=(direct, history, closing, 0.2), daemon=True),
            threading.Thread(target=producers.watch, daemon=True),
        ]
        trouble = threading.Thread(target=nemesis.run, args=(size.pause_s,), daemon=True)
        for thread in (*threads, trouble):
            thread.start()
        say(f"{size.tasks} tasks over {size.minutes:g} minutes, seed {size.seed}, in {folder}")
        per_s = size.tasks / (size.minutes * 60)
        producers.submit_all((planned(number, size.seed) for number in range(size.tasks)), per_s=per_s)
        nemesis.closing.set()
        trouble.join(60)
        lost = {name: proxy.lost[digest] for name, digest in digests.items() if proxy.lost[digest]}
        history.add("calm", replies_lost=lost)
        say(f"all submitted, {sum(lost.values())} replies lost; the fleet comes to rest")
        _rest(direct, history)
        _last_act(direct, fleet, producers, history)
        _rest(direct, history)
        history.add("rest")
        producers.closing.set()
        closing.set()
        for thread in threads:
            thread.join(15)
        fleet.end()
        producers.look(sorted(producers.accepted))
        say("the ledger is rolled up")
        files = ledger.LocalStore(folder / "ledger")
        nightly.run(direct.client, files, ledger.LocalStore(folder / "quarantine"), settings)
        (folder / "final.json").write_text(json.dumps(_final(direct, producers), indent=1))
        client.store.client.close()
    finally:
        closing.set()
        fleet.end()
        server.process.signal(signal.SIGCONT)
        server.process.end(5)
        provider.end(5)
        proxy.stop()
        history.close()


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
    for script in store._run.values():
        store.client.script_load(script.script)


def _until(true: Callable[[], bool], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(redis.RedisError, LanewayError):
            if true():
                return True
        time.sleep(0.2)
    return False


def _rest(direct: Store, history: History) -> None:
    """Until nothing is open or in hand. What waits for a budget's next window is cancelled: nobody waits for that."""
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
    later = direct.now_us() + FAR_S * 1e6
    found: list[Any] = []
    for name in direct.client.scan_iter(f"{keys.PREFIX}later:*"):
        found += direct.client.zrangebyscore(name, later, "+inf")
    return [ref.decode() for ref in found]


def _last_act(direct: Store, fleet: Fleet, producers: Producers, history: History) -> None:
    """No other trouble: both workers of a lane are killed with their hands full. What they held must be back, claimed
    or done by others, within two leases."""
    producers.submit_together(
        [
            Planned({"prompt": f"last {n}", "type": "plain", "task_id": f"last-{n}", "workspace": "gamma"})
            for n in range(LAST_ACT)
        ]
    )
    _until(lambda: len(_held(direct)) >= LAST_ACT // 4, 20)
    for name in ("rented-1", "rented-2"):
        fleet.processes[name].signal(signal.SIGKILL)
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
    history.add("last act", held=len(held), back_s=back_s)


def _held(direct: Store) -> dict[str, int]:
    """What is in hand, with the claim's number."""
    leased: Any = direct.client.zrange(keys.LEASES, 0, -1)
    refs = [ref.decode() for ref in leased]
    return {ref: record.epoch for ref, record in zip(refs, direct.records(refs), strict=True)}


def _final(direct: Store, producers: Producers) -> dict[str, Any]:
    """Redis's own account at the end: records, and every counter of money."""
    client = direct.client
    refs = sorted(producers.accepted)
    records: dict[str, Record] = {}
    for start in range(0, len(refs), 500):
        part = refs[start : start + 500]
        records.update(zip(part, direct.records(part), strict=True))
    used: dict[str, dict[str, int]] = {}
    for name in client.scan_iter(f"{keys.PREFIX}used:*"):
        used[name.decode().rpartition(":")[2]] = _amounts(client.hgetall(name))
    held: dict[str, int] = {}
    for name in client.scan_iter(f"{keys.PREFIX}held:*"):
        for scope, nano in _amounts(client.hgetall(name)).items():
            held[scope] = held.get(scope, 0) + nano
    return {
        "records": {ref: observed(record) for ref, record in records.items()},
        "open": [ref for ref, record in records.items() if record.status not in TERMINAL | {"parked"}],
        "used": used,
        "held": held,
        "limits": {f"{one.scope}|{one.period}": one.limit_nano for one in direct.budgets()},
        "dead": [letter.id for letter in direct.dead_letters()],
        "stream": client.xlen(keys.EVENTS),
    }


def _amounts(row: Any) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in row.items()}
