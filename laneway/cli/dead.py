"""`laneway dead`: what was taken out of its queue, and the two ways out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from broker.connect import connect
from broker.errors import UnknownTask
from broker.settings import load
from broker.state import DeadLetter
from broker.store import Store
from laneway.cli.options import in_order, json_option
from laneway.cli.output import emit, moment, say, shorten, table
from laneway.cli.story import story, tell

Deed = Callable[[DeadLetter], str]
DONE = "done"


@click.group()
def dead() -> None:
    """Dead letters: list, show, replay, drop.

    They are kept until somebody replays or drops them.
    """


@dead.command("list")
@json_option
def list_letters(as_json: bool) -> None:
    """All of them, grouped by cause."""
    letters = connect(load()).dead_letters.all()
    if as_json:
        emit({"dead": [_row(letter) for letter in letters]})
        return
    if not letters:
        say("no dead letters")
        return
    by_cause: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_cause.setdefault(letter.cause, []).append(letter)
    groups = sorted(by_cause.items(), key=lambda group: -len(group[1]))
    table(
        ("count", "cause", "queues", "first", "last", "ids"),
        (_group_cells(cause, group) for cause, group in groups),
        right=("count",),
    )


def _group_cells(cause: str, group: Sequence[DeadLetter]) -> tuple[str, ...]:
    more = f", and {len(group) - 3} more" if len(group) > 3 else ""
    return (
        str(len(group)),
        shorten(cause),
        ", ".join(sorted({letter.queue for letter in group})),
        moment(group[0].at_us) or "",
        moment(group[-1].at_us) or "",
        ", ".join(letter.id for letter in group[:3]) + more,
    )


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "at": moment(letter.at_us),
        "cause": letter.cause,
        "queue": letter.queue,
        "starts": letter.starts,
        "is_task": not letter.body,
        "body": letter.body.decode("utf-8", "backslashreplace") if letter.body else None,
    }


@dead.command("show")
@click.argument("letter_id", metavar="ID")
@json_option
def show_letter(letter_id: str, as_json: bool) -> None:
    """One dead letter, with the story of its task."""
    store = connect(load())
    letter = _named(store.dead_letters.all(), [letter_id])[0]
    task = story(store.records.one(letter.id)) if not letter.body else None
    if as_json:
        emit(_row(letter) | {"task": task})
        return
    say(f"{letter.id}  {moment(letter.at_us)}  from {letter.queue}, {letter.starts} starts without an end")
    say(f"  cause       {letter.cause}")
    if task is None:
        say(f"  bytes that are no task: {shorten(letter.body.decode('utf-8', 'backslashreplace'), 400)}")
    else:
        tell(task)


_selecting = in_order(
    click.argument("ids", nargs=-1),
    click.option("--cause", metavar="TEXT", help="Those whose cause holds this text."),
    click.option("--all", "every", is_flag=True, help="All of them."),
    click.option("--yes", is_flag=True, help="Do not ask."),
    json_option,
)


@dead.command("replay")
@_selecting
def replay(ids: tuple[str, ...], cause: str | None, every: bool, yes: bool, as_json: bool) -> None:
    """Put them back on their queues, with their ids, stories and spend."""
    choice = _Choice(ids, cause, every, yes, as_json)
    store = connect(load())

    def again(letter: DeadLetter) -> str:
        if letter.body:
            return "is no task and cannot be replayed; drop it"
        return DONE if store.dead_letters.replay(letter.id) else "is no dead letter any more"

    _carry_out("replay", store, choice, again)


@dead.command("drop")
@_selecting
def drop(ids: tuple[str, ...], cause: str | None, every: bool, yes: bool, as_json: bool) -> None:
    """Forget them. A task's record ends with its time to live, its costs stay in the ledger."""
    choice = _Choice(ids, cause, every, yes, as_json)
    store = connect(load())

    def forget(letter: DeadLetter) -> str:
        return DONE if store.dead_letters.drop(letter.id) else "is no dead letter any more"

    _carry_out("drop", store, choice, forget)


class _Choice:
    """Which letters are meant, and how to ask and tell."""

    def __init__(self, ids: Sequence[str], cause: str | None, every: bool, yes: bool, as_json: bool) -> None:
        if sum((bool(ids), cause is not None, every)) != 1:
            raise click.UsageError("name IDS, or --cause TEXT, or --all")
        self.ids, self.cause, self.yes, self.as_json = ids, cause, yes, as_json

    def of(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        if self.ids:
            return _named(letters, self.ids)
        return [letter for letter in letters if self.cause is None or self.cause in letter.cause]


def _named(letters: Sequence[DeadLetter], ids: Sequence[str]) -> list[DeadLetter]:
    """By the whole id or by the task id alone. Raises UnknownTask for one that is not there or not unique."""
    found: dict[str, DeadLetter] = {}
    for wanted in ids:
        matches = [letter for letter in letters if wanted in (letter.id, letter.id.partition("/")[2])]
        if not matches:
            raise UnknownTask(f"no dead letter {wanted!r}", mend="see `laneway dead list`")
        if len(matches) > 1:
            names = ", ".join(letter.id for letter in matches)
            raise UnknownTask(
                f"{wanted!r} is a dead letter of several workspaces", mend=f"name one of {names}"
            )
        found[matches[0].id] = matches[0]
    return list(found.values())


def _carry_out(verb: str, store: Store, choice: _Choice, deed: Deed) -> None:
    """Ask, do, tell. The exit code is 1 where one of them could not be done."""
    chosen = choice.of(store.dead_letters.all())
    if chosen and not choice.yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{verb} of {len(chosen)} dead letters: nobody here to ask, so say --yes")
        click.confirm(
            f"{verb} {len(chosen)} dead letter{'' if len(chosen) == 1 else 's'}?", abort=True, err=True
        )
    said = {letter.id: deed(letter) for letter in chosen}
    done = [name for name, word in said.items() if word == DONE]
    failed = {name: word for name, word in said.items() if word != DONE}
    if choice.as_json:
        emit({"done": done, "failed": failed})
    else:
        say(f"{verb}: {len(done)} done" + (f", {len(failed)} not" if failed else ""))
    for name, word in failed.items():
        click.echo(f"error: {name} {word}", err=True)
    if failed:
        sys.exit(1)
