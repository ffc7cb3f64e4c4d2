"""What tasks cost: facts become files, and files figures. A map of the modules.

- Files: ``ledger`` (where they lie), ``s3``, ``bucket`` and ``lock`` (in a bucket), ``schema`` (their columns),
  ``otel`` (these in others' words), ``parts`` (how a day's facts lie in them), ``drafts`` (files as they grow).
- Intake: ``wire`` (the stream's entries), ``facts`` (as columns), ``ingest`` (from the stream into parts).
- Rollup: ``view`` and ``lots`` (a day, some of its tasks at a time), ``order``, ``columns``, ``calls``, ``daily`` and
  ``fold`` (facts into rows), ``rollup`` (a day's files), ``offers`` and ``shared_rollup`` (a large day by all nodes),
  ``nightly`` (the night's work), ``actor`` and ``node`` (the process that does all this).
- Reports: ``report`` (the whole), ``reports`` (its rows, sums, ranks and pages), ``present`` (on paper), ``currency``,
  ``flat`` (what is paid by the month).
- Bills: ``usage_files`` (what providers say), ``booked`` (what the ledger says), ``reconcile`` (why they differ),
  ``reprice`` (past calls at other prices), ``second_book`` (our prices against others').
- Alerts: ``alerts`` and ``trend`` (what is told), ``watch`` (what goes on for minutes), ``tell`` (to whom).
- Machines: ``machines`` (a machine's day, shared out among its calls).
- Calculators: ``econ`` (their formulas), ``measured`` (what the ledger feeds them).
"""
