"""The scripts of ``broker/scripts``: loaded, called, and the calls of many threads joined into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import msgpack
import redis

from broker.ask import ask
from broker.group import Grouped

NAMES = (
    "submit", "fetch", "begin", "commit", "release", "keep", "cancel", "watch", "note", "replay", "drop",
    "note_down", "resume", "heard", "claims", "share", "shared", "allot",
)  # fmt: skip


class Scripts:
    """Each call is one round trip and one atomic step. Thread-safe, as the client is."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client  # its types know nothing of one that answers in bytes alone
        prelude = _source("prelude")
        self.known = {
            name: client.register_script(f"{_flags(name)}\n{prelude}\n{_source(name)}") for name in NAMES
        }

    def call(self, name: str, *args: Any) -> Any:
        return ask(lambda: self.known[name](args=args))

    def joined(self, name: str, *rest: Any) -> Grouped[bytes, bytes]:
        """Calls of a script that answers each row of its first argument, those of many threads as one.

        Each caller packs its own rows, so that one that cannot be packed fails alone and not its whole group.
        """
        return Grouped(lambda rows: self.call(name, array_of(rows), *rest))

    def note_down(
        self, key: str, fields: Mapping[str, str], out: Sequence[str] = (), *, new_only: bool = False
    ) -> None:
        """Small facts about the fleet, written also when Redis is full."""
        self.call("note_down", key, pack(dict(fields)), pack(list(out)), int(new_only))


def _source(name: str) -> str:
    return (files("broker") / "scripts" / f"{name}.lua").read_text(encoding="utf-8")


def _flags(name: str) -> str:
    """Only a submission is refused when Redis is full: whatever drains the queues must go on."""
    return "#!lua" if name == "submit" else "#!lua flags=allow-oom"


def pack(rows: object) -> bytes:
    return msgpack.packb(rows, use_bin_type=False)  # type: ignore[no-any-return]


def array_of(rows: Sequence[bytes]) -> bytes:
    """The array of rows that are packed already."""
    return msgpack.Packer().pack_array_header(len(rows)) + b"".join(rows)  # type: ignore[no-any-return]
