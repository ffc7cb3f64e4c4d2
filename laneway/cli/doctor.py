"""`laneway doctor`: what is installed, reachable or misconfigured on this node, each problem with its mend."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

from accounting.files.ledger import ID, LocalStore, open_store
from accounting.files.ledger import Store as Ledger
from accounting.intake import aside, home
from broker.ask import ask
from broker.clock import today
from broker.connect import connect
from broker.embedded import find_server
from broker.errors import (
    ConfigError,
    EngineUnavailable,
    LanewayError,
    LedgerError,
    RedisUnavailable,
    ToolUnavailable,
)
from broker.pricebook import book
from broker.settings import Settings, load
from broker.settings.lanes import Lane
from broker.settings.secrets import secret
from broker.settings.tools import SubtaskTool
from broker.sights import Sights
from broker.store import Store
from broker.tariff import holds_for_any, price_of
from dispatcher.availability import needs_key
from dispatcher.classify import Classifier
from dispatcher.embedding import embedder, installed
from dispatcher.gates import check_types
from laneway.cli.options import json_option
from laneway.cli.output import emit, say
from workers.endpoints import Endpoints
from workers.engines import resolve
from workers.engines.llamacpp import packaged_model
from workers.tools import build

OLDEST_PYTHON = (3, 11)
OLDEST_REDIS = 7
MEGABYTE, GIGABYTE = 2**20, 2**30
LITTLE_DISK, TOO_LITTLE_DISK = 2 * GIGABYTE, 200 * MEGABYTE
FEW_FILES, FEW_PROCESSES = 1024, 512
CHILD_TIMEOUT_S = 30.0
PROBE_S = 30.0
CLOCKS_APART_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """``mend`` is "" for what is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    what: str
    mend: str = ""


Checks = Iterator[Check]


@click.command()
@click.option("--probe", is_flag=True, help="Also start this machine's engines, and have each make a token.")
@json_option
def doctor(probe: bool, as_json: bool) -> None:
    """What is installed, reachable or misconfigured on this node.

    One line a check, each problem with its mend. The exit code is 1 where one of them fails. Keys are named, never
    shown.
    """
    checks = list(examine(probe=probe))
    failed = any(one.status == "fail" for one in checks)
    if as_json:
        emit({"ok": not failed, "checks": [asdict(one) for one in checks]})
    else:
        for one in checks:
            mend = f" - mend: {one.mend}" if one.mend else ""
            say(f"{one.status:4}  {one.name:12}  {' '.join(one.what.split())}{mend}")
    if failed:
        sys.exit(1)


def examine(*, probe: bool = False) -> Checks:
    """Every check. Those that need a configuration are left out where that is wrong."""
    yield from _python()
    yield from _packages()
    yield from _system()
    try:
        settings = load()
    except ConfigError as error:
        yield from _config_problems(error)
        return
    yield Check("config", "ok", f"{len(settings.lanes)} lanes, {len(settings.types)} types")
    yield from _routing(settings)
    yield from _tools(settings)
    yield from _discounts(settings)
    store, found = _redis(settings)
    yield from found
    for name, lane in settings.lanes.items():
        yield from _lane(name, lane, settings, store)
        if probe:
            yield from _probe(name, lane, settings)
    yield from _places(settings, store)
    yield from _set_aside(settings)


def _python() -> Checks:
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield Check("python", "fail", f"{version} is too old", "install Python 3.11 or newer")
    else:
        yield Check("python", "ok", f"{version} on {platform.system()} {platform.machine()}")


