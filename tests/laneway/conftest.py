"""The command line over a real Redis, beside a fleet that works in step."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from broker import embedded
from broker.hands import Hands
from broker.settings import Settings, load, parse
from broker.store import Store
from broker.task import DISPATCH, MODES, Claim, lane_queue
from dispatcher.actor import Dispatcher
from dispatcher.classify import Classifier
from dispatcher.embedding import HashEmbedder
from laneway import cli
from laneway.client import Client
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.shell import Lane
from workers.toolbox import Toolbox

TOML = """
[lanes.local]
engine = "echo"
model = "small"
price = { input_mtok = "100", output_mtok = "400" }
echo = { replies = { "(?i)refund" = "refund", "rude" = "go away" } }

[lanes.frontier]
engine = "openai"
model = "gpt-4o"
api_key_env = "LANEWAY_TEST_KEY_THAT_IS_NOT_SET"

[types.general]
chain = ["local", "human"]

[types.intent]
category = "extractive"
patterns = ["(?i)\\\\bintent\\\\b"]
chain = ["frontier", "local", "human"]
gate = { kind = "choice", choices = ["refund", "card"] }
"""


class Said(NamedTuple):
    stdout: str
    stderr: str


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()


class CommandLine:
    """``run`` and ``process`` give commands in a folder with a laneway.toml; ``work`` lets the fleet do what waits."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.config = folder / "laneway.toml"
        self.configure(TOML)

    def configure(self, text: str) -> None:
        """As a fleet that is started with this file."""
        self.config.write_text(text)
        self.settings: Settings = parse(text, folder=self.folder).model_copy(update={"redis_url": self.url})
        self.client = Client(self.settings)
        self.store: Store = self.client.store

    def own(self, **more: str) -> dict[str, str]:
        return {"LANEWAY_CONFIG": str(self.config), "LANEWAY_REDIS_URL": self.url, **more}

    def run(self, *words: str, code: int = 0, given: str | bytes = b"", **env: str) -> Said:
        """`laneway` with these words, in this process. Fails the test where the exit code is another."""
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
        stdin = io.TextIOWrapper(io.BytesIO(given.encode() if isinstance(given, str) else given))
        load.cache_clear()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in self.own(**env).items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr("sys.stdin", stdin)
            try:
                ended = cli.run(words)
            except SystemExit as end:
                ended = int(end.code or 0)
        said = Said(_written(out), _written(err))
        assert ended == code, (words, ended, said)
        return said

    def process(self, *words: str, code: int = 0, given: str = "", **env: str) -> Said:
        """The same as a process of its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}
        done = subprocess.run(
            [sys.executable, "-m", "laneway", *words],
            input=given,
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=kept | self.own(PYTHONPATH=os.getcwd(), **env),
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (words, done)
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.stdout, done.stderr)

    def json(self, *words: str, code: int = 0, given: str | bytes = b"", **env: str) -> Any:
        """The one JSON document that the command prints."""
        return json.loads(self.run(*words, "--json", code=code, given=given, **env).stdout)

    def work(self) -> None:
        """Dispatches and runs all that waits, until nothing does."""
        dispatcher = Dispatcher(self.settings, self.store, Classifier.build(self.settings, HashEmbedder()))
        hands = Hands()
        doing = {DISPATCH: dispatcher.work}
        for name, row in self.settings.lanes.items():
            if row.engine == "echo":
                endpoints = Endpoints.build(name, row, self.settings.fleet.var)
                lane = Lane(
                    Jobs(
                        name,
                        self.settings,
                        self.store,
                        endpoints,
                        hands,
                        Toolbox.open(self.settings, name, self.store),
                    )
                )
                doing |= {lane_queue(name, mode): lane.work for mode in MODES}
        busy = True
        while busy:
            busy = False
            for queue, deed in doing.items():
                claims = self.store.fetch(queue, 100, idle=True).claims
                if claims:
                    hands.take(claims, queue, messages=1, hold_s=60)
                    deed(claims)
                    hands.drop(claims, queue)
                    busy = True

    def claim(self, queue: str = DISPATCH) -> tuple[Claim, ...]:
        return self.store.fetch(queue, 100, idle=True).claims

    def bury(self, task_id: str, cause: str) -> None:
        """A dead letter: its worker failed on the task as often as it may."""
        self.client.submit(f"poison {task_id}", task_id=task_id)
        for _ in range(self.settings.fleet.max_starts):
            self.store.release(self.claim(), cause)


@pytest.fixture
def laneway(tmp_path: Path, server: embedded.Embedded, client: redis.Redis) -> Iterator[CommandLine]:
    line = CommandLine(tmp_path, server.url)
    yield line
    load.cache_clear()
    line.store.client.close()
