"""What has a form in a text, taken out of it by patterns: no model, and nothing that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from broker.errors import ToolError
from broker.settings.tools import ExtractTool
from workers.tools import Function

LONGEST = 50_000  # characters of a text: a pattern is tried at each of them
MOST = 200  # of one form

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
_NUMBER = r"[-+]?\d{1,15}(?:[.,'\u00a0\u202f]\d{3}){0,5}(?:[.,]\d{1,9})?"
_CURRENCY = r"(?:[$€£¥₹]|\b(?:USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|SEK|NOK|DKK|PLN))"
#: Each in time proportional to the text: repetitions are bounded, and no two of them can share characters.
FORMS: Mapping[str, tuple[str, str]] = {
    "amount": ("amounts of money", rf"{_CURRENCY}[ \u00a0]?{_NUMBER}|{_NUMBER}[ \u00a0]?{_CURRENCY}"),
    "date": (
        "calendar dates",
        r"\b(?:\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d{2})"
        rf"|\d{{1,2}}(?:st|nd|rd|th|\.)? {_MONTH},? \d{{4}}|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}})\b",
    ),
    "email": ("e-mail addresses", r"\b[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
    "number": ("numbers", rf"(?<![\w.,]){_NUMBER}(?![\w])"),
    "phone": ("telephone numbers", r"(?<![\w.])(?:\+|00)\d{1,3}(?:[ ./-]?\(?\d{1,5}\)?){2,6}(?!\w)"),
    "url": ("web addresses", r"\bhttps?://[^\s<>\"'`]{1,2000}[^\s<>\"'`.,;:!?)\]}]"),
    "uuid": ("UUIDs", r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"),
}


class Extract:
    def __init__(self, name: str, row: ExtractTool) -> None:
        self._name, self._row = name, row
        ours = {form: re.compile(FORMS[form][1]) for form in row.forms}
        self._patterns = ours | {form: re.compile(pattern) for form, pattern in row.patterns.items()}

    def functions(self) -> Sequence[Function]:
        told = [f"{form} ({FORMS[form][0]})" for form in self._row.forms] + list(self._row.patterns)
        described = (
            self._row.description or f"Finds what is in a text, as it is written there: {', '.join(told)}."
        )
        wanted = {
            "type": "array",
            "items": {"enum": list(self._patterns)},
            "description": "all, where left out",
        }
        parameters = {
            "type": "object",
            "properties": {"text": {"type": "string"}, "forms": wanted},
            "required": ["text"],
            "additionalProperties": False,
        }
        return [Function(self._name, described, parameters, reads_only=True)]

    def run(self, function: str, arguments: Mapping[str, Any]) -> str:
        text = arguments["text"]
        if len(text) > LONGEST:
            raise ToolError(
                f"the text is longer than {LONGEST} characters; give it in parts", failure="bad_arguments"
            )
        forms = arguments.get("forms") or list(self._patterns)
        return json.dumps({form: _found(self._patterns[form], text) for form in forms}, ensure_ascii=False)

    def close(self) -> None:
        pass


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    """Each thing once, in the order of the text; where the pattern has a group, that is what is wanted."""
    found: dict[str, None] = {}
    for match in pattern.finditer(text):
        if said := match[1 if pattern.groups else 0]:
            found[said] = None
        if len(found) == MOST:
            break
    return list(found)
