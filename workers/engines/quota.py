"""What a provider says of its own limits in its headers, and how long it wants us to wait.

All of it is advice: a value that cannot be read is left out and raises nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from broker.call import Quota

Headers = Mapping[str, str]

#: Who says the six facts in which headers, in the order of ``Quota``'s fields. Read in turn: the first that is there.
#: OpenAI (platform.openai.com, rate limits), and Groq, xAI, vLLM's and other doors after it.
_OPENAI = (
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
#: docs.anthropic.com, rate limits: ``tokens`` is the tightest of its token limits.
_ANTHROPIC = (
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-tokens-limit",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
)
_NAMES = (_OPENAI, _ANTHROPIC)
#: docs.together.ai, rate limits: counted by the second.
_TOGETHER = (
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-tokenlimit-limit",
    "x-tokenlimit-remaining",
    "x-tokenlimit-reset",
)
PER_MINUTE = 60

_COUNT = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
#: ``6m0s``, ``1s``, ``120ms``, ``1h2m3.5s``: Go's way, without its smaller units.
_DURATION = re.compile(
    r"(?=\d)(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?",
    re.ASCII,
)


def quota(headers: Headers) -> Quota | None:
    """None where the provider says nothing that can be read."""
    for names in _NAMES:
        if said := _quota(headers, names, 1):
            return said
    return _quota(headers, _TOGETHER, PER_MINUTE)


def _quota(headers: Headers, names: tuple[str, ...], windows: int) -> Quota | None:
    """``windows``: how many of the provider's windows are a minute."""
    values = [headers.get(name) for name in names]
    found = Quota(
        _count(values[0], windows),
        _count(values[1], windows),
        seconds_until(values[2]),
        _count(values[3], windows),
        _count(values[4], windows),
        seconds_until(values[5]),
    )
    return None if found == Quota() else found


def _count(value: str | None, windows: int) -> int | None:
    return int(float(value) * windows) if value and _COUNT.fullmatch(value) else None


def seconds_until(value: str | None) -> float | None:
    """From a duration, a bare number of seconds or a time in RFC 3339; never below 0."""
    if not value:
        return None
    if _SECONDS.fullmatch(value):
        return float(value)
    if units := _DURATION.fullmatch(value):
        hours, minutes, seconds, milliseconds = (float(unit or 0) for unit in units.groups())
        return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    try:
        return _left(datetime.fromisoformat(value))
    except ValueError:
        return None


def retry_after_s(headers: Headers, body: object = None) -> float | None:
    """The provider's wish in seconds: ``retry-after-ms``, ``retry-after`` (seconds or a date), or Google's
    ``retryDelay`` in the body; None where it named none.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if _SECONDS.fullmatch(headers.get(name, "")):
            return float(headers[name]) * unit
    try:
        return _left(parsedate_to_datetime(headers.get("retry-after", "")))
    except ValueError:
        return next((seconds_until(value) for name, value in words(body) if name == "retryDelay"), None)


def _left(at: datetime) -> float:
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def words(body: object, depth: int = 5) -> Iterator[tuple[str, str]]:
    """Every text in a JSON body with its name, outermost first down to ``depth`` levels. A bare one is a message."""
    if isinstance(body, str):
        yield "message", body
    elif isinstance(body, Mapping):
        yield from ((name, value) for name, value in body.items() if isinstance(value, str))
        yield from words([part for part in body.values() if not isinstance(part, str)], depth)
    elif isinstance(body, list) and depth:
        for part in body:
            yield from words(part, depth - 1)
