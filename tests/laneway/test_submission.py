"""Every bad argument of a submission is a BadTask that names it, and nothing of it is stored."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadTask, TaskConflict, TaskTooLarge, UnknownTask
from broker.task import decode_task, encode_task
from laneway.cli.output import emit
from laneway.client import Budget, Client
from laneway.submission import Ids, rated, task_of


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"not": value}
    return value


def _said(content: object, **more: object) -> list[object]:
    return [{"role": "user", "content": content, **more}]


COUNTS: list[object] = [-1, 1.5, True, "x", "5", 2**80]
AMOUNTS: list[object] = ["1e30", "-1", True, 0.5, "x", "", "NaN", "sNaN", "inf", [1], "\ud800", "1e999999999"]
NUMBERS: list[object] = [True, 2**70, math.nan, Decimal("NaN"), "9e9999"]
CONTENTS: list[object] = [7, [1, 2], {"a": 1}, None, [], [{}], [{"type": 5}], True, "\ud800"]
TABLE: dict[str, list[object]] = {
    "prompt": ["", " \n", 5, b"bytes", ["a"], "\ud800", True],
    "type": [3, "", "Has Spaces", "\udcff", ["a"], True],
    "mode": ["soon", "", 1, ["sync"], {"sync"}],
    "priority": [2**70, -(2**64), 1.0, True, "1", int, Decimal(1)],
    "deadline_s": [10**400, 0, -1, True, math.inf, math.nan, "5", Decimal(5), 1e300],
    "schema": [
        *(True, "x", [], {"minimum": 2**64}, {"enum": {1, 2}}, {1: "a"}, {"a": math.nan}, {"a": Decimal(1)}),
        *({"a": "\ud800"}, {"\ud800": 1}, _nested(100), _nested(5000), {"a": object()}, {"a": b"b"}),
    ],
    "gate": [
        *(5, [], {}, "vibes", {"kind": 1}, "choice", "\ud800", "python:os:system"),
        {"kind": "regex", "pattern": "(" * 3000 + ")" * 3000},
        {"kind": "regex", "pattern": "a{99999999999999999999}"},
        {"kind": "regex", "pattern": "("},
        {"kind": "regex", "pattern": "\ud800"},
        {"kind": "choice", "choices": {"a", "b"}},
        {"kind": "choice", "choices": ["a", 2**70]},
        {"kind": "choice", "choices": []},
        {"kind": "choice", "choices": ["a"], 1: 2},
        *({"kind": "number", "equals": one} for one in NUMBERS),
    ],
    "tools": [5, 0, True, "x", [{"type": "function"}], {"a": 1}],
    "guards": [5, 0, True, "history", ["sleep"], [1], {"a": 1}],
    "callback_url": ["https://example.org", 5, ["x"]],
    "parent": [3, ["a"], "with spaces", "", "\ud800", "a/b", "a\n"],
    "value_usd": [*AMOUNTS, Decimal("9007199.254740992"), 10**5000, (0, (1,), 0)],
    "workspace": ["", "a b", 5, "\ud800", "a" * 129],
    "workflow": ["a b", 5, "\ud800", ["a"]],
    "pipeline": ["a b", 5, "\ud800", ["a"]],
    "user": ["a b", 5, "\ud800", ["a"]],
    "task_id": ["", 0, 5, False, "a b", "\ud800", "a" * 129],
    "budget": [5, "1", [], {"colour": 1}, {1: 2}],
    "budget.llm_calls": COUNTS,
    "budget.tool_calls": COUNTS,
    "budget.hard_usd": AMOUNTS,
    "budget.soft_usd": AMOUNTS,
    "budget.retry_usd": AMOUNTS,
    "messages": [
        *(5, "x", [], {}, {"role": "user"}, [5], ["x"], [{"role": ["user"]}]),
        *([{"role": "user"}], [{"content": "a"}], [{"role": "x", "content": "a"}]),
        *(_said(one) for one in CONTENTS),
        *(_said("a", x=one) for one in (2**64, -(2**63) - 1, {1: 2}, {1, 2}, "\udfff", math.inf)),
        *(_said(one) for one in ([{"type": "text"}], [{"type": "text", "text": 5}])),
        _said(None, tool_calls=[]),
    ],
    "'colour'": [1],
}
BAD = [(name, value) for name, values in TABLE.items() for value in values]


def _row(name: str, value: object) -> dict[str, Any]:
    argument, _, limit = name.strip("'").partition(".")
    row = {argument: {limit: value} if limit else value}
    return row if argument in ("prompt", "messages") else {"prompt": "a", **row}


@pytest.mark.parametrize(
    ("name", "value"), BAD, ids=lambda one: one if isinstance(one, str) and one.isascii() else ""
)
def test_a_bad_argument_is_named(name: str, value: object) -> None:
    with pytest.raises(BadTask, match=name) as caught:
        task_of(_row(name, value))
    assert "://" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "row", [5, "x", None, ["prompt"], {5: 1}, {"\ud800": 1}, {}, {"prompt": "a", "messages": _said("a")}]
)
def test_what_is_no_set_of_arguments_is_refused(row: Any) -> None:
    with pytest.raises(BadTask):
        task_of(row)


@pytest.mark.parametrize("value", ["-1", "1e30", "NaN", "one", -1, Decimal("-0.5"), 10**8])
def test_what_is_wrong_with_an_amount_is_the_amount_and_not_its_kind(value: object) -> None:
    with pytest.raises(BadTask, match=r"^value_usd: .* is no amount of dollars from 0 to below 9,007,199$"):
        task_of({"prompt": "a", "value_usd": value})


def test_a_task_above_the_limit_is_too_large() -> None:
    with pytest.raises(TaskTooLarge, match="the limit is 262,144"):
        task_of({"prompt": "a" * 300_000})


def test_a_budget_is_checked_where_it_is_made() -> None:
    for limits in ({"hard_usd": "1e30"}, {"llm_calls": -1}, {"llm_calls": True}, {"retry_usd": 0.5}):
        with pytest.raises(BadTask, match=f"budget.{next(iter(limits))}"):
            Budget(**limits)


def test_good_arguments_are_stored_as_they_were_said() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function"}]}
    task = task_of(
        {
            "messages": [*_said(parts), call],
            "gate": {"kind": "number", "equals": Decimal("1.50"), "tolerance": 0.1},
            "budget": Budget(hard_usd=Decimal("0.50"), llm_calls=0),
            "value_usd": "9007199.254740991",
            "deadline_s": 5,
            "priority": -(2**63),
            "tools": [],
            "callback_url": "",
            "user": "",
            "task_id": None,
        }
    )
    assert task.gate == {"kind": "number", "equals": "1.50", "tolerance": 0.1}
    assert task.budget == {"hard_usd": "0.5", "llm_calls": 0}
    assert task.value_nano == 2**53 - 1
    assert (task.tools, task.callback_url) == ((), None)
    assert decode_task(encode_task(task)) == task


def test_equal_content_is_the_same_task_however_it_was_said(laneway: Any) -> None:
    laneway.run(
        "submit", "a", "--task-id", "t", "--deadline-s", "30", "--hard-usd", "0.50", "--llm-calls", "2"
    )
    laneway.client.submit(
        "a", task_id="t", deadline_s=30, budget={"llm_calls": 2, "hard_usd": Decimal("0.5")}
    )
    laneway.client.submit("a", task_id="t", deadline_s=30.0, budget=Budget(hard_usd="5e-1", llm_calls=2))
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 1


def test_a_task_that_an_earlier_version_stored_in_another_way_is_the_same_task(laneway: Any) -> None:
    said: dict[str, Any] = {
        "prompt": "a",
        "task_id": "t",
        "deadline_s": 30,
        "budget": {"wall_s": 60, "hard_usd": "1.50"},
    }
    laneway.store.submit([replace(task_of(said), deadline_s=30, budget=said["budget"])])
    laneway.client.submit_many([said])
    laneway.run("submit", "a", "--task-id", "t", "--deadline-s", "30", "--hard-usd", "1.5", "--wall-s", "60")
    for other in ({"deadline_s": 31}, {"budget": {"hard_usd": "1.50"}}, {"prompt": "b"}):
        with pytest.raises(TaskConflict, match="another content; stored: default/new"):
            laneway.client.submit_many([said | other, {"prompt": "a", "task_id": "new"}])
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 2


def test_a_task_is_no_part_of_itself() -> None:
    with pytest.raises(BadTask, match="is the task itself"):
        task_of({"prompt": "x", "task_id": "a", "parent": "a"})


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {"prompt": st.just("a")},
        optional={
            name: ANYTHING for name, _ in BAD if name.isidentifier() and name not in ("prompt", "messages")
        },
    )
)
def test_whatever_is_said_is_refused_as_a_bad_task_or_comes_back_from_the_wire(
    row: Mapping[str, Any],
) -> None:
    try:
        task = task_of(row)
    except BadTask:
        return
    assert decode_task(encode_task(task)) == task
    json.dumps([task.gate, task.schema, task.deadline_s], allow_nan=False)


def test_an_id_with_two_contents_is_found_before_anything_is_stored() -> None:
    ids = Ids()
    ids.add(task_of({"prompt": "a", "task_id": "t"}), "line 1")
    ids.add(task_of({"prompt": "a", "task_id": "t"}), "line 2")
    ids.add(task_of({"prompt": "b", "task_id": "t", "workspace": "other"}), "line 3")
    with pytest.raises(TaskConflict, match="default/t is at line 1 and at line 4"):
        ids.add(task_of({"prompt": "b", "task_id": "t"}), "line 4")


@pytest.mark.parametrize(
    ("name", "values"),
    [("value_usd", AMOUNTS), ("comment", [None, 5, "\ud800", "a" * 4_001]), ("ok", [1, "yes", 0.0])],
)
def test_bad_feedback_is_named(name: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(BadTask, match=name):
            rated(**{name: value})


def test_nothing_of_a_bad_batch_is_stored(laneway: Any) -> None:
    client: Client = laneway.client
    good: dict[str, Any] = {"prompt": "good"}
    for name, value in BAD:
        with pytest.raises(BadTask, match=rf"tasks\[1\]: .*{name}"):
            client.submit_many([good, _row(name, value)])
    batches: list[Any] = [[good, 5], ["x"], 5, "x", good, None, [good, [("prompt", "a")]]]
    for rows in batches:
        with pytest.raises(BadTask, match="tasks"):
            client.submit_many(rows)
    with pytest.raises(TaskConflict, match=r"tasks\[0\] and at tasks\[2\]"):
        client.submit_many([{"prompt": "a", "task_id": "t"}, good, {"prompt": "b", "task_id": "t"}])
    (laneway.folder / "twice.jsonl").write_text(
        "".join(json.dumps({"prompt": f"a{n // 600}", "task_id": f"t{n % 600}"}) + "\n" for n in range(601))
    )
    said = laneway.run("submit", "--file", "twice.jsonl", code=1).stderr
    assert "twice.jsonl:601: task_id: default/t0 is at line 1 and at line 601" in said
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 0
    assert not laneway.store.client.keys("laneway:task:*")


def test_a_conflict_with_what_is_there_says_what_was_stored(laneway: Any) -> None:
    laneway.client.submit("a", task_id="t")
    rows = [{"prompt": "b", "task_id": one} for one in ("t", "u", "v")]
    with pytest.raises(TaskConflict, match=r"^default/t: already .* content; stored: default/u, default/v\n"):
        laneway.client.submit_many(rows)
    assert laneway.client.record("u").status == "queued"


def test_bad_words_of_the_command_line_are_no_traceback(laneway: Any) -> None:
    laneway.client.submit("a", task_id="t")
    for words, named in (
        (["feedback", "t", "--value-usd", "1e30"], "value_usd"),
        (["feedback", "t", "--value-usd", "-1"], "value_usd"),
        (["submit", "a", "--hard-usd", "1e30"], "budget.hard_usd"),
        (["submit", "a", "--llm-calls", str(2**80)], "budget.llm_calls"),
        (["submit", "a", "--deadline-s", "nan"], "deadline_s"),
        (["submit", "a", "--task-id", ""], "task_id"),
        (["submit", "a", "--schema", '{"minimum": NaN}'], "schema['minimum']"),
    ):
        assert laneway.run(*words, code=1).stderr.startswith(f"error: {named}: "), words
    for words in (["show", "\udcff"], ["submit", "\udcff"], ["feedback", "t", "--comment", "\udcff"]):
        assert "is not valid UTF-8: '\\udcff'" in laneway.run(*words, code=2).stderr
    deep = '{"a":' * 100_000
    for option in ("--schema", "--gate"):
        assert "not JSON" in laneway.run("submit", "a", option, deep, code=2).stderr
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 1


def test_no_number_of_json_output_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": (math.nan, [math.inf]), "b": {"c": -math.inf, "d": 1.5}})
    assert json.loads(capsys.readouterr().out) == {"a": [None, [None]], "b": {"c": None, "d": 1.5}}


def test_an_id_that_can_be_none_is_refused_before_it_is_asked_for(laneway: Any) -> None:
    for bad in ("\ud800", "a b", "", 5):
        with pytest.raises(BadTask, match="task_id"):
            laneway.client.record(bad)
        with pytest.raises(BadTask, match="workspace"):
            laneway.client.record("t", workspace=bad if bad != 5 else 5.0)
    with pytest.raises(UnknownTask):
        laneway.client.record("t")
