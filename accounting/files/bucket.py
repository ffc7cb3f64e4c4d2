"""One bucket of S3, or of a store that speaks like it: the few calls that a ledger is made of.

Each call is tried again after a reset, a time-out, a 5xx or a wish to slow down, after growing random pauses. What got
lost may have been the reply alone. So reads are repeated, and puts are conditional: one whose second try is refused is
looked at, and has worked where the object holds its bytes.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from accounting.files.ledger import Data, pieces
from broker.errors import ConfigError, LedgerChanged, LedgerError
from broker.settings.fleet import S3

MEGABYTE = 2**20
PART = 16 * MEGABYTE  # of an upload; S3 takes 5 MiB to 5 GiB
TRIES = 8
CONNECT_S = 5.0
SILENCE_S = 20.0  # without a byte, after which a try counts as lost
LONGEST_PAUSE_S = 20.0
PARALLEL = 4

log = logging.getLogger("laneway.ledger")

_MISSING = frozenset({"NoSuchKey", "404"})
_CHANGED = frozenset({"PreconditionFailed", "412"})
_NO_BYTES = _MISSING | _CHANGED | {"InvalidRange", "416"}
#: What a conditional put is told where the object is not as it has to be, or where others put at the same time.
_REFUSED = _MISSING | _CHANGED | {"ConditionalRequestConflict", "OperationAborted", "409", "NoSuchUpload"}
_CREDENTIALS = (
    "give this node credentials where the AWS command line takes them too: AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or the machine's role"
)
_POLICY = "allow it: docs/ledger.md has the policy"
_REGION = "set s3.region to the bucket's own"
_MENDS = {
    "NoSuchBucket": "make the bucket, or mend fleet.ledger",
    "AccessDenied": _POLICY,
    "403": f"check this node's credentials, and {_POLICY}",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": "renew this node's credentials",
    "RequestTimeTooSkewed": "set this machine's clock",
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
    "400": "check s3.region, s3.endpoint_url and the credentials",
    "KMS.NotFoundException": "mend s3.kms_key_id",
    "KMS.DisabledException": "enable the key that s3.kms_key_id names",
}
_LATER = "check s3.endpoint_url and the network, or try again later"
#: What the reply to a part says of its bytes, which the completion of the upload repeats.
_CHECKSUMS = ("ChecksumCRC32", "ChecksumCRC32C", "ChecksumCRC64NVME", "ChecksumSHA1", "ChecksumSHA256")


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was found. ``version`` is its ETag, ``size`` in bytes; ``age_s`` is how long ago it was written,
    in seconds by the store's own clock."""

    version: str
    size: int
    age_s: float


