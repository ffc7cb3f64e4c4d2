"""The report as one picture: volume and unit cost by day, who spends it, and what for. Drawn by matplotlib, which is an
extra and is loaded only here."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from accounting.reports.figures import Report
from broker.errors import LedgerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("png", "svg")
BARS = 10
LONGEST_NAME = 28
_PER_UNIT = 10**9
#: That have letters which matplotlib's own font has not, as far as they are installed.
WIDE_FONTS = (
    "Arial Unicode MS",
    "Hiragino Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
)
MOST_LABELS = 8  # days that are written under the axis
#: The same report gives the same bytes; names of strangers are no formulas.
_SETTINGS: Any = {
    "svg.hashsalt": "laneway", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


def installed() -> bool:
    return find_spec("matplotlib") is not None


def draw(report: Report, kind: str) -> bytes:
    """``kind`` is one of ``KINDS``. Raises LedgerError where there is nothing to draw, or nothing to draw with."""
    if not installed():
        raise LedgerError(
            "pictures need matplotlib, which is not installed here", mend="pip install 'laneway[plot]'"
        )
    if not report.days:
        raise LedgerError("no tasks in these days, so there is nothing to draw", mend="name other days")
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    fonts = ["DejaVu Sans", *sorted({*WIDE_FONTS}.intersection(get_font_names()))]
    with rc_context({**_SETTINGS, "font.family": fonts}), warnings.catch_warnings():
        # A letter that no font here has is drawn as a box; the tables have the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(11, 7), layout="constrained", dpi=120)
        volume, unit, groups, parts = figure.subplots(2, 2).flat
        _volume(volume, report)
        _unit_cost(unit, report)
        name, rows = next(iter(report.groups.items()), ("day", report.days))
        _bars(groups, f"Spend by {name}, {report.currency}", [(one.name, one.cost_nano) for one in rows])
        spent = [(one.name, one.nano) for one in report.parts if one.nano]
        _bars(parts, f"What it went into, {report.currency}", sorted(spent, key=lambda one: -one[1]))
        out = io.BytesIO()
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()


def _volume(axes: Axes, report: Report) -> None:
    axes.bar(range(len(report.days)), [day.tasks for day in report.days], color="#8aa9c9")
    axes.set_title("Tasks a day", loc="left")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _under(axes, report)


def _unit_cost(axes: Axes, report: Report) -> None:
    days = report.days
    unknown = [bool(day.unpriced_calls) for day in days]
    for label, nanos in (
        ("per success", [day.cost_per_success_nano for day in days]),
        ("per task", [day.cost_per_task_nano for day in days]),
        ("p95 of a task", [day.p95_nano for day in days]),
    ):
        axes.plot(
            [
                float("nan") if nano is None or (missing and not nano) else nano / _PER_UNIT
                for nano, missing in zip(nanos, unknown, strict=True)
            ],
            marker="o",
            ms=3,
            label=label,
        )
    axes.set_title(f"Unit cost, {report.currency}", loc="left")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _under(axes, report)


def _under(axes: Axes, report: Report) -> None:
    """Days under the axis, as many as there is room for."""
    step = -(-len(report.days) // MOST_LABELS)
    places = range(0, len(report.days), step)
    axes.set_xticks(list(places), [report.days[place].name[5:] for place in places])


def _bars(axes: Axes, title: str, rows: Sequence[tuple[str, int]]) -> None:
    """The largest, from the top down; the rest together."""
    shown = [(_short(name), nano) for name, nano in rows[:BARS]]
    if len(rows) > BARS:
        shown.append((f"{len(rows) - BARS} more", sum(nano for _, nano in rows[BARS:])))
    axes.barh(range(len(shown)), [nano / _PER_UNIT for _, nano in shown], color="#4c7a5d")
    axes.set_yticks(range(len(shown)), [name for name, _ in shown])
    axes.invert_yaxis()
    axes.set_title(title, loc="left")


def _short(name: str) -> str:
    printable = "".join(one if one.isprintable() else "?" for one in name) or "(none)"
    return printable if len(printable) <= LONGEST_NAME else printable[: LONGEST_NAME - 1] + "…"
