"""``python -m tests.soak``: one run and its verdict. Ends with 1 where an invariant does not hold."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.check import check
from tests.soak.evidence import gather
from tests.soak.run import Size, run


def _end(*_: object) -> None:
    """What was started is ended on the way out, and a second word does not get in between."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    options.add_argument("--minutes", type=float, default=12.0, help="for how long tasks come in")
    options.add_argument("--tasks", type=int, help="how many; 7.5 a second of the run where it is not said")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument(
        "--folder", type=Path, help="where the evidence is kept; a new temporary one by itself"
    )
    options.add_argument("--check-only", action="store_true", help="judge the evidence of an earlier run")
    options.add_argument(
        "--deeds", default="", help="what goes wrong, by name and comma; everything by itself"
    )
    told = options.parse_args()
    folder = told.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    tasks = told.tasks or round(told.minutes * 60 * 7.5)
    deeds = tuple(filter(None, told.deeds.split(",")))
    began = time.monotonic()
    signal.signal(signal.SIGTERM, _end)

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    if not told.check_only:
        run(folder.resolve(), Size(tasks, told.minutes, told.seed, deeds=deeds), say)
    verdict = check(gather(folder.resolve()))
    for line in verdict.facts:
        say(line)
    for invariant, complaints in sorted(verdict.broken.items()):
        for complaint in complaints[:5]:
            say(f"BROKEN {invariant}: {complaint}")
        if len(complaints) > 5:
            say(f"BROKEN {invariant}: and {len(complaints) - 5} more")
    say("every invariant held" if not verdict.broken else f"the evidence is in {folder}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
