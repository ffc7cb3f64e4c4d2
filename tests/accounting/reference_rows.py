"""The rows of the nightly files: one a task, one an attempt, and the day's small sums.

Times are microseconds since the epoch, money nano-dollars, durations milliseconds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: What stands as the engine of rows that no model call made.
DISPATCHER, GATE = "dispatcher", "gate"


class Cost(NamedTuple):
    """Nano-dollars: the sum and the parts that make it up, in the order of the files' columns."""

    total: int = 0
    inference: int = 0
    retry: int = 0
    validation: int = 0
    reprompt: int = 0
    routing: int = 0
    tool: int = 0
    eval: int = 0
    human: int = 0
    data: int = 0
    orchestration: int = 0

    @property
    def overhead_share(self) -> float | None:
        return (self.total - self.inference) / self.total if self.total else None


class Tokens(NamedTuple):
    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0


class TaskRow(NamedTuple):
    """One row of ``tasks``, in the order of its columns; ``cost`` and ``tokens`` are several of them.

    Times are microseconds since the epoch, money nano-dollars. ``hops`` counts the moves to a further lane.
    """

    task_id: str
    submitted_us: int
    started_us: int | None
    finished_us: int | None
    workspace: str
    workflow: str
    pipeline: str
    user: str
    task_type: str
    category: str
    mode: str
    status: str
    succeeded: bool | None
    classified_by: str | None
    confidence: float | None
    first_lane: str
    final_lane: str
    lanes: tuple[str, ...]
    models: tuple[str, ...]
    hops: int
    attempts: int
    llm_calls: int
    tool_calls: int
    tokens: Tokens
    cost: Cost
    overhead_share: float | None
    avoided_nano: int
    batch: bool
    queue_wait_ms: float
    latency_ms: float | None
    time_to_first_token_ms: float | None
    unpriced_calls: int
    unsettled_calls: int
    value_nano: int | None
    parent_task_id: str | None
    root_task_id: str | None

    @property
    def columns(self) -> tuple[Any, ...]:
        """The row as it stands in the file, tokens and cost laid out one after another."""
        return (*self[:_TASK_TOKENS], *self.tokens, *self.cost, *self[_TASK_TOKENS + 2 :])


class AttemptRow(NamedTuple):
    """One row of ``attempts``, in the order of its columns.

    What a machine of ours did beside the calls (finding the lane, checking an answer) has a row too where it cost
    something, with lane "", so that attempts and tasks sum to the same amount.
    """

    attempt_id: str
    parent_attempt_id: str | None
    task_id: str
    hop: int
    lane: str
    engine: str
    model: str
    model_revision: str | None
    purpose: str
    started_us: int
    ended_us: int
    settled_us: int
    queue_wait_ms: float
    latency_ms: float
    time_to_first_token_ms: float | None
    tokens: Tokens
    cost_nano: int | None
    marginal_nano: int | None
    price_ref: str | None
    batch: bool
    gate: str | None
    verdict: str | None
    failure: str | None
    settled: bool
    cache_write_1h_tokens: int = 0
    workspace: str = ""

    @property
    def is_call(self) -> bool:
        """Whether a model or a person was asked."""
        return self.lane != "" or self.engine not in (DISPATCHER, GATE)

    @property
    def columns(self) -> tuple[Any, ...]:
        """The row as it stands in the file, tokens laid out one after another."""
        return (*self[:_ATTEMPT_TOKENS], *self.tokens, *self[_ATTEMPT_TOKENS + 1 :])


_TASK_TOKENS = TaskRow._fields.index("tokens")
_ATTEMPT_TOKENS = AttemptRow._fields.index("tokens")


class DailyKey(NamedTuple):
    workspace: str
    pipeline: str
    task_type: str
    lane: str
    model: str


class Folded(NamedTuple):
    task: TaskRow
    attempts: tuple[AttemptRow, ...]
