"""Python that a model writes, run where it can do no harm.

Two sandboxes. ``monty`` is an interpreter that knows no files, sockets or processes at all, in a process of its own
that is inside bubblewrap where the node has it. ``cpython`` is the node's Python inside bubblewrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from broker.errors import ToolError, ToolUnavailable
from broker.settings.tools import CodeTool
from workers.tools import Function, found

LONGEST = 50_000  # characters of a program
PYTHONS = {"monty": "workers.tools.monty:MontyPython", "cpython": "workers.tools.cpython:CPython"}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run. ``print_chars`` is what it may print."""

    seconds: float
    memory_bytes: int
    print_chars: int


class Sandbox(Protocol):
    """Shared by threads. Made with ``Limits``; raises ToolUnavailable where the node has not what it takes."""

    told: str
    """What the model should know of this Python."""

    def run(self, program: str) -> str:
        """What it printed, and the value of a last expression. Raises ToolError with its exception."""

    def close(self) -> None: ...


class Code:
    def __init__(self, name: str, row: CodeTool) -> None:
        self._name, self._row = name, row
        limits = Limits(row.timeout_s, row.memory_mb * 2**20, row.result_chars + 1000)
        self._sandbox: Sandbox = found(PYTHONS[row.python])(limits)
        try:
            self._sandbox.run("1")
        except ToolError as error:
            self._sandbox.close()
            raise ToolUnavailable(
                f"no program runs in its sandbox: {error}", mend="see what it says"
            ) from error

    def functions(self) -> Sequence[Function]:
        described = self._row.description or (
            "Runs a Python program and gives what it prints, and the value of its last line. Each run is a new one."
        )
        parameters = {
            "type": "object",
            "properties": {"program": {"type": "string", "description": self._sandbox.told}},
            "required": ["program"],
            "additionalProperties": False,
        }
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        program = arguments["program"]
        if len(program) > LONGEST:
            raise ToolError(f"the program is longer than {LONGEST} characters", failure="bad_arguments")
        return self._sandbox.run(program) or "It ran, and printed nothing."

    def close(self) -> None:
        self._sandbox.close()


def shown(printed: str, last: str) -> str:
    """What was printed, and what comes after it."""
    return f"{printed.rstrip()}\n{last}".strip() if printed else last
