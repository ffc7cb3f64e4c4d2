"""What tasks cost: facts become files, and files figures.

``files`` (where they lie) ← ``intake`` (the stream into them) ← ``rollup`` (a day of them into rows) ← ``reports``
(what tasks cost), ``bills`` (what others say that it cost) and ``alerting`` (who is told) ← ``actor`` and ``node``
(the process that does the work by itself). ``econ`` (the calculators) is formulas alone. What stands to the left
knows nothing of what stands to its right.
"""
