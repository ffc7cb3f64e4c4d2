"""A fleet on this node: which processes of the Procfile can run here, and running them over one Redis."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import click
import redis

from broker import embedded
from broker.connect import connect
from broker.errors import ConfigError, LanewayError, RedisUnavailable
from broker.settings import Settings, load
from broker.settings.lanes import Lane
from broker.store import Store
from dispatcher.gates import check_types
from laneway.cli.output import plain
from laneway.procfile import parse
from laneway.supervisor import OURS, Claim, Say, Supervisor, log_files, on_signals
from workers.endpoints import Endpoints
from workers.engines import resolve
from workers.engines.launcher import stop_all

ROOT = Path(__file__).resolve().parents[1]
LANE_MODULE = re.compile(r"workers\.lane_(\w+)")
READY_LINE = "Worker process is ready for action"
READY_S = 120.0
DRAIN_MARGIN_S = 5.0
REDIS_LOOK_S = 1.0
REDIS_START_S = 10.0  # of one try: whoever ends the fleet waits no longer than that
COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run here. ``lanes`` maps each lane that is served to its process; ``unavailable`` the others to why."""

    commands: Mapping[str, Sequence[str]]
    lanes: Mapping[str, str]
    unavailable: Mapping[str, str]
    notes: tuple[str, ...]


def plan(
    settings: Settings,
    commands: Mapping[str, Sequence[str]],
    missing: Callable[[str, Lane], str | None],
    only: Sequence[str] = (),
) -> Plan:
    """``missing`` says what a lane lacks on this node; ``only`` names the processes to run, all of them if empty.

    Raises ConfigError for a name that no process has.
    """
    unknown = [name for name in only if name not in commands]
    if unknown:
        raise ConfigError(f"no process is named {unknown[0]!r}", mend=f"use {', '.join(commands)}")
    wanted = {name: words for name, words in commands.items() if not only or name in only}
    chosen = {lane: name for name, words in wanted.items() if (lane := lane_of(words))}
    in_file = {lane_of(words) for words in commands.values()}
    unavailable = {}
    for lane, row in settings.lanes.items():
        if lane not in in_file:
            unavailable[lane] = "no line of the Procfile serves it"
        elif lane in chosen and (why := missing(lane, row)) is not None:
            unavailable[lane] = why
    lanes = {
        lane: name for lane, name in chosen.items() if lane in settings.lanes and lane not in unavailable
    }
    strangers = sorted(chosen.keys() - settings.lanes.keys())
    notes = [f"{chosen[lane]} is not started: the configuration has no lane {lane!r}" for lane in strangers]
    notes += [
        note for lane, name in lanes.items() if (note := _too_few(lane, settings.lanes[lane], wanted[name]))
    ]
    serving = set(lanes.values())
    running = {name: words for name, words in wanted.items() if lane_of(words) is None or name in serving}
    return Plan(running, lanes, unavailable, tuple(notes))


def lane_of(words: Sequence[str]) -> str | None:
    """The lane that a command serves, None where it serves none."""
    found = next((match for word in words if (match := LANE_MODULE.fullmatch(word))), None)
    return found[1].replace("_", "-") if found else None


def _too_few(lane: str, row: Lane, words: Sequence[str]) -> str | None:
    here = words.index("--threads") + 1 if "--threads" in words else len(words)
    if here < len(words) and words[here].isdigit() and int(words[here]) < row.threads:
        return f"lane {lane} has threads = {row.threads}, but its line in the Procfile gives it {words[here]}"
    return None


def missing_here(var: Path) -> Callable[[str, Lane], str | None]:
    def missing(name: str, lane: Lane) -> str | None:
        try:
            Endpoints.build(name, lane, var).check()
        except LanewayError as error:
            return "; ".join(filter(None, (error.message, error.mend)))
        return None

    return missing


def read_procfile(path: Path | None = None) -> dict[str, list[str]]:
    """The commands of the named Procfile, else of the one beside Laneway's packages, else of the one in this folder."""
    choices = [path] if path else [ROOT / "Procfile", Path("Procfile")]
    for choice in choices:
        try:
            return parse(choice.read_text(encoding="utf-8"), source=str(choice))
        except FileNotFoundError:
            continue
    raise ConfigError(f"no {choices[-1]} to say what runs on this node", mend="name one with --procfile")


