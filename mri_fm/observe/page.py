"""Pieces of the HTML pages that this project writes: self-contained, no script, no outside address."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2530; max-width: 1080px; margin: 2.5em auto; padding: 0 1.2em }
h1 { font-size: 1.8em; margin-bottom: .2em } h2 { margin-top: 2.2em; border-bottom: 1px solid #d7dde5; padding-bottom: .3em }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
td, th { padding: .35em .9em; text-align: right; border-bottom: 1px solid #e6eaf0 } th { color: #5a6675; font-weight: 600 }
td:first-child, th:first-child { text-align: left; padding-left: 0 } img { max-width: 100% } .note { color: #5a6675 }
.warn { background: #fdf1dc; padding: .5em .9em; border-left: 4px solid #d9822b }
.tiles { display: flex; flex-wrap: wrap; gap: .8em } .tile { background: #f3f6fa; border-radius: 8px; padding: .7em 1.1em }
.tile b { display: block; font-size: 1.6em }
"""


def html_page(title: str, body: str, style: str = "") -> str:
    """A whole page around `body`, which is HTML; `style` is CSS that the page needs beside `STYLE`."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts."""
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>\n{body}</table>"


def figure_address(figure: Figure, dpi: int = 110) -> str:
    """The figure as a `data:` address of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def html_image(figure: Figure, description: str) -> str:
    """The figure as a picture inside the page."""
    return f'<p><img alt="{escape(description)}" src="{figure_address(figure)}"></p>'


def html_tiles(values: Sequence[tuple[str, str]]) -> str:
    """Headline numbers: (name, value) each in a tile."""
    return (
        '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(v)}</b>{escape(n)}</div>' for n, v in values) + "</div>"
    )
