"""The answers that ``docs/ledger.md`` shows, made by its own code.

`python -m tests.accounting.ledger_page` writes the page anew after a change; a test runs the code and compares. The
ledger behind the page has two days of made-up tasks, in ``var/ledger`` and in a bucket.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import redis

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.rollup import rollup
from broker import embedded
from tests import s3_server
from tests.accounting.stories import NOON_US, day_of_stories, entry, publish
from tests.s3_server import REGION, S3Server

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
SPARK = Path(os.environ.get("SPARK_PYTHON") or PAGE.parents[1] / ".venv-spark" / "bin" / "python")
PREFIX = "prod"
RECIPE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
_TIMEOUT_S = 240


def write_ledger(client: redis.Redis, folder: Path, s3: S3Server) -> None:
    """The same files in ``folder/var/ledger`` and in the bucket."""
    store, bucket = LocalStore(folder / "var" / "ledger"), s3.store(PREFIX)
    days = [*day_of_stories(200), *day_of_stories(100, 8, at_us=NOON_US + ledger.US_PER_DAY)]
    publish(client, map(entry, days))
    ingest.drain_all(client, store, LocalStore(folder / "quarantine"), limit=500)
    rollup.rollup_dirty(client, store)
    for path in sorted(store.root.rglob("*.parquet")):
        bucket.put(path.relative_to(store.root).as_posix(), path.read_bytes())


def recipes(page: str, *, spark: bool) -> Iterator[tuple[str, str]]:
    """Each piece of code with what the page says that it prints."""
    for code, shown in RECIPE.findall(page):
        if ("pyspark" in code) is spark:
            yield code, shown


def answer(code: str, folder: Path, s3: S3Server, python: Path = Path(sys.executable)) -> str:
    """What it prints in that folder. Raises AssertionError where it fails."""
    done = subprocess.run(
        [python, "-"],
        input=code,
        cwd=folder,
        env=os.environ | environment(s3),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.splitlines() if line.strip()) + "\n"


def environment(s3: S3Server) -> Mapping[str, str]:
    told = {"AWS_REGION": REGION, "AWS_ENDPOINT_URL": s3.url, "AWS_ALLOW_HTTP": "true"}
    return s3.environment | told | {"COLUMNS": "100", "PYTHONHASHSEED": "0"}


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[redis.Redis, S3Server]]:
    server = embedded.start(folder)
    try:
        with s3_server.running(folder) as s3:
            os.environ.update(s3.environment)
            yield redis.Redis.from_url(server.url), s3
    finally:
        embedded.stop(server)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch, _servers(Path(scratch)) as (client, s3):
        write_ledger(client, Path(scratch), s3)
        for spark, python in ((False, Path(sys.executable)), (True, SPARK)):
            for code, shown in recipes(page, spark=spark) if python.exists() else ():
                made = answer(code, Path(scratch), s3, python)
                page = page.replace(f"{code}```\n\n```text\n{shown}```", f"{code}```\n\n```text\n{made}```")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
