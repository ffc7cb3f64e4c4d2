"""Real fleets for the tests: real dramatiq processes over a real Redis, each in a folder of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from broker import embedded
from broker.settings import parse
from broker.store import Store
from laneway.client import Client

READY_S = 30.0
#: Lanes whose calls cost money and reach no provider.
PRICED = """
[fleet]
lease_s = 1.5

[lanes.local]
engine = "echo"
price = { input_mtok = "1000", output_mtok = "1000" }
max_tokens = 10
threads = 4
echo = { reply = "one two three four five", latency_ms = 5 }

[lanes.frontier]
engine = "echo"
price = { input_mtok = "10000", output_mtok = "10000" }
max_tokens = 10
echo = { reply = "six" }

[types.general]
chain = ["local", "human"]

[types.picky]
chain = ["local", "frontier", "human"]
gate = { kind = "regex", pattern = "^six$" }
"""


class LiveFleet:
    """Processes started with the commands that an operator uses, over one configuration."""

    def __init__(self, folder: Path, url: str, toml: str) -> None:
        self.folder, self.url = folder, url
        self.config = folder / "laneway.toml"
        self.config.write_text(toml)
        self.settings = parse(toml, folder=folder).model_copy(update={"redis_url": url})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: dict[str, Path] = {}
        self.client = Client(self.settings)

    @property
    def store(self) -> Store:
        return self.client.store

    def environment(self, **more: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}
        return own | {"LANEWAY_REDIS_URL": self.url, "LANEWAY_CONFIG": str(self.config), **more}

    def start(
        self, module: str, *, threads: int = 4, name: str | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """``environment`` goes over the fleet's, as for a process on another node."""
        name = name or module
        self.logs[name] = self.folder / f"{name}.log"
        with self.logs[name].open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "dramatiq", module,
                    "--processes", "1", "--threads", str(threads), "--worker-fork-timeout", "3000",
                ],
                env=self.environment(**environment),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes[name] = process
        return process

    def kill(self, name: str, *, worker_only: bool = False) -> None:
        """kill -9 of the whole process group, or of its worker child alone."""
        process = self.processes[name]
        if worker_only:
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(READY_S)

    def signal(self, name: str, number: int) -> None:
        os.killpg(self.processes[name].pid, number)

    def wait_until(self, true: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
        until = time.monotonic() + timeout_s
        while not true():
            if time.monotonic() > until:
                tails = {name: log.read_text(errors="replace")[-1500:] for name, log in self.logs.items()}
                raise TimeoutError(f"{what} did not come true in {timeout_s} s\n{tails}")
            time.sleep(0.05)

    def log(self, name: str) -> str:
        return self.logs[name].read_text(errors="replace")

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.client.store.client.close()


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture
def live(
    tmp_path: Path, server: embedded.Embedded, client: redis.Redis
) -> Iterator[Callable[[str], LiveFleet]]:
    """Makes fleets over the shared server, emptied; everything they started is gone afterwards."""
    fleets = []

    def make(toml: str) -> LiveFleet:
        fleets.append(LiveFleet(tmp_path, server.url, toml))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.stop()
