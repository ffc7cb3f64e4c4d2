"""Calls beside their tasks: each finds its own, whatever lies in which table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from accounting.reports.beside import NONE, beside

Task = tuple[str, str]
TASKS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123456")), max_size=12, unique=True)


def table(rows: list[Task]) -> Any:
    homes, ids = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"workspace": pa.array(homes, pa.string()), "task_id": pa.array(ids, pa.string())})


def cut(rows: list[Task], size: int) -> list[Any]:
    return [table(rows[at : at + size]) for at in range(0, max(1, len(rows)), size)]


def found(tasks: list[Any], calls: list[Any]) -> list[Task | None]:
    """Of each call the task that it was put beside."""
    made: list[Task | None] = []
    for _, near, rows in beside(lambda: iter(tasks), calls):
        known = [*zip(near["workspace"].to_pylist(), near["task_id"].to_pylist(), strict=True)]
        made += [None if row == NONE else known[row] for row in rows]
    return made


@given(TASKS, st.data(), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_each_call_is_put_beside_its_task_in_whatever_order(
    tasks: list[Task], data: Any, size: int, width: int, same_order: bool
) -> None:
    """Two workspaces share ids, some tasks have no call, and some calls no task."""
    calls = [task for task in tasks for _ in range(data.draw(st.integers(0, 3)))]
    if not same_order:
        calls = data.draw(st.permutations([*calls, ("a", "none")]))
    assert found(cut(tasks, size), cut(calls, width)) == [one if one in tasks else None for one in calls]


def test_in_one_order_only_the_tasks_nearby_are_in_hand() -> None:
    tasks = [("a", str(number)) for number in range(1_000)]
    handed = 0

    def hand_over() -> Iterator[Any]:
        nonlocal handed
        for some in cut(tasks, 10):
            handed += 1
            yield some

    for number, (_, near, rows) in enumerate(beside(hand_over, cut(tasks, 10)), 1):
        assert (near.num_rows <= 20, handed <= number + 1, len(np.unique(rows))) == (True, True, 10)
    assert handed == 100


def test_calls_that_name_no_workspace_are_the_first_task_s_of_their_id() -> None:
    """Also where the first one lies tables behind."""
    tasks = [("a", "1"), ("a", "3"), ("a", "4"), ("b", "1"), ("b", "2")]
    calls = [("", "1"), ("", "3"), ("", "4"), ("", "1"), ("", "2")]
    for size in (5, 1):
        nameless = [one.set_column(0, "workspace", pa.nulls(size, pa.string())) for one in cut(calls, size)]
        assert found(cut(tasks, size), nameless) == [*tasks[:3], ("a", "1"), ("b", "2")]
