"""The parts of the report as HTML that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = """
:root { --ink: #1f2933; --soft: #52606d; --faint: #7b8794; --line: #e4e7eb; --paper: #ffffff;
        --ground: #f5f7f9; --accent: #2f6f9f; --warm: #c8553d; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5;
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 48px 32px 72px; }
h1 { font-size: 30px; font-weight: 650; letter-spacing: -.02em; margin: 0 0 4px; }
h2 { font-size: 18px; font-weight: 620; letter-spacing: -.01em; margin: 0 0 14px; }
h3 { font-size: 14px; font-weight: 600; margin: 22px 0 6px; }
p { margin: 0 0 10px; max-width: 78ch; } .lead { color: var(--soft); font-size: 16px; }
.note, figcaption { color: var(--faint); font-size: 13px; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
          padding: 24px 28px; margin-top: 22px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 16px;
         margin-top: 26px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
        padding: 18px 20px; }
.card .label { color: var(--soft); font-size: 13px; font-weight: 560; }
.card .value { font-size: 29px; font-weight: 640; letter-spacing: -.02em; margin: 2px 0 6px;
               font-variant-numeric: tabular-nums; white-space: nowrap; }
.card .value small { font-size: 16px; font-weight: 500; color: var(--faint); }
.card .note { font-size: 12.5px; line-height: 1.45; }
.figures { display: flex; flex-wrap: wrap; gap: 22px 28px; }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; }
figure img { max-width: 100%; display: block; }
figcaption { margin-top: 6px; width: 0; min-width: 100%; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--faint); font-weight: 560; white-space: nowrap; }
th, td { padding: 7px 18px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } td { font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.mark td { font-weight: 600; } td.text { color: var(--soft); white-space: normal; }
code, pre { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { background: var(--ground); padding: 1px 5px; border-radius: 5px; overflow-wrap: anywhere; }
pre { background: var(--ground); padding: 14px 16px; border-radius: 8px; overflow-x: auto;
      margin: 6px 0; }
details summary { cursor: pointer; color: var(--accent); font-size: 13.5px; margin: 6px 0; }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Headline:
    """A headline figure.

    Attributes:
        label: its name.
        value: the number.
        extra: written smaller after the number.
        note: the sentence that defines it.
    """

    label: str
    value: str
    extra: str
    note: str


def page(title: str, lead: str, headlines: Iterable[Headline], sections: Iterable[str]) -> str:
    """Return the whole page; `sections` are HTML, everything else is text."""
    shown = "".join(map(_headline, headlines))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>"
        f'<h1>{text(title)}</h1><p class="lead">{text(lead)}</p>'
        f'<div class="cards">{shown}</div>{"".join(sections)}</main></body></html>\n'
    )


def text(value: object) -> str:
    """Return a value as text that HTML takes literally."""
    return html.escape(str(value))


def _headline(headline: Headline) -> str:
    extra = f" <small>{text(headline.extra)}</small>" if headline.extra else ""
    return (
        f'<div class="card"><div class="label">{text(headline.label)}</div>'
        f'<div class="value">{text(headline.value)}{extra}</div>'
        f'<div class="note">{text(headline.note)}</div></div>'
    )


def section(title: str, *parts: str) -> str:
    """Return a section, or nothing where all parts are empty."""
    inside = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{inside}</section>" if inside else ""


def paragraph(words: str, kind: str = "") -> str:
    """Return a paragraph of text."""
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def heading(words: str) -> str:
    """Return a heading within a section."""
    return f"<h3>{text(words)}</h3>"


def code(words: str) -> str:
    """Return text in a fixed-width font."""
    return f"<pre>{text(words)}</pre>"


def details(title: str, inside: str) -> str:
    """Return HTML that opens on a click on its title."""
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def figures(pictures: Iterable[tuple[str, str]]) -> str:
    """Return SVG pictures with their captions side by side."""
    shown = "".join(_figure(svg, caption) for svg, caption in pictures)
    return f'<div class="figures">{shown}</div>' if shown else ""


def _figure(svg: str, caption: str) -> str:
    # As an image, a picture keeps its ids to itself and runs no script.
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<figure><img alt="{text(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], mark: int | None = None, prose: int = -1
) -> str:
    """Return a table; row `mark` stands out, column `prose` is text rather than numbers."""
    body = []
    for number, row in enumerate(rows):
        cells = "".join(
            f'<td class="text">{text(cell)}</td>' if column == prose else f"<td>{text(cell)}</td>"
            for column, cell in enumerate(row)
        )
        body.append(f'<tr class="mark">{cells}</tr>' if number == mark else f"<tr>{cells}</tr>")
    if not body:
        return ""
    top = "".join(f"<th>{text(name)}</th>" for name in head)
    return f'<div class="scroll"><table><tr>{top}</tr>{"".join(body)}</table></div>'
