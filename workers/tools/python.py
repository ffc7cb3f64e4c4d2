"""A Python function of the team's own, called with what the model says."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError
from pydantic_core import ArgsKwargs, PydanticSerializationError, to_json

from broker.errors import ConfigError, ToolError
from broker.settings.tools import PythonTool
from workers.tools import Function


class PythonFunction:
    """Its annotations are checked and turned into what they say before it is called: a ``date`` gets a date."""

    def __init__(self, name: str, row: PythonTool) -> None:
        self._name, self._row = name, row
        self._function = _found(name, row.function)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(self._function)
            self._parameters = self._adapter.json_schema()
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError) as error:
            raise ConfigError(
                f"tools.{name}: {row.function} has a parameter that JSON cannot tell: {error}",
                mend="annotate it with str, int, float, bool, Literal, list, dict or a pydantic model",
            ) from error
        if self._parameters.get("type") != "object":
            raise ConfigError(
                f"tools.{name}: {row.function} has parameters without names", mend="let it take them by name"
            )

    def functions(self) -> Sequence[Function]:
        described = self._row.description or inspect.getdoc(self._function) or self._name
        return [Function(self._name, described, self._parameters, reads_only=self._row.read_only)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        try:
            result = self._adapter.validate_python(ArgsKwargs((), dict(arguments)))
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ToolError("; ".join(problems), failure="bad_arguments") from error
        if isinstance(result, str):
            return result
        try:
            return to_json(result).decode()
        except PydanticSerializationError as error:
            raise ToolError(f"its result is a {type(result).__name__}, which is no JSON") from error

    def close(self) -> None:
        pass


def _found(name: str, path: str) -> Any:
    """Of the working directory too, as dramatiq finds its modules."""
    module_name, _, function_name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"tools.{name}.function: {path} is not there: {error}",
            mend="write package.module:function of what this node's Python can import",
        ) from error
