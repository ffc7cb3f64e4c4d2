"""Days on the command line."""

from __future__ import annotations

from datetime import datetime

import click


def day(_: click.Context, option: click.Parameter, value: datetime | None) -> str | None:
    return None if value is None else value.date().isoformat()


day_type = click.DateTime(formats=["%Y-%m-%d"])
date_option = click.option(
    "--date", type=day_type, callback=day, metavar="DAY", help="This UTC day, as 2026-01-31."
)
since_option = click.option(
    "--since", type=day_type, callback=day, metavar="DAY", help="From this UTC day on."
)
