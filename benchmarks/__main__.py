"""`make bench`: all benchmarks in turn, or those that are named: `make bench ARGS="path idle"`."""

import subprocess
import sys

ALL = (
    "path",
    "idle",
    "dispatch",
    "money",
    "ledger",
    "duck",
    "shared",
    "report",
    "prices",
    "call",
    "batch",
    "tools",
    "sync",
    "engines",
)


def main() -> None:
    chosen = sys.argv[1:] or ALL
    unknown = sorted(set(chosen) - set(ALL))
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    for name in chosen:  # each in a process of its own: brokers and their servers are a process's own
        subprocess.run([sys.executable, "-m", f"benchmarks.bench_{name}"], check=True)


if __name__ == "__main__":
    main()
