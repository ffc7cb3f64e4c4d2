"""What passes a gate, what does not, and what the model is told."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadTask, ConfigError
from broker.settings.gates import GateSettings, parse_gate
from broker.settings.types import TaskType
from broker.task import Task
from dispatcher.gates import Verdict, check, gates_of, judge, last_number, normalise_choice

TASK = Task("t-1", "acme", ({"role": "user", "content": "hello"},))
PERSON = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


def gate(kind: str, **settings: object) -> GateSettings:
    return parse_gate({"kind": kind, **settings})


def task(**fields: Any) -> Task:
    return Task("t-1", "acme", (), **fields)


def task_type(gate: object = "none") -> TaskType:
    return TaskType.model_validate({"chain": ["local"], "gate": gate})


@pytest.mark.parametrize(
    ("tables", "answer", "passed"),
    [
        ([], "anything", None),
        ([{"kind": "none"}], "anything", None),
        ([{"kind": "json_schema"}], '{"a": 1}', True),
        ([{"kind": "json_schema"}], "  [1, 2]\n", True),
        ([{"kind": "json_schema"}], "", False),
        ([{"kind": "json_schema"}], "{'a': 1}", False),
        ([{"kind": "json_schema"}], 'Sure! {"a": 1}', False),
        ([{"kind": "json_schema", "schema": PERSON}], '{"name": "Ada"}', True),
        ([{"kind": "json_schema", "schema": PERSON}], '```json\n{"name": "Ada"}\n```', True),
        ([{"kind": "json_schema", "schema": PERSON}], 'Here it is:\n```\n{"name": "Ada"}\n```\nBye.', True),
        (
            [{"kind": "json_schema", "schema": PERSON}],
            '```\n{"name": "A"}\n```\n```\n{"name": "B"}\n```',
            False,
        ),
        ([{"kind": "json_schema", "schema": PERSON}], '{"name": 3}', False),
        ([{"kind": "json_schema", "schema": PERSON}], '{"name": "Ada", "name": "Bob"}', False),
        ([{"kind": "json_schema", "schema": {"format": "date"}}], '"2026-13-01"', False),
        ([{"kind": "choice", "choices": ["refund", "card_arrival"]}], "Card arrival.", True),
        ([{"kind": "choice", "choices": ["refund", "card_arrival"]}], "refund or card_arrival", False),
        ([{"kind": "regex", "pattern": r"^[A-Z]{3}-\d+$"}], "ABC-123\n", True),
        ([{"kind": "regex", "pattern": r"\d{4}"}], "in 2026 it was", True),
        ([{"kind": "regex", "pattern": r"^\d{4}$"}], "in 2026 it was", False),
        ([{"kind": "number", "equals": "42"}], "So the answer is 42.", True),
        ([{"kind": "number", "equals": "1234.5"}], "**$1,234.50**", True),
        ([{"kind": "number", "equals": "42"}], "42, or rather 43", False),
        ([{"kind": "number", "equals": "3.14", "tolerance": "0.01"}], "about 3.149", True),
        ([{"kind": "number", "equals": "3.14", "tolerance": "0.01"}], "about 3.151", False),
        ([{"kind": "number", "minimum": "0", "maximum": "1"}], "0.95", True),
        ([{"kind": "number", "minimum": "0", "maximum": "1"}], "-0.95", False),
        ([{"kind": "number", "minimum": "0", "maximum": "1"}], "95", False),
        ([{"kind": "number"}], "none at all", False),
        ([{"kind": "number"}, {"kind": "regex", "pattern": "^The"}], "The 5", True),
        ([{"kind": "number"}, {"kind": "regex", "pattern": "^The"}], "A 5", False),
    ],
)
def test_what_passes(tables: list[dict[str, Any]], answer: str, passed: bool | None) -> None:
    verdict = judge([parse_gate(table) for table in tables], answer, TASK)

    assert verdict.passed is passed
    assert (verdict.complaint == "") is (passed is not False)


def test_the_verdict_names_every_kind_once_and_tells_every_complaint() -> None:
    gates = [gate("number"), gate("regex", pattern="^x$"), gate("number", minimum=1), gate("none")]

    verdict = judge(gates, "no", TASK)

    assert verdict.gate == "number+regex"
    assert verdict.complaint.count("holds no number") == 2
    assert "pattern ^x$" in verdict.complaint


def test_a_complaint_says_where_and_never_the_value() -> None:
    gates = [gate("json_schema", schema={"properties": {"tags": {"items": {"type": "string"}}}})]

    assert judge(gates, '{"tags": ["a", 90210]}', TASK) == Verdict(
        False,
        "json_schema",
        'The JSON does not fit its schema: the value is not of type "string" at tags[1].',
    )


def test_a_complaint_does_not_give_the_expected_number_away() -> None:
    assert "42" not in judge([gate("number", equals=42)], "7", TASK).complaint


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("refund", "refund"),
        (" REFUND. ", "refund"),
        ('"refund"', "refund"),
        ("`card-arrival`", "card_arrival"),
        ("Card Arrival", "card_arrival"),
        ('"card\\u005farrival"', "card_arrival"),
        ("The intent is refund", None),
        ("", None),
        ("...", None),
        ("C++", "C++"),
        ("c++", "C++"),
        ("C", "C"),
        ("(c)", None),  # C or C++: nobody knows
        ("+", "+"),
        ("Ärger", "ärger"),
        ("x" * 100_000, None),
    ],
)
def test_choices(answer: str, choice: str | None) -> None:
    assert normalise_choice(answer, ["refund", "card_arrival", "C++", "C", "+", "ärger"]) == choice


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", "12"),
        ("-12", "-12"),
        ("\u221212", "-12"),
        ("10-5", "5"),
        ("3 - 7", "7"),
        ("- 7", "7"),
        ("-$5.50", "-5.50"),
        ("1,234,567.8", "1234567.8"),
        ("1\u202f234", "1234"),
        ("1, 2, 3", "3"),
        ("12,34", "34"),
        (".5", "0.5"),
        ("6.02e23", "6.02e23"),
        ("1e9999999999", "9999999999"),
        ("x2", "2"),
        ("50%", "50"),
        ("the end.", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.fixture
def judges() -> Iterator[str]:
    """A module of user gates."""
    module = types.ModuleType("our_gates_for_tests")
    module.short = lambda answer, task: len(answer) < 5  # type: ignore[attr-defined]
    module.told = lambda answer, task: (False, f"too long for {task.workspace}")  # type: ignore[attr-defined]
    module.broken = lambda answer, task: 1 / 0  # type: ignore[attr-defined]
    module.odd = lambda answer, task: "yes"  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield module.__name__
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    ("name", "passed", "complaint"),
    [
        ("short", True, ""),
        ("told", False, "too long for acme"),
        (
            "broken",
            False,
            "The gate python:our_gates_for_tests:broken could not judge the answer: ZeroDivisionError.",
        ),
        (
            "odd",
            False,
            "The gate python:our_gates_for_tests:odd gave str, not True, False or (bool, complaint).",
        ),
    ],
)
def test_python_gates(judges: str, name: str, passed: bool, complaint: str) -> None:
    kind = f"python:{judges}:{name}"

    assert judge([gate(kind)], "yes", TASK) == Verdict(passed, kind, complaint)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"kind": "python:no_such_module_here:f"}, "cannot be imported"),
        ({"kind": "python:our_gates_for_tests:absent"}, "has no function 'absent'"),
        ({"kind": "python:our_gates_for_tests:number"}, "has no function 'number'"),
        ({"kind": "json_schema", "schema": {"type": "strin"}}, "types.a.gate: the schema is wrong"),
        ({"kind": "json_schema", "schema": {"$ref": "https://schemas.invalid/a"}}, "only those into itself"),
        ({"kind": "regex", "pattern": r"(?=x)y"}, "cannot be matched in linear time"),
        ({"kind": "regex", "pattern": r"(a)\1"}, "cannot be matched in linear time"),
    ],
)
def test_a_gate_that_can_never_work_is_found_at_the_start(
    judges: str, table: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        check([parse_gate(table)], where="types.a.gate")

    assert caught.value.message.startswith("types.a.gate: ")
    assert caught.value.mend


def test_gates_that_work_are_checked_without_a_word(judges: str) -> None:
    tables = [
        "none",
        "json_schema",
        {"kind": "json_schema", "schema": PERSON},
        {"kind": "regex", "pattern": r"\A\d+\Z"},
        f"python:{judges}:short",
    ]
    check([parse_gate(table) for table in tables])


def test_a_task_adds_to_the_gate_of_its_type_and_never_replaces_it() -> None:
    kept = task_type({"kind": "choice", "choices": ["a"]})

    for added in ({"kind": "none"}, {"kind": "choice", "choices": ["b"]}, {"kind": "json_schema"}):
        assert gates_of(kept, task(gate=added))[0] == kept.gate

    assert gates_of(task_type(), task()) == ()
    assert [one.kind for one in gates_of(kept, task(gate={"kind": "number"}, schema=PERSON))] == [
        "choice",
        "number",
        "json_schema",
    ]


def test_a_json_gate_without_a_schema_takes_the_tasks() -> None:
    [found] = gates_of(task_type("json_schema"), task(schema=PERSON))

    assert judge([found], '{"name": 3}', TASK).passed is False


def test_a_schema_of_the_type_stands_beside_the_tasks() -> None:
    found = gates_of(task_type({"kind": "json_schema", "schema": {"type": "object"}}), task(schema=PERSON))

    assert len(found) == 2
    assert judge(found, "{}", TASK).passed is False


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"gate": {"kind": "python:os:getcwd"}}, "from the configuration only"),
        ({"gate": {"kind": "guess"}}, "unknown gate 'guess'"),
        ({"gate": {"kind": "choice", "choices": []}}, "gate: "),
        ({"gate": {"kind": "regex", "pattern": "(?!a)b"}}, "linear time"),
        ({"schema": {"type": 5}}, "the schema is wrong"),
        ({"schema": {"$ref": "file:///etc/passwd"}}, "only those into itself"),
        ({"gate": {"kind": "number"}, "schema": {"$ref": "http://127.0.0.1/x"}}, "only those into itself"),
    ],
)
def test_a_tasks_gate_that_cannot_be_used_is_a_bad_task(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadTask, match=re.escape(problem)):
        gates_of(task_type(), task(**fields))


EVERY_KIND = [
    gate("json_schema", schema=PERSON),
    gate("json_schema"),
    gate("choice", choices=["a", "b"]),
    gate("regex", pattern=r"^(a+)+$"),
    gate("number", equals="1", tolerance="0.5", minimum="0", maximum="9"),
]
PIECES = st.sampled_from(
    ["```json\n", "```", "\n", '"', "\\", "{", "}", "[", "]", "\ud800", "-", "1", ",", ".", "e"]
)
ANSWERS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=())),
    st.lists(PIECES | st.text(max_size=3), max_size=60).map("".join),
    st.recursive(
        st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(json.dumps),
)


@given(ANSWERS)
def test_no_answer_makes_a_gate_raise(answer: str) -> None:
    verdict = judge(EVERY_KIND, answer, TASK)

    assert verdict.passed is False or verdict.complaint == ""
    for one in EVERY_KIND:
        alone = judge([one], answer, TASK)
        assert alone.passed == (alone.complaint == "")
        alone.complaint.encode()  # it goes to a model and to a page: it must be writable


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6), st.data())
def test_a_choice_given_as_it_stands_is_that_choice(choices: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(choices))

    found = normalise_choice(chosen, choices)

    assert found is None or found.strip() == chosen.strip() or chosen.strip().startswith('"')


def test_a_task_s_own_pattern_is_not_given_away_and_a_type_s_is_told() -> None:
    task = Task("a", "w", (), gate={"kind": "regex", "pattern": "^secret$"})
    of_type = TaskType.model_validate({"chain": ["human"], "gate": {"kind": "regex", "pattern": "^form$"}})
    complaint = judge(gates_of(of_type, task), "no", task).complaint
    assert "^form$" in complaint
    assert "secret" not in complaint
