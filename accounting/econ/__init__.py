"""What tasks would cost: formulas over plain data, one idea a module. No clock, no files, no network.

Everything is an exact ``Fraction``, and is rounded where it is printed. A field's name ends in its unit: ``_usd`` US
dollars, ``_mtok_usd`` dollars per million tokens, ``_share`` a part of 1, ``_multiple`` times something, ``_per_day``
and ``_per_hour`` a rate. None means that there is no such figure: nothing to divide by, or it never pays. A month has
30 days where no other number is given. What lies outside a formula's domain raises ValueError.

Where no source stands beside a formula, it is the arithmetic that its line says. Operators' own figures are cases in
``tests/accounting/test_econ.py``; ``test_econ_simulated.py`` plays what each formula describes.
"""
