"""The table ``tools``: one class a kind."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from broker.settings.values import Pattern, Table, Usd, web_address

FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class ToolTable(Table):
    """What all kinds of tools have.

    ``description`` is what the model is told, "" for the tool's own words. ``usd_per_call`` is what each use costs
    beside processor time, ``timeout_s`` bounds it, ``result_chars`` is what a model is told of its result at most.
    ``ttl_s``: results are kept for so long and given again for the same arguments within a workspace, for what only
    reads; None: never.
    """

    description: str = ""
    usd_per_call: Usd = Decimal(0)
    timeout_s: float = Field(30.0, gt=0, le=3600)
    result_chars: int = Field(8_000, ge=100, le=200_000)
    ttl_s: Annotated[float, Field(gt=0)] | None = None

    @property
    def reads_only(self) -> bool:
        """Whether using it again does no harm."""
        return True

    @property
    def own_process(self) -> bool:
        """Whether it works in a process of this node, so that the processor time of a use is the time that it takes."""
        return False


class CalculatorTool(ToolTable):
    kind: Literal["calculator"]


class SchemaTool(ToolTable):
    """Says whether a text is JSON of a schema, and what is wrong with it."""

    kind: Literal["schema_check"]


class SearchTool(ToolTable):
    """Full-text search over the text files of a folder that ``glob`` matches."""

    kind: Literal["search"]
    folder: Path
    glob: str = "**/*.*"
    results: int = Field(5, ge=1, le=50)


class SqlTool(ToolTable):
    """Read-only SQL over a DuckDB database, or over the Parquet, CSV and JSON files of a folder, one table a file."""

    kind: Literal["sql"]
    database: Path
    rows: int = Field(50, ge=1, le=10_000)

    @property
    def own_process(self) -> bool:
        return True


class PythonTool(ToolTable):
    """A function of yours, called with the model's arguments by name; its annotations and docstring tell the model.

    ``read_only``: using it twice does no harm.
    """

    kind: Literal["python"]
    function: str = Field(pattern=FUNCTION)
    read_only: bool = False

    @property
    def reads_only(self) -> bool:
        return self.read_only


class SubtaskTool(ToolTable):
    """A part of the work as a task of its own, which the model hands on and waits for. Its type is one of ``types``,
    and where there are none it is classified as every task is."""

    kind: Literal["subtask"]
    types: tuple[str, ...] = ()


class CodeTool(ToolTable):
    """Python that the model writes, run in a sandbox: no files, no network, no environment, no other processes.

    ``python`` is "monty", an interpreter of its own for the most of the language, or "cpython", this node's Python with
    its packages, where bubblewrap is. ``memory_mb`` bounds what a run may hold, ``timeout_s`` how long it takes.
    """

    kind: Literal["code"]
    python: Literal["monty", "cpython"] = "monty"
    memory_mb: int = Field(256, ge=16, le=65_536)
    timeout_s: float = Field(10.0, gt=0, le=3600)

    @property
    def own_process(self) -> bool:
        return True


FormName = Literal["amount", "date", "email", "number", "phone", "url", "uuid"]


class ExtractTool(ToolTable):
    """Takes out of a text what has a form: ``forms`` of ours, and ``patterns`` of yours by names of their own."""

    kind: Literal["extract"]
    forms: tuple[FormName, ...] = ("amount", "date", "email", "url")
    patterns: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")], Pattern] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _coherent(self) -> ExtractTool:
        if not self.forms and not self.patterns:
            raise ValueError("has neither forms nor patterns; name what it is to find")
        if twice := set(self.forms) & set(self.patterns):
            raise ValueError(f"patterns: {min(twice)!r} is one of forms; give it another name")
        return self


class McpTool(ToolTable):
    """Functions of a server that speaks the Model Context Protocol: one that the node starts by ``command`` in
    ``folder``, or one that is at ``url``.

    ``functions`` are those that a model may use, by the server's names, and ``read_only`` those of them that do no harm
    when they are used twice: what a server says of itself is not relied on. ``env`` names the environment variables
    that a started server is given beside PATH, HOME and the like; ``token_env`` the one whose value goes to ``url`` as
    a bearer token.
    """

    kind: Literal["mcp"]
    command: tuple[str, ...] = ()
    folder: Path | None = None
    env: tuple[str, ...] = ()
    url: str | None = None
    token_env: str | None = None
    functions: tuple[str, ...] = Field(min_length=1)
    read_only: tuple[str, ...] = ()

    @property
    def reads_only(self) -> bool:
        """Whether that holds for one of its functions at least."""
        return bool(self.read_only)

    @field_validator("url")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        return web_address(value, "token_env")

    @model_validator(mode="after")
    def _coherent(self) -> McpTool:
        if bool(self.command) == bool(self.url):
            raise ValueError("takes either a command or a url")
        if (self.url and (self.env or self.folder)) or (self.command and self.token_env):
            raise ValueError("env and folder go with a command, token_env with a url")
        if strange := set(self.read_only) - set(self.functions):
            raise ValueError(f"read_only: {min(strange)!r} is none of functions")
        return self


ToolSettings = Annotated[
    CalculatorTool
    | CodeTool
    | ExtractTool
    | McpTool
    | PythonTool
    | SchemaTool
    | SearchTool
    | SqlTool
    | SubtaskTool,
    Field(discriminator="kind"),
]
