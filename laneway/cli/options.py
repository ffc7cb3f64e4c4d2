"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import click

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
FIRST_YEAR, LAST_YEAR = 1900, 2199  # weeks and months can be counted from each day of them


def in_order(*some: Decorator) -> Decorator:
    """All of them, in the order in which help shows them."""

    def add(command: Command) -> Command:
        for one in reversed(some):
            command = one(command)
        return command

    return add


class _Day(click.ParamType[str]):
    """A UTC day, as 2026-01-31."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            day = date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no day; write it as 2026-01-31", param, ctx)
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            self.fail(f"{value} is not within the years {FIRST_YEAR} to {LAST_YEAR}", param, ctx)
        return day.isoformat()


DAY = _Day()


def day_option(flag: str, words: str) -> Decorator:
    """An option whose value is a UTC day, as 2026-01-31."""
    return click.option(flag, type=DAY, metavar="DAY", help=words)


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
date_option = day_option("--date", "This UTC day, as 2026-01-31.")
since_option = day_option("--since", "From this UTC day on.")
workspace_option = click.option(
    "--workspace", help="Needed only where two workspaces have a task of that id."
)
one_task = in_order(click.argument("task_id"), workspace_option)
