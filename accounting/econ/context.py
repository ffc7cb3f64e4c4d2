"""What context costs that is sent again: loops, tool round trips, and agents that tell each other things.

A model reads its whole context at each call. When n calls follow one another and each leaves g tokens behind, they read
n * input + g * n (n - 1)/2 tokens: twice the calls is more than twice the price.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from accounting.econ.tokens import Rates


@dataclass(frozen=True, slots=True)
class Read:
    """Calls, and the tokens that all of them read and write together."""

    calls: Fraction
    input_tokens: Fraction
    output_tokens: Fraction

    def __add__(self, other: Read) -> Read:
        return Read(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    @property
    def tokens(self) -> Fraction:
        return self.input_tokens + self.output_tokens

    def usd(self, rates: Rates) -> Fraction:
        return rates.usd(self.input_tokens, self.output_tokens)


def in_a_row(calls: Fraction, input_tokens: Fraction, output_tokens: Fraction, grows: Fraction) -> Read:
    """Calls one after another, each of which finds ``grows`` more tokens of context than the one before."""
    read = calls * input_tokens + grows * calls * (calls - 1) / 2
    return Read(calls, read, calls * output_tokens)


@dataclass(frozen=True, slots=True)
class Loop:
    """Before a change ``before_loops`` calls were made, after it ``loops``, each ``per_call_share`` dearer (below zero:
    cheaper). Tokens are those of the first call; ``grows_tokens`` is what each leaves in the next one's context."""

    rates: Rates
    input_tokens: Fraction
    output_tokens: Fraction
    grows_tokens: Fraction
    before_loops: int
    loops: int
    per_call_share: Fraction


@dataclass(frozen=True, slots=True)
class Looped:
    """``multiple`` is after over before: (1 + change a call) * loops after / before, where no context grows.
    ``grown_context_share`` is the part that grown context has in the cost after."""

    before_usd: Fraction
    after_usd: Fraction
    multiple: Fraction
    grown_context_share: Fraction


def looped(loop: Loop) -> Looped:
    def usd(loops: int, grows: Fraction) -> Fraction:
        return in_a_row(Fraction(loops), loop.input_tokens, loop.output_tokens, grows).usd(loop.rates)

    before = usd(loop.before_loops, loop.grows_tokens)
    whole = usd(loop.loops, loop.grows_tokens)
    if before <= 0:
        raise ValueError("a loop costs something")
    after = (1 + loop.per_call_share) * whole
    return Looped(before, after, after / before, 1 - usd(loop.loops, Fraction(0)) / whole)


@dataclass(frozen=True, slots=True)
class Team:
    """``agents`` who each make ``tool_calls`` round trips before their answer. A round trip leaves in the context what
    the model wrote to ask (``ask_tokens``) and what the tool said (``tool_tokens``). From two agents on somebody hands
    out the work and puts the answers together; a brief has ``brief_tokens``."""

    rates: Rates
    agents: int
    tool_calls: int
    input_tokens: Fraction
    output_tokens: Fraction
    ask_tokens: Fraction
    tool_tokens: Fraction
    brief_tokens: Fraction


@dataclass(frozen=True, slots=True)
class Arrangement:
    """``tokens_multiple`` and ``cost_multiple`` are over the line above; the first line is one call."""

    arrangement: str
    calls: Fraction
    input_tokens: Fraction
    output_tokens: Fraction
    per_task_usd: Fraction
    tokens_multiple: Fraction
    cost_multiple: Fraction


def agent(team: Team, extra_tokens: Fraction = Fraction(0)) -> Read:
    """One agent's calls: its round trips, and the answer. ``extra_tokens`` come on top of its input."""
    trips = Fraction(team.tool_calls)
    grows = team.ask_tokens + team.tool_tokens
    asked = in_a_row(trips, team.input_tokens + extra_tokens, team.ask_tokens, grows)
    answer = Read(Fraction(1), team.input_tokens + extra_tokens + trips * grows, team.output_tokens)
    return asked + answer


def together(team: Team) -> Read:
    """All agents, and who coordinates them: a brief for each, written with the earlier answers in view, then one call
    that reads all answers and writes the one that counts."""
    alone = agent(team)
    if team.agents == 1:
        return alone
    agents, briefed = Fraction(team.agents), agent(team, team.brief_tokens)
    work = Read(agents * briefed.calls, agents * briefed.input_tokens, agents * briefed.output_tokens)
    briefs = in_a_row(agents, team.input_tokens, team.brief_tokens, team.output_tokens)
    merge = Read(Fraction(1), team.input_tokens + agents * team.output_tokens, team.output_tokens)
    return work + briefs + merge


def coordination(team: Team) -> tuple[Arrangement, ...]:
    """One call, one agent with its tools, and the whole team."""
    if team.agents < 1:
        raise ValueError("somebody does the work")
    once = Read(Fraction(1), team.input_tokens, team.output_tokens)
    lines = [("one call", once), ("one agent with tools", agent(team))]
    if team.agents > 1:
        lines.append((f"{team.agents} agents and a coordinator", together(team)))
    rows: list[Arrangement] = []
    above = once
    for name, read in lines:
        cost, base = read.usd(team.rates), above.usd(team.rates)
        if base <= 0:
            raise ValueError("a call costs something")
        rows.append(
            Arrangement(
                name,
                read.calls,
                read.input_tokens,
                read.output_tokens,
                cost,
                read.tokens / above.tokens,
                cost / base,
            )
        )
        above = read
    return tuple(rows)
