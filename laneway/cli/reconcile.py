"""`laneway reconcile`: the ledger against what a provider says was used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from accounting.bills import reconcile as pure
from accounting.bills.reconcile import Compared, Reconciled
from accounting.bills.usage_files import Used, read
from accounting.files import ledger
from broker.settings import load
from laneway.cli.options import json_option
from laneway.cli.output import emit, price, say, table, usd


@click.command()
@click.argument(
    "usage_file", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--provider", required=True, metavar="P", help="openai, anthropic, or any other with a CSV.")
@click.option(
    "--lane", "lanes", multiple=True, metavar="LANE", help="A lane whose calls the provider bills too."
)
@json_option
def reconcile(usage_file: tuple[Path, ...], provider: str, lanes: tuple[str, ...], as_json: bool) -> None:
    """The ledger against a provider's own usage file: the difference by cause.

    The file is an export or the pages of the usage or the cost API (OpenAI's, Anthropic's); of any other provider a CSV
    with date, model, requests, input_tokens, cached_input_tokens, cache_write_tokens, cache_write_1h_tokens,
    output_tokens, batch, cost_usd, as far as they are known. Give the usage and the costs of the same days as two
    files. Calls count on the UTC day on which they ended. `laneway rollup` brings the ledger up to date.
    """
    settings, provider = load(), provider.lower()  # as the book and READERS have them
    if unknown := [name for name in lanes if name not in settings.lanes]:
        raise click.BadParameter(
            f"no lane {unknown[0]!r}; there are {', '.join(settings.lanes)}", param_hint="--lane"
        )
    lines = list(_lines(usage_file, provider))
    made = pure.reconcile(ledger.open_store(settings), settings, provider, lines, lanes)
    if as_json:
        emit(to_dict(made))
    else:
        _tell(made)


def _lines(paths: Sequence[Path], provider: str) -> Iterator[Used]:
    known: dict[str, Path] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
            if (other := known.setdefault(text, path)) is not path:
                raise ValueError(f"says what {other} says, which would count twice")
            yield from read(text, provider)
        except UnicodeDecodeError as error:
            raise click.BadParameter(
                f"{path}: is no text in UTF-8; save it as such", param_hint="USAGE_FILE"
            ) from error
        except ValueError as error:  # what is no JSON and no usage alike
            raise click.BadParameter(f"{path}: {error}", param_hint="USAGE_FILE") from error


def to_dict(made: Reconciled) -> dict[str, Any]:
    return {
        "currency": "USD",
        "provider": made.provider,
        "since": made.first,
        "until": made.last,
        "priced_by_us": made.priced_by_us,
        "notes": list(made.notes),
        "billed_usd": usd(made.billed_nano),
        "booked_usd": usd(made.booked_nano),
        "difference_usd": usd(made.billed_nano - made.booked_nano),
        "causes": {cause: usd(amount) for cause, amount in made.causes.items()},
        "models": [_row(one) for one in made.models],
    }


def _row(one: Compared) -> dict[str, Any]:
    return {
        "model": one.model,
        "batch": one.batch,
        "requests": one.requests,
        "calls": one.calls,
        "unsettled": one.unsettled,
        "unpriced": one.unpriced,
        "billed_usd": usd(one.billed_nano),
        "booked_usd": usd(one.booked_nano),
        "difference_usd": usd(None if one.billed_nano is None else one.billed_nano - one.booked_nano),
        "causes": {cause: usd(amount) for cause, amount in one.causes.items()},
    }


def _tell(made: Reconciled) -> None:
    told = to_dict(made)
    say(f"{made.provider}, {made.first} to {made.last}")
    if made.priced_by_us:
        say("the file names no money: it is billed at our prices")
    for note in made.notes:
        say(note)
    table(
        ("model", "batch", "their calls", "ours", "billed", "booked", "difference", "why"),
        [
            (
                row["model"] or "beside tokens",
                {True: "yes", False: "no", None: ""}[row["batch"]],
                "-" if row["requests"] is None else str(row["requests"]),
                str(row["calls"]), price(row["billed_usd"]), price(row["booked_usd"]), price(row["difference_usd"]),
                ", ".join(f"{cause} {price(amount)}" for cause, amount in row["causes"].items()),
            )
            for row in told["models"]
        ],
        right=("their calls", "ours", "billed", "booked", "difference"),
    )  # fmt: skip
    say(f"billed {price(told['billed_usd'])}, booked {price(told['booked_usd'])}")
    say(f"difference {price(told['difference_usd'])}")
    for cause, amount in told["causes"].items():
        say(f"  {cause}: {price(amount)}")
