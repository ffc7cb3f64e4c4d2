"""From the stream into the ledger: ``wire`` (the stream's entries), ``ingest`` (entries into parts), ``aside``
(entries that cannot be read), ``home`` (the one ledger of a Redis)."""
