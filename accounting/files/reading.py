"""Files as they are read again: a bit that turned is seen.

Checksums of pages are of what they hold, not of their headers: a page whose header says another kind is passed over,
and a dictionary may lose its last words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from broker.errors import LedgerError

#: What reading raises of a file that no version of ours wrote, or whose bytes have changed since.
BROKEN = (pa.ArrowException, KeyError, UnicodeDecodeError, OSError)


def opened(source: Any, *, meta: Any = None, texts: Sequence[str] | None = None) -> Any:
    """``meta`` is the footer where it is known, ``texts`` are read as dictionaries. Raises one of BROKEN."""
    return pq.ParquetFile(source, metadata=meta, read_dictionary=texts, page_checksum_verification=True)


def rows_of(file: Any, groups: Sequence[int], columns: Sequence[str]) -> Any:
    """These columns of the row groups. Raises one of BROKEN."""
    table = file.read_row_groups(groups, columns=columns, use_threads=False)
    if table.num_rows != sum(file.metadata.row_group(group).num_rows for group in groups):
        raise pa.ArrowInvalid("it has not as many rows as it says")
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column.validate(full=True)  # each row has one of its words
    return table


def damaged(path: str, day: str, error: Exception) -> LedgerError:
    """Of a nightly file."""
    return LedgerError(f"{path} is damaged: {error}", mend=f"laneway rollup --date {day} writes it anew")
