"""Sub-tasks: tasks that are a part of another one, and of its budget.

What a sub-task may cost must fit the hard limits of all tasks that it is a part of, beside what these and their other
parts have spent and reserved; the scripts see to that, atomically.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from broker.clock import US_PER_S
from broker.settings import Settings
from broker.state import Record
from broker.task import Claim
from dispatcher.budget import limits_of

DEEPEST = 8  # a part of a part of a part …
WAIT_S = 1.0
LONGEST_WAIT_S = 600.0
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class NotYet:
    """The parent was not classified yet, so nobody knows its limits."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class NotIts:
    """It cannot be a part of that task, and why."""

    why: str


def family_of(
    claim: Claim, parent: Record | None, settings: Settings
) -> tuple[tuple[str, int], ...] | NotYet | NotIts:
    """The tasks that the claimed one is a part of, nearest first, each with its hard limit (nano-dollars, -1 for none).

    ``parent`` None: there is no such task here (any more); the name stays as an attribution and limits nothing.
    """
    if parent is None:
        return ()
    task_type = settings.types.get(parent.progress.task_type)
    if task_type is None:
        waited_s = (claim.claimed_us - claim.submitted_us) / US_PER_S
        if waited_s > LONGEST_WAIT_S:
            return NotIts(f"its parent {parent.task.ref} was not classified within {LONGEST_WAIT_S:g} s")
        return NotYet(WAIT_S)
    above = parent.progress.family
    if len(above) >= DEEPEST:
        return NotIts(f"it would be a part at depth {len(above) + 1}; {DEEPEST} is the deepest")
    if claim.ref in {parent.task.ref, *(ref for ref, _ in above)}:
        return NotIts("it would be a part of itself")
    hard = limits_of(task_type.budget, parent.task.budget, parent.raised).hard_nano
    return ((parent.task.ref, -1 if hard is None else hard), *above)


def part_id(parent_id: str, name: str) -> str:
    """The id of a part that its parent calls ``name``: the same each time, and never longer than an id may be."""
    whole = f"{parent_id}-{name}"
    if len(whole) <= LONGEST_ID:
        return whole
    return f"{_hashed(parent_id)}-{name}"


def other_id(taken: str) -> str:
    """The id of a part whose own one is another task's already: the same each time."""
    return f"part-{_hashed(taken)}"


def _hashed(task_id: str) -> str:
    return hashlib.blake2b(task_id.encode(), digest_size=16).hexdigest()