class Bucket:
    """``part`` is the size in bytes of the parts of an upload; what is no larger than two goes in one piece.

    Raises ConfigError for settings that the SDK cannot work with.
    """

    def __init__(self, name: str, settings: S3, *, part: int = PART) -> None:
        self.name = name
        self._part = part
        self._sealed = _sealed(settings)
        self._client = _client(settings)

    def look(self, key: str) -> Found | None:
        said = self._ask("look at", key, self._client.head_object, {}, none_for=_MISSING)
        return None if said is None else _found(said)

    def get(
        self, key: str, *, span: str | None = None, version: str | None = None
    ) -> tuple[Found, bytes] | None:
        """The object, or the bytes ``first-last`` or ``-length`` of it; None where it is not there.

        Raises LedgerChanged where it is not of that ``version`` any more.
        """
        asked = {"Range": f"bytes={span}"} if span else {}
        asked |= {"IfMatch": version} if version else {}
        for tried in range(1, TRIES + 1):
            said = self._ask("read", key, self._client.get_object, asked, none_for=_NO_BYTES)
            if said is None and version:
                raise LedgerChanged(f"{self._at(key)} was replaced while it was read", mend="read it again")
            if said is None:
                return self.get(key) if span else None  # of an empty object there is no last byte
            try:
                return _found(said), said["Body"].read()
            except BotoCoreError as error:  # the connection broke while the bytes came in
                if tried == TRIES:
                    raise self._failed("read", key, error) from error
                pause(tried)
        raise AssertionError("the last try returns or raises")

    def put(self, key: str, data: Data, *, over: str, in_parts: bool | None = None) -> str | None:
        """Replaces the version ``over``, "" for none. The new version, or None where the object has another one.

        ``in_parts`` None: as its size says.
        """
        condition = {"IfMatch": over} if over else {"IfNoneMatch": "*"}
        if len(data) > 2 * self._part if in_parts is None else in_parts:
            said = self._put_in_parts(key, data, condition)
        else:
            asked = {"Body": data[:], **condition, **self._sealed}
            said = self._ask("write", key, self._client.put_object, asked, none_for=_REFUSED)
        return self.holds(key, data) if said is None else _etag(said)

    def holds(self, key: str, data: Data) -> str | None:
        """The object's version where it has these very bytes, else None. Some of them are in memory at a time."""
        there = self.look(key)
        if there is None or there.size != len(data):
            return None
        at = 0
        try:
            for piece in pieces(data, self._part):
                got = self.get(key, span=f"{at}-{at + len(piece) - 1}", version=there.version)
                if got is None or got[1] != piece:
                    return None
                at += len(piece)
        except LedgerChanged:
            return None
        return there.version

    def names(self, prefix: str) -> dict[str, str]:
        """What lies directly under the prefix: objects, each with its version, and folders, which have "" for one."""
        keys: dict[str, str] = {}
        for page in self._pages("list", "list_objects_v2", prefix, {"Delimiter": "/"}):
            keys |= {row["Key"]: row["ETag"] for row in page.get("Contents", ())}
            keys |= {row["Prefix"]: "" for row in page.get("CommonPrefixes", ())}
        return {key.removeprefix(prefix).rstrip("/"): keys[key] for key in keys if key != prefix}

    def delete(self, key: str) -> None:
        self._ask("delete", key, self._client.delete_object, {})

    def abandon(self, prefix: str, older_than_s: float) -> int:
        """Gives up uploads in parts that were begun so long ago and not completed. How many there were."""
        old = [
            upload
            for page in self._pages("list the uploads to", "list_multipart_uploads", prefix, {})
            for upload in page.get("Uploads", ())
            if (_now(page) - upload["Initiated"]).total_seconds() > older_than_s
        ]
        for upload in old:
            self._give_up(upload["Key"], {"UploadId": upload["UploadId"]})
        return len(old)

    def _put_in_parts(self, key: str, data: Data, condition: Mapping[str, str]) -> Any:
        """Nobody sees anything of it before its completion, which is the conditional step. None where it is refused."""
        begun = self._ask("write", key, self._client.create_multipart_upload, self._sealed)
        upload = {"UploadId": begun["UploadId"]}

        def send(number: int) -> dict[str, Any] | None:
            body = data[(number - 1) * self._part : number * self._part]
            asked = {**upload, "PartNumber": number, "Body": body}
            said = self._ask("write", key, self._client.upload_part, asked, none_for=_REFUSED)
            return None if said is None else _sent(number, said)

        with ExitStack() as undo:
            undo.callback(self._give_up, key, upload)
            with ThreadPoolExecutor(PARALLEL) as pool:
                parts = list(pool.map(send, range(1, max(1, -(-len(data) // self._part)) + 1)))
            if None in parts:  # somebody gave the upload up
                return None
            asked = {**upload, "MultipartUpload": {"Parts": parts}, **condition}
            said = self._ask("write", key, self._client.complete_multipart_upload, asked, none_for=_REFUSED)
            if said is not None:
                undo.pop_all()
            return said

    def _give_up(self, key: str, upload: Mapping[str, str]) -> None:
        try:
            abort = self._client.abort_multipart_upload
            self._ask("give up an upload to", key, abort, upload, none_for=_REFUSED)
        except LedgerError as error:
            log.warning("%s; the night's work gives it up later", error.message)

    def _pages(self, verb: str, operation: str, prefix: str, asked: Mapping[str, str]) -> list[Any]:
        pages = self._client.get_paginator(operation)
        here = {"Bucket": self.name, "Prefix": prefix, **asked}
        found: list[Any] = self._named(verb, prefix, lambda: list(pages.paginate(**here)))
        return found

    def _ask(
        self,
        verb: str,
        key: str,
        call: Callable[..., Any],
        asked: Mapping[str, Any],
        *,
        none_for: frozenset[str] = frozenset(),
    ) -> Any:
        """What the store says, None for a refusal of these codes."""
        return self._named(verb, key, lambda: call(Bucket=self.name, Key=key, **asked), none_for)

    def _named(
        self, verb: str, key: str, call: Callable[[], Any], none_for: frozenset[str] = frozenset()
    ) -> Any:
        try:
            return call()
        except ClientError as error:
            if _code(error) in none_for:
                return None
            raise self._failed(verb, key, error) from error
        except BotoCoreError as error:
            raise self._failed(verb, key, error) from error
        except RecursionError:  # the SDK asks where the bucket is, and is sent away again
            raise LedgerError(
                f"cannot {verb} {self._at(key)}: the endpoint sends us to another address",
                mend="set s3.endpoint_url to the address of the store itself; is it https://?",
            ) from None

    def _failed(self, verb: str, key: str, error: ClientError | BotoCoreError) -> LedgerError:
        if isinstance(error, ClientError):
            mend = _MENDS.get(_code(error), _LATER)
        else:
            mend = _CREDENTIALS if isinstance(error, _NO_CREDENTIALS) else _LATER
        return LedgerError(f"cannot {verb} {self._at(key)}: {error}", mend=mend)

    def _at(self, key: str) -> str:
        return f"s3://{self.name}/{key}"


_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)


def pause(tried: int) -> None:
    """Before the next of several tries; random, so that those who met do not meet again."""
    time.sleep(min(LONGEST_PAUSE_S, 2**tried / 10 * random.random()))


def _client(settings: S3) -> Any:
    by_path = settings.endpoint_url is not None if settings.path_style is None else settings.path_style
    config = Config(
        s3={"addressing_style": "path" if by_path else "auto"},
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=CONNECT_S,
        read_timeout=SILENCE_S,
        tcp_keepalive=True,
    )
    try:
        return boto3.session.Session().client(
            "s3", endpoint_url=settings.endpoint_url, region_name=settings.region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"[s3]: {error}", mend="mend it, or AWS's own settings of this node") from error


def _sealed(settings: S3) -> dict[str, str]:
    """How objects are to be encrypted, in the words of the calls that begin one."""
    said = {"ServerSideEncryption": settings.sse, "SSEKMSKeyId": settings.kms_key_id}
    return {name: value for name, value in said.items() if value is not None}


def _sent(number: int, said: Mapping[str, Any]) -> dict[str, Any]:
    checksums = {name: said[name] for name in _CHECKSUMS if name in said}
    return {"PartNumber": number, "ETag": _etag(said), **checksums}


def _found(said: Mapping[str, Any]) -> Found:
    version = _etag(said)
    whole = said.get("ContentRange", "").rpartition("/")[2] or said["ContentLength"]
    return Found(version, int(whole), (_now(said) - said["LastModified"]).total_seconds())


def _etag(said: Mapping[str, Any]) -> str:
    if "ETag" not in said:
        mend = "set s3.endpoint_url to the address of the store itself"
        raise LedgerError("s3.endpoint_url answers, but not as an S3 store does: without an ETag", mend=mend)
    return str(said["ETag"])


def _now(said: Mapping[str, Any]) -> datetime:
    date = said["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
