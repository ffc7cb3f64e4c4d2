"""The ledger against a provider's own usage file: for each model what was billed, what was booked, and why they differ.

The difference is billed minus booked, and the causes sum to it exactly. Each class of tokens has the price that the
ledger's calls of the model paid on average (all alike, where there are no tiers), so

    tokens, or calls    what their tokens are above ours, at our price; ``calls`` where the numbers of calls differ too
    price               what their bill is above their tokens at our price
    unsettled           our calls that nobody knows the end of, which are booked at their worst case
    unpriced            our calls that were booked without a price, at the price that is known by now
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

from accounting.bills.booked import COLUMNS, Key, Ours, booked, figures_of, known_as
from accounting.bills.usage_files import INPUT, Used
from accounting.files.ledger import ATTEMPTS, Store, days_of, unrolled
from accounting.reports.flat import flat_nano
from accounting.reports.wording import left_out
from broker.money import PICO_PER_NANO
from broker.pricebook import book
from broker.prices import TokenPrice
from broker.settings import Settings

CAUSES = (
    "calls", "tokens", "price", "unsettled", "unpriced", "booked otherwise", "not in the ledger", "not billed",
    "beside tokens", "rounding",
)  # fmt: skip
BESIDE = "beside tokens"


@dataclass(slots=True)
class Theirs:
    """What the file says. ``nano`` None: it names no money. ``requests`` None: it does not count calls."""

    tokens: dict[int, int] | None = None
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
    told = {place for one in lines if one.tokens is not None for place in (INPUT, *one.tokens)}
    by_batch = all(one.batch is not None for one in lines if one.model)
    theirs = _theirs(lines, provider, by_batch=by_batch)
    ours, prices = booked(
        store, settings, provider, (first, last), frozenset(lanes), told or set(COLUMNS), by_batch=by_batch
    )
    no_money = all(one.nano is None for one in theirs.values())
    unpaid = [] if no_money else sorted(key for key, one in theirs.items() if key.model and one.nano is None)
    for key in unpaid:
        theirs[key].nano = 0
    compared = [
        compare(
            key, theirs.get(key), ours.get(key), prices.get(key.model) or _listed(key, provider, last), told
        )
        for key in sorted({*theirs, *ours} - {_NO_MODEL}, key=lambda key: (key.model, key.batch or False))
    ]
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


def _theirs(lines: Iterable[Used], provider: str, *, by_batch: bool) -> dict[Key, Theirs]:
    found: dict[Key, Theirs] = defaultdict(Theirs)
    for line in lines:
        key = (
            Key(known_as(line.model, provider), line.batch if by_batch else None) if line.model else _NO_MODEL
        )
        one = found[key]
        if line.tokens is not None:
            one.tokens = one.tokens or {}
            for place, tokens in line.tokens.items():
                one.tokens[place] = one.tokens.get(place, 0) + tokens
        if line.requests is not None:
            one.requests = (one.requests or 0) + line.requests
        if line.nano is not None:
            one.nano = (one.nano or 0) + line.nano
    return dict(found)


def _listed(key: Key, provider: str, day: str) -> TokenPrice | None:
    price = book().price(f"{provider}/{key.model}", day)
    return price.batch or price if price and key.batch else price


def compare(
    key: Key, theirs: Theirs | None, ours: Ours | None, price: TokenPrice | None, told: Iterable[int]
) -> Compared:
    """One model on both sides."""
    ours = ours or Ours()
    at_booked = ours.booked_nano + ours.unsettled_nano
    theirs = theirs or Theirs()
    each = _paid_each(ours, price)
    at_ours = None
    if theirs.tokens is not None:
        at_ours = (
            sum((theirs.tokens.get(place, 0) * each[place] for place in told), Fraction(0)) / PICO_PER_NANO
        )
    if theirs.nano is None and price is None and not ours.calls and any((theirs.tokens or {}).values()):
        return Compared(*key, theirs.requests, 0, 0, 0, None, 0, {})
    billed = theirs.nano if theirs.nano is not None else round(at_ours or 0)
    if not ours.calls:
        parts = {"not in the ledger": Fraction(billed)}
    elif theirs.tokens is None and theirs.nano is None:
        parts = {"not billed": Fraction(-at_booked)}
    else:
        parts = dict(_causes(theirs, ours, Fraction(billed), at_ours))
    causes = {name: round(amount) for name, amount in parts.items()}
    causes["rounding"] = billed - at_booked - sum(causes.values())
    return Compared(
        *key, theirs.requests, ours.calls, ours.unsettled, ours.unpriced, billed, at_booked,
        {name: amount for name, amount in causes.items() if amount},
    )  # fmt: skip


def _paid_each(ours: Ours, price: TokenPrice | None) -> dict[int, Fraction]:
    """Pico-dollars of one token of each class: as our calls paid on average, else as the price has it."""
    listed = figures_of(price) if price else dict.fromkeys(COLUMNS, 0)
    return {
        place: Fraction(ours.pico[place], ours.tokens[place])
        if ours.tokens[place]
        else Fraction(listed[place])
        for place in COLUMNS
    }


def _causes(
    theirs: Theirs, ours: Ours, billed: Fraction, at_ours: Fraction | None
) -> Iterator[tuple[str, Fraction]]:
    ours_again = Fraction(sum(ours.pico.values()), PICO_PER_NANO)
    unpriced = Fraction(ours.unpriced_pico, PICO_PER_NANO)
    yield "unsettled", Fraction(-ours.unsettled_nano)
    yield "unpriced", unpriced
    otherwise = ours_again - unpriced - ours.booked_nano
    if abs(otherwise) > ours.calls:  # more than rounding each of them can come to
        yield "booked otherwise", otherwise
    if at_ours is None:
        yield "price", billed - ours_again
        return
    same = theirs.requests is None or theirs.requests == ours.calls
    yield "tokens" if same else "calls", at_ours - ours_again
    yield "price", billed - at_ours
