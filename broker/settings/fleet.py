"""The tables ``fleet`` and ``s3``: what holds for every node, and where the ledger lies."""

from __future__ import annotations

import platform
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from broker.settings.budgets import SmallScale
from broker.settings.values import Table, Usd, address


class Fleet(Table):
    """What holds for the whole fleet. Times in seconds, sizes in bytes.

    ``node`` is this machine's own name, where its host's does not tell it apart (LANEWAY_FLEET__NODE).
    """

    ledger: str = "var/ledger"
    var: Path = Path("var")
    default_type: str = "general"
    abstain_below: float = Field(0.35, ge=0, le=1)
    lease_s: float = Field(15.0, gt=0.2, le=3600)
    max_starts: int = Field(3, ge=1, le=100)
    result_ttl_s: int = Field(7 * 24 * 3600, ge=1)
    idempotency_ttl_s: int = Field(30 * 24 * 3600, ge=1)
    lane_absent_s: float = Field(60.0, gt=0)
    ingest_flush_s: float = Field(60.0, gt=0)
    ingest_flush_events: int = Field(100_000, ge=1, le=500_000)
    redis_admission: float = Field(0.7, gt=0, le=1)
    cpu_usd_per_hour: Usd = Decimal("0.05")
    node: str = Field(default_factory=platform.node, pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    rollup_at_utc: str = Field("00:15", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    small_scale: SmallScale | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Fleet:
        if self.result_ttl_s > self.idempotency_ttl_s:
            raise ValueError(
                f"result_ttl_s = {self.result_ttl_s} is longer than idempotency_ttl_s = {self.idempotency_ttl_s};"
                " a result goes with its record at the latest"
            )
        return self


class S3(Table):
    """How a ledger in a bucket is reached, where that is not AWS as this node knows it.

    Keys come from where the AWS command line has them too: environment, files of credentials, the machine's role.
    ``endpoint_url`` is the address of another store; ``region`` None: as AWS's own settings of this node say.
    ``path_style``: the bucket stands in the path and not in the host's name; None: where an ``endpoint_url`` is given.
    ``sse`` is how objects are encrypted, with the key ``kms_key_id`` for ``aws:kms``; None: as the bucket says.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool | None = None
    sse: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None

    @field_validator("endpoint_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return address(value, "give credentials to this node as for the AWS command line")

    @model_validator(mode="after")
    def _key_fits(self) -> S3:
        if self.kms_key_id is not None and self.sse != "aws:kms":
            raise ValueError('kms_key_id is for sse = "aws:kms"')
        return self
