"""Words and wires: the vocabulary, settings, queues, task state and money that every other floor stands on.

- Words: ``task``, ``call`` (what an engine is asked), ``purpose`` (of a call), ``events`` (facts), ``state`` (what is
  said to task state and heard of it), ``errors``, ``scopes``.
- ``settings``: the configuration.
- Money: ``money`` (nano-dollars), ``pricebook``, ``tariff`` (which price), ``prices`` (arithmetic).
- The wire to Redis: ``keys`` (where everything lies), ``embedded`` (a server of our own), ``connect``, ``ask``,
  ``clock``, ``lua`` (the scripts) with ``group`` (calls of many threads joined), ``rows`` (words as scripts take them),
  ``lock``.
- Task state: ``store`` (what producers and workers do with tasks), and what it is made of: ``records`` (what is known
  of them), ``parked``, ``dead_letters``, ``limits``, ``lanes``, ``machine_days``; ``batches``, ``stream`` (facts, read
  back).
- A worker process: ``queue`` (dramatiq's), ``hands`` (what it holds), ``sights`` (what it sees of the fleet).
"""
