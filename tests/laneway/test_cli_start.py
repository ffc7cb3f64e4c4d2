"""How the command line starts, ends and fails, whatever the command."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from broker.errors import BadTask, LanewayError
from laneway import cli

ROOT = Path(__file__).parents[2]
SLOW_TO_IMPORT = ("pydantic", "redis", "numpy", "pyarrow", "rich", "dramatiq", "msgpack")


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("words", [["--help"], [], ["-h"], ["--version"]])
def test_help_loads_nothing_that_takes_time(words: list[str]) -> None:
    done = _python(
        "import sys; from laneway.cli import run\n"
        f"run({words!r})\n"
        f"print(sorted(set({SLOW_TO_IMPORT!r}) & set(sys.modules)), file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["show", "review", "dead", "submit", "budget"])
def test_what_asks_of_tasks_alone_loads_nothing_of_the_ledger(command: str) -> None:
    done = _python(
        "import sys; from laneway.cli import run\n"
        f"run([{command!r}, '--help'])\n"
        "print('pyarrow' in sys.modules, file=sys.stderr)"
    )
    assert done.stderr.splitlines()[-1] == "False"


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    used = []
    for _ in range(3):
        before = _children_cpu_s()
        subprocess.run([sys.executable, "-m", "laneway", "--help"], cwd=ROOT, capture_output=True, check=True)
        used.append(_children_cpu_s() - before)
    assert min(used) < 0.3


def test_python_m_laneway_is_the_command_line_and_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "laneway", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: laneway ")
    assert all(f"  {name} " in done.stdout for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_where_the_table_says_and_its_help_begins_with_the_tables_line(name: str) -> None:
    context = click.Context(cli.laneway)
    command = cli.laneway.get_command(context, name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").split("\n")[0] == cli.COMMANDS[name][1]


def test_the_clients_names_are_loaded_when_they_are_asked_for() -> None:
    done = _python(
        "import laneway, sys; assert 'redis' not in sys.modules; laneway.Client; from laneway import Budget"
    )
    assert done.returncode == 0, done.stderr
    done = _python("import laneway; laneway.Nothing")
    assert "AttributeError: module 'laneway' has no attribute 'Nothing'" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["submit"],
        ["submit", "a", "--file", "b"],
        ["submit", "a", "--mode", "soon"],
        ["submit", "a", "--schema", "{"],
        ["submit", "a", "--gate", "{"],
        ["submit", "a", "--wait=-1"],
        ["submit", "--file", "a", "--task-id", "b"],
        ["feedback", "a"],
        ["explain"],
        ["dead", "replay"],
        ["dead", "drop", "--all", "--cause", "x"],
        ["rollup", "--date", "yesterday"],
        ["rollup", "--date", "2026-01-31", "--since", "2026-01-31"],
        ["report", "--by", "colour"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_ends_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Error: " in said.err


def test_an_error_of_ours_says_what_and_how_to_mend_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def failing() -> None:
        raise BadTask("it is wrong", mend="make it right")

    monkeypatch.setattr(cli.Commands, "get_command", lambda *_: failing)
    assert cli.run(["submit"]) == 1
    assert capsys.readouterr().err == "error: it is wrong\nmend: make it right\n"


def test_an_error_without_a_mend_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.complain(LanewayError("it is wrong"))
    assert capsys.readouterr().err == "error: it is wrong\n"


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m laneway --help | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_is_full_is_an_error_and_no_traceback() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "laneway", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1, "error: standard output cannot be written: No space left on device",
    )  # fmt: skip


def test_what_the_locale_cannot_write_is_escaped() -> None:
    code = "import sys, click; from laneway import cli\n"
    code += "cli.Commands.get_command = lambda *_: click.Command('x', callback=lambda: print('5 µs …'))\n"
    code += "sys.argv = ['laneway', 'lanes']; cli.main()"
    done = _python(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "5 \\xb5s \\u2026\n")


def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    code = (
        "import signal, sys, time; from laneway import cli; import click\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs are started deaf to it
        "@click.command()\n"
        "def slow():\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.Commands.get_command = lambda *_: slow\n"
        "sys.argv = ['laneway', 'submit']\n"
        "cli.main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "Traceback" not in said
