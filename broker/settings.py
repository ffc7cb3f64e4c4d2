"""The fleet's configuration: ``laneway.toml`` under the environment, checked as a whole before anything starts.

Order, strongest first: environment ``LANEWAY_SECTION__KEY`` (``-`` in a name is written ``_``, a row of a list is named
by its place from 0 on), the file named by ``LANEWAY_CONFIG`` or ``./laneway.toml``, the defaults below. This is the one
module that reads the environment.
"""

from __future__ import annotations

import difflib
import os
import platform
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from broker.errors import ConfigError
from broker.money import MOST_USD

HUMAN = "human"
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
SCOPE = re.compile(r"fleet|(workspace|workflow|pipeline|user|lane):[A-Za-z0-9_.@-]{1,128}")


def _no_float(value: object) -> object:
    if isinstance(value, float):
        raise ValueError('is a float; write money in quotes, as "0.15"')
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ValueError("is nested too deeply or repeats too often for a regular expression") from error
    return value


def _day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError("is no day; write it as 2026-01-31") from None


def _no_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is true or false; write a number")
    return value


COUNT_LIMIT = 2**31
_LARGEST = Decimal(10) ** 100

Usd = Annotated[Decimal, BeforeValidator(_no_float), Field(ge=0, allow_inf_nan=False)]
#: What may be spent: Redis counts it in integers.
LimitUsd = Annotated[Usd, Field(lt=MOST_USD)]
Amount = Annotated[Decimal, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_truth), Field(ge=0, lt=COUNT_LIMIT)]
Number = Annotated[Decimal, BeforeValidator(_no_truth), Field(gt=-_LARGEST, lt=_LARGEST, allow_inf_nan=False)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Day = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_day)]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
#: What a US dollar is worth, in units of another currency.
Rate = Annotated[
    Decimal, BeforeValidator(_no_float), Field(gt=0, lt=10**9, decimal_places=6, allow_inf_nan=False)
]
#: A row of the price book by its key: ``book:openai/gpt-4o``.
BookKey = Annotated[str, Field(pattern=r"^book:[^/*]+/[^*]+$")]


_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _address(value: str | None, instead: str) -> str | None:
    """The same where it is a web address without a secret. ``instead`` is what to do with that."""
    url = urlsplit(value or "")
    if value and (not url.hostname or url.port == 0 or url.scheme not in ("http", "https")):
        raise ValueError("is no web address; write it as https://host/path")
    if url.username or url.password:
        raise ValueError(f"holds a password; {instead}")
    return value


def _web_address(value: str | None, token: str) -> str | None:
    """The same where secrets may be sent there. ``token`` is the key for such a secret."""
    _address(value, f"name its environment variable in {token}")
    url = urlsplit(value or "")
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise ValueError("is not encrypted; use https, or an address on this machine")
    return value


def _base_url(value: str) -> str:
    """Encrypted or not, as endpoints are within a private network too."""
    _address(value, "name its environment variable in api_key_env")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


_Row = TypeVar("_Row", bound=_Table)


class SmallScale(_Table):
    """Budgets in one line: of a task that nobody gives another limit, and of the whole fleet in a month."""

    task_usd: Usd
    month_usd: Usd


