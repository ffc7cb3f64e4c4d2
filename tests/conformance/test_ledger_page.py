"""What ``docs/ledger.md`` says of reading the ledger, run as it stands there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import redis

from tests.accounting.ledger_page import PAGE, SPARK, answer, recipes, write_ledger
from tests.s3_server import S3Server


def disagreeing(folder: Path, s3: S3Server, *, spark: bool, python: Path) -> list[tuple[str, str]]:
    """What recipes answered, with what the page says, where these differ."""
    told = [
        (answer(code, folder, s3, python), shown)
        for code, shown in recipes(PAGE.read_text(encoding="utf-8"), spark=spark)
    ]
    assert told, "the page has recipes"
    return [(made, shown) for made, shown in told if made != shown]


def test_each_recipe_of_the_page_answers_what_the_page_says(
    client: redis.Redis, tmp_path: Path, s3: S3Server
) -> None:
    write_ledger(client, tmp_path, s3)
    assert disagreeing(tmp_path, s3, spark=False, python=Path(sys.executable)) == []


@pytest.mark.spark
def test_spark_answers_what_the_page_says(client: redis.Redis, tmp_path: Path, s3: S3Server) -> None:
    if not SPARK.exists():
        pytest.skip("no Spark: make spark-venv, or SPARK_PYTHON=/path/to/a/python/that/has/it")
    write_ledger(client, tmp_path, s3)
    assert disagreeing(tmp_path, s3, spark=True, python=SPARK) == []
