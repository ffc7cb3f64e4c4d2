"""The checks of an answer, as a type of the configuration or a task names them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from broker.settings.values import Number, Pattern, Table


class NoGate(Table):
    kind: Literal["none"]


class JsonSchemaGate(Table):
    """``schema = {…}`` in the file; with none, the task's own schema holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)
    kind: Literal["json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ChoiceGate(Table):
    kind: Literal["choice"]
    choices: tuple[str, ...] = Field(min_length=1)


class RegexGate(Table):
    """``told``: whether a complaint may name the pattern. A task's own gate often is the answer, and is never told."""

    kind: Literal["regex"]
    pattern: Pattern
    told: bool = True


class NumberGate(Table):
    """``equals`` compares within ``tolerance``; ``minimum`` and ``maximum`` are inclusive; None leaves a side open."""

    kind: Literal["number"]
    equals: Number | None = None
    tolerance: Number = Decimal(0)
    minimum: Number | None = None
    maximum: Number | None = None


class PythonGate(Table):
    """``kind = "python:package.module:function"``: called with the answer and the task, from configuration only."""

    kind: Annotated[str, Field(pattern=r"^python:[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


GateSettings = NoGate | JsonSchemaGate | ChoiceGate | RegexGate | NumberGate | PythonGate
_GATES: dict[str, type[Table]] = {
    get_args(gate.model_fields["kind"].annotation)[0]: gate
    for gate in (NoGate, JsonSchemaGate, ChoiceGate, RegexGate, NumberGate)
}


def parse_gate(value: object) -> GateSettings:
    """The gate of a table or a bare kind. Raises ValueError that names what is wrong."""
    if isinstance(value, BaseModel):
        return value  # type: ignore[return-value]
    table = {"kind": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or not isinstance(table.get("kind"), str):
        raise ValueError('a gate is a table with a kind, as { kind = "choice", choices = ["a", "b"] }')
    kind = table["kind"]
    model = PythonGate if kind.startswith("python:") else _GATES.get(kind)
    if model is None:
        raise ValueError(f"unknown gate {kind!r}; known are {', '.join(_GATES)} and python:module:function")
    return model.model_validate(table)  # type: ignore[return-value]


def complaint(error: ValueError) -> str:
    """The first thing that is wrong, with its place, and without the validator's own links."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors(include_url=False, include_input=False)[0]
    message = detail["msg"].removeprefix("Value error, ")
    return ": ".join([*map(str, detail["loc"]), message])


Gate = Annotated[GateSettings, BeforeValidator(parse_gate)]
