"""Why a call was made, and what follows from it: the one table of purposes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TASK, RETRY, REPROMPT, JUDGE, EVAL = "task", "retry", "reprompt", "judge", "eval"
EMBED, TOOL, HUMAN = "embed", "tool", "human"

#: Purposes of a call that is the first on its lane: for the task itself, or what a task of another role is done for.
FIRST_CALLS = frozenset({TASK, JUDGE, EVAL})
#: Purposes of a call after one that failed or was refused.
AGAIN = frozenset({RETRY, REPROMPT})
#: Purposes of a call that asked a model. One that nobody foresaw is none of them.
MODEL_CALLS = FIRST_CALLS | AGAIN

#: What the first call on a lane is booked as, by the role of its task; without one as the task itself.
FIRST_OF: Mapping[str, str] = MappingProxyType({"critic": JUDGE, "eval": EVAL})

#: purpose → the part of the cost that it belongs to.
PART_OF: Mapping[str, str] = MappingProxyType(
    {
        TASK: "inference",
        RETRY: "retry",
        REPROMPT: "reprompt",
        JUDGE: "validation",
        EMBED: "routing",
        TOOL: "tool",
        EVAL: "eval",
        HUMAN: "human",
    }
)


def part_of(purpose: str) -> str:
    """The part of the cost; of a purpose that nobody foresaw it is inference, so that the parts still sum to it."""
    return PART_OF.get(purpose, "inference")
