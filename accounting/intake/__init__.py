"""From the stream into the ledger: ``wire`` (the stream's entries), ``ingest`` (entries into parts), ``home``
(the one ledger of a Redis)."""
