"""The tool seam: what a model may use on its way to an answer.

A tool is one module with one class and one line in ``TOOLS``; ``tests/conformance/test_tools.py`` runs over that table.
A tool of one's own is a Python function, named in the configuration (kind ``python``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from broker.errors import ToolUnavailable
from broker.settings.tools import ToolSettings


@dataclass(frozen=True, slots=True)
class Function:
    """One thing that a tool does, as the model is told of it. ``parameters`` is a JSON Schema of an object.

    ``reads_only``: doing it twice does no harm.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    reads_only: bool

    def definition(self) -> dict[str, Any]:
        """In OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


class Tool(Protocol):
    """Shared by all threads of a worker process. Made with ``(name, row)`` of the configuration."""

    def functions(self) -> Sequence[Function]:
        """What it offers: always the same. Raises what ``build`` raises."""

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        """Do it, and say what came of it. ``arguments`` are of the function's parameters.

        Raises ToolError for what the model should know of and may do better.
        """

    def close(self) -> None:
        """Let go of files, connections and processes."""


TOOLS: dict[str, str] = {
    "calculator": "workers.tools.calculator:Calculator",
    "code": "workers.tools.code:Code",
    "extract": "workers.tools.extract:Extract",
    "mcp": "workers.tools.mcp:Mcp",
    "python": "workers.tools.python:PythonFunction",
    "schema_check": "workers.tools.schema_check:SchemaCheck",
    "search": "workers.tools.search:Search",
    "sql": "workers.tools.sql:Sql",
}


def build(name: str, row: ToolSettings) -> Tool:
    """Imports that tool's module only.

    Raises ConfigError for a wrong row, and ToolUnavailable where this node has not what it takes.
    """
    tool: Tool = found(TOOLS[row.kind])(name, row)
    return tool


def found(path: str) -> Any:
    """The class at ``package.module:Class`` of ours. Raises ToolUnavailable where a package that it uses is missing."""
    module, _, class_name = path.partition(":")
    try:
        return getattr(import_module(module), class_name)
    except ModuleNotFoundError as error:
        raise ToolUnavailable(
            f"the package {error.name} is not installed", mend="pip install 'laneway[tools]'"
        ) from error
