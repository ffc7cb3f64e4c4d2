"""Where facts and figures lie.

``ledger`` (the folders), ``s3``, ``bucket`` and ``lock`` (in a bucket), ``schema`` (the files' columns), ``otel``
(these in others' words), ``facts`` (a fact as columns), ``parts`` (how a day's facts lie in files),
``reading`` (what was damaged is told).
"""
