"""What was taken out, kept with its cause until a person puts it back or drops it."""

from __future__ import annotations

import msgpack

from broker import keys
from broker.ask import ask
from broker.events import Resumed, encode_fact
from broker.lua import Scripts
from broker.state import DeadLetter


class DeadLetters:
    """``ttl_s`` is how long the record of a task is kept whose letter is dropped."""

    def __init__(self, scripts: Scripts, ttl_s: int) -> None:
        self._scripts = scripts
        self._ttl_s = ttl_s

    def all(self) -> list[DeadLetter]:
        """Oldest first."""
        rows = ask(lambda: self._scripts.client.hgetall(keys.DEAD))
        letters = []
        for name, packed in rows.items():
            _, at_us, cause, queue, starts, body = msgpack.unpackb(packed, raw=True)
            letters.append(
                DeadLetter(
                    name.decode(errors="replace"),
                    int(at_us),
                    cause.decode(errors="replace"),
                    queue.decode(errors="replace"),
                    int(starts),
                    body,
                )
            )
        return sorted(letters, key=lambda letter: letter.at_us)

    def replay(self, ref: str) -> bool:
        """Put a dead letter of a task back on its queue, with its story and spend. False: there is none."""
        return bool(self._scripts.call("replay", ref, encode_fact(Resumed("replay", ""))))

    def drop(self, letter_id: str) -> bool:
        """Forget a dead letter; the task's record then ends with its time to live. False: there is none."""
        return bool(self._scripts.call("drop", letter_id, self._ttl_s))
