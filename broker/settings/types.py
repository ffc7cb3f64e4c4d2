"""The tables ``types`` and ``categories``: kinds of tasks."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from broker.settings.budgets import TaskBudget
from broker.settings.gates import Gate, NoGate
from broker.settings.lanes import HUMAN
from broker.settings.values import Pattern, Table, no_float

#: Where the configuration has none.
DEFAULT_TYPES = {"general": {"chain": ["local", HUMAN]}}

CategoryName = Literal["exploratory", "extractive", "generative"]


class Category(Table):
    """What holds for every type of a category; what a type says itself goes over it."""

    budget: TaskBudget = TaskBudget()


class ContextGuards(Table):
    """What a model is not told of a long task; None: it is told everything.

    ``turns`` are the last turns of a conversation, and steps of a use of tools, that are told in full; what was before
    is told in a few words. ``passages_chars``: of a user's text longer than that (and than 2,000 characters) the
    passages nearest to what is asked are told, so many characters in all.
    """

    turns: int | None = Field(None, ge=1)
    passages_chars: int | None = Field(None, ge=500)


class TaskType(Table):
    """One task type: how it is recognised, who may do it in which order, and what a good answer is.

    ``instruction`` is put before the prompt as the system message. ``reprompts`` is how often a failed gate is told to
    the same lane before the task climbs. ``tools`` are the names of those that the model may use on the way, and
    ``tools_first`` makes it begin with one of them, by a form that the engine holds it to. A ``planner`` begins at the
    strongest lane of its chain, as a bad plan costs more than a good one; a ``worker`` at the cheapest. ``critic`` is
    the type of a sub-task that judges each answer which passed its gate, ``rounds`` times at most. ``quality_floor`` is
    the part of its tasks that it is to succeed in: reports name the lanes on which it does not.
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
    quality_floor: Annotated[Decimal, BeforeValidator(no_float), Field(gt=0, le=1)] | None = None
    budget: TaskBudget = TaskBudget()
