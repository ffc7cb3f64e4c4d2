"""What tasks cost, read from the nightly files.

- The whole: ``report`` (what is asked and what is found), ``figures`` (its nouns).
- Reading: ``rows`` (in pieces), ``sums`` and ``ranks`` (exact percentiles) over them, ``tasks`` and ``calls``,
  ``families`` (tasks with their parts), ``beside`` (calls beside their tasks), ``revisions`` (of models).
- Decisions: ``groups``, ``trends``, ``change``, ``odd``, ``choices``, ``loaded`` and ``flat`` (what is paid by the
  month), ``currency``.
- Pages: ``present`` (on paper), of tables ``first`` and ``further``, in words ``wording``, ``plots``, ``page``
  (HTML), ``files`` (all that is written).
- ``measured``: what the calculators take from the ledger.
"""
