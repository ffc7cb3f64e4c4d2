"""How much of a text is looked at, and the form of it that every engine takes."""

from __future__ import annotations


def window(text: str, head: int, tail: int) -> str:
    """The start and the end of a text longer than both: instructions stand there, the body between says little."""
    return encodable(text if len(text) <= head + tail else f"{text[:head]}\n{text[len(text) - tail :]}")


def encodable(text: str) -> str:
    """The text as UTF-8 can hold it: surrogates that came apart, as in JSON that is cut between two escapes, are one
    character again, and lone ones are replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def shortened(text: str, length: int) -> str:
    """One line of at most that many characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1] + "…"


def cut(text: str, limit: int) -> str:
    """The text, or its first ``limit`` characters and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]}\n(cut: {len(text) - limit} more characters)"
