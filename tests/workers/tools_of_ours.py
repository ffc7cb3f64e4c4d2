"""A team's own tools, as tests configure them."""

from __future__ import annotations

import os
import signal
import threading
from datetime import date
from pathlib import Path
from typing import Literal

import pydantic

RELEASED = threading.Event()


def days_between(start: date, end: date) -> int:
    """How many days from one date to another."""
    return (end - start).days


def book(file: str, room: Literal["a", "b"] = "a") -> str:
    """Books a room: something that must not be done twice."""
    with Path(file).open("a") as rooms:
        rooms.write(f"{room}\n")
    return f"room {room} is booked"


def hang() -> str:
    """Never answers, until a test lets it."""
    RELEASED.wait(60)
    return "late"


def broken() -> str:
    """Breaks in the middle."""
    raise KeyError("no such row")


def deadly(file: str) -> str:
    """Takes its process along."""
    book(file)
    os._exit(9)


class Person(pydantic.BaseModel):
    name: str
    age: int


def greet(person: Person, loud: bool = False) -> dict[str, object]:
    """Greets."""
    return {"greeting": f"hello {person.name}{'!' if loud else ''}", "age": person.age}


def positional(*words: str) -> str:
    return " ".join(words)


def opaque(connection: threading.Lock) -> str:
    return "never"


def no_json() -> object:
    """Gives back what no model can be told."""
    return object()


def book_and_die(file: str) -> str:
    """Books the room, and takes the whole process along the first time."""
    return _once_deadly(file)


def read_and_die(file: str) -> str:
    """Reads the book, and takes the whole process along the first time."""
    return _once_deadly(file)


def _once_deadly(file: str) -> str:
    with Path(file).open("a+") as book:
        book.write("a\n")
        book.flush()
        book.seek(0)
        if len(book.readlines()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return "booked"
