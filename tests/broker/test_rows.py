"""The bytes of the nouns that scripts take."""

from dataclasses import dataclass
from typing import Any

from broker.rows import digest
from broker.task import Task


@dataclass(frozen=True, slots=True)
class LaterTask(Task):
    tone: str = ""
    colour: str = ""


def test_a_task_has_the_same_digest_in_each_version_that_knows_all_that_it_says() -> None:
    plain = ("t", "acme", ({"role": "user", "content": "hi"},))
    said: dict[str, Any] = {
        "type": "intent", "mode": "async", "deadline_s": 9.5, "priority": 3, "schema": {"type": "string"},
        "gate": {"kind": "none"}, "tools": ("a",), "parent": "p", "value_nano": 5, "workflow": "w", "pipeline": "x",
        "user": "u", "budget": {"hard_usd": "0.5"}, "guards": ("history",),
    }  # fmt: skip
    for kind in (Task, LaterTask):
        assert digest(kind(*plain)) == "2648fd0d163379027f7e73a623333a5d"
        assert digest(kind(*plain, **said)) == "b4cead3ebe7e388bc325b02146243495"
    later = [LaterTask(*plain), LaterTask(*plain, tone="calm"), LaterTask(*plain, colour="calm")]
    assert len(set(map(digest, later))) == 3
