"""`laneway econ`: the calculators. Each is a command over pure formulas of ``accounting.econ``."""

from __future__ import annotations

import click

from laneway.cli.econ.context import cache, coordination, loop
from laneway.cli.econ.failing import chain, lane_first, retry
from laneway.cli.econ.machines import crossover, self_host, utilisation
from laneway.cli.econ.outcomes import margin, rates
from laneway.cli.econ.spending import budget, drivers, pattern, spread

CALCULATORS = (
    pattern, spread, drivers, chain, retry, lane_first, loop, coordination, cache, self_host, crossover, utilisation,
    margin, budget, rates,
)  # fmt: skip


class InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=InOrder)
def econ() -> None:
    """What tasks would cost: the calculators.

    Each answer shows what it was given and from where, its formula, and the figures. A SHARE is written as 0.15 or 15%.
    Money is US dollars. Several take their figures from the ledger with --from-ledger.
    """


for one in CALCULATORS:
    econ.add_command(one)
