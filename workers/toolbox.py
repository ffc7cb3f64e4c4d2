"""The tools of a lane's task types on this node, and what using one comes to."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from broker.ask import patiently
from broker.call import ToolCall
from broker.errors import ConfigError, RedisFull, RedisUnavailable, ToolError, ToolUnavailable
from broker.money import nano
from broker.prices import Price, cost_nano
from broker.settings import Settings
from broker.settings.tools import SubtaskTool, ToolSettings
from broker.store import Store
from broker.tariff import cpu_price
from dispatcher.schema import NotJson, compiled, parse_json
from dispatcher.text import cut, encodable
from workers.parts import function_of
from workers.tools import Function, Tool, build

log = logging.getLogger(__name__)
MOST_HANGING = 4


@dataclass(frozen=True, slots=True)
class Used:
    """What a tool call came to. ``failure`` "" for nothing; ``kept``: an earlier result was given again, and spared
    ``avoided_nano``."""

    text: str
    cost_nano: int = 0
    failure: str = ""
    kept: bool = False
    avoided_nano: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """One function of one tool. ``tool`` None: what it does is a task of its own (``workers/parts.py``). ``hanging``
    are the tool's uses that were out of time and have not ended since."""

    name: str
    function: Function
    tool: Tool | None
    row: ToolSettings
    hanging: list[threading.Thread]


