"""The Procfile: one line a process, ``name: command``. Blank lines and lines that begin with ``#`` are passed over.

No shell runs the commands, so a supervisor's signals reach the process itself and quoting is all that is special.
"""

from __future__ import annotations

import re
import shlex

from broker.errors import ConfigError

LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]*)\s*:\s*(\S.*)")
OPERATOR = re.compile(r"[|&;<>()]+")


def parse(text: str, *, source: str = "Procfile") -> dict[str, list[str]]:
    """Each process's command as its words, in the order of the file. Raises ConfigError that names the line."""
    commands: dict[str, list[str]] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            raise _wrong(
                source, number, f"{line!r} is not of the form `name: command`", "write it in that form"
            )
        name, command = found.groups()
        if name in commands:
            raise _wrong(
                source, number, f"a second process is named {name!r}", "give each process its own name"
            )
        commands[name] = _words(command, source, number)
    return commands


def _words(command: str, source: str, number: int) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError as error:
        raise _wrong(source, number, f"{command!r}: {error}", "close the quotation") from None
    for word in words:
        if OPERATOR.fullmatch(word) or word.startswith("$"):
            mend = "set variables in the environment, and put what needs a shell into a script"
            raise _wrong(source, number, f"{word!r} means something to a shell only, and none runs it", mend)
    return words


def _wrong(source: str, number: int, what: str, mend: str) -> ConfigError:
    return ConfigError(f"{source}, line {number}: {what}", mend=mend)
