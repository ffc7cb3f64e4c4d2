"""What outlives a fleet's supervisor: the locks of its folder, and a process that cleans up after a sudden death.

In ``var/fleet`` lie

    lock           held by the supervisor and by its guard: at most one fleet runs in a folder. Holds the supervisor's
                   pid while it runs, and still does after a crash
    <name>.alive   inherited by each process at birth and so held for exactly as long as it lives, with its pid, which
                   is the id of its process group too

The guard is this file run as a script: it waits for the end of its standard input, which comes however the supervisor
dies, and ends what is then still alive. It imports the standard library only, so it is small and always works.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from pathlib import Path

POLL_S = 0.05
KILLED_S = 5.0


def alive(folder: Path) -> dict[str, int]:
    """The processes of the folder that live, each with its process group."""
    found = {}
    for path in sorted(folder.glob("*.alive")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = file.read().decode()
                if pid:  # else it is being born this moment
                    found[path.stem] = int(pid)
    return found


def end_all(folder: Path, drain_s: float) -> list[str]:
    """End them: asked first, killed after ``drain_s`` seconds. The names of those that were alive."""
    names = list(alive(folder))
    for number, within_s in ((signal.SIGTERM, drain_s), (signal.SIGKILL, KILLED_S)):
        for group in alive(folder).values():
            signal_group(group, number)
        until = time.monotonic() + within_s
        while alive(folder) and time.monotonic() < until:
            time.sleep(POLL_S)
    return names


def signal_group(group: int, number: int) -> bool:
    """Whether there was anybody to signal; 0 only asks. macOS refuses to signal a group of zombies."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    folder, drain_s = Path(sys.argv[1]), float(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    end_all(folder, drain_s)


if __name__ == "__main__":
    main()