def _packages() -> Checks:
    """Core packages must be there; an extra is only needed by the lanes that use it."""
    core: list[str] = []
    extras: dict[str, list[str]] = {}
    for line in metadata.requires("laneway") or ():
        requirement, _, marker = line.partition(";")
        package = re.match(r"[A-Za-z0-9._-]+", requirement)
        asked = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if package and asked:
            extras.setdefault(asked[1], []).append(package[0])
        elif package:
            core.append(package[0])
    missing = [name for name in core if _version(name) is None]
    if missing:
        yield Check("packages", "fail", f"not installed: {', '.join(missing)}", "make install")
    else:
        yield Check("packages", "ok", f"all {len(core)} that the core needs")
    for extra, names in extras.items():
        here = [f"{name} {number}" for name in names if (number := _version(name))]
        yield Check(
            f"extra {extra}", "ok", ", ".join(here) if here else f"not installed ({', '.join(names)})"
        )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _system() -> Checks:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = (("open files", files, FEW_FILES, "-n"), ("processes", processes, FEW_PROCESSES, "-u"))
    for what, limit, least, flag in limits:
        if limit != resource.RLIM_INFINITY and limit < least:
            yield Check("limits", "warn", f"only {limit} {what}", f"ulimit {flag} {least} or more")
        else:
            yield Check(
                "limits", "ok", f"{'any number of' if limit == resource.RLIM_INFINITY else limit} {what}"
            )
    try:
        subprocess.run(
            [sys.executable, "-S", "-c", ""], check=True, timeout=CHILD_TIMEOUT_S, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        yield Check(
            "processes", "fail", f"no child process can be started: {error}", "free memory or raise limits"
        )
    else:
        yield Check("processes", "ok", "child processes start")


def _config_problems(error: ConfigError) -> Checks:
    for problem in error.message.split("\n"):
        yield Check("config", "fail", problem, error.mend)


def _routing(settings: Settings) -> Checks:
    """What dispatcher and lanes check at their start: patterns, examples, gates, the word table."""
    if not installed():
        mend = "pip install --no-deps wordllama tokenizers"
        yield Check(
            "embedding", "warn", "the weaker stand-in without data: no wordllama, or no tokenizers", mend
        )
    checks: dict[str, Callable[[], object]] = {
        "types": lambda: Classifier.build(settings, embedder()),
        "gates": lambda: check_types(settings.types),
    }
    for name, deed in checks.items():
        try:
            deed()
        except LanewayError as error:
            yield Check(name, "fail", error.message, error.mend)
        else:
            yield Check(name, "ok", "all can be used")


def _tools(settings: Settings) -> Checks:
    """Whether each can be used on this node; one that cannot is left out of what models are offered here."""
    for name, row in settings.tools.items():
        if isinstance(row, SubtaskTool):
            continue  # a task like others
        try:
            tool = build(name, row)
        except ToolUnavailable as error:
            yield Check(f"tool {name}", "warn", f"off on this node: {error.message}", error.mend)
        except ConfigError as error:
            yield Check(f"tool {name}", "fail", error.message, error.mend)
        else:
            names = ", ".join(one.name for one in tool.functions())
            tool.close()
            yield Check(f"tool {name}", "ok", names if row.kind == "mcp" else row.kind)


def _redis(settings: Settings) -> tuple[Store | None, list[Check]]:
    """The store where Redis answers, and what is to be said of it."""
    try:
        store = connect(settings, check=False)
        info: dict[str, Any] = ask(lambda: store.client.info())
    except RedisUnavailable as error:
        if settings.redis_url is not None:
            return None, [Check("redis", "fail", error.message, error.mend)]
        return None, [*_embedded(), Check("redis", "warn", error.message, error.mend)]
    except ConfigError as error:
        return None, [Check("redis", "fail", error.message, error.mend)]
    return store, list(_redis_checks(info, settings, store))


def _embedded() -> Checks:
    try:
        yield Check("redis server", "ok", str(find_server()))
    except RedisUnavailable as error:
        yield Check("redis server", "fail", error.message, error.mend)


def _clock(store: Store) -> Checks:
    """Deadlines, days and windows go by Redis's clock; people and logs go by this machine's."""
    apart_s = abs(store.clock.now_us() / 1e6 - time.time())
    if apart_s > CLOCKS_APART_S:
        what = f"this machine's clock and Redis's are {apart_s:.0f} s apart"
        yield Check("clock", "warn", what, "let both machines set their clocks by the network")
    else:
        yield Check("clock", "ok", "as Redis's")


def _redis_checks(info: dict[str, Any], settings: Settings, store: Store) -> Checks:
    version = str(info.get("valkey_version") or info.get("redis_version"))
    if int(version.split(".")[0]) < OLDEST_REDIS:
        yield Check("redis", "fail", f"{version} is too old", "run Redis or Valkey 7.0 or newer")
    else:
        yield Check("redis", "ok", f"{info.get('server_name', 'redis')} {version} answers")
    yield from _clock(store)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Check("redis", "fail", f"it may evict tasks ({policy})", "set `maxmemory-policy noeviction`")
    if not info.get("aof_enabled"):
        what = "no append-only file: a crash of Redis loses tasks and what they cost"
        yield Check("redis", "warn", what, "set `appendonly yes`")
    used, limit = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if limit and used / limit > settings.fleet.redis_admission:
        what = f"{used / limit:.0%} full: submissions are refused above {settings.fleet.redis_admission:.0%}"
        yield Check("redis", "fail", what, "let the fleet drain its queues, or raise maxmemory")
    else:
        of = f" of {limit / MEGABYTE:.0f} MB" if limit else ", no maxmemory set"
        yield Check("redis", "ok", f"{used / MEGABYTE:.0f} MB used{of}")


def _lane(name: str, lane: Lane, settings: Settings, store: Store | None) -> Checks:
    """Can this node serve it? Where another node does, or only the key is missing, that is no failure."""
    what = f"{resolve(lane)} {lane.model}".rstrip()
    keyless = needs_key(lane) and secret(lane) is None
    try:
        Endpoints.build(name, lane, settings.fleet.var).check()
    except EngineUnavailable as error:
        served = store is not None and _served(name, settings, store)
        status: Literal["warn", "fail"] = "warn" if keyless or served else "fail"
        elsewhere = "; another node serves it" if served else ""
        yield Check(f"lane {name}", status, error.message + elsewhere, error.mend)
    else:
        yield Check(f"lane {name}", "ok", what + _key_words(lane) + _model_words(lane))
    doors = [door for door in lane.doors() if price_of(name, door, today()) is None]
    if unpriced := sorted({door.price if isinstance(door.price, str) else door.model for door in doors}):
        of = f" of {', '.join(unpriced)}" if any(unpriced) else ""
        mend = f'set lanes.{name}.price or .hardware, or price = "free"'
        yield Check(f"lane {name}", "warn", f"no price{of} is known: such calls are booked as unpriced", mend)


def _discounts(settings: Settings) -> Checks:
    agreed = [
        *settings.prices.discounts,
        *(one for lane in settings.lanes.values() for one in lane.discounts),
    ]
    for one in dict.fromkeys(agreed):
        if not holds_for_any(one, book()):
            what = f"the price book has no {one.provider}/{one.model or '…'}: nothing is taken off"
            mend = "name the provider and its model as `laneway prices show MODEL` does"
            yield Check("discounts", "warn", what, mend)


def _probe(name: str, lane: Lane, settings: Settings) -> Checks:
    """Whether the engine really works. One whose tokens are billed is only connected to."""
    endpoints = Endpoints.build(name, lane, settings.fleet.var)
    try:
        endpoints.check()
    except EngineUnavailable:
        return  # said already
    began = time.monotonic()
    try:
        endpoints.open()
        for one in endpoints:
            one.engine.probe(PROBE_S)
    except EngineUnavailable as error:
        yield Check(f"lane {name}", "fail", error.message, error.mend)
    else:
        yield Check(
            f"lane {name}", "ok", f"its engine works, {time.monotonic() - began:.1f} s from its start"
        )
    finally:
        for one in endpoints:
            one.engine.close()


def _served(name: str, settings: Settings, store: Store) -> bool:
    seen = Sights(store).lanes().get(name)
    return seen is not None and seen.s_ago <= settings.fleet.lane_absent_s


def _key_words(lane: Lane) -> str:
    return f", key in {lane.api_key_env or lane.api_key_file}" if needs_key(lane) else ""


def _model_words(lane: Lane) -> str:
    if resolve(lane) != "llamacpp":
        return ""
    path = lane.model_path or packaged_model()
    return f", model file {path.name} ({path.stat().st_size / MEGABYTE:.0f} MB)" if path else ""


def _places(settings: Settings, store: Store | None) -> Checks:
    """Folders that the fleet writes to, and the room in them; and whether the facts go into that ledger."""
    places = {"var": settings.fleet.var}
    try:
        files = open_store(settings)
    except ConfigError as error:
        yield Check("ledger", "fail", error.message, error.mend)
    else:
        if isinstance(files, LocalStore):
            places["ledger"] = files.root
        else:
            yield _ledger(settings, files)
        if store is not None:
            yield from _home(store, files)
    for name, folder in places.items():
        there = _existing(folder)
        if not os.access(there, os.W_OK | os.X_OK):
            mend = f"give this user the right to write there, or change fleet.{name}"
            yield Check(name, "fail", f"{folder} cannot be written", mend)
            continue
        free = shutil.disk_usage(there).free
        room = f"{folder}, {free / GIGABYTE:.1f} GB free"
        if free < LITTLE_DISK:
            yield Check(name, "fail" if free < TOO_LITTLE_DISK else "warn", room, "make room on that disk")
        else:
            yield Check(name, "ok", room)


def _ledger(settings: Settings, files: Ledger) -> Check:
    """A bucket: reached, read, written, listed, and careful with puts that have a condition."""
    try:
        files.check()
    except LedgerError as error:
        return Check("ledger", "fail", error.message, error.mend)
    return Check(
        "ledger", "ok", f"{settings.fleet.ledger} is written, read and listed, and keeps conditional puts"
    )


def _set_aside(settings: Settings) -> Checks:
    quarantine = aside.place(settings)
    try:
        left = aside.entries(quarantine)
    except LedgerError as error:
        yield Check("quarantine", "warn", error.message, "look at it as the user that accounting runs as")
        return
    if left:
        what = f"{quarantine.root} has {len(left)} of facts that could not be read: what they cost is in no report"
        mend = "see accounting's log for what is wrong with each; a newer version that can read one takes it from there"
        yield Check("quarantine", "warn", what, mend)


def _home(store: Store, files: Ledger) -> Checks:
    with suppress(LedgerError, RedisUnavailable):  # which are told already
        if wrong := ask(lambda: home.apart(store.client, files)):
            if files.read(ID) is None:  # as on each node that has lanes alone
                yield Check(
                    "facts", "warn", wrong, f"none where this node does not keep the ledger; {home.MEND}"
                )
            else:
                yield Check("facts", "fail", wrong, home.MEND)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
