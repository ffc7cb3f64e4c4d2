"""Is an answer good? One judgement a kind of gate, over nothing but the gate's settings, the answer and the task.

Kinds: ``none``, ``json_schema``, ``choice``, ``regex``, ``number`` and ``python:module:function``. A new one is a class
in ``broker.settings.gates`` and a line in ``_JUDGES``.
"""

from __future__ import annotations

import importlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from broker.errors import BadTask, ConfigError
from broker.settings.gates import (
    ChoiceGate,
    GateSettings,
    JsonSchemaGate,
    NoGate,
    NumberGate,
    PythonGate,
    RegexGate,
    complaint,
    parse_gate,
)
from broker.settings.types import TaskType
from broker.task import Task
from dispatcher.patterns import linear
from dispatcher.schema import BadSchema, NotJson, compiled, parse_json
from dispatcher.text import encodable, shortened

MAX_CHARS = 64 * 1024  # of an answer that choice, regex and number look at
_NUMBER = re.compile(
    r"(?:(?<![\w.)])(?P<sign>[-+\u2212])[$€£¥]?)?"
    r"(?:(?P<digits>[0-9]{1,3}(?:[,\u00a0\u202f][0-9]{3})+(?![0-9])|[0-9]+)"
    r"(?P<fraction>\.[0-9]+)?(?P<exponent>[eE][-+]?[0-9]{1,3}(?![0-9]))?"
    r"|(?<!\w)(?P<bare>\.[0-9]+))"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``passed`` None: no gate judged. ``gate``: the kinds, joined by ``+``.

    ``complaint``: what to do better, fit for the model and for a person; "" where nothing is wrong.
    """

    passed: bool | None
    gate: str
    complaint: str

    @property
    def word(self) -> str:
        """As facts have it: ``pass``, ``fail`` or "" (no gate)."""
        return "" if self.passed is None else "pass" if self.passed else "fail"


def gates_of(task_type: TaskType, task: Task) -> tuple[GateSettings, ...]:
    """The type's gate and what the task adds to it; nothing that a task says takes a gate away. Raises BadTask."""
    asked = [_task_gate(task.gate)] if task.gate is not None else []
    found = [_with_schema(gate, task) for gate in (task_type.gate, *asked)]
    if task.schema is not None and not any(_is_schema(gate, task.schema) for gate in found):
        found.append(JsonSchemaGate(kind="json_schema", schema_=dict(task.schema)))
    if asked or task.schema is not None:
        try:
            check(found[1:] if asked else found[-1:], where="gate" if asked else "schema")
        except ConfigError as error:
            raise BadTask(error.message, mend=error.mend) from error
    return tuple(gate for gate in found if not isinstance(gate, NoGate))


def failed(task_type: TaskType | None, task: Task) -> bool | None:
    """What an end without an accepted answer says of the outcome: False where a gate or a critic would have judged one,
    None where nobody would, as where it ends with an answer."""
    try:
        judged = task_type is None or task_type.critic is not None or gates_of(task_type, task)
    except BadTask:  # the settings have changed since it was let in
        judged = True
    return False if judged else None


def judge(gates: Sequence[GateSettings], answer: str, task: Task) -> Verdict:
    """The answer passes where every gate lets it. Never raises, whatever the answer."""
    judging = [gate for gate in gates if not isinstance(gate, NoGate)]
    if not judging:
        return Verdict(None, "", "")
    complaints = [_JUDGES[type(gate)](gate, answer, task) for gate in judging]
    kinds = "+".join(dict.fromkeys(gate.kind for gate in judging))
    return Verdict(not any(complaints), kinds, " ".join(filter(None, complaints)))


def check(gates: Sequence[GateSettings], *, where: str = "gate") -> None:
    """Raises ConfigError, which begins with ``where``, for a gate that can never work on this node."""
    for gate in gates:
        try:
            _usable(gate)
        except BadSchema as error:
            raise ConfigError(f"{where}: the schema {error}", mend="mend the schema") from error
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}", mend=error.mend) from error


def check_types(types: Mapping[str, TaskType]) -> None:
    """Raises ConfigError that names the type whose gate can never work on this node."""
    for name, row in types.items():
        check([row.gate], where=f"types.{name}.gate")


