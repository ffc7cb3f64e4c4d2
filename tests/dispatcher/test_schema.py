"""Schemas and documents that mean harm: refused or bounded, never fetched, never slow."""

from __future__ import annotations

import re
import socket
import time
from typing import Any, NoReturn

import pytest

from dispatcher.patterns import linear
from dispatcher.schema import BadSchema, NotJson, compiled, parse_json


def fan(depth: int, wide: int = 2) -> dict[str, Any]:
    """Each definition refers to the next one ``wide`` times: wide ** depth visits from a few lines."""
    links = {f"d{at}": {"allOf": [{"$ref": f"#/$defs/d{at + 1}"}] * wide} for at in range(depth)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, f"d{depth}": {"type": "string"}}}


def nested(schema: dict[str, Any], levels: int) -> dict[str, Any]:
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise AssertionError("a schema reached for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "https://schemas.invalid/x"}, "only those into itself"),
        ({"$ref": "http://169.254.169.254/latest"}, "only those into itself"),
        ({"$ref": "file:///etc/passwd"}, "only those into itself"),
        ({"properties": {"a": {"anyOf": [{"$ref": "other.json"}]}}}, "only those into itself"),
        ({"$defs": {"unused": {"$ref": "https://schemas.invalid/x"}}}, "never fetched"),
        ({"$schema": "https://schemas.invalid/meta"}, "is wrong"),
        ({"$dynamicRef": "#a"}, "$dynamicRef"),
        ({"properties": {"a": {"$id": "https://schemas.invalid/", "$ref": "#/b"}}}, "an $id below its root"),
        ({"$ref": "#"}, "refers to itself"),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#"}}}}, "refers to itself"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"$ref": "#/title", "title": "x"}, "leads to no schema"),
        ({"pattern": "(?=a)a"}, "regex"),
        ({"pattern": "((a{100}){100}){100}"}, "regex"),
        ({"patternProperties": {f"^{at}": {} for at in range(65)}}, "more than 64 patterns"),
        ({"enum": ["x" * 300_000]}, "is longer than"),
        (nested({}, 40), "is nested deeper than"),
        (nested({}, 5000), "is not JSON"),
        ({"const": {1, 2}}, "is not JSON"),
        ({"maximum": float("nan")}, "is not JSON"),
        (fan(200), "a chain of more than"),
        ({"type": "strin"}, "is wrong"),
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadSchema, match=re.escape(problem)):
        compiled(schema)


@pytest.mark.parametrize("depth", [30, 45])
def test_references_that_fan_out_are_counted_and_not_followed(depth: int) -> None:
    started = time.process_time()

    assert "too large" in compiled(fan(depth)).complaint("x")
    assert time.process_time() - started < 2


def test_a_small_fan_is_followed() -> None:
    assert compiled(fan(5)).complaint("x") == ""
    assert "not of type" in compiled(fan(5)).complaint(1)


def test_a_recursive_schema_is_taken_and_its_explosion_is_not() -> None:
    tree = compiled({"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}})
    twice = compiled({"properties": {"left": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}})
    document: dict[str, Any] = {}
    for _ in range(60):
        document = {"left": document, "right": {}}

    assert tree.complaint(document) == ""
    assert "too large" in twice.complaint(document)


def test_properties_may_be_called_like_keywords() -> None:
    schema = compiled({"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}, "allOf": True}})

    assert schema.complaint({"$ref": "a", "$id": "b", "allOf": 1}) == ""
    assert "at $ref" in schema.complaint({"$ref": 1})


def test_pointers_are_unescaped() -> None:
    schema = compiled({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "integer"}}})

    assert schema.complaint(1) == ""
    assert schema.complaint("x")


def test_an_honest_schema_of_everyday_size_is_taken_whole() -> None:
    row = {
        "type": "object",
        "properties": {f"f{at}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for at in range(50)},
    }
    schema = compiled({"type": "array", "items": row})

    assert schema.complaint([{f"f{at}": None for at in range(50)}] * 200) == ""


def test_the_same_schema_is_compiled_once() -> None:
    assert compiled({"type": "object", "title": "once"}) is compiled({"type": "object", "title": "once"})


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "too large"),
        ("9" * 5000, "too long"),
        ("[" * 100_000, "nested deeper than 64"),
        ("[" * 66 + "]" * 66, "nested deeper than 64"),
        ('{"a":' * 100_000, "nested deeper than 64"),
        ('{"a": {"b": 1, "b": 1}}', "the same key twice"),
        ('"' + "x" * (1024 * 1024) + '"', "longer than"),
        ("```json\n{}\n```\n```json\n{}\n```", "more than one code block"),
        ("{} {}", "Extra data"),
        ("", "not valid JSON"),
    ],
)
def test_documents_that_are_refused(answer: str, problem: str) -> None:
    with pytest.raises(NotJson, match=re.escape(problem)):
        parse_json(answer)


def test_half_a_surrogate_pair_is_a_complaint_and_no_crash() -> None:
    found = compiled({"propertyNames": {"pattern": "^a"}}).complaint(parse_json(r'{"\ud800": "\udfff"}'))

    assert found


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"(a|aa)+$", r"(.*a){20}b", r"(a?){25}a{25}c", r"([a-z]+)*\d"]
)
def test_a_catastrophic_pattern_costs_what_a_plain_one_does(pattern: str) -> None:
    started = time.process_time()

    assert not linear(pattern).search("a" * 60_000 + "!")
    assert time.process_time() - started < 1
