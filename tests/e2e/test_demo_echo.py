"""`laneway demo` and `laneway up` as an operator runs them, over lanes that echo."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest
import redis

from broker import embedded
from broker.settings import parse
from broker.settings.fleet import Fleet
from broker.store import Store
from broker.task import lane_queue
from laneway import guard
from laneway.client import Client
from tests.awaited import eventually
from tests.s3_server import BUCKET, REGION, S3Server

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
CONFIG = """
[lanes.local]
engine = "echo"
price = { input_mtok = "1", output_mtok = "2" }
echo = { replies = { "France" = "Paris" }, reply = "no idea", latency_ms = 20 }

[lanes.frontier]
engine = "echo"
price = { input_mtok = "10", output_mtok = "20" }
echo = { replies = { "Italy" = "Rome" }, reply = "no idea" }

[lanes.rented]
engine = "openai"
model = "some-model"
api_key_env = "LANEWAY_TEST_NO_SUCH_KEY"

[types.general]
chain = ["local", "rented", "frontier", "human"]

[types.capital]
category = "extractive"
chain = ["local", "rented", "frontier", "human"]
gate = { kind = "choice", choices = ["Paris", "Rome"] }
"""
TASKS = [
    *({"prompt": f"{number}: the capital of France?", "type": "capital"} for number in range(10)),
    {"prompt": "the capital of Italy?", "type": "capital", "workspace": "acme"},
    {"prompt": "the capital of Atlantis?", "type": "capital", "task_id": "atlantis"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder; whatever a test leaves running in it is ended."""
    (tmp_path / "laneway.toml").write_text(CONFIG)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    yield tmp_path
    for var in (tmp_path / "var", tmp_path / "var" / "demo"):
        guard.end_all(var / "fleet", 2.0)
        server = embedded.running(var)
        if server is not None:
            embedded.stop(server)


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}
    return own | {"PYTHONPATH": str(ROOT)}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "laneway", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def begin(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "laneway", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(stream: IO[str] | None, text: str) -> str:
    """What was printed up to the line that holds ``text``."""
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was not printed, but:\n{seen}")


def in_hand(var: Path) -> int:
    """How many tasks the local lane is at work on."""
    server = embedded.running(var)
    assert server is not None
    client = redis.Redis.from_url(server.url)
    try:
        return Store(client, Fleet()).lanes.queues([lane_queue("local", "sync")])[0].in_flight
    finally:
        client.close()


def nothing_runs(var: Path) -> bool:
    return not guard.alive(var / "fleet") and embedded.running(var) is None


def test_the_demo_runs_every_task_accounts_for_it_and_stops_what_it_started(folder: Path) -> None:
    done = run(folder, "demo", "--tasks", "tasks.jsonl", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tasks"] == 12
    assert told["statuses"] == {"succeeded": 11, "parked": 1}
    assert told["lanes"] == {"local": 10, "frontier": 1, "human": 1}
    assert told["waiting"] == []
    assert told["failing"] == {}
    assert list(told["unavailable"]) == ["rented"]
    assert "LANEWAY_TEST_NO_SUCH_KEY" in told["unavailable"]["rented"]
    assert [row["task_id"] for row in told["parked"]] == ["atlantis"]
    assert sorted(row["lanes"] for row in told["escalations"]) == [["local", "frontier"]] * 2
    assert told["report"]["totals"]["tasks"] == 12
    assert sum(pq.read_table(path).num_rows for path in told["files"] if "/tasks/" in path) == 12
    assert "12 of 12 tasks done" in done.stderr
    assert nothing_runs(folder / "var" / "demo")

    again = run(folder, "demo", "--tasks", "tasks.jsonl")  # anew, for a person

    assert again.returncode == 0, again.stderr
    for words in (
        "What tasks cost",
        "12 tasks in ",
        "Waiting for a person: 1 task",
        "atlantis",
        "Climbed to a dearer lane: 1 task",
        "rented: lane 'rented' has no key",
        str(folder / "var" / "demo" / "ledger" / "tasks"),
    ):
        assert words in again.stdout


def test_the_demo_keeps_its_ledger_in_the_bucket_of_the_fleet_each_run_under_a_prefix_of_its_own(
    folder: Path, s3: S3Server
) -> None:
    place = f"s3://{BUCKET}/{folder.name}"
    (folder / "laneway.toml").write_text(
        f'{CONFIG}\n[fleet]\nledger = "{place}"\n[s3]\nendpoint_url = "{s3.url}"\nregion = "{REGION}"\n'
    )

    done = run(folder, "demo", "--tasks", "tasks.jsonl", "--json")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["failing"], told["waiting"]) == ({}, [])
    assert told["ledger"].startswith(f"{place}/demo/20")
    assert told["report"]["totals"]["tasks"] == 12
    assert {path.removeprefix(f"{told['ledger']}/").split("/")[0] for path in told["files"]} == {
        "events", "tasks", "attempts", "daily"
    }  # fmt: skip
    there = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{folder.name}/")["Contents"]
    assert {f"s3://{BUCKET}/{row['Key']}" for row in there if "/.tmp/" not in row["Key"]} == set(
        told["files"]
    )
    assert not (folder / "var" / "demo" / "ledger").exists()


def test_tasks_that_do_not_end_in_time_are_named_and_fail_the_demo(folder: Path) -> None:
    slow = CONFIG.replace("latency_ms = 20", "latency_ms = 60000")
    (folder / "laneway.toml").write_text(slow)
    (folder / "tasks.jsonl").write_text('{"prompt": "wait", "task_id": "late", "type": "general"}\n')

    done = run(folder, "demo", "--tasks", "tasks.jsonl", "--json", "--timeout-s", "12")

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["waiting"] == ["late"]
    assert nothing_runs(folder / "var" / "demo")


def test_ctrl_c_ends_the_demo_and_all_that_it_started(folder: Path) -> None:
    (folder / "laneway.toml").write_text(CONFIG.replace("latency_ms = 20", "latency_ms = 60000"))
    process = begin(folder, "demo", "--tasks", "tasks.jsonl")
    with process:
        read_until(process.stdout, "working")
        eventually(lambda: in_hand(folder / "var" / "demo"))

        process.send_signal(signal.SIGINT)

        assert process.wait(60) == 130
    assert nothing_runs(folder / "var" / "demo")


def test_a_bad_task_file_starts_nothing(folder: Path) -> None:
    (folder / "tasks.jsonl").write_text('{"prompt": ""}\n')

    done = run(folder, "demo", "--tasks", "tasks.jsonl")

    assert done.returncode == 1
    assert "tasks.jsonl:1" in done.stderr
    assert not (folder / "var").exists()


def test_up_serves_until_ctrl_c_through_a_killed_lane_and_refuses_a_second_fleet_beside_it(
    folder: Path,
) -> None:
    process = begin(folder, "up")
    with process:
        head = read_until(process.stdout, "ready after")
        assert "lanes    local (echo), frontier (echo)" in head
        assert "not here rented: lane 'rented' has no key" in head

        second = run(folder, "up")
        assert second.returncode == 1
        assert f"already (process {process.pid})" in second.stderr

        os.killpg(guard.alive(folder / "var" / "fleet")["local"], signal.SIGKILL)
        read_until(process.stdout, "local ended (SIGKILL)")
        answer = run(folder, "submit", "the capital of France?", "--type", "capital", "--wait", "30")
        assert json.loads(answer.stdout)["output"] == "Paris", answer.stderr

        process.send_signal(signal.SIGINT)
        assert "laneway    | stopped" in read_until(process.stdout, "stopped")
        assert process.wait(30) == 0
    assert nothing_runs(folder / "var")


def test_after_kill_9_no_process_is_left_and_the_next_fleet_finds_redis_and_its_tasks(folder: Path) -> None:
    process = begin(folder, "up", "--only", "dispatcher,local")
    with process:
        read_until(process.stdout, "ready after")
        answer = run(
            folder, "submit", "capital of France?", "--type", "capital", "--wait", "30", "--task-id", "kept"
        )
        assert answer.returncode == 0, answer.stderr
        process.kill()
    eventually(lambda: not guard.alive(folder / "var" / "fleet"), 15)
    assert embedded.running(folder / "var") is not None

    process = begin(folder, "up", "--only", "dispatcher,local")
    with process:
        read_until(process.stdout, "ready after")
        answer = run(folder, "result", "kept", "--json")
        assert json.loads(answer.stdout)["output"] == "Paris", answer.stderr
        process.send_signal(signal.SIGINT)
        read_until(process.stdout, "stopped")
        assert process.wait(30) == 0
    assert nothing_runs(folder / "var")


def test_a_killed_redis_is_started_again_and_no_task_is_lost(folder: Path) -> None:
    var = folder / "var"
    process = begin(folder, "up")
    with process:
        read_until(process.stdout, "ready after")
        server = embedded.running(var)
        assert server is not None
        client = Client(parse(CONFIG, folder=folder).model_copy(update={"redis_url": server.url}))
        task = {"prompt": "the capital of France?", "type": "capital"}
        before = client.submit_many([task] * 50)  # some of them are under way when it dies
        os.kill(server.pid, signal.SIGKILL)

        said = read_until(process.stdout, "was started again")

        assert said.splitlines()[-1].startswith(
            "laneway    | redis had ended and was started again (process "
        )
        again = embedded.running(var)
        assert again is not None
        assert (again.url, again.started_here) == (server.url, False)
        assert again.pid != server.pid
        after = client.submit_many([task])
        ended = list(client.results([*before, *after], timeout_s=60))
        client.store.client.close()
        assert Counter(one.status for one in ended) == {"succeeded": 51}
        process.send_signal(signal.SIGINT)
        read_until(process.stdout, "stopped")
        assert process.wait(30) == 0
    assert nothing_runs(var)


def test_the_demo_outlives_the_death_of_its_redis(folder: Path) -> None:
    (folder / "laneway.toml").write_text(CONFIG.replace("20 }\n", "2000 }\nthreads = 1\n", 1))
    process = begin(folder, "demo", "--tasks", "tasks.jsonl")
    with process:
        read_until(process.stdout, "working")
        server = embedded.running(folder / "var" / "demo")
        assert server is not None
        eventually(lambda: in_hand(folder / "var" / "demo"))
        os.kill(server.pid, signal.SIGKILL)

        said = read_until(process.stdout, "Logs: ")

        assert process.wait(60) == 0, said
    assert "12 tasks in " in said
    log = (folder / "var" / "demo" / "log" / "laneway.log").read_text()
    assert "redis had ended and was started again" in log
    assert nothing_runs(folder / "var" / "demo")
