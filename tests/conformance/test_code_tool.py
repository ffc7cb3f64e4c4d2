"""What a model's program can do in each sandbox, and all that it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from broker.errors import ToolError, ToolUnavailable
from broker.settings.tools import CodeTool
from tests.awaited import eventually
from workers.tools import bubblewrap, build
from workers.tools.bubblewrap import filter_program

Run = Callable[[str], str]
MEGABYTE = 2**20


def tool(python: str, **row: Any) -> Any:
    try:
        return build(
            "code", CodeTool.model_validate({"kind": "code", "python": python, "timeout_s": 2} | row)
        )
    except ToolUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no sandbox for {python} here: {error}")


@pytest.fixture(scope="module", params=["monty", "cpython"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    made = tool(request.param, memory_mb=128, result_chars=1000)
    yield lambda program: str(made.run("code", {"program": program}))
    made.close()


@pytest.fixture(scope="module")
def cpython() -> Iterator[Run]:
    made = tool("cpython", memory_mb=128)
    yield lambda program: str(made.run("code", {"program": program}))
    made.close()


def refusal(run: Run, program: str) -> ToolError:
    with pytest.raises(ToolError) as refused:
        run(program)
    return refused.value


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("6 * 7", "42"),
        ("print('a')\n'b'", "a\nb"),
        ("x = 3", "It ran, and printed nothing."),
        ("sum(n * n for n in range(10))", "285"),
        ('import json, re\nsorted(json.loads(\'{"b": 1, "a": 2}\'))', "['a', 'b']"),
        ("from decimal import Decimal\nstr(Decimal('0.1') + Decimal('0.2'))", "0.3"),
        ("from datetime import date\n(date(2026, 3, 1) - date(2026, 2, 1)).days", "28"),
        ("def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\nf(15)", "610"),
        ("print('ä€😀')", "ä€😀"),
    ],
)
def test_a_program_gives_what_it_prints_and_the_value_of_its_last_line(
    run: Run, program: str, result: str
) -> None:
    assert run(program).strip() == result


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("raise ValueError('so it is')", "so it is"),
        ("def :", ""),
        ("print('before')\nundefined", "before"),
        ("x" * 60_000, "longer than"),
    ],
)
def test_what_goes_wrong_in_a_program_is_told(run: Run, program: str, problem: str) -> None:
    assert problem in str(refusal(run, program))


def test_nothing_of_one_run_is_there_in_the_next(run: Run) -> None:
    run("kept = 5")
    assert "kept" in str(refusal(run, "kept"))


@pytest.mark.parametrize(
    "program",
    [
        "print(open('/etc/passwd').read())",
        "print(open('SECRET').read())",
        "from pathlib import Path\nprint(Path('SECRET').read_text())",
        "import os\nprint(os.listdir('FOLDER'))",
        "print(open('/proc/1/environ').read() or 1 / 0)",
        "open('FOLDER/new', 'w').write('x')",
        "open('/new', 'w').write('x')",
        "open('/usr/new', 'w').write('x')",
        "open('/dev/shm/new', 'w').write('x')",
        "import os\nos.symlink('SECRET', '/tmp/s')\nprint(open('/tmp/s').read())",
        "import os\nos.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))",
        "import socket\nsocket.create_connection(('1.1.1.1', 80), 1)",
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT/')",
        "import os\nos.environ['LANEWAY_SECRET']",
        "import os\nwhile True: os.fork()",
        "import subprocess\nsubprocess.run(['/usr/bin/id'], check=True)",
        "import os\nassert os.system('id') == 0",
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.kill(WORKER, 0)",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import os\nos.setuid(0)",
        "import os\nos.chroot('/usr')",
        "x = [0] * 10**9",
        "x = 'a' * 10**10",
        "x = []\nwhile True:\n    x.append('a' * 10**6 + str(len(x)))",
        "def f():\n    return f()\nf()",
    ],
)
def test_no_program_gets_out_of_its_sandbox(
    run: Run, program: str, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEWAY_SECRET", "open-sesame")
    (tmp_path / "secret").write_text("open-sesame")
    told = {"SECRET": tmp_path / "secret", "FOLDER": tmp_path, "PORT": port, "WORKER": os.getpid()}
    for name, value in told.items():
        program = program.replace(name, str(value)) if "LANEWAY_SECRET" not in program else program
    assert "sesame" not in str(refusal(run, program))
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Something on this machine that answers to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("program", ["while True: pass", "import time\ntime.sleep(60)"])
def test_a_program_that_does_not_end_is_ended(run: Run, program: str) -> None:
    assert refusal(run, program).failure == "tool_timeout"
    assert run("1 + 1").strip() == "2"


def test_what_is_printed_without_end_is_not_held(run: Run) -> None:
    assert len(str(refusal(run, "while True:\n    print('a' * 1000)"))) < 10_000


def test_cpython_sees_none_of_the_machines_processes_and_nobodys_home(cpython: Run) -> None:
    assert eval(cpython("import os\n[n for n in os.listdir('/proc') if n.isdigit() and int(n) > 9]")) == []
    assert set(eval(cpython("import os\nos.listdir('/')"))) <= {
        *("bin", "dev", "etc", "lib", "lib64", "proc", "tmp", "usr"),
        *(path.parts[1] for path in (Path(os.__file__), Path(bubblewrap.__file__), Path.cwd())),
    }
    assert cpython("import os\nsorted(set(os.environ) - {'PWD', 'LC_CTYPE'})").strip() == str(
        ["MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    )
    assert cpython("import os\n(os.getuid(), os.uname().nodename)").strip() == "(65534, 'sandbox')"


def test_cpython_has_this_nodes_packages_and_a_small_place_for_files(cpython: Run) -> None:
    assert (
        cpython("import numpy\nint((numpy.ones((50, 50)) @ numpy.ones((50, 50))).sum())").strip() == "125000"
    )
    assert cpython("open('/tmp/a', 'w').write('x' * 1000)").strip() == "1000"
    assert "too large" in str(refusal(cpython, f"open('/tmp/a', 'w').write('x' * {20 * MEGABYTE})"))
    full = "for n in range(9):\n    open(f'/tmp/{n}', 'w').write('x' * 4_000_000)"
    assert "No space" in str(refusal(cpython, full))


@pytest.mark.parametrize(
    "call", ["unshare(0x10000000)", "ptrace(0, 0, 0, 0)", "syscall(425, 1, 0)", "fork()", "vfork()"]
)
def test_cpython_may_not_make_the_calls_that_lead_out(cpython: Run, call: str) -> None:
    program = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n(c.{call}, ctypes.get_errno())"
    assert cpython(program).strip() == "(-1, 1)"


def test_threads_run_programs_beside_each_other(run: Run) -> None:
    came: list[str] = []
    threads = [threading.Thread(target=lambda n=n: came.append(run(f"{n} * 2").strip())) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came, key=int) == ["0", "2", "4", "6", "8", "10"]


def test_the_threads_that_used_a_sandbox_may_end(run: Run) -> None:
    program = "x = 0\nfor i in range(100000):\n    x += 1\nx"
    for _ in range(3):
        came: list[str] = []
        threads = [threading.Thread(target=lambda: came.append(run(program).strip())) for _ in range(3)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert came == ["100000"] * 3


WORKER = """
import sys, threading
from pathlib import Path
from broker.settings.tools import CodeTool, SqlTool
from workers.tools import build
endless = {"program": "while True: pass"}
query = {"query": "SELECT count(*) FROM range(100000000000) a, range(100) b"}
rows = [
    (CodeTool(kind="code", python="monty", timeout_s=1), endless),
    (CodeTool(kind="code", python="cpython", timeout_s=60, memory_mb=MARK), endless),
    (SqlTool(kind="sql", database=Path(sys.argv[1]), timeout_s=60), query),
]
for row, arguments in rows:
    tool = build("mine", row)
    threading.Thread(target=tool.run, args=("mine", arguments)).start()
