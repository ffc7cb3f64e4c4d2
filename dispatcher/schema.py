"""JSON and JSON Schema from strangers: parsed strictly, compiled without a network, and never more work than allowed.

A schema of a few hundred bytes can ask for more visits than there are atoms (references that fan out), so the work is
counted before it is done: how often the busiest spot of a document would be visited at each depth is a property of the
schema alone, and the document's size does the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from math import isfinite
from typing import Any, NoReturn
from urllib.parse import unquote

import jsonschema_rs

from dispatcher.patterns import LINEAR
from dispatcher.text import encodable, shortened

MAX_CHARS = 1024 * 1024
MAX_DEPTH = 64
MAX_SCHEMA_CHARS = 256 * 1024
MAX_PATTERNS = 64
MAX_CHAIN = 100  # references and combinations that lead into each other at one spot of the document
MAX_WORK = 20_000_000  # about a third of a second
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)```", re.DOTALL)

_HERE_LISTS = ("allOf", "anyOf", "oneOf")
_HERE = ("not", "if", "then", "else")
_HERE_MAPS = ("dependentSchemas", "dependencies")
_BELOW = (
    *("additionalProperties", "unevaluatedProperties", "propertyNames"),
    *("items", "additionalItems", "unevaluatedItems", "contains"),
)
_BELOW_EITHER_MAPS = ("properties",)  # each value is of another child, so the busiest counts
_BELOW_EITHER_LISTS = ("prefixItems", "items")
_BELOW_MAPS = ("patternProperties",)

Node = Mapping[str, Any]


class NotJson(ValueError):
    """The answer is no JSON document that is taken; the message is fit for the model and for a person."""


class BadSchema(ValueError):
    """The schema cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Schema:
    """A compiled schema. ``visits[d]``: at most so many steps for the busiest spot at depth d; the last holds below."""

    validator: Any
    visits: tuple[int, ...]

    def complaint(self, value: object) -> str:
        """What is wrong with the value, "" where nothing is. Says where and what, never the value itself."""
        depth, size = _measure(value)
        if max(self.visits[: depth + 1]) * size > MAX_WORK:
            return "The JSON is too large or too deeply nested to be checked against its schema."
        try:
            if self.validator.is_valid(value):
                return ""
            found = [_said(error) for error in islice(self.validator.iter_errors(value), 3)]
        except UnicodeEncodeError:
            return "The JSON holds half a Unicode surrogate pair."
        return f"The JSON does not fit its schema: {'; '.join(found)}."


def parse_json(answer: str) -> object:
    """The document of an answer that is plain JSON, or holds exactly one fenced block. Raises NotJson."""
    if len(answer) > MAX_CHARS:
        raise NotJson(f"The answer is longer than {MAX_CHARS} characters.")
    text = answer.strip()
    if text[:1] not in "{[" and (blocks := list(islice(_FENCED.finditer(text), 2))):
        if len(blocks) > 1:
            raise NotJson("The answer holds more than one code block; answer with one JSON document.")
        text = blocks[0][1]
    try:
        value = json.loads(
            encodable(text), object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_float=_finite
        )
    except NotJson:
        raise
    except RecursionError:
        raise NotJson(f"The JSON is nested deeper than {MAX_DEPTH} levels.") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise NotJson(
            f"The answer is not valid JSON ({where}). Answer with one JSON document only."
        ) from None
    except ValueError:  # an integer of more digits than Python reads
        raise NotJson("The JSON holds a number that is too long.") from None
    if _measure(value)[0] > MAX_DEPTH:
        raise NotJson(f"The JSON is nested deeper than {MAX_DEPTH} levels.")
    return value


def compiled(schema: Mapping[str, Any]) -> Schema:
    """Raises BadSchema. The same schema is compiled once."""
    try:
        text = json.dumps(schema, allow_nan=False, default=_number)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadSchema(f"is not JSON: {error}") from None
    if len(text) > MAX_SCHEMA_CHARS:
        raise BadSchema(f"is longer than {MAX_SCHEMA_CHARS} characters")
    return _compiled(text)


@lru_cache(maxsize=128)
def _compiled(text: str) -> Schema:
    schema = json.loads(text)
    if _measure(schema)[0] > MAX_DEPTH:
        raise BadSchema(f"is nested deeper than {MAX_DEPTH} levels")
    visits = tuple(_visits(schema))
    try:
        validator = jsonschema_rs.validator_for(
            schema, retriever=_refuse, pattern_options=LINEAR, validate_formats=True, mask="the value"
        )
    except jsonschema_rs.ValidationError as error:
        raise BadSchema(f"is wrong: {_said(error)}") from None
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise BadSchema(f"is wrong: {shortened(str(error), 300)}") from None
    return Schema(validator, visits)


