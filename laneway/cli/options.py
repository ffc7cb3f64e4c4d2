"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


def in_order(*some: Decorator) -> Decorator:
    """All of them, in the order in which help shows them."""

    def add(command: Command) -> Command:
        for one in reversed(some):
            command = one(command)
        return command

    return add


def day_option(flag: str, words: str) -> Decorator:
    """An option whose value is a UTC day, as 2026-01-31."""
    kind = click.DateTime(formats=["%Y-%m-%d"])
    return click.option(flag, type=kind, callback=_day, metavar="DAY", help=words)


def _day(_: click.Context, option: click.Parameter, value: datetime | None) -> str | None:
    return None if value is None else value.date().isoformat()


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
date_option = day_option("--date", "This UTC day, as 2026-01-31.")
since_option = day_option("--since", "From this UTC day on.")
workspace_option = click.option(
    "--workspace", help="Needed only where two workspaces have a task of that id."
)
one_task = in_order(click.argument("task_id"), workspace_option)
