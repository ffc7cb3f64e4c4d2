"""Arithmetic, exact in decimals: what small models get wrong and a machine does not."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal, DecimalException, localcontext
from typing import Any

from broker.errors import ToolError
from broker.settings.tools import CalculatorTool
from workers.tools import Function

DIGITS = 50
LONGEST = 500  # characters of an expression
LARGEST_EXPONENT = 10_000

BINARY: Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: Mapping[type[ast.unaryop], Callable[[Decimal], Decimal]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
CALLS: Mapping[str, Callable[..., Decimal]] = {
    "abs": abs,
    "min": min,
    "max": max,
    "round": lambda value, digits=Decimal(0): round(value, int(digits)),
    "sqrt": Decimal.sqrt,
    "sum": lambda *values: sum(values, Decimal(0)),
}


class Calculator:
    def __init__(self, name: str, row: CalculatorTool) -> None:
        self._name, self._row = name, row

    def functions(self) -> Sequence[Function]:
        described = self._row.description or (
            "Calculates an arithmetic expression exactly: + - * / // % ** and abs, min, max, round, sqrt, sum."
        )
        parameters = {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "as (52 + 28) * 3 / 4"}},
            "required": ["expression"],
            "additionalProperties": False,
        }
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        return calculated(arguments["expression"])

    def close(self) -> None:
        pass


def calculated(expression: str) -> str:
    """Raises ToolError for what is no arithmetic, or too large."""
    if len(expression) > LONGEST:
        raise ToolError(f"the expression is longer than {LONGEST} characters")
    text = expression.replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")  # noqa: RUF001
    try:
        tree = ast.parse(text.strip(), mode="eval")
        with localcontext(Context(prec=DIGITS, Emax=LARGEST_EXPONENT, Emin=-LARGEST_EXPONENT)):
            value = _value(tree.body)
            whole = value.to_integral_value()
            return f"{whole if value == whole else value.normalize():f}"
    except DecimalException as error:
        raise ToolError(f"it cannot be calculated: {type(error).__name__}") from error
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ToolError(f"{expression[:80]!r} is no arithmetic expression") from error


def _value(node: ast.expr) -> Decimal:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return Decimal(str(value))
        case ast.BinOp(left, op, right) if type(op) in BINARY:
            return BINARY[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op, operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand))
        case ast.Call(ast.Name(name), args, []) if name in CALLS:
            return CALLS[name](*map(_value, args))
    raise ValueError("not arithmetic")