class Fleet(_Table):
    """What holds for the whole fleet. Times in seconds, sizes in bytes.

    ``node`` is this machine's own name, where its host's does not tell it apart (LANEWAY_FLEET__NODE).
    """

    ledger: str = "var/ledger"
    var: Path = Path("var")
    default_type: str = "general"
    abstain_below: float = Field(0.35, ge=0, le=1)
    lease_s: float = Field(15.0, gt=0.2, le=3600)
    max_starts: int = Field(3, ge=1, le=100)
    result_ttl_s: int = Field(7 * 24 * 3600, ge=1)
    idempotency_ttl_s: int = Field(30 * 24 * 3600, ge=1)
    lane_absent_s: float = Field(60.0, gt=0)
    ingest_flush_s: float = Field(60.0, gt=0)
    ingest_flush_events: int = Field(100_000, ge=1, le=500_000)
    redis_admission: float = Field(0.7, gt=0, le=1)
    cpu_usd_per_hour: Usd = Decimal("0.05")
    node: str = Field(default_factory=platform.node, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    rollup_at_utc: str = Field("00:15", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    small_scale: SmallScale | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Fleet:
        if self.result_ttl_s > self.idempotency_ttl_s:
            raise ValueError(
                f"result_ttl_s = {self.result_ttl_s} is longer than idempotency_ttl_s = {self.idempotency_ttl_s};"
                " a result goes with its record at the latest"
            )
        return self


class Figures(_Table):
    """Dollars per million tokens.

    ``cached_input_mtok`` and ``cache_write_mtok`` default to input, ``cache_write_1h_mtok`` to ``cache_write_mtok``.
    """

    input_mtok: Usd
    output_mtok: Usd
    cached_input_mtok: Usd | None = None
    cache_write_mtok: Usd | None = None
    cache_write_1h_mtok: Usd | None = None


class Above(Figures):
    """What calls cost whose whole input, cached or not, is above so many tokens."""

    tokens: Annotated[int, Field(gt=0, lt=COUNT_LIMIT)]


class AtHours(Figures):
    """What calls cost that end within these hours of the UTC day, as ``16:30-00:30``. ``workdays``: from Monday to
    Friday alone."""

    utc: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
    workdays: bool = False


class PriceRow(Figures):
    """A price from a UTC day on, and its exceptions.

    ``batch_discount`` is what a line of a provider's batch pays less (0.5: half), ``batch_cached_discount`` what its
    cached input does; None: as much.
    """

    from_: Day = Field("1970-01-01", alias="from")
    batch_discount: Usd = Field(Decimal(0), le=1)
    batch_cached_discount: Annotated[Usd, Field(le=1)] | None = None
    above: tuple[Above, ...] = ()
    hours: tuple[AtHours, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> PriceRow:
        if self.above and self.hours:
            raise ValueError("has both above and hours; a row knows one kind of exception")
        return self

    @property
    def figures(self) -> tuple[Figures, ...]:
        return (self, *self.above, *self.hours)


class Discount(_Table):
    """What is paid less than the price book says, by agreement with a provider: its prices times ``factor``.

    ``model`` is a key of the book (``openai/gpt-4o``) or the provider's name for one; "": all of its models. Holds from
    ``from`` on, a UTC day, and before ``until`` (None: for ever). Where several fit, the last one holds.
    """

    provider: str
    model: str = ""
    factor: Annotated[Decimal, BeforeValidator(_no_float), Field(gt=0, le=10, max_digits=8, decimal_places=6)]
    from_: Day = Field("1970-01-01", alias="from")
    until: Day | None = None


class FlatCost(_Table):
    """What is paid by the month whatever is done: a monitoring service, a seat. From a UTC day on, and before
    ``until`` (None: for ever). ``category`` is which of a report's four categories has it."""

    name: str = Field(min_length=1)
    usd_per_month: Usd
    category: Literal["inference", "orchestration", "data", "human"] = "orchestration"
    from_: Day = Field("1970-01-01", alias="from")
    until: Day | None = None


class Prices(_Table):
    """What lanes do not say themselves: discounts on the price book, and what is paid by the month."""

    discounts: tuple[Discount, ...] = ()
    monthly: tuple[FlatCost, ...] = ()


class Hardware(_Table):
    """A machine of our own. ``watts`` is what it draws while it works, ``idle_watts`` while it is on and does not.

    Lanes of one node with the same table are served by the same machine.
    """

    price_usd: Usd
    life_years: Amount
    watts: Annotated[Decimal, Field(ge=0)]
    idle_watts: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    usd_per_kwh: Usd


class EchoToolCall(_Table):
    """``arguments`` as a text are given as they stand, so that they may be no JSON."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)


class Echo(_Table):
    """Script of the echo engine. ``reply`` is the answer, with ``{prompt}`` replaced; None gives the prompt back.

    ``replies`` maps a pattern found in the prompt to an answer. ``tool_calls`` are the answer of a call that offers
    tools, unless the last message is a tool's result. ``failures`` are consumed in turn by the calls that an engine
    instance gets: "" for a call that works, else the ``failure`` code of an engine error, or ``kill``, which ends the
    process at once.
    """

    reply: str | None = None
    replies: dict[Pattern, str] = Field(default_factory=dict)
    tool_calls: tuple[EchoToolCall, ...] = ()
    latency_ms: float = Field(0.0, ge=0)
    output_tokens: int | None = Field(None, ge=0)
    failures: tuple[str, ...] = ()
    failure_rate: float = Field(0.0, ge=0, le=1)
    kill_on: Pattern | None = None


def _in_a_row(value: object) -> object:
    return (value,) if isinstance(value, Mapping) else value


Dialect = Literal["compatible", "openai", "vllm", "llamacpp", "mlx", "deepseek", "gemini", "together", "xai"]


class Endpoint(_Table):
    """One of several doors of a lane; what it leaves open is the lane's own word.

    ``weight`` is its share of the calls beside others of the same price and health.
    """

    base_url: BaseUrl | None = None
    dialect: Dialect | None = None
    model: str = ""
    api_key_env: str | None = None
    api_key_file: Path | None = None
    price: tuple[PriceRow, ...] | Literal["free"] | BookKey | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    weight: float = Field(1.0, gt=0, le=1000)

    _one_row = field_validator("price", mode="before")(_in_a_row)


class Vllm(_Table):
    """How this node runs vLLM, or how the one at ``base_url`` is run.

    ``python`` is the interpreter that has it (None: ours). ``arguments`` go to vLLM's server as they stand, and win
    over ours: ``["--tensor-parallel-size", "2"]``. ``tool_parser`` is the form in which the model writes tool calls, ""
    for one whose chat template knows nothing of tools. ``priorities``: the server at ``base_url`` was started with
    ``--scheduling-policy priority``, without which it refuses them.
    """

    python: Path | None = None
    arguments: tuple[str, ...] = ()
    tool_parser: str = "hermes"
    priorities: bool = False


class Lane(_Table):
    """One lane. ``threads`` is how many calls a node has in flight, ``batch`` how many tasks a message carries.

    ``requests_per_minute`` and ``tokens_per_minute`` are what its provider lets the whole fleet have with this key;
    None: what the provider says of itself. ``endpoints`` are several doors to the same kind of model, a call takes one.
    ``dialect`` says which OpenAI-compatible server answers at ``base_url``; None goes by its host, and where that is
    not known asks for what all of them take. ``cache`` has Anthropic keep for that time what all calls of the lane and
    type begin with: writing it costs more than input, reading it a tenth.

    ``discounts`` are off the price book's prices alone, not off a ``price`` that stands here.

    ``batches``: asynchronous tasks go into the provider's batches where that is cheaper. A batch is sent once
    ``batch_lines`` tasks wait, or some have waited for ``batch_fill_s``, and looked after every ``batch_poll_s``. A
    task needs ``batch_least_s`` to its deadline to be put into one, and is called for singly, before all others, when
    ``batch_overflow_s`` are left.
    """

    engine: Literal["anthropic", "auto", "echo", "llamacpp", "mlx", "openai", "vllm"]
    model: str = ""
    model_path: Path | None = None
    base_url: BaseUrl | None = None
    dialect: Dialect | None = None
    cache: Literal["off", "5m", "1h"] = "off"
    api_key_env: str | None = None
    api_key_file: Path | None = None
    context_tokens: int = Field(8192, ge=128)
    max_tokens: int = Field(512, ge=1)
    threads: int = Field(8, ge=1, le=1024)
    cpu_threads: int | None = Field(None, ge=1)
    sync_threads: int | None = Field(None, ge=1)
    batch: int = Field(1, ge=1, le=1000)
    timeout_s: float = Field(60.0, gt=0)
    retries: int = Field(2, ge=0, le=20)
    retry_delay_s: float = Field(0.5, ge=0)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = None
    system: str = ""
    shots: tuple[tuple[str, str], ...] = ()
    price: tuple[PriceRow, ...] | Literal["free"] | BookKey | None = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    endpoints: tuple[Endpoint, ...] = ()
    batches: bool = False
    batch_lines: int = Field(10_000, ge=1, le=50_000)
    batch_fill_s: float = Field(300.0, ge=0)
    batch_least_s: float = Field(3600.0, gt=0)
    batch_overflow_s: float = Field(900.0, gt=0)
    batch_poll_s: float = Field(30.0, gt=0)
    hardware: Hardware | None = None
    echo: Echo = Echo()
    vllm: Vllm = Vllm()
    discounts: tuple[Discount, ...] = ()

    _one_row = field_validator("price", mode="before")(_in_a_row)

    def doors(self) -> tuple[Lane, ...]:
        """The lane as it is behind each of its endpoints; itself where it has none."""
        return tuple(
            self.model_copy(
                update={"endpoints": ()}
                | {name: getattr(one, name) for name in one.model_fields_set if name != "weight"}
            )
            for one in self.endpoints
        ) or (self,)

    @property
    def writes(self) -> Literal["none", "short", "long"]:
        """What its calls can write into a provider's cache. Anthropic's does what it is asked for, others what they
        like."""
        if self.engine != "anthropic":
            return "short"
        return {"off": "none", "5m": "short", "1h": "long"}[self.cache]  # type: ignore[return-value]

    @model_validator(mode="after")
    def _coherent(self) -> Lane:
        priced = self.price is not None or any(one.price is not None for one in self.endpoints)
        if priced and self.hardware is not None:
            raise ValueError("has both price and hardware; a lane is paid by the token or by its own machine")
        if self.batch_overflow_s >= self.batch_least_s:
            raise ValueError(
                f"batch_overflow_s = {self.batch_overflow_s:g} is not below batch_least_s = {self.batch_least_s:g}"
            )
        if self.sync_threads is not None and self.sync_threads > self.threads:
            raise ValueError(f"sync_threads = {self.sync_threads} is more than threads = {self.threads}")
        if self.engine != "openai" and any(door.dialect for door in self.doors()):
            raise ValueError(f"has a dialect, which is for engine = 'openai'; its engine is {self.engine!r}")
        if self.engine != "anthropic" and self.cache != "off":
            raise ValueError(f"has a cache, which is for engine = 'anthropic'; its engine is {self.engine!r}")
        written = {"off": "input_mtok", "5m": "cache_write_mtok", "1h": "cache_write_1h_mtok"}[self.cache]
        prices = [door.price for door in self.doors() if isinstance(door.price, tuple)]
        if any(getattr(one, written) is None for rows in prices for row in rows for one in row.figures):
            raise ValueError(f"cache = {self.cache!r} makes writes that have no price; set {written}")
        return self


class NoGate(_Table):
    kind: Literal["none"]


class JsonSchemaGate(_Table):
    """``schema = {…}`` in the file; with none, the task's own schema holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)
    kind: Literal["json_schema"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class ChoiceGate(_Table):
    kind: Literal["choice"]
    choices: tuple[str, ...] = Field(min_length=1)


class RegexGate(_Table):
    """``told``: whether a complaint may name the pattern. A task's own gate often is the answer, and is never told."""

    kind: Literal["regex"]
    pattern: Pattern
    told: bool = True


class NumberGate(_Table):
    """``equals`` compares within ``tolerance``; ``minimum`` and ``maximum`` are inclusive; None leaves a side open."""

    kind: Literal["number"]
    equals: Number | None = None
    tolerance: Number = Decimal(0)
    minimum: Number | None = None
    maximum: Number | None = None


class PythonGate(_Table):
    """``kind = "python:package.module:function"``: called with the answer and the task, from configuration only."""

    kind: Annotated[str, Field(pattern=r"^python:[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


GateSettings = NoGate | JsonSchemaGate | ChoiceGate | RegexGate | NumberGate | PythonGate
_GATES: dict[str, type[_Table]] = {
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


class TaskBudget(_Table):
    """Limits of one task; None leaves a side open.

    ``failures`` is how many of its calls may fail, of tools or at a gate, before it is parked; one that was lost with
    its worker is none of them. ``llm_calls`` and ``tool_calls`` count calls, ``tokens`` all tokens of all its model
    calls, in and out, and ``same_tool_calls`` how often one tool may be called with the same arguments. ``wall_s`` is
    in seconds from its first call on, without the time that it waits for a person.
    """

    hard_usd: LimitUsd | None = None
    soft_usd: LimitUsd | None = None
    retry_usd: LimitUsd | None = None
    llm_calls: Count | None = None
    tool_calls: Count | None = None
    same_tool_calls: Count | None = None
    tokens: Count | None = None
    failures: Count | None = None
    wall_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    def over(self, other: TaskBudget) -> TaskBudget:
        """These limits, and the other's where these leave a side open."""
        said = {name: value for name in TaskBudget.model_fields if (value := getattr(self, name)) is not None}
        return other.model_copy(update=said)


CategoryName = Literal["exploratory", "extractive", "generative"]


FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class _ToolTable(_Table):
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


class CalculatorTool(_ToolTable):
    kind: Literal["calculator"]


class SchemaTool(_ToolTable):
    """Says whether a text is JSON of a schema, and what is wrong with it."""

    kind: Literal["schema_check"]


class SearchTool(_ToolTable):
    """Full-text search over the text files of a folder that ``glob`` matches."""

    kind: Literal["search"]
    folder: Path
    glob: str = "**/*.*"
    results: int = Field(5, ge=1, le=50)


class SqlTool(_ToolTable):
    """Read-only SQL over a DuckDB database, or over the Parquet, CSV and JSON files of a folder, one table a file."""

    kind: Literal["sql"]
    database: Path
    rows: int = Field(50, ge=1, le=10_000)

    @property
    def own_process(self) -> bool:
        return True


class PythonTool(_ToolTable):
    """A function of yours, called with the model's arguments by name; its annotations and docstring tell the model.

    ``read_only``: using it twice does no harm.
    """

    kind: Literal["python"]
    function: str = Field(pattern=FUNCTION)
    read_only: bool = False

    @property
    def reads_only(self) -> bool:
        return self.read_only


class SubtaskTool(_ToolTable):
    """A part of the work as a task of its own, which the model hands on and waits for. Its type is one of ``types``,
    and where there are none it is classified as every task is."""

    kind: Literal["subtask"]
    types: tuple[str, ...] = ()


class CodeTool(_ToolTable):
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


class ExtractTool(_ToolTable):
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


class McpTool(_ToolTable):
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
        return _web_address(value, "token_env")

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


class Category(_Table):
    """What holds for every type of a category; what a type says itself goes over it."""

    budget: TaskBudget = TaskBudget()


class ContextGuards(_Table):
    """What a model is not told of a long task; None: it is told everything.

    ``turns`` are the last turns of a conversation, and steps of a use of tools, that are told in full; what was before
    is told in a few words. ``passages_chars``: of a user's text longer than that (and than 2,000 characters) the
    passages nearest to what is asked are told, so many characters in all.
    """

    turns: int | None = Field(None, ge=1)
    passages_chars: int | None = Field(None, ge=500)


class TaskType(_Table):
    """One task type: how it is recognised, who may do it in which order, and what a good answer is.

    ``instruction`` is put before the prompt as the system message. ``reprompts`` is how often a failed gate is told to
    the same lane before the task climbs. ``tools`` are the names of those that the model may use on the way, and
    ``tools_first`` makes it begin with one of them, by a form that the engine holds it to. A ``planner`` begins at the
    strongest lane of its chain, as a bad plan costs more than a good one; a ``worker`` at the cheapest. ``critic`` is
    the type of a sub-task that judges each answer which passed its gate, ``rounds`` times at most.
    """

    category: CategoryName = "generative"
    patterns: tuple[Pattern, ...] = ()
    examples: tuple[str, ...] = ()
    examples_file: Path | None = None
    chain: tuple[str, ...] = Field(min_length=1)
    gate: Gate = NoGate(kind="none")
    reprompts: int = Field(0, ge=0, le=5)
    instruction: str = ""
    max_tokens: int | None = Field(None, ge=1)
    tools: tuple[str, ...] = ()
    tools_first: bool = False
    role: Literal["planner", "worker"] = "worker"
    critic: str | None = None
    rounds: int = Field(1, ge=1, le=5)
    context: ContextGuards = ContextGuards()
    quality_floor: Annotated[Decimal, BeforeValidator(_no_float), Field(gt=0, le=1)] | None = None
    budget: TaskBudget = TaskBudget()


class BudgetRow(_Table):
    scope: str
    period: Literal["day", "month", "total"]
    usd: LimitUsd

    @field_validator("scope")
    @classmethod
    def _known(cls, value: str) -> str:
        if not SCOPE.fullmatch(value):
            raise ValueError(
                f"unknown scope {value!r}; use fleet or workspace: workflow: pipeline: user: lane: and a name"
            )
        return value


class Human(_Table):
    """What a person's work costs: by the minutes that they say, else by the review. None of both: unpriced."""

    usd_per_review: Usd | None = None
    usd_per_minute: Usd | None = None


class Alerts(_Table):
    """Who is told when a budget runs out.

    ``webhook`` gets a POST, ``command`` the same JSON on its standard input. ``webhook_token_env`` names the
    environment variable whose value goes along as a bearer token. ``kill_switch``: a scope whose budget is used up is
    switched off until a person switches it on again. ``task_p95_usd`` is what 95 of 100 tasks should stay under.
    """

    webhook: str | None = None
    webhook_token_env: str | None = None
    command: tuple[str, ...] = ()
    kill_switch: bool = False
    task_p95_usd: Usd | None = None

    @field_validator("webhook")
    @classmethod
    def _safe(cls, value: str | None) -> str | None:
        return _web_address(value, "webhook_token_env")


class S3(_Table):
    """How a ledger in a bucket is reached, where that is not AWS as this node knows it.

    Keys come from where the AWS command line has them too: environment, files of credentials, the machine's role.
    ``endpoint_url`` is the address of another store; ``region`` None: as AWS's own settings of this node say.
    ``path_style``: the bucket stands in the path and not in the host's name; None: where an ``endpoint_url`` is given.
    ``sse`` is how objects are encrypted, with the key ``kms_key_id`` for ``aws:kms``; None: as the bucket says.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None

    @field_validator("endpoint_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return _address(value, "give credentials to this node as for the AWS command line")

    @model_validator(mode="after")
    def _key_fits(self) -> S3:
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError('kms_key_id is for sse = "aws:kms"')
        return self


#: What pydantic puts into a location to name the branch of a union.
_BRANCH = re.compile(r"Gate$|\[")

_DEFAULT_LANES = {"local": {"engine": "auto", "threads": 2, "context_tokens": 2048}}
_DEFAULT_TYPES = {"general": {"chain": ["local", HUMAN]}}


class Settings(BaseSettings):
    """The whole configuration, frozen. Build it with ``load()``."""

    model_config = SettingsConfigDict(
        env_prefix="LANEWAY_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    redis_url: str | None = None
    fleet: Fleet = Fleet()
    lanes: dict[str, Lane] = Field(default_factory=lambda: _validated(Lane, _DEFAULT_LANES))
    types: dict[str, TaskType] = Field(default_factory=lambda: _validated(TaskType, _DEFAULT_TYPES))
    tools: dict[str, ToolSettings] = Field(default_factory=dict)
    categories: dict[CategoryName, Category] = Field(default_factory=dict)
    budgets: tuple[BudgetRow, ...] = ()
    human: Human = Human()
    alerts: Alerts = Alerts()
    s3: S3 = S3()
    prices: Prices = Prices()
    rates: dict[CurrencyCode, dict[Day, Rate]] = Field(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (_EnvironmentOverFile(settings_cls, init_settings()),)

    @model_validator(mode="after")
    def _names_meet(self) -> Settings:
        """What each table cannot see for itself: names that point at other tables."""
        if problems := [*_of_names(self), *_of_types(self), *_of_tools(self), *_of_budgets(self)]:
            raise ValueError("\n".join(problems))
        return self


def _validated(model: type[_Table], rows: Mapping[str, object]) -> Any:
    return {name: model.model_validate(row) for name, row in rows.items()}


def _of_names(settings: Settings) -> Iterator[str]:
    tables = (("lanes", settings.lanes), ("types", settings.types), ("tools", settings.tools))
    for section, rows in tables:
        for name in rows:
            if not NAME.fullmatch(name):
                yield f"{section}.{name}: names are lower-case letters, digits and dashes"
    if HUMAN in settings.lanes:
        yield f"lanes.{HUMAN}: the human lane is always there; take the table out"
    named = settings.fleet.default_type
    if named not in settings.types:
        yield f"fleet.default_type: no type {named!r}{_near(named, settings.types)}"


def _of_types(settings: Settings) -> Iterator[str]:
    types = settings.types
    for name, row in types.items():
        for lane in row.chain:
            if lane != HUMAN and lane not in settings.lanes:
                yield f"types.{name}.chain: no lane {lane!r}{_near(lane, [*settings.lanes, HUMAN])}"
        if len(set(row.chain)) != len(row.chain):
            yield f"types.{name}.chain: a lane stands in it twice"
        if HUMAN in row.chain[:-1]:
            yield f"types.{name}.chain: {HUMAN!r} can only be the last rung"
        for tool in row.tools:
            if tool not in settings.tools:
                yield f"types.{name}.tools: no tool {tool!r}{_near(tool, settings.tools)}"
        if row.critic is not None and row.critic not in types:
            yield f"types.{name}.critic: no type {row.critic!r}{_near(row.critic, types)}"
        elif row.critic is not None and types[row.critic].critic is not None:
            yield f"types.{name}.critic: {row.critic!r} has a critic itself; take that one out"


def _of_tools(settings: Settings) -> Iterator[str]:
    for name, tool in settings.tools.items():
        for one in tool.types if isinstance(tool, SubtaskTool) else ():
            if one not in settings.types:
                yield f"tools.{name}.types: no type {one!r}{_near(one, settings.types)}"
        if tool.ttl_s is not None and not tool.reads_only:
            yield (
                f"tools.{name}.ttl_s: only what a tool reads can be given again; set read_only = true or take it out"
            )


def _of_budgets(settings: Settings) -> Iterator[str]:
    for row in settings.budgets:
        kind, _, lane = row.scope.partition(":")
        if kind == "lane" and lane not in (*settings.lanes, HUMAN):
            yield f"budgets: scope {row.scope!r} names no lane{_near(lane, [*settings.lanes, HUMAN])}"
    limited = Counter((row.scope, row.period) for row in settings.budgets)
    for (scope, period), times in limited.items():
        if times > 1:
            yield f"budgets: {scope} per {period} stands there twice; take one out"
    if settings.fleet.small_scale and ("fleet", "month") in limited:
        yield "fleet.small_scale: budgets has a limit of the fleet per month too; take one out"
    if any(scope == f"lane:{HUMAN}" for scope, _ in limited) and settings.human == Human():
        yield (
            f"budgets: scope 'lane:{HUMAN}' limits what has no price; set usd_per_review or usd_per_minute in [human]"
        )


def _near(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(sorted(known))}"


class _EnvironmentOverFile(PydanticBaseSettingsSource):
    """The file's tables with the environment's scalars laid over them, names matched with ``-`` and ``_`` alike."""

    def __init__(self, settings_cls: type[BaseSettings], file: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self.file = file

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return self.file.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        environment = {**_strange_sections(), **EnvSettingsSource(self.settings_cls)()}
        base = dict(self.file)
        if "lanes" in environment:
            base.setdefault("lanes", _DEFAULT_LANES)
        if "types" in environment:
            base.setdefault("types", _DEFAULT_TYPES)
        return _overlay(base, environment, "LANEWAY_")


def _strange_sections() -> dict[str, Any]:
    """Sections that the environment names and nobody knows, so that they are refused as those of the file are."""
    names = (
        name.lower().removeprefix("laneway_") for name in os.environ if name.lower().startswith("laneway_")
    )
    sections = {name.partition("__")[0] for name in names if "__" in name}
    return {section: {} for section in sections - Settings.model_fields.keys()}


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = {name.replace("-", "_").lower(): name for name in base}
    merged = dict(base)
    for key, value in over.items():
        name = names.get(key.replace("-", "_").lower(), key)
        merged[name] = _over(merged.get(name), value, f"{prefix}{key.upper()}")
    return merged


def _over(below: object, value: object, path: str) -> object:
    """Of a list, a value under a row's place changes that row, and one under the next place adds a row."""
    if isinstance(below, Mapping) and isinstance(value, Mapping):
        return _overlay(below, value, f"{path}__")
    if isinstance(below, list) and isinstance(value, Mapping):
        rows = _overlay({str(at): row for at, row in enumerate(below)}, value, f"{path}__")
        places = [str(at) for at in range(len(rows))]
        if strange := sorted(rows.keys() - places):
            raise ConfigError(
                f"{path}__{strange[0]} names no row: the file has {len(below)}, counted from 0",
                mend=f"write the row into the file, or name the next place, {path}__{len(below)}",
            )
        return [rows[place] for place in places]
    return value


def parse(text: str, *, source: str = "laneway.toml", folder: Path | None = None) -> Settings:
    """Settings of a TOML text under the environment. Relative paths are taken from ``folder``.

    Raises ConfigError that names each wrong key's path and the mend.
    """
    try:
        tables = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}", mend="mend the line that it names") from error
    try:
        settings = Settings(**tables)
    except ValidationError as error:
        raise ConfigError(
            _explain(error, source), mend=f"mend these keys in {source} or in the environment"
        ) from None
    return _discounted(_small_scale(_by_category(_anchored(settings, folder or Path.cwd()))))


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        if len(details) > 1 and str(detail["loc"][-1:]).find("literal[") >= 0:
            continue  # the other branch of the union says it better
        path = ".".join(str(part) for part in detail["loc"] if not _BRANCH.search(str(part)))
        if detail["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key{_known_keys(detail['loc'])}")
        else:
            message = detail["msg"].removeprefix("Value error, ")
            lines.append(f"{path}: {message}" if path else message)
    return f"{source}: " + "\n  ".join(lines)


def _known_keys(location: tuple[int | str, ...]) -> str:
    tables: dict[str, type[BaseModel]] = {
        "fleet": Fleet,
        "lanes": Lane,
        "types": TaskType,
        "categories": Category,
        "budgets": BudgetRow,
        "human": Human,
        "alerts": Alerts,
        "s3": S3,
        "prices": Prices,
    }
    if len(location) == 1:
        return _near(str(location[0]), list(Settings.model_fields))
    table = tables.get(str(location[0]))
    depth = 2 if location[0] in ("fleet", "human", "alerts", "s3", "prices") else 3
    if table is None or len(location) != depth:
        return ""
    return _near(str(location[-1]), table.model_fields)


def _by_category(settings: Settings) -> Settings:
    """Each type with its category's limits under its own."""
    types = {
        name: row.model_copy(update={"budget": row.budget.over(settings.categories[row.category].budget)})
        if row.category in settings.categories
        else row
        for name, row in settings.types.items()
    }
    return settings.model_copy(update={"types": types})


def _discounted(settings: Settings) -> Settings:
    """Each lane with the fleet's discounts before its own, which hold over them."""
    if not settings.prices.discounts:
        return settings
    lanes = {
        name: row.model_copy(update={"discounts": (*settings.prices.discounts, *row.discounts)})
        for name, row in settings.lanes.items()
    }
    return settings.model_copy(update={"lanes": lanes})


def _small_scale(settings: Settings) -> Settings:
    """The one line of ``fleet.small_scale`` as the limits that it stands for."""
    small = settings.fleet.small_scale
    if small is None:
        return settings
    month = BudgetRow(scope="fleet", period="month", usd=small.month_usd)
    types = {
        name: row.model_copy(update={"budget": row.budget.over(TaskBudget(hard_usd=small.task_usd))})
        for name, row in settings.types.items()
    }
    return settings.model_copy(update={"types": types, "budgets": (*settings.budgets, month)})


#: Keys of tools that are files or folders.
PATHS = frozenset({"folder", "database"})


def _in_folder(row: _Row, folder: Path, *keys: str) -> _Row:
    return row.model_copy(update={key: folder / path for key in keys if (path := getattr(row, key))})


def _anchored(settings: Settings, folder: Path) -> Settings:
    """The same settings with relative paths made absolute, so that every process of a node means the same file."""
    fleet = settings.fleet
    ledger = fleet.ledger if "://" in fleet.ledger else str(folder / fleet.ledger)
    types = {
        name: row.model_copy(update={"examples_file": folder / row.examples_file})
        if row.examples_file
        else row
        for name, row in settings.types.items()
    }
    lanes = {
        name: _in_folder(row, folder, "model_path", "api_key_file").model_copy(
            update={
                "endpoints": tuple(_in_folder(one, folder, "api_key_file") for one in row.endpoints),
                "vllm": _in_folder(row.vllm, folder, "python"),
            }
        )
        for name, row in settings.lanes.items()
    }
    tools = {
        name: _in_folder(row, folder, *(PATHS & row.model_fields_set)) for name, row in settings.tools.items()
    }
    fleet = fleet.model_copy(update={"ledger": ledger, "var": folder / fleet.var})
    return settings.model_copy(update={"fleet": fleet, "types": types, "lanes": lanes, "tools": tools})


@cache
def load() -> Settings:
    """The settings of this process, read once. Raises ConfigError."""
    named = os.environ.get("LANEWAY_CONFIG")
    path = Path(named) if named else Path("laneway.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if named:
            raise ConfigError(
                f"LANEWAY_CONFIG names {named!r}, which is not there", mend="mend the path"
            ) from None
        return parse("", source="the built-in configuration")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", mend="make it a readable UTF-8 file") from error
    return parse(text, source=str(path), folder=path.resolve().parent)


def secret(lane: Lane) -> str | None:
    """The lane's API key from its environment variable or file, None where it has neither or it is empty."""
    if lane.api_key_env:
        return os.environ.get(lane.api_key_env) or None
    if lane.api_key_file:
        try:
            return lane.api_key_file.read_text(encoding="utf-8").strip() or None
        except OSError:
            return None
    return None


def alert_token(alerts: Alerts) -> str | None:
    """What the webhook is to be told besides, from its environment variable; None where there is none."""
    return os.environ.get(alerts.webhook_token_env, "").strip() or None if alerts.webhook_token_env else None


def from_environment(names: Iterable[str]) -> dict[str, str]:
    """Those of the named environment variables that are set, for what a tool starts or calls."""
    return {name: os.environ[name] for name in names if name in os.environ}