print("busy", flush=True)
threading.Event().wait()
"""


def test_a_worker_that_is_killed_takes_the_processes_of_its_tools_along(cpython: Run, tmp_path: Path) -> None:
    marks = [str(tmp_path).encode(), str((137 + 256) * MEGABYTE).encode()]

    def left() -> list[bytes]:
        lines = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                lines.append((process / "cmdline").read_bytes())
        return [line for line in lines if any(mark in line for mark in marks) and b"CodeTool" not in line]

    command = [sys.executable, "-c", WORKER.replace("MARK", "137"), str(tmp_path)]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"busy\n"
        assert len(left()) >= 3
        worker.kill()
    eventually(lambda: not left(), 20)


def test_monty_runs_without_bubblewrap_and_cpython_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise ToolUnavailable("there is no bubblewrap (bwrap) here", mend=bubblewrap.MEND)

    monkeypatch.setattr(bubblewrap, "_usable", none)
    made = tool("monty")
    assert made.run("code", {"program": "1 + 1"}) == "2"
    made.close()
    with pytest.raises(ToolUnavailable, match="no bubblewrap"):
        build("code", CodeTool(kind="code", python="cpython"))


def test_the_filter_is_known_for_two_machines_and_no_other() -> None:
    assert len(filter_program("x86_64", threads=False)) % 8 == 0
    assert filter_program("aarch64", threads=True) != filter_program("aarch64", threads=False)
    with pytest.raises(ToolUnavailable, match="riscv64"):
        filter_program("riscv64", threads=False)