class RedisWatch:
    """Starts the embedded server of ``var`` again when it dies, on a thread of its own until ``stop``.

    Its address and its data stay, so that whoever used it comes back by itself.
    """

    def __init__(self, var: Path, say: Say) -> None:
        self._var, self._say = var, say
        self._stop_asked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redis-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop_asked.set()
        self._thread.join()

    def _run(self) -> None:
        said = ""
        while not self._stop_asked.wait(REDIS_LOOK_S):
            words = self._look()
            if words and words != said:
                self._say(OURS, words)
            said = words

    def _look(self) -> str:
        """What there is to say: "" where the server runs as it should."""
        try:
            if embedded.running(self._var) is not None:
                return ""
            server = embedded.start(self._var, timeout_s=REDIS_START_S)
        except (RedisUnavailable, redis.RedisError, OSError) as error:
            return f"redis does not answer, which is looked at again every {REDIS_LOOK_S:g} s: {error}"
        what = "had ended and was started again" if server.started_here else "did not answer and does again"
        return f"redis {what} (process {server.pid})"


class Fleet:
    """A context manager: inside, the planned processes run and ``store`` is open; after it nothing of them is left.

    ``settings.redis_url`` None: over the embedded server of ``fleet.var``, which is started again when it dies and is
    stopped too unless it ran before. ``fresh`` empties that folder first.
    """

    def __init__(
        self,
        settings: Settings,
        running: Plan,
        *,
        say: Say,
        drain_s: float | None = None,
        fresh: bool = False,
    ) -> None:
        self.settings, self.plan, self._say, self._fresh = settings, running, say, fresh
        longest_s = max((settings.lanes[lane].timeout_s for lane in running.lanes), default=0.0)
        self._drain_s = longest_s + DRAIN_MARGIN_S if drain_s is None else drain_s
        self._killed = threading.Event()
        self._stack = ExitStack()
        self.supervisor: Supervisor | None = None
        self.redis_url = settings.redis_url or ""
        self.store: Store

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            claim = Claim(self.settings.fleet.var / "fleet")
            stack.callback(claim.release)
            if claim.leftovers:
                self._say(
                    OURS, f"ended what a fleet before this one left behind: {', '.join(claim.leftovers)}"
                )
            if self._fresh:
                _empty(self.settings.fleet.var, keep=claim.folder)
            self._open_redis(stack, claim)
            stack.callback(stop_all, self.settings.fleet.var)
            self.store.lanes.announce(list(self.plan.lanes))
            self.store.lanes.renounce(list(self.plan.unavailable))
            self._start(stack, claim)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop_processes(self) -> None:
        """Drain them all; Redis goes on until the end of the block."""
        if self.supervisor is not None:
            self.supervisor.stop()

    def kill(self) -> None:
        """Do not wait for calls in flight any more: from a signal's handler."""
        self._killed.set()
        if self.supervisor is not None:
            self.supervisor.kill()

    def running(self) -> bool:
        return self.supervisor is not None and self.supervisor.running()

    def failing(self) -> dict[str, str]:
        """Processes that do not stay up, with the last words of each."""
        return self.supervisor.failing() if self.supervisor else {}

    def wait_until_ready(self, stop: Callable[[], bool]) -> frozenset[str]:
        """Until every process said that it works, ``stop`` says so, or ``READY_S`` are over. The names of those that
        have not."""
        assert self.supervisor is not None
        until = time.monotonic() + READY_S
        wanted = frozenset(self.plan.commands)
        while (left := wanted - self.supervisor.ready()) and time.monotonic() < until and not stop():
            time.sleep(0.05)
        return left

    def _open_redis(self, stack: ExitStack, claim: Claim) -> None:
        if not self.redis_url:
            server = embedded.start(self.settings.fleet.var)
            self.redis_url = server.url
            if server.started_here or claim.crashed:
                stack.callback(embedded.stop, server)
            stack.callback(RedisWatch(self.settings.fleet.var, self._say).stop)
        self.store = connect(self.settings.model_copy(update={"redis_url": self.redis_url}))
        stack.callback(self.store.client.close)

    def _start(self, stack: ExitStack, claim: Claim) -> None:
        self.supervisor = Supervisor(
            self.plan.commands,
            claim=claim,
            env=self._environment(),
            say=self._say,
            drain_s=self._drain_s,
            ready_line=READY_LINE,
        )
        stack.callback(self.supervisor.stop)
        self.supervisor.start()
        if self._killed.is_set():
            self.supervisor.kill()

    def _environment(self) -> dict[str, str]:
        """Ours with what the processes must agree on, and found without an activated environment."""
        fleet = self.settings.fleet
        env = os.environ | {
            "LANEWAY_REDIS_URL": self.redis_url,
            "LANEWAY_FLEET__VAR": str(fleet.var),
            "LANEWAY_FLEET__LEDGER": fleet.ledger,
            "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath))),
        }
        if (ROOT / "pyproject.toml").exists():  # a checkout: its packages, installed or not
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return env


