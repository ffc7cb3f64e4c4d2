"""The ledger against a provider's own usage file: for each model what was billed, what was booked, and why they differ.

The difference is billed minus booked, and the causes sum to it exactly. Each class of tokens, in batches or not where
usage tells, has the price that our calls of the model paid on average (all alike, where there are no tiers), so

    tokens, or calls    what their tokens are above ours, at our price; ``calls`` where the numbers of calls differ too
    price               what their bill is above their tokens at our price
    unsettled           our calls that nobody knows the end of, which are booked at their worst case
    unpriced            our calls that were booked without a price, at the price that is known by now; where there is
                        none, all that is billed
    booked otherwise    what our calls come to at their own prices, above what they were booked at (reprice names them)
    not in the ledger   models that only they have
    not billed          models that only we have
    beside tokens       what is paid for something else (searches, seats), less what ``prices.monthly`` says of it
    rounding            the rest: each call is rounded to a nano-dollar, a bill is to less

Where no file names money, tokens are billed at our own prices, so the price never differs; what has no price either is
billed at nobody knows what, and is in no sum. Where one names money, that is the bill: a model that it has nothing for
is billed at nothing, and a note says so. Lines without tokens tell amounts alone, and what is left of a model's
difference is ``price``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from accounting.bills.booked import COLUMNS, Key, Ours, TokenKind, Told, booked, figures_of, known_as
from accounting.bills.usage_files import INPUT, Used
from accounting.files.ledger import ATTEMPTS, Store, days_of, unrolled
from accounting.reports.flat import flat_nano
from accounting.reports.wording import left_out
from broker.money import PICO_PER_NANO
from broker.pricebook import book
from broker.prices import TokenPrice
from broker.settings import Settings
from broker.tariff import price_at

CAUSES = (
    "calls", "tokens", "price", "unsettled", "unpriced", "booked otherwise", "not in the ledger", "not billed",
    "beside tokens", "rounding",
)  # fmt: skip
BESIDE = "beside tokens"


@dataclass(slots=True)
class Theirs:
    """What the file says. ``nano`` None: it names no money. ``requests`` None: it does not count calls."""

    tokens: dict[TokenKind, int] | None = None
    requests: int | None = None
    nano: int | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """One model. ``causes`` in nano-dollars sum to ``billed_nano - booked_nano``. ``billed_nano`` None: unknown."""

    model: str
    batch: bool | None
    requests: int | None
    calls: int
    unsettled: int
    unpriced: int
    billed_nano: int | None
    booked_nano: int
    causes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """From the first to the last UTC day of the files. ``priced_by_us``: they named no money. ``notes`` say where the
    comparison is not whole."""

    provider: str
    first: str
    last: str
    priced_by_us: bool
    models: tuple[Compared, ...]
    notes: tuple[str, ...] = ()

    @property
    def billed_nano(self) -> int:
        return sum(one.billed_nano or 0 for one in self.models)

    @property
    def booked_nano(self) -> int:
        return sum(one.booked_nano for one in self.models)

    @property
    def causes(self) -> dict[str, int]:
        sums = {cause: sum(one.causes.get(cause, 0) for one in self.models) for cause in CAUSES}
        return {cause: amount for cause, amount in sums.items() if amount}


def reconcile(
    store: Store, settings: Settings, provider: str, lines: Sequence[Used], lanes: Iterable[str] = ()
) -> Reconciled:
    """``lanes`` are those whose calls the provider bills, beside those that its address or price tell. Raises
    LedgerError for files that cannot be read."""
    first, last = min(one.day for one in lines), max(one.day for one in lines)
    told = _told(lines)
    theirs = _theirs(lines, provider, told)
    ours, prices = booked(store, settings, provider, (first, last), frozenset(lanes), told)
    no_money = all(one.nano is None for one in theirs.values())
    unpaid = [] if no_money else sorted(key for key, one in theirs.items() if key.model and one.nano is None)
    for key in unpaid:
        theirs[key].nano = 0
    compared = []
    for key in sorted({*theirs, *ours} - {_NO_MODEL}, key=lambda key: (key.model, key.batch or False)):
        listed = price_at(book(), f"{provider}/{key.model}", last, settings.prices.discounts)
        compared.append(compare(key, theirs.get(key), ours.get(key), _of_model(key.model, prices, listed)))
    flat = sum(
        nano
        for day in days_of(first, last)
        for row, nano in flat_nano(settings.prices.monthly, day)
        if row.name == provider
    )
    beside = theirs.get(_NO_MODEL, Theirs()).nano or 0
    if beside or flat:
        compared.append(Compared("", None, None, 0, 0, 0, beside, flat, {BESIDE: beside - flat}))
    notes = _notes(store, provider, lines, compared, unpaid, (first, last))
    return Reconciled(provider, first, last, no_money, tuple(compared), tuple(notes))


def _notes(
    store: Store,
    provider: str,
    lines: Sequence[Used],
    compared: Sequence[Compared],
    unpaid: Sequence[Key],
    span: tuple[str, str],
) -> Iterator[str]:
    of_models = [line for line in lines if line.model]
    used = sorted(line.day for line in of_models if line.tokens is not None)
    paid = sorted(line.day for line in of_models if line.nano is not None)
    if used and paid and (used[0], used[-1]) != (paid[0], paid[-1]):
        days = f"usage is of {used[0]} to {used[-1]}, money of {paid[0]} to {paid[-1]}"
        yield f"{days}: of models that the ledger has, what only one of them has shows as a difference of price"
    if of_models and not any(one.calls for one in compared):
        yield (
            f"the ledger has no call of these days that {provider} bills, by the address or the price of its lane: "
            "where it bills one all the same, --lane NAME says so"
        )
    if unpaid:
        names = ", ".join(dict.fromkeys(key.model for key in unpaid))
        yield f"money is named, and none for {names}: billed at nothing"
    if missing := unrolled(store, (ATTEMPTS,), *span):
        yield left_out(missing)
    if unknown := [one.model for one in compared if one.billed_nano is None]:
        yield f"no price of {', '.join(unknown)} is known, and no money is named: in no sum"


_NO_MODEL = Key("", None)


def _told(lines: Sequence[Used]) -> Told:
    of_models = [line for line in lines if line.model]
    used = [line for line in of_models if line.tokens is not None]
    places = frozenset(place for line in used for place in (INPUT, *(line.tokens or ())))
    return Told(
        places or frozenset(COLUMNS),
        lines=all(line.batch is not None for line in of_models),
        tokens=all(line.batch is not None for line in used),
    )


def _theirs(lines: Iterable[Used], provider: str, told: Told) -> dict[Key, Theirs]:
    found: dict[Key, Theirs] = defaultdict(Theirs)
    for line in lines:
        key = (
            Key(known_as(line.model, provider), line.batch if told.lines else None)
            if line.model
            else _NO_MODEL
        )
        one = found[key]
        if line.tokens is not None:
            one.tokens = one.tokens or {}
            for place, tokens in line.tokens.items():
                kind = TokenKind(line.batch if told.tokens else None, place)
                one.tokens[kind] = one.tokens.get(kind, 0) + tokens
        if line.requests is not None:
            one.requests = (one.requests or 0) + line.requests
        if line.nano is not None:
            one.nano = (one.nano or 0) + line.nano
    return dict(found)


def _of_model(
    model: str, prices: Mapping[Key, TokenPrice], listed: TokenPrice | None
) -> dict[bool, TokenPrice]:
    """The prices of a token singly and in a batch, as far as they are known: what our calls paid, else what their lane
    or the book asks, else one is as the other."""
    known = {False: listed, True: listed and (listed.batch or listed)}
    known |= {batch: prices[Key(model, batch)] for batch in known if Key(model, batch) in prices}
    either = known[False] or known[True]
    return {batch: price or either for batch, price in known.items()} if either else {}


def compare(
    key: Key, theirs: Theirs | None, ours: Ours | None, prices: Mapping[bool, TokenPrice]
) -> Compared:
    """One model on both sides. ``prices`` of a token singly and in a batch; without any nobody knows one."""
    ours, theirs = ours or Ours(), theirs or Theirs()
    at_booked = ours.booked_nano + ours.unsettled_nano
    at_ours = None if theirs.tokens is None else _worth(theirs.tokens, ours, prices)
    if theirs.nano is None and not prices and not at_booked and any((theirs.tokens or {}).values()):
        return Compared(*key, theirs.requests, ours.calls, ours.unsettled, ours.unpriced, None, 0, {})
    billed = theirs.nano if theirs.nano is not None else round(at_ours or 0)
    if not ours.calls:
        parts = {"not in the ledger": Fraction(billed)}
    elif theirs.tokens is None and theirs.nano is None:
        parts = {"not billed": Fraction(-at_booked)}
    else:
        parts = _causes(theirs, ours, Fraction(billed), at_ours, prices)
    causes = {name: round(amount) for name, amount in parts.items()}
    causes["rounding"] = billed - at_booked - sum(causes.values())
    return Compared(
        *key, theirs.requests, ours.calls, ours.unsettled, ours.unpriced, billed, at_booked,
        {name: amount for name, amount in causes.items() if amount},
    )  # fmt: skip


def _worth(tokens: Mapping[TokenKind, int], ours: Ours, prices: Mapping[bool, TokenPrice]) -> Fraction:
    """Nano-dollars of the tokens: each as our calls paid on average, else as the price has it."""
    return sum((count * _paid(kind, ours, prices) for kind, count in tokens.items()), Fraction(0))


def _paid(kind: TokenKind, ours: Ours, prices: Mapping[bool, TokenPrice]) -> Fraction:
    """Nano-dollars of one token."""
    if ours.tokens.get(kind):
        return Fraction(ours.pico[kind], ours.tokens[kind] * PICO_PER_NANO)
    price = prices.get(bool(kind.batch))
    return Fraction(figures_of(price)[kind.place] if price else 0, PICO_PER_NANO)


def _causes(
    theirs: Theirs,
    ours: Ours,
    billed: Fraction,
    at_ours: Fraction | None,
    prices: Mapping[bool, TokenPrice],
) -> dict[str, Fraction]:
    unknown = _worth(ours.unknown, ours, prices)
    ours_again = Fraction(sum(ours.pico.values()), PICO_PER_NANO) + unknown
    unpriced = Fraction(ours.unpriced_pico, PICO_PER_NANO) + unknown
    otherwise = ours_again - unpriced - ours.booked_nano
    price = billed - (ours_again if at_ours is None else at_ours)
    if ours.unpriced and not prices:
        unpriced, price = unpriced + price, Fraction(0)
    causes = {"unsettled": Fraction(-ours.unsettled_nano), "unpriced": unpriced, "price": price}
    if abs(otherwise) > ours.calls:  # more than rounding each of them can come to
        causes["booked otherwise"] = otherwise
    if at_ours is not None:
        same = theirs.requests is None or theirs.requests == ours.calls
        causes["tokens" if same else "calls"] = at_ours - ours_again
    return causes
