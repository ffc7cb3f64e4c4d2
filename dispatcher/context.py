"""Context guards: what of a long conversation or document a model is told, in the order in which they are applied.

1. The last turns in full, what was before them in a few words.
2. The tools of the task's type alone (``dispatcher/turns.py``).
3. Of a long text the passages that are nearest to what is asked.

No model is asked for any of it. What was cut is counted, and told in ``laneway show``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.settings.types import ContextGuards
from broker.task import GUARDS, HISTORY, PASSAGES, Task
from dispatcher.blas import Matrix

SUMMARY = "Earlier in this conversation:"
GAP = "[…]"
#: A text below this is told whole, whatever a type says: finding its passages would cost more than it saves.
SHORTEST = 2_000
PIECE_CHARS = 240  # what an embedder reads of a text at once
GIST_CHARS = 160
BYTES_A_TOKEN = 4  # of English text, by which what was cut is told in tokens
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w{4,}|\d+")

Message = Mapping[str, Any]
#: Of a message by its place: the places of the passages that are told.
Kept = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """The messages that a model is told, and about how many tokens of each kind it is not told."""

    messages: tuple[Message, ...]
    history_tokens: int = 0
    passages_tokens: int = 0


def applied(guards: ContextGuards, task: Task) -> ContextGuards:
    """Those of a type's guards that the task does not do without."""
    wanted = GUARDS if task.guards is None else task.guards
    return guards.model_copy(
        update={
            "turns": guards.turns if HISTORY in wanted else None,
            "passages_chars": guards.passages_chars if PASSAGES in wanted else None,
        }
    )


def guarded(messages: Sequence[Message], guards: ContextGuards, kept: Kept) -> Cut:
    """A task's messages as its model is told of them. The same messages always give the same bytes."""
    told = list(messages)
    for place, passages in kept:
        told[place] = {**told[place], "content": excerpt(str(told[place]["content"]), passages)}
    passages_bytes = _size(messages) - _size(told)
    recent = _recent(told, guards.turns)
    return Cut(tuple(recent), (_size(told) - _size(recent)) // BYTES_A_TOKEN, passages_bytes // BYTES_A_TOKEN)


def _recent(messages: Sequence[Message], turns: int | None) -> list[Message]:
    """The last ``turns`` turns or more in full: what is summarised grows by as many at a time, so that the beginning
    stays as it was for a while and a provider's cache finds it."""
    system = [one for one in messages if one.get("role") in ("system", "developer")]
    said = [one for one in messages if one.get("role") not in ("system", "developer")]
    starts = [at for at, one in enumerate(said) if one.get("role") == "user"]
    if turns is None or len(starts) < 2 * turns:
        return list(messages)
    before = starts[(len(starts) - turns) // turns * turns]
    gist = [f"{one['role']}: {_gist(one)}" for one in said[:before] if _gist(one)]
    short = [*system, {"role": "user", "content": "\n".join([SUMMARY, *gist])}, *said[before:]]
    return short if _size(short) < _size(messages) else list(messages)


def _gist(message: Message) -> str:
    """The first sentence that is one; "" for what has no text of its own."""
    content = message.get("content")
    if not isinstance(content, str) or message.get("role") == "tool":
        return ""
    first = next((part.strip() for part in _SENTENCE.split(content) if len(part.strip()) > 1), "")
    return first if len(first) <= GIST_CHARS else f"{first[:GIST_CHARS]}…"


def long_texts(task: Task, limit_chars: int | None) -> list[int]:
    """The places of the user's messages that are too long to be told whole."""
    if limit_chars is None:
        return []
    least = max(SHORTEST, limit_chars)
    return [
        place
        for place, one in enumerate(task.messages)
        if one.get("role") == "user" and isinstance(one.get("content"), str) and len(one["content"]) > least
    ]


def asks_itself(task: Task, place: int) -> bool:
    """Whether no later message says what is asked of the text in that one."""
    return not any(one.get("role") == "user" for one in task.messages[place + 1 :])


def question(task: Task, place: int) -> str:
    """What is asked of the text in that message: the last words that the user says after it, else its own last and
    first lines."""
    later = [one for one in task.messages[place + 1 :] if one.get("role") == "user"]
    if later and isinstance(later[-1].get("content"), str):
        return str(later[-1]["content"])[-PIECE_CHARS:]
    lines = [line.strip() for line in str(task.messages[place]["content"]).splitlines() if line.strip()]
    return f"{lines[-1][-PIECE_CHARS // 2 :]} {lines[0][: PIECE_CHARS // 2]}" if lines else ""


def pieces(text: str) -> list[str]:
    """The text in pieces of whole sentences, as long as an embedder reads; joined they are the text."""
    found: list[str] = []
    for part in _parts(text):
        if found and len(found[-1]) + len(part) <= PIECE_CHARS:
            found[-1] += part
        else:
            found.append(part)
    return found


def _parts(text: str) -> Iterator[str]:
    start = 0
    for gap in _SENTENCE.finditer(text):
        yield from _short(text[start : gap.end()])
        start = gap.end()
    yield from _short(text[start:])


def _short(text: str) -> Iterator[str]:
    for start in range(0, len(text), PIECE_CHARS):
        yield text[start : start + PIECE_CHARS]


def chosen(
    passages: Sequence[str], vectors: Matrix, asked: Matrix, limit_chars: int, *, asks: bool
) -> tuple[int, ...]:
    """The places of the passages nearest to what is asked, as many as fit, in their order. ``asks``: the text itself
    says what is asked, so that its first and last passage, where that mostly stands, are told besides."""
    ends = {0, len(passages) - 1} if asks else set()
    left = limit_chars
    near = sorted(range(len(passages)), key=lambda at: (-float(vectors[at] @ asked), at))
    taken = ends
    for at in near:
        if at not in taken and len(passages[at]) <= left:
            taken.add(at)
            left -= len(passages[at])
    return tuple(sorted(taken))


def excerpt(text: str, kept: Sequence[int]) -> str:
    """Those passages of the text, with a mark wherever something between them is left out."""
    passages = pieces(text)
    said: list[str] = []
    last = -1
    for at in kept:
        if at != last + 1:
            said.append(f"{GAP}\n")
        said.append(passages[at])
        last = at
    return "".join(said)


def unused_tokens(messages: Sequence[Message], answer: str) -> int:
    """About how many tokens of the context the answer shows no trace of: passages that share no number and no word of
    four letters with it. An estimate: the model may have made use of a passage without repeating a word of it."""
    words = set(_WORD.findall(answer.lower()))
    texts = [str(one.get("content") or "") for one in messages if one.get("role") in ("user", "tool")]
    passages = [passage for text in texts if len(text) > SHORTEST for passage in pieces(text)]
    unused = (passage for passage in passages if words.isdisjoint(_WORD.findall(passage.lower())))
    return sum(len(passage.encode()) for passage in unused) // BYTES_A_TOKEN


def _size(messages: Sequence[Message]) -> int:
    return sum(len(str(one.get("content") or "").encode()) for one in messages)
