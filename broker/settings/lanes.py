"""The table ``lanes``: what serves a lane, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from broker.settings.prices import Discount, Hardware, PriceRow
from broker.settings.values import BOOK_KEY, BaseUrl, BookKey, Pattern, Table

#: The lane that is always there: a person.
HUMAN = "human"
#: Where the configuration has none.
DEFAULT_LANES = {"local": {"engine": "auto", "threads": 2, "context_tokens": 2048}}


class EchoToolCall(Table):
    """``arguments`` as a text are given as they stand, so that they may be no JSON."""

    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)


class Echo(Table):
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


def _in_rows(value: object) -> object:
    if isinstance(value, str) and value != "free" and not BOOK_KEY.fullmatch(value):
        raise ValueError(
            'is no price; write "free", figures, or a row of the price book as "book:openai/gpt-4o"'
        )
    return (value,) if isinstance(value, Mapping) else value


def _one_a_day(value: object) -> object:
    days = [row.from_ for row in value] if isinstance(value, tuple) else None
    if days is not None and not days:
        raise ValueError("has no row; leave it out where the price book's is meant")
    if days and (twice := next((day for day in days if days.count(day) > 1), None)):
        raise ValueError(f"has two rows from {twice}; take one out")
    return value


#: What is paid for tokens; None: what the price book says.
LanePrice = Annotated[
    tuple[PriceRow, ...] | Literal["free"] | BookKey | None,
    BeforeValidator(_in_rows),
    AfterValidator(_one_a_day),
]


Dialect = Literal["compatible", "openai", "vllm", "llamacpp", "mlx", "deepseek", "gemini", "together", "xai"]


class Endpoint(Table):
    """One of several doors of a lane; what it leaves open is the lane's own word.

    ``weight`` is its share of the calls beside others of the same price and health.
    """

    base_url: BaseUrl | None = None
    dialect: Dialect | None = None
    model: str = ""
    api_key_env: str | None = None
    api_key_file: Path | None = None
    price: LanePrice = None
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    weight: float = Field(1.0, gt=0, le=1000)


class Vllm(Table):
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


class Lane(Table):
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
    price: LanePrice = None
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
