"""The report as one HTML page: the same tables and notes as on the terminal, and the charts. It asks for nothing from
elsewhere, runs no script, and shows names of strangers as text."""

from __future__ import annotations

from html import escape

from accounting.reports.figures import Report
from accounting.reports.present import grids, heading, notes
from accounting.reports.wording import Grid

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 0.4rem 0 1.8rem; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.2rem 1rem 0.2rem 0; text-align: right; vertical-align: top; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child, .words { text-align: left; }
thead th { border-bottom: 1px solid; font-weight: 600; }
tfoot td { border-top: 1px solid; }
section { overflow-x: auto; }
svg { max-width: 100%; height: auto; background: white; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
NO_CHARTS = "Charts are left out: matplotlib is not installed here (pip install 'laneway[plot]')."


def html(report: Report, charts: str | None) -> str:
    """``charts`` is an SVG document; None where there is nothing to draw, or nothing to draw with."""
    drawn = ""
    if report.days:
        drawn = f"<p>{escape(NO_CHARTS)}</p>" if charts is None else charts[charts.index("<svg") :]
    tables = "".join(map(_table, grids(report)))
    said = "".join(f"<li>{escape(note)}</li>" for note in notes(report))
    body = f"<section>{drawn}</section>{tables}<ul>{said}</ul>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>What tasks cost</title><style>{_STYLE}</style></head>"
        f"<body><h1>What tasks cost</h1><p>{escape(heading(report))}</p>{body}</body></html>\n"
    )


def _table(grid: Grid) -> str:
    words = {0, *grid.words} if any(grid.heads) else {0, 1}

    def row(cells: tuple[str, ...], tag: str) -> str:
        inner = "".join(
            f"<{tag}{' class=words' if place in words else ''}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"

    caption = f"<caption>{escape(grid.title)}</caption>" if grid.title else ""
    head = f"<thead>{row(grid.heads, 'th')}</thead>" if any(grid.heads) else ""
    body, foot = ("".join(row(tuple(cells), "td") for cells in rows) for rows in (grid.rows, grid.below))
    return f"<section><table>{caption}{head}<tbody>{body}</tbody><tfoot>{foot}</tfoot></table></section>"
