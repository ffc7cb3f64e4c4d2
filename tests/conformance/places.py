"""The places where a ledger can be kept, each as its tests see it: through the store, and past it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accounting.files.ledger import LocalStore, Store
from broker.settings import Settings
from tests.s3_server import BUCKET, S3Server

LEASE_S = 2.0


class Place(Protocol):
    @property
    def settings(self) -> Settings: ...

    def store(self, *, piece: int = 4096) -> Store:
        """Another one at each call, as another process has it. ``piece``: what a reader gets at once."""

    def files(self) -> dict[str, bytes]:
        """All that lies there, hidden files too, read by other means than the store."""

    def environment(self) -> dict[str, str]:
        """What a child process needs to find the place by its settings."""


@dataclass(slots=True)
class Folder:
    root: Path

    @property
    def settings(self) -> Settings:
        return Settings.model_validate({"fleet": {"ledger": str(self.root)}})

    def store(self, *, piece: int = 4096) -> Store:
        return LocalStore(self.root)

    def files(self) -> dict[str, bytes]:
        there = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in there}

    def environment(self) -> dict[str, str]:
        return {"LANEWAY_FLEET__LEDGER": str(self.root)}


@dataclass(slots=True)
class Prefix:
    server: S3Server
    prefix: str
    client: Any = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.server.client()

    @property
    def settings(self) -> Settings:
        return self.server.settings(self.prefix)

    def store(self, *, piece: int = 4096) -> Store:
        return self.server.store(self.prefix, piece=piece, lease_s=LEASE_S)

    def files(self) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        keys = [row["Key"] for page in pages for row in page.get("Contents", ())]
        return {
            key.removeprefix(f"{self.prefix}/"): self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            for key in keys
        }

    def environment(self) -> dict[str, str]:
        return self.server.environment | {"LANEWAY_FLEET__LEDGER": f"s3://{BUCKET}/{self.prefix}"}
