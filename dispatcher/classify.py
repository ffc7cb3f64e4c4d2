"""Which type a prompt is, without asking a model: patterns first, then likeness to examples, else the default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.errors import ConfigError
from broker.settings import Settings
from broker.settings.types import TaskType
from dispatcher.embedding import Embedder
from dispatcher.head import Guess, Head, fit
from dispatcher.patterns import Rules, rules
from dispatcher.text import shortened, window

HEAD_CHARS, TAIL_CHARS = 3000, 1000  # of a prompt that patterns are looked for in
RULE_CHARS = 80


@dataclass(frozen=True, slots=True)
class Classified:
    """``by`` is ``declared`` for a type that the producer named, which needs no classifier.

    ``rule`` is the pattern that was found, or the most similar example, shortened; also where the default was taken.
    ``confidence`` is 1 for a pattern; for the default it is that of the guess that was too weak.
    """

    task_type: str
    by: Literal["declared", "regex", "embedding", "default"]
    rule: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Classifier:
    """Everything learned at the start of a process, never changed. ``head`` is None where no type has examples.

    ``names`` are the types that have examples, by the head's labels; ``examples`` their texts, shortened, by its rows.
    """

    rules: Rules
    head: Head | None
    names: tuple[str, ...]
    examples: tuple[str, ...]
    embedder: Embedder
    default_type: str
    abstain_below: float

    @classmethod
    def build(cls, settings: Settings, embedder: Embedder) -> Classifier:
        """Raises ConfigError that names the key of a pattern or an examples file that cannot be used."""
        texts = {name: texts for name, row in settings.types.items() if (texts := _examples(name, row))}
        flat = [text for examples in texts.values() for text in examples]
        labels = [label for label, examples in enumerate(texts.values()) for _ in examples]
        return cls(
            rules=_rules(settings),
            head=fit(embedder.embed(flat), labels) if flat else None,
            names=tuple(texts),
            examples=tuple(shortened(text, RULE_CHARS) for text in flat),
            embedder=embedder,
            default_type=settings.fleet.default_type,
            abstain_below=settings.fleet.abstain_below,
        )

    def classify(self, prompts: Sequence[str]) -> list[Classified]:
        """One answer a prompt, in order. Faster a prompt when many come at once."""
        found = [self._by_pattern(prompt) for prompt in prompts]
        open_prompts = [prompt for prompt, known in zip(prompts, found, strict=True) if known is None]
        guessed = iter(self._by_example(open_prompts))
        return [known or next(guessed) for known in found]

    def _by_pattern(self, prompt: str) -> Classified | None:
        hit = self.rules.first(window(prompt, HEAD_CHARS, TAIL_CHARS)) if self.rules.rules else None
        return Classified(hit[0], "regex", hit[1], 1.0) if hit else None

    def _by_example(self, prompts: Sequence[str]) -> list[Classified]:
        if self.head is None:
            return [Classified(self.default_type, "default", "", 0.0)] * len(prompts)
        if not prompts:
            return []
        return [self._decided(guess) for guess in self.head.guess(self.embedder.embed(prompts))]

    def _decided(self, guess: Guess) -> Classified:
        confidence, rule = round(guess.confidence, 4), self.examples[guess.nearest]
        if confidence < self.abstain_below:
            return Classified(self.default_type, "default", rule, confidence)
        return Classified(self.names[guess.label], "embedding", rule, confidence)


def _rules(settings: Settings) -> Rules:
    named = []
    for name, row in settings.types.items():
        for at, pattern in enumerate(row.patterns):
            try:
                rules([(name, pattern)])
            except ConfigError as error:
                raise ConfigError(f"types.{name}.patterns[{at}]: {error.message}", mend=error.mend) from error
            named.append((name, pattern))
    return rules(named)


def _examples(name: str, row: TaskType) -> list[str]:
    """The type's examples, inline ones first, each text once."""
    filed = _example_file(f"types.{name}.examples_file", row.examples_file) if row.examples_file else []
    return list(dict.fromkeys(text for text in (*row.examples, *filed) if text.strip()))


def _example_file(key: str, path: Path) -> list[str]:
    mend = 'one object a line, as {"text": "..."}'
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line ends, as U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{key}: {path} cannot be read: {error}", mend="make it a readable UTF-8 file"
        ) from error
    texts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{key}: {path.name} line {number} is not JSON", mend=mend) from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ConfigError(f"{key}: {path.name} line {number} has no text", mend=mend)
        texts.append(row["text"])
    return texts
