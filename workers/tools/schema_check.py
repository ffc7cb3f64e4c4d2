"""Whether a text is JSON of a schema: a model may check its answer before a gate does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from broker.errors import ToolError
from broker.settings.tools import SchemaTool
from dispatcher.schema import BadSchema, NotJson, compiled, parse_json
from workers.tools import Function


class SchemaCheck:
    def __init__(self, name: str, row: SchemaTool) -> None:
        self._name, self._row = name, row

    def functions(self) -> Sequence[Function]:
        described = (
            self._row.description
            or "Says whether a text is JSON that satisfies a JSON Schema, and what is wrong."
        )
        parameters = {
            "type": "object",
            "properties": {"text": {"type": "string"}, "schema": {"type": "object"}},
            "required": ["text", "schema"],
            "additionalProperties": False,
        }
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        try:
            complaint = compiled(arguments["schema"]).complaint(parse_json(arguments["text"]))
        except (BadSchema, NotJson) as error:
            raise ToolError(str(error)) from error
        return complaint or "It satisfies the schema."

    def close(self) -> None:
        pass
