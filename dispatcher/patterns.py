"""Regular expressions whose work grows with the text and never faster.

Python's own ``re`` can take for ever over forty characters that a stranger wrote. Rust's engine cannot, and
jsonschema-rs, which is here for the schema gate, carries it: a pattern is compiled as a schema of one keyword, at
0.4 µs a search. The price: no look-around and no back-references, and ``\\w`` and ``\\d`` mean ASCII (``\\p{L}`` is any
letter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import jsonschema_rs

from broker.errors import ConfigError

# Bytes that one compiled pattern may take: far above an honest one's, and a file full of hostile ones stays small.
LINEAR = jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=1024 * 1024)
_MEND = "use no look-around, no back-reference, and fewer or smaller repetitions"


@dataclass(frozen=True, slots=True)
class Linear:
    """A compiled pattern. ``search`` takes text without lone surrogates (``dispatcher.text.encodable``)."""

    pattern: str
    _compiled: jsonschema_rs.Draft202012Validator

    def search(self, text: str) -> bool:
        return self._compiled.is_valid(text)


@lru_cache(maxsize=256)
def linear(pattern: str) -> Linear:
    """Raises ConfigError for a pattern that the linear engine cannot take."""
    try:
        schema = {"pattern": pattern.replace(r"\Z", r"\z").replace(r"\\z", r"\\Z")}
        return Linear(
            pattern, jsonschema_rs.Draft202012Validator(schema, pattern_options=LINEAR, offline=True)
        )
    except (jsonschema_rs.ValidationError, ValueError) as error:  # nested too deeply, lone surrogates
        raise ConfigError(f"{pattern!r} cannot be matched in linear time", mend=_MEND) from error


@dataclass(frozen=True, slots=True)
class Rules:
    """Patterns in order, each with its name. ``any`` is all of them at once, None where that would be too large."""

    rules: tuple[tuple[str, Linear], ...]
    any: Linear | None

    def first(self, text: str) -> tuple[str, str] | None:
        """The name and pattern of the first rule found in the text.

        One alternation would find the leftmost match, not the first rule: so it only says whether to look.
        """
        if self.any is not None and not self.any.search(text):
            return None
        return next(((name, rule.pattern) for name, rule in self.rules if rule.search(text)), None)


def rules(named: Sequence[tuple[str, str]]) -> Rules:
    """Raises ConfigError for the first pattern that cannot be used."""
    compiled = tuple((name, linear(pattern)) for name, pattern in named)
    return Rules(compiled, _alternation([pattern for _, pattern in named]) if compiled else None)


def _alternation(patterns: Sequence[str]) -> Linear | None:
    try:
        return linear(
            "|".join(f"(?:{pattern}\n)" if "(?x" in pattern else f"(?:{pattern})" for pattern in patterns)
        )
    except ConfigError:  # together above the size limit; each alone is not
        return None