def _visits(root: Node) -> Iterator[int]:
    """Steps for the busiest spot at depth 0, 1, … of a document, by counting along the schema's own references."""
    nodes = _reachable(root)
    if sum(len(node.get("patternProperties", ())) + ("pattern" in node) for node in nodes) > MAX_PATTERNS:
        raise BadSchema(f"has more than {MAX_PATTERNS} patterns")
    here = {id(node): [id(child) for child in _here(node, root)] for node in nodes}
    below = {id(node): [[id(child) for child in either] for either in _below(node)] for node in nodes}
    own = {id(node): 1 + len(node) + len(node.get("enum", ())) for node in nodes}
    above: dict[int, int] = {}
    for _ in range(MAX_DEPTH + 2):
        level: dict[int, int] = {}
        for node in map(id, nodes):
            deeper = (
                sum(max(map(above.__getitem__, either), default=0) for either in below[node])
                if above
                else own[node]
            )
            level[node] = min(deeper + sum(level[child] for child in here[node]), MAX_WORK + 1)
        yield level[id(root)]
        if level == above:  # and so it goes on at every greater depth
            return
        above = level


def _reachable(root: Node) -> list[Node]:
    """The schema's objects that a document can meet, each after those that it leads to at the same spot."""
    ordered: dict[int, Node] = {}
    waiting = [root]

    def settle(node: Node, chain: tuple[int, ...]) -> None:
        if id(node) in chain:
            raise BadSchema("refers to itself without going deeper into the document")
        if len(chain) > MAX_CHAIN:
            raise BadSchema(f"has a chain of more than {MAX_CHAIN} references")
        if id(node) in ordered:
            return
        if node is not root and isinstance(node.get("$id", node.get("id")), str):
            raise BadSchema("has an $id below its root, which would change what its references mean")
        for child in _here(node, root):
            settle(child, (*chain, id(node)))
        ordered[id(node)] = node
        waiting.extend(child for either in _below(node) for child in either)

    while waiting:
        node = waiting.pop()
        if id(node) not in ordered:
            settle(node, ())
    return list(ordered.values())


def _here(node: Node, root: Node) -> list[Node]:
    """The schemas applied to the same spot of the document as this one."""
    if not {"$dynamicRef", "$recursiveRef"}.isdisjoint(node):
        raise BadSchema("has a $dynamicRef or $recursiveRef, which is not taken")
    found = [child for key in _HERE_LISTS for child in _list(node.get(key))]
    found += [node.get(key) for key in _HERE]
    found += [child for key in _HERE_MAPS for child in _map(node.get(key)).values()]
    if "$ref" in node:
        found.append(_referred(node["$ref"], root))
    return [child for child in found if isinstance(child, Mapping)]


def _below(node: Node) -> list[list[Node]]:
    """Groups of schemas for the spots below: of one group only one applies to a spot."""
    groups = [[node.get(key)] for key in _BELOW]
    groups += [list(_map(node.get(key)).values()) for key in _BELOW_EITHER_MAPS]
    groups += [_list(node.get(key)) for key in _BELOW_EITHER_LISTS]
    groups += [[child] for key in _BELOW_MAPS for child in _map(node.get(key)).values()]
    return [kept for group in groups if (kept := [child for child in group if isinstance(child, Mapping)])]


def _referred(reference: object, root: Node) -> Node | bool:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise BadSchema(
            f"has the reference {shortened(str(reference), 80)!r}; only those into itself (#/…) are taken"
        )
    pointer = unquote(reference[1:])
    if pointer and not pointer.startswith("/"):
        raise BadSchema(
            f"has the reference {shortened(reference, 80)!r}; write it as a pointer, #/$defs/name"
        )
    place: Any = root
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, Mapping) and key in place:
            place = place[key]
        else:
            raise BadSchema(f"has the reference {shortened(reference, 80)!r}, which leads nowhere")
    if not isinstance(place, Mapping | bool):
        raise BadSchema(f"has the reference {shortened(reference, 80)!r}, which leads to no schema")
    return place


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _measure(value: object) -> tuple[int, int]:
    """Depth of nesting and number of values."""
    depth, size, level = 0, 1, [value]
    while level := [child for one in level for child in _children(one)]:
        depth, size = depth + 1, size + len(level)
    return depth, size


def _children(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return _list(value)


def _said(error: Any) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return shortened(f"{error.message} at {place.lstrip('.')}" if place else error.message, 200)


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("The JSON has the same key twice in one object.")
    return found


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"The JSON holds {name}, which is no JSON value.")


def _finite(digits: str) -> float:
    number = float(digits)
    if not isfinite(number):
        raise NotJson("The JSON holds a number that is too large.")
    return number


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]  # the configuration's floats are read as Decimal


def _refuse(uri: str) -> NoReturn:
    raise BadSchema(f"refers to {shortened(uri, 80)!r}; schemas are never fetched")
