"""The commands of the ledger, with the ledger in a bucket."""

import os
from decimal import Decimal
from typing import Any

from tests.laneway.conftest import TOML
from tests.s3_server import BUCKET, READER, READER_SECRET, REGION, S3Server, environment


def in_a_bucket(s3: S3Server, place: str) -> str:
    fleet = f'[fleet]\ncpu_usd_per_hour = "0"\nledger = "{place}"\n'
    return f'{TOML}\n{fleet}[s3]\nendpoint_url = "{s3.url}"\nregion = "{REGION}"\n'


def test_rollup_report_and_the_calculators_work_in_a_bucket(laneway: Any, s3: S3Server) -> None:
    place = f"s3://{BUCKET}/cli-{os.urandom(4).hex()}"
    laneway.configure(in_a_bucket(s3, place))
    for number in range(5):
        laneway.client.submit(f"hello {number}", task_id=f"t{number}", workspace="acme")
    laneway.work()
    assert "no nightly files" in laneway.run("report", code=1).stderr
    told = laneway.json("rollup")
    [day] = told["days"]
    assert (told["ledger"], day["tasks"], day["attempts"]) == (place, 5, 5)
    assert [path.split("/")[0] for path in day["written"]] == ["tasks", "attempts", "daily"]
    spent = sum(laneway.client.record(f"t{number}").cost_nano for number in range(5))
    made = laneway.json("report", "--by", "type,workspace")
    assert made["totals"]["tasks"] == 5
    assert Decimal(made["totals"]["cost_usd"]) == Decimal(spent).scaleb(-9)
    assert "unchanged" in laneway.run("rollup", "--date", day["date"]).stdout
    assert laneway.json("lanes")
    assert laneway.json("econ", "rates")


def test_the_doctor_tries_the_bucket(laneway: Any, s3: S3Server) -> None:
    laneway.configure(in_a_bucket(s3, f"s3://{BUCKET}/doctor"))
    told = laneway.json("doctor")
    assert [row["what"] for row in told["checks"] if row["name"] == "ledger"] == [
        f"s3://{BUCKET}/doctor is written, read and listed, and keeps conditional puts"
    ]
    assert not s3.client().list_objects_v2(Bucket=BUCKET, Prefix="doctor/").get("Contents")

    told = laneway.json("doctor", code=1, **environment(s3.url, READER, READER_SECRET))
    [row] = [row for row in told["checks"] if row["name"] == "ledger"]
    assert row["status"] == "fail"
    assert "AccessDenied" in row["what"]
    assert "docs/ledger.md" in row["mend"]
    assert READER_SECRET not in str(told)


def test_a_rollup_that_may_not_write_says_so_before_it_takes_anything_from_redis(
    laneway: Any, s3: S3Server
) -> None:
    laneway.configure(in_a_bucket(s3, f"s3://{BUCKET}/refused"))
    laneway.client.submit("hello")
    laneway.work()
    waiting = laneway.store.client.xlen("laneway:events")
    said = laneway.run("rollup", code=1, **environment(s3.url, READER, READER_SECRET))
    assert "AccessDenied" in said.stderr
    assert "mend: " in said.stderr
    assert laneway.store.client.xlen("laneway:events") == waiting > 0