def normalise_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that the whole answer is, whatever its case, spaces and punctuation; None where it is none or two."""
    if len(answer) > MAX_CHARS:
        return None
    answer = _unwrapped(answer.strip())
    for form in (str, str.casefold, _letters):
        wanted = form(answer)
        found = [choice for choice in choices if form(choice.strip()) == wanted]
        if found and wanted:
            return found[0] if len(set(found)) == 1 else None
    return None


def last_number(answer: str) -> Decimal | None:
    """The last number of a text: ``1,234.5``, ``-$3``, ``.5``, ``6e3``; None where it has none."""
    matches = list(_NUMBER.finditer(answer[-MAX_CHARS:]))
    if not matches:
        return None
    found = matches[-1]
    sign = "-" if found["sign"] in ("-", "\u2212") else ""
    digits = re.sub(r"[^0-9]", "", found["digits"] or "0")
    return Decimal(f"{sign}{digits}{found['fraction'] or found['bare'] or ''}{found['exponent'] or ''}")


def _task_gate(table: Mapping[str, Any]) -> GateSettings:
    try:
        gate = parse_gate(table)
    except ValueError as error:
        raise BadTask(f"gate: {complaint(error)}") from error
    if isinstance(gate, PythonGate):
        raise BadTask(
            "gate: python gates come from the configuration only", mend="name it in the type's gate"
        )
    return gate.model_copy(update={"told": False}) if isinstance(gate, RegexGate) else gate


def _with_schema(gate: GateSettings, task: Task) -> GateSettings:
    """A json_schema gate without a schema of its own takes the task's."""
    if isinstance(gate, JsonSchemaGate) and gate.schema_ is None and task.schema is not None:
        return gate.model_copy(update={"schema_": dict(task.schema)})
    return gate


def _is_schema(gate: GateSettings, schema: Mapping[str, Any]) -> bool:
    return isinstance(gate, JsonSchemaGate) and gate.schema_ == dict(schema)


def _usable(gate: GateSettings) -> None:
    match gate:
        case JsonSchemaGate(schema_=dict() as schema):
            compiled(schema)
        case RegexGate():
            linear(gate.pattern)
        case PythonGate():
            _function(gate.kind)


def _json_schema(gate: JsonSchemaGate, answer: str, task: Task) -> str:
    try:
        value = parse_json(answer)
        return compiled(gate.schema_).complaint(value) if gate.schema_ is not None else ""
    except NotJson as error:
        return str(error)
    except BadSchema as error:  # found by check() before a task runs; here for a caller that did not ask
        return f"The gate's schema {error}."


def _choice(gate: ChoiceGate, answer: str, task: Task) -> str:
    if normalise_choice(answer, gate.choices) is not None:
        return ""
    return shortened(f"Answer with exactly one of these and nothing else: {', '.join(gate.choices)}.", 2000)


def _regex(gate: RegexGate, answer: str, task: Task) -> str:
    if len(answer) > MAX_CHARS:
        return f"The answer is longer than {MAX_CHARS} characters."
    try:
        found = linear(gate.pattern).search(encodable(answer.strip()))
    except ConfigError as error:
        return f"The gate's pattern cannot be used: {error.message}."
    if found:
        return ""
    if not gate.told:
        return "The answer is not of the form that its task asks for."
    return f"The answer does not match the pattern {shortened(gate.pattern, 300)}."


def _number(gate: NumberGate, answer: str, task: Task) -> str:
    value = last_number(answer)
    if value is None:
        return "The answer holds no number."
    if gate.equals is not None and not gate.equals - gate.tolerance <= value <= gate.equals + gate.tolerance:
        return "The last number of the answer is not the expected one."  # which one would be giving it away
    if gate.minimum is not None and value < gate.minimum:
        return f"The last number of the answer is below {gate.minimum}."
    if gate.maximum is not None and value > gate.maximum:
        return f"The last number of the answer is above {gate.maximum}."
    return ""


def _python(gate: PythonGate, answer: str, task: Task) -> str:
    try:
        said = _function(gate.kind)(answer, task)
    except Exception as error:  # noqa: BLE001 - the user's own code: whatever it raises, the answer has not passed
        return f"The gate {gate.kind} could not judge the answer: {type(error).__name__}."
    passed, complaint = said if isinstance(said, tuple) and len(said) == 2 else (said, "")
    if not isinstance(passed, bool) or not isinstance(complaint, str):
        return f"The gate {gate.kind} gave {type(said).__name__}, not True, False or (bool, complaint)."
    return "" if passed else shortened(complaint or f"The answer did not pass {gate.kind}.", 2000)


@lru_cache(maxsize=256)
def _function(kind: str) -> Callable[[str, Task], object]:
    _, module, name = kind.split(":")
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(
            f"{kind}: the module {module!r} cannot be imported: {error}", mend="install it"
        ) from error
    if not callable(function):
        raise ConfigError(f"{kind}: {module!r} has no function {name!r}", mend="mend the name")
    return function  # type: ignore[no-any-return]


def _unwrapped(answer: str) -> str:
    """The text of an answer that is a JSON string, else the answer."""
    if not answer.startswith('"'):
        return answer
    try:
        value = json.loads(answer)
    except ValueError:
        return answer
    return value.strip() if isinstance(value, str) else answer


def _letters(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if letter.isalnum())


_JUDGES: Mapping[type, Callable[[Any, str, Task], str]] = {
    JsonSchemaGate: _json_schema,
    ChoiceGate: _choice,
    RegexGate: _regex,
    NumberGate: _number,
    PythonGate: _python,
}
