"""The command line: one table of commands, each loaded when it is called, and one place where errors end.

A command is one line in ``COMMANDS`` and a click command in its module. Nothing here may import what takes time:
``laneway --help`` is drawn from the table alone.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from broker.errors import LanewayError

#: Name → where its click command is, and what it gives in one line (which is also how the command's own help begins).
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("laneway.fleet:up", "Run the fleet in the foreground."),
    "demo": ("laneway.demo:demo", "Run real tasks through a fleet and print what they cost."),
    "submit": ("laneway.cli.submit:submit", "Queue one task, or a file of them."),
    "result": ("laneway.cli.submit:result", "What became of a task."),
    "cancel": ("laneway.cli.submit:cancel", "Stop a task; what was spent is settled."),
    "feedback": ("laneway.cli.submit:feedback", "Say what a task's outcome was worth."),
    "show": ("laneway.cli.story:show", "The whole story of one task."),
    "explain": (
        "laneway.cli.explain:explain",
        "How a prompt would be classified and routed; nothing is run.",
    ),
    "lanes": ("laneway.cli.lanes:lanes", "Each lane: price, health, verdicts, and why it is not served."),
    "queues": (
        "laneway.cli.lanes:queues",
        "Each queue and batch: what waits, what is in hand, and for how long.",
    ),
    "compare": ("laneway.cli.compare:compare", "The same cases with and without tools and context guards."),
    "budget": ("laneway.cli.budget:budget", "What may be spent: list, set, raise, kill, unkill."),
    "dead": ("laneway.cli.dead:dead", "Dead letters: list, show, replay, drop."),
    "review": (
        "laneway.cli.review:review",
        "Tasks that wait for a person: list, show, answer, approve, reject, retry, export.",
    ),
    "model": ("laneway.cli.model:model", "Models of this node: convert."),
    "rollup": ("laneway.cli.money:rollup", "Write the nightly files of a day again."),
    "report": (
        "laneway.cli.report:report",
        "Cost per task and per success, latencies, overhead, concentration.",
    ),
    "reconcile": (
        "laneway.cli.reconcile:reconcile",
        "The ledger against a provider's own usage file: the difference by cause.",
    ),
    "prices": ("laneway.cli.prices:prices", "The price book: show, compare, reprice."),
    "econ": ("laneway.cli.econ:econ", "What tasks would cost: the calculators."),
    "doctor": ("laneway.cli.doctor:doctor", "What is installed, reachable or misconfigured on this node."),
}
INTERRUPTED = 130


class Commands(click.Group):
    """Knows its commands by the table and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="laneway", message="%(version)s")
def laneway() -> None:
    """Routes tasks to the cheapest model that does them well, and accounts for what each one cost.

    A reading command takes --json: one JSON document on standard output. Logs and errors go to standard error; the exit
    code is 1 for a failure, 2 for a wrong call.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


def main() -> None:
    """The console script. It finds modules of this folder, as workers do: gates may be there."""
    sys.path.append("")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of a command line. Every error that is raised on purpose ends here."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # where a locale has not the characters of a table
    try:
        _readable(arguments)
        code = laneway.main(list(arguments), prog_name="laneway", standalone_mode=False)
        sys.stdout.flush()
    except LanewayError as error:
        complain(error)
        return 1
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        _give_up_output()
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        _give_up_output()
        complain(
            LanewayError(f"standard output cannot be written: {error.strerror}", mend="make room for it")
        )
        return 1
    return code if isinstance(code, int) else 0


def _give_up_output() -> None:
    """Whoever read our output has gone, or it is full. Python would complain once more when it flushes at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _readable(arguments: Sequence[str]) -> None:
    """What is no UTF-8 reaches Python as lone surrogates, which nothing further on can store or print."""
    for number, word in enumerate(arguments, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"argument {number} is not valid UTF-8: {word[:60]!r}") from None


def complain(error: LanewayError) -> None:
    click.echo(f"error: {error.message}", err=True)
    if error.mend:
        click.echo(f"mend: {error.mend}", err=True)