class Toolbox:
    """Thread-safe. Tools are shared by all threads of the process."""

    def __init__(self, offers: Sequence[Offer], store: Store, cpu: Price) -> None:
        self._store, self._cpu = store, cpu
        self._offers = {offer.function.name: offer for offer in offers}
        self._of_tool: dict[str, list[Offer]] = {}
        for offer in offers:
            self._of_tool.setdefault(offer.name, []).append(offer)
        self._definitions: dict[tuple[str, ...], tuple[Mapping[str, Any], ...]] = {}

    @classmethod
    def open(cls, settings: Settings, lane: str, store: Store) -> Toolbox:
        """With the tools of all types that may come to ``lane``; what this node has no sandbox for is left out.

        Raises ConfigError for a tool that the configuration describes wrongly.
        """
        rows = [row for row in settings.types.values() if lane in row.chain]
        offers: list[Offer] = []
        for name in sorted({tool for row in rows for tool in row.tools}):
            row = settings.tools[name]
            try:
                tool, functions = _of_row(name, row)
            except ToolUnavailable as error:
                log.warning("tool %r is off on this node: %s", name, error)
                continue
            hanging: list[threading.Thread] = []
            offers += [Offer(name, one, tool, row, hanging) for one in functions]
        names = [offer.function.name for offer in offers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"tools: two of them offer {', '.join(twice)}", mend="rename one of them")
        return cls(offers, store, cpu_price(settings.fleet.cpu_usd_per_hour))

    @property
    def longest_s(self) -> float:
        """How long a use of one may take."""
        return max((offer.row.timeout_s for offer in self._offers.values()), default=0.0)

    def definitions(self, tools: tuple[str, ...]) -> tuple[Mapping[str, Any], ...]:
        """As a model is told of them: always the same for the same tools, for providers that keep beginnings."""
        if tools not in self._definitions:
            offers = [offer for name in tools for offer in self._of_tool.get(name, ())]
            self._definitions[tools] = tuple(offer.function.definition() for offer in offers)
        return self._definitions[tools]

    def offer(self, tools: Sequence[str], call: ToolCall) -> Offer | None:
        """The function that is called; None where the task has none of that name."""
        found = self._offers.get(call.name)
        return found if found and found.name in tools else None

    def worst_nano(self, offer: Offer) -> int:
        """What a use of it may cost: its price, and processor time until it is out of time. Nano-dollars."""
        return nano(offer.row.usd_per_call) + (
            cost_nano(self._cpu, None, busy_ms=offer.row.timeout_s * 1000) or 0
        )

    def use(self, offer: Offer, call: ToolCall, workspace: str) -> Used:
        """Make the call. Raises nothing: a failure is told to the model, and booked under its code."""
        try:
            arguments = arguments_of(offer.function, call)
        except ToolError as error:
            return Used(f"Error: {error}", failure=error.failure)
        kept = offer.row.ttl_s is not None and offer.function.reads_only
        key = _key(offer, arguments, workspace) if kept else ""
        if key and (found := patiently(lambda: self._store.tool_result(key))) is not None:
            return Used(found, kept=True, avoided_nano=nano(offer.row.usd_per_call))
        assert offer.tool, "a sub-task is no tool's work"
        used = self._done(offer, offer.tool, arguments)
        if key and not used.failure:
            with suppress(RedisFull, RedisUnavailable):  # it only saves a use
                self._store.keep_tool_result(key, used.text, offer.row.ttl_s or 0)
        return used

    def close(self) -> None:
        for tool in {id(offer.tool): offer.tool for offer in self._offers.values()}.values():
            if tool:
                tool.close()

    def _done(self, offer: Offer, tool: Tool, arguments: Mapping[str, Any]) -> Used:
        """In a thread of its own: nothing can stop a function that hangs. A few of them are left behind at most."""
        offer.hanging[:] = [one for one in offer.hanging if one.is_alive()]
        if len(offer.hanging) >= MOST_HANGING:
            return Used(f"Error: {offer.function.name} does not answer at present", failure="tool_hangs")
        came: queue.SimpleQueue[tuple[str, str, float]] = queue.SimpleQueue()
        clock = time.perf_counter_ns if offer.row.own_process else time.thread_time_ns

        def run() -> None:
            before_ns = clock()
            try:
                text, failure = tool.run(offer.function.name, arguments), ""
            except ToolError as error:
                text, failure = f"Error: {error}", error.failure
            except Exception as error:  # whatever a tool's own code raises
                log.warning("tool %s failed", offer.function.name, exc_info=True)
                text, failure = f"Error: {type(error).__name__}: {error}", "tool_failed"
            came.put((text, failure, (clock() - before_ns) / 1e6))

        thread = threading.Thread(target=run, name=f"tool-{offer.name}", daemon=True)
        thread.start()
        try:
            text, failure, busy_ms = came.get(timeout=offer.row.timeout_s)
        except queue.Empty:
            text, failure = f"Error: it took more than {offer.row.timeout_s:g} s", "tool_timeout"
            busy_ms = offer.row.timeout_s * 1000
            offer.hanging.append(thread)
        spent = nano(offer.row.usd_per_call) + (cost_nano(self._cpu, None, busy_ms=busy_ms) or 0)
        return Used(cut(encodable(text), offer.row.result_chars), spent, failure)


def _of_row(name: str, row: ToolSettings) -> tuple[Tool | None, Sequence[Function]]:
    if isinstance(row, SubtaskTool):
        return None, [function_of(name, row)]
    tool = build(name, row)
    return tool, tool.functions()


def arguments_of(function: Function, call: ToolCall) -> Mapping[str, Any]:
    """What the model wrote, as the function takes it. Raises ToolError with what is wrong."""
    try:
        value = parse_json(call.arguments or "{}")
        complaint = compiled(function.parameters).complaint(value)
    except NotJson as error:
        complaint, value = str(error), None
    if complaint or not isinstance(value, Mapping):
        problem = complaint or "they are no object"
        raise ToolError(f"the arguments of {function.name} are not right: {problem}", failure="bad_arguments")
    return value


def _key(offer: Offer, arguments: Mapping[str, Any], workspace: str) -> str:
    said = json.dumps([offer.function.name, offer.row.model_dump(mode="json"), arguments], sort_keys=True)
    return f"{workspace}:{hashlib.sha256(said.encode()).hexdigest()[:32]}"
