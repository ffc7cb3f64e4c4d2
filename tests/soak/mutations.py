"""``python -m tests.soak.mutations``: the checker sees what it is there to see.

Each guard of the product is taken out in a copy of the tree, a short run is made there, and its checker must complain.
Not part of CI: it takes about two minutes a mutation.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.soak.processes import ROOT

TREES = ("broker", "dispatcher", "workers", "accounting", "laneway", "tests/soak", "tests/accounting")
TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Mutation:
    """``cuts`` are (what stands in the file, what is put in its place). ``breaks`` are the invariants of which at least
    one is expected among the complaints, ``deeds`` those of the nemesis against which the guard stands. ``longer``: as
    many times the minutes, for what does not happen in each run."""

    name: str
    file: str
    cuts: tuple[tuple[str, str], ...]
    breaks: tuple[str, ...]
    deeds: tuple[str, ...] = ()
    longer: float = 1.0


def _lua(name: str) -> str:
    return f"broker/scripts/{name}.lua"


_UNFENCED = (
    "if not lost and (done == epoch or",
    "if false and (done == epoch or",
)

MUTATIONS = (
    Mutation(
        "commit: no fencing",
        _lua("commit"),
        (_UNFENCED, ("if lost or current ~= epoch then", "if lost then")),
        ("I2a", "I2b", "I15", "I18"),
        ("lose replies",),
    ),
    Mutation(
        "commit: a stale attempt overwrites",
        _lua("commit"),
        (_UNFENCED, ("if lost or current ~= epoch then", "if false then")),
        ("I2a", "I2b", "I15", "I18"),
        ("stop lane", "lose replies",),
    ),
    Mutation(
        "commit: a late settlement does not correct the counters",
        _lua("commit"),
        (("use(booked_day, scopes, cost - tonumber(booked))", ""),),
        ("I2b",),
        ("stop lane",),
        longer=2.0,
    ),
    Mutation(
        "commit: what was reserved is not given back",
        _lua("commit"),
        (("hold(held, scopes, -reserved)", ""),),
        ("I2a",),
        ("kill lane",),
    ),
    Mutation(
        "commit: the reservation stays in what is used",
        _lua("commit"),
        (("use(held or day, scopes, cost - reserved)", "use(held or day, scopes, cost)"),),
        ("I2b",),
        ("kill lane",),
    ),
    Mutation(
        "commit: a cancelled task's call is not booked",
        _lua("commit"),
        (("{ rules[3] }, ''", "{ rules[3] }, ''\n    attempts = {}"),),
        ("I4", "I10"),
        ("lose replies",),
    ),
    Mutation(
        "begin: nothing is refused",
        _lua("begin"),
        ((re.search(r"local why = .*", (ROOT / _lua("begin")).read_text())[0], "local why = false"),),  # type: ignore[index]
        ("I1", "I9"),
        ("kill lane",),
    ),
    Mutation(
        "begin: nothing is reserved",
        _lua("begin"),
        (("use(day, scopes, worst)", ""), ("hold(day, scopes, worst)", "")),
        ("I1", "I2a", "I2b"),
        ("kill lane",),
    ),
    Mutation(
        "give up: a lost call is not booked",
        _lua("prelude"),
        (("seq = book(ref, submitted, seq, { call })", ""),),
        ("I2b", "I4"),
        ("kill lane",),
    ),
    Mutation(
        "give up: a lost call's reservation stays",
        _lua("prelude"),
        (("hold(held, scopes, -tonumber(reserved))", ""),),
        ("I2a",),
        ("kill lane",),
    ),
    Mutation(
        "give up: poison is started for ever",
        _lua("prelude"),
        (("elseif starts >= rules[1] then", "elseif false then"),),
        ("I15", "I17"),
        ("lose replies",),
    ),
    Mutation(
        "keep: lost claims are not looked for",
        _lua("keep"),
        (("give_up(ref, now, 'its worker was lost', rules)", ""),),
        ("I15", "I16"),
        ("kill lane",),
    ),
    Mutation(
        "fetch: a claim does not grow the epoch",
        _lua("fetch"),
        (("epoch_after(last, tonumber(submitted), now)", "text(math.max(1, tonumber(last)))"),),
        ("I6", "I15"),
        ("kill lane",),
    ),
    Mutation(
        "submit: the same id is a new task",
        _lua("submit"),
        (("if known then", "if false then"),),
        ("I19",),
        ("lose replies",),
    ),
    Mutation(
        "lane: a call leaves when Redis is away",
        "workers/shell.py",
        (
            (
                "words = patiently(partial(self.store.begin, [self.jobs.intent(job) for job in jobs]))",
                "try:\n                words = self.store.begin([self.jobs.intent(job) for job in jobs])\n"
                "            except LanewayError:\n                words = ['go' for _ in jobs]",
            ),
        ),
        ("I3", "I4"),
        ("refuse begins",),
    ),
    Mutation(
        "engine: the library tries again by itself",
        "workers/engines/chat.py",
        (("max_retries=0", "max_retries=2"),),
        ("I6",),
        ("lose replies",),
    ),
    Mutation(
        "settle: a call whose usage is unknown costs nothing",
        "workers/settle.py",
        (("return Settlement(worst_nano, worst_nano, False,", "return Settlement(0, 0, True,"),),
        ("I7", "I10"),
        ("lose replies",),
    ),
    Mutation(
        "fold: a late settlement counts beside what it corrects",
        "accounting/rollup/calls.py",
        (("np.flatnonzero(last[mine] == np.arange(len(places)))", "np.arange(len(places))"),),
        ("I2b",),
        ("stop lane",),
    ),
    Mutation(
        "rollup: a fact that comes twice counts twice",
        "accounting/rollup/order.py",
        (("return rows[~same]", "return rows"),),
        ("I5",),
        ("lose replies",),
    ),
)  # fmt: skip


def copy_of_the_tree(folder: Path, mutation: Mutation) -> None:
    for tree in TREES:
        shutil.copytree(ROOT / tree, folder / tree, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / mutation.file
    text = file.read_text()
    for old, new in mutation.cuts:
        if text.count(old) != 1:
            raise ValueError(f"{mutation.name}: {old!r} stands {text.count(old)} times in {mutation.file}")
        text = text.replace(old, new)
    file.write_text(text)


def tried(mutation: Mutation, minutes: float, tasks: int, seed: int) -> tuple[Mutation, set[str], str]:
    """The invariants that the checker found broken, and its words."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy_of_the_tree(Path(scratch), mutation)
        command = [
            sys.executable, "-m", "tests.soak", "--minutes", str(minutes * mutation.longer),
            "--tasks", str(round(tasks * mutation.longer)),
            "--seed", str(seed), "--deeds", ",".join(mutation.deeds), "--folder", f"{scratch}/run",
        ]  # fmt: skip
        with subprocess.Popen(
            command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                words, _ = process.communicate(timeout=TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.terminate()  # it ends its own processes
                words, _ = process.communicate()
        broken = set(re.findall(r"BROKEN (\w+):", words))
        return mutation, broken, "" if broken else words[-1500:]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.soak.mutations", description=__doc__)
    options.add_argument("--minutes", type=float, default=0.6)
    options.add_argument("--tasks", type=int, default=220)
    options.add_argument("--seed", type=int, default=3)
    options.add_argument("--side-by-side", type=int, default=2)
    options.add_argument("--only", default="", help="a piece of the names of those to try")
    told = options.parse_args()
    chosen = [one for one in MUTATIONS if told.only in one.name]
    for one in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            copy_of_the_tree(Path(scratch), one)
    missed = 0
    began = time.monotonic()
    with ThreadPoolExecutor(told.side_by_side) as pool:
        for mutation, broken, words in pool.map(
            lambda one: tried(one, told.minutes, told.tasks, told.seed), chosen
        ):
            seen = bool(broken & set(mutation.breaks))
            missed += not seen
            verdict = "seen" if seen else "MISSED"
            found = " ".join(sorted(broken)) or "nothing"
            print(f"{time.monotonic() - began:6.0f} s  {verdict:6} {mutation.name:60} {found}", flush=True)
            if words:
                print(words, flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutations seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
