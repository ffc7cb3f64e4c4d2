"""A day's facts into rows.

``lots`` (a day, some of its tasks at a time), ``order`` and ``columns`` (its facts, laid by task), ``calls``,
``fold`` and ``daily`` (facts into rows), ``view`` (a day read and folded), ``drafts`` (its files as they grow),
``rollup`` (the whole of it), ``offers`` and ``shared_rollup`` (a large day by all nodes), ``machines`` (a machine's
day, shared out among its calls), ``nightly`` (the night's work).
"""