def _empty(var: Path, keep: Path) -> None:
    server = embedded.running(var)
    if server is not None:
        embedded.stop(server)
    stop_all(var)
    for path in var.iterdir():
        if path.is_dir() and path != keep:
            shutil.rmtree(path)


def without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))


def summary(fleet: Fleet) -> list[str]:
    """What runs where, a line each."""
    settings, running = fleet.settings, fleet.plan
    kind = "" if settings.redis_url else " (embedded)"
    served = [f"{lane} ({resolve(settings.lanes[lane])})" for lane in running.lanes]
    others = [name for name in running.commands if name not in running.lanes.values()]
    return [
        f"redis    {without_password(fleet.redis_url)}{kind}",
        f"ledger   {settings.fleet.ledger}",
        f"runs     {', '.join(others) or 'no dispatcher and no accounting'}",
        f"lanes    {', '.join(served) or 'none on this node'}",
        *(f"not here {lane}: {why}" for lane, why in running.unavailable.items()),
        *(f"note     {note}" for note in running.notes),
    ]


def on_terminal(names: Sequence[str]) -> Say:
    """Each line after its process's name, in that process's colour."""
    width = max(map(len, (*names, OURS)))
    colours = dict(zip(names, cycle(COLOURS), strict=False))

    def say(name: str, line: str) -> None:
        head = click.style(f"{name:<{width}} |", fg=colours.get(name, "white"), bold=name == OURS)
        click.echo(f"{head} {plain(line)}")

    return say


@click.command()
@click.option("--only", metavar="NAME,…", default="", help="Run these processes of the Procfile only.")
@click.option(
    "--procfile", type=click.Path(path_type=Path, dir_okay=False), help="Another Procfile than Laneway's own."
)
@click.option(
    "--log-files", "to_files", is_flag=True, help="Write output to var/log/NAME.log instead of here."
)
def up(only: str, procfile: Path | None, to_files: bool) -> int:
    """Run the fleet in the foreground.

    Starts a Redis of its own unless LANEWAY_REDIS_URL names one, and the processes of the Procfile whose lane this node
    can serve. What dies is started again. Ctrl-C drains: calls in flight end, nothing new is taken; a second one ends
    all at once.
    """
    settings = load()
    names = [name.strip() for name in only.split(",") if name.strip()]
    running = plan(settings, read_procfile(procfile), missing_here(settings.fleet.var), names)
    if running.lanes:
        check_types(settings.types)  # no lane starts without, again and again
    terminal = on_terminal(list(running.commands))
    say = log_files(settings.fleet.var / "log") if to_files else terminal
    fleet = Fleet(settings, running, say=say)
    asked = threading.Event()
    with on_signals(asked.set, fleet.kill):
        with fleet:
            for line in summary(fleet):
                terminal(OURS, line)
            _serve(fleet, asked, terminal)
            failed = not fleet.running()
            terminal(OURS, "draining; Ctrl-C once more ends all at once")
        terminal(OURS, "stopped")
    return 1 if failed else 0


def _serve(fleet: Fleet, asked: threading.Event, say: Say) -> None:
    started = time.monotonic()
    late = fleet.wait_until_ready(lambda: asked.is_set() or not fleet.running())
    took_s = time.monotonic() - started
    if late and not asked.is_set():
        say(OURS, f"not ready after {took_s:.0f} s: {', '.join(sorted(late))}")
    elif not late:
        say(OURS, f"ready after {took_s:.1f} s. Ctrl-C drains and stops")
    while not asked.wait(0.5) and fleet.running():
        pass
