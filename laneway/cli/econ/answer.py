"""A calculator as a command: from what is given to an answer, as one JSON document or for a person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import wraps
from typing import Any

import click

from broker.money import text
from laneway.cli.econ.given import MOST, Given, nano
from laneway.cli.options import json_option
from laneway.cli.output import emit

#: A frozen dataclass of figures, or several of one kind, which are told as a table.
Result = Any


@dataclass(frozen=True, slots=True)
class Answer:
    calculator: str
    idea: str
    formula: str
    given: Given
    result: Result

    @property
    def rows(self) -> Sequence[Any]:
        return self.result if isinstance(self.result, tuple) else ()


def calculator(name: str, formula: str = "") -> Callable[[Callable[[Given], Result]], click.Command]:
    """The command of a function from what is given to its result. Its docstring is the help, its first line the idea.

    ``formula`` is told with the answer where the result's rows have none of their own. What lies outside a formula's
    domain is a wrong call.
    """

    def command(work: Callable[[Given], Result]) -> click.Command:
        @click.command(name)
        @json_option
        @click.pass_context
        @wraps(work)
        def run(context: click.Context, as_json: bool) -> None:
            given = context.ensure_object(Given)
            given.arrange([param.name or "" for param in context.command.params])
            try:
                result = work(given)
                told = Answer(name, (work.__doc__ or "").split("\n")[0], formula, given, result)
                document = plain(told)
            except ValueError as error:
                raise click.UsageError(str(error)) from error
            if as_json:
                emit(document)
            else:
                from laneway.cli.econ import page  # it loads rich, which --json does without

                page.show(told)

        run.params.append(run.params.pop(0))  # --json goes last in the help, as everywhere
        return run

    return command


def plain(answer: Answer) -> dict[str, Any]:
    """The answer as JSON's types. Raises ValueError for a figure that nobody could pay."""
    result = [_row(one) for one in answer.rows] if answer.rows else _row(answer.result)
    values = answer.given.told()
    document: dict[str, Any] = {"calculator": answer.calculator}
    if answer.formula:
        document["formula"] = answer.formula
    document["given"] = {name: _plain(name, value) for name, value in values.items()}
    document["from"] = {name: answer.given.sources[name] for name in values}
    document["result"] = result
    return document


def _row(one: Any) -> dict[str, Any]:
    return {field.name: _plain(field.name, getattr(one, field.name)) for field in fields(one)}


def _plain(name: str, value: Any) -> Any:
    """Money as a decimal string to the nano-dollar, other figures as numbers."""
    if isinstance(value, tuple):
        return [_plain(name, one) for one in value]
    if not isinstance(value, Fraction):
        return value
    if abs(value) > MOST:
        raise ValueError(f"{name} comes to more than {MOST:.0e}, which nobody can pay; check what was given")
    if name.endswith("_usd"):
        return text(nano(value))
    return value.numerator if value.denominator == 1 else float(value)
