"""Draw the graph of a recipe as SVG: it follows the reader's light or dark colours, loads nothing, has no script.

Names and conditions that are too long end in an ellipsis; the tooltip of a box has the full text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from pipelines.language.compiled import CompiledRecipe
from pipelines.report.drawing.elements import Arrow, Box, Line, Sketch
from pipelines.report.drawing.layout import Layout, Link, Spot, lay_out

_MARGIN = 16.0
_PADDING = 14.0
_NARROW, _WIDE = 150.0, 320.0
_ROW = 18.0
_TITLE, _TEXT, _SMALL = 14.0, 12.0, 11.0
_TIP = 6.0
_MAIN_WEIGHT = 4.0

_CSS = """
.flux-graph { color-scheme: light dark; --g-ground: #fff; --g-box: #f7f7f4; --g-ink: #1c1e22; --g-soft: #5a606a;
--g-line: #cfcfc8; --g-arrow: #858b95; --g-paid: #2353c2; --g-paid-tint: #e4ebfb; --g-free: #12692f;
--g-free-tint: #e2f3e7; --g-unpriced: #735400; --g-unpriced-tint: #faf0cf; --g-fan: #672c9b; --g-fan-tint: #f1e7fa;
font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) { .flux-graph { --g-ground: #1b1d21; --g-box: #25282d; --g-ink: #eceef1;
--g-soft: #a5abb5; --g-line: #434750; --g-arrow: #868d99; --g-paid: #a9c2ff; --g-paid-tint: #1c2b4d;
--g-free: #8edbaa; --g-free-tint: #17331f; --g-unpriced: #ecd075; --g-unpriced-tint: #392f0d; --g-fan: #d3aaf5;
--g-fan-tint: #332043; } }
.flux-graph .ground { fill: var(--g-ground); }
.flux-graph text { fill: var(--g-soft); font-size: 12px; }
.flux-graph .title { fill: var(--g-ink); font-size: 14px; font-weight: 600; }
.flux-graph .when, .flux-graph .path { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
font-size: 11px; }
.flux-graph .when { fill: var(--g-fan); }
.flux-graph .path { fill: var(--g-ink); }
.flux-graph .box { fill: var(--g-box); stroke: var(--g-line); stroke-width: 1.2; }
.flux-graph .step .box { fill: var(--g-ground); }
.flux-graph .saved .box { stroke-dasharray: 4 3; }
.flux-graph .paid .box { stroke: var(--g-paid); } .flux-graph .unpriced .box { stroke: var(--g-unpriced); }
.flux-graph .badge { font-size: 11px; font-weight: 600; }
.flux-graph .badge.paid { fill: var(--g-paid); } .flux-graph .badge.free { fill: var(--g-free); }
.flux-graph .badge.unpriced { fill: var(--g-unpriced); } .flux-graph .badge.fan { fill: var(--g-fan); }
.flux-graph .pill.paid { fill: var(--g-paid-tint); } .flux-graph .pill.free { fill: var(--g-free-tint); }
.flux-graph .pill.unpriced { fill: var(--g-unpriced-tint); } .flux-graph .pill.fan { fill: var(--g-fan-tint); }
.flux-graph .arrow { fill: none; stroke: var(--g-arrow); stroke-width: 1.6; }
.flux-graph .side .arrow { stroke-dasharray: 5 3; } .flux-graph .begun .arrow { stroke-dasharray: 1.5 4; }
.flux-graph .tip { fill: var(--g-arrow); }
.flux-graph .plate { fill: var(--g-ground); }
.flux-graph .label { font-size: 11px; text-anchor: middle; }
"""


def svg(recipe: CompiledRecipe) -> str:
    """Return the recipe as an SVG document in CSS pixels, for a page or for a file of its own."""
    sketch = Sketch.of(recipe)
    boxes = {box.id: box for box in sketch.boxes}
    layout = lay_out({box.id: _size(box) for box in sketch.boxes}, [_link(arrow, boxes) for arrow in sketch.arrows])
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    label = quoteattr(f"Steps of {sketch.name}: " + ", ".join(_name(box) for box in sketch.boxes))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="flux-graph" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.0f} {height:.0f}" role="img" aria-label={label}>',
            f"<style>{_CSS}</style>",
            f'<rect class="ground" x="{-_MARGIN:g}" y="{-_MARGIN:g}" width="{width:.0f}" height="{height:.0f}"/>',
            *_arrows(sketch, layout),
            *(part for box in sketch.boxes for part in _box(box, layout.spots[box.id])),
            "</svg>",
        ]
    )


def _name(box: Box) -> str:
    """Return what a screen reader says for a box."""
    return f"{box.kind} {box.lines[0].text}" if box.kind in ("output", "saved") else box.title


def _link(arrow: Arrow, boxes: dict[str, Box]) -> Link:
    label = _width(arrow.label, _SMALL) + 6 if arrow.label else 0.0
    is_end = boxes[arrow.end].kind != "step"
    return Link(arrow.start, arrow.end, label, 1.0 if arrow.label or is_end else _MAIN_WEIGHT)


def _size(box: Box) -> tuple[float, float]:
    widths = [_width(box.title, _TITLE, is_bold=True), *(_line_width(line) for line in box.lines), _badges_width(box)]
    rows = len(box.lines) + (box.kind == "step" or bool(box.fan))
    height = 2 * 10 + 20 + _ROW * rows + (4 if box.price or box.fan else 0)
    return min(max(_NARROW, max(widths) + 2 * _PADDING), _WIDE), height


def _badges_width(box: Box) -> float:
    shown = [text for text in (box.price, box.fan) if text]
    return sum(_width(text, _SMALL, is_bold=True) + 16 for text in shown) + 6 * max(0, len(shown) - 1)


def _line_width(line: Line) -> float:
    return _width(line.text, _SMALL, is_mono=True) if line.role in ("when", "path") else _width(line.text, _TEXT)


def _box(box: Box, spot: Spot) -> Iterator[str]:
    left, top = spot.x - spot.width / 2, spot.y
    room = spot.width - 2 * _PADDING
    radius = spot.height / 2 if box.kind == "source" and spot.height < 60 else 10
    yield f'<g class="{box.kind} {box.worth}"><title>{escape(box.details)}</title>'
    yield (
        f'<rect class="box" x="{left:.1f}" y="{top:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}"'
        f' rx="{radius:g}"/>'
    )
    x, y = left + _PADDING, top + 24
    title = _cut(box.title, room, _TITLE, is_bold=True)
    yield f'<text class="title" x="{x:.1f}" y="{y:.1f}">{escape(title)}</text>'
    for line in box.lines:
        y += _ROW
        is_mono = line.role in ("when", "path")
        text = _cut(line.text, room, _SMALL if is_mono else _TEXT, is_mono=is_mono)
        yield f'<text class="{line.role}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    y += _ROW + 4
    for text, kind in ((box.price, box.worth), (box.fan, "fan")):
        if text:
            shown = _cut(text, left + spot.width - _PADDING - x - 15.5, _SMALL, is_bold=True)
            width = _width(shown, _SMALL, is_bold=True) + 16
            yield (
                f'<rect class="pill {kind}" x="{x:.1f}" y="{y - 13:.1f}" width="{width:.1f}" height="18" rx="9"/>'
                f'<text class="badge {kind}" x="{x + 8:.1f}" y="{y:.1f}">{escape(shown)}</text>'
            )
            x += width + 6
    yield "</g>"


def _arrows(sketch: Sketch, layout: Layout) -> Iterator[str]:
    titles = {box.id: _name(box) for box in sketch.boxes}
    for arrow, route in zip(sketch.arrows, layout.routes, strict=True):
        kind = "begun" if not arrow.has_picture else "side" if arrow.label else "main"
        tooltip = f"{arrow.label} of {titles[arrow.end]}: {titles[arrow.start]}" if arrow.label else ""
        tooltip += f", {arrow.details}" if arrow.details else ""
        if not arrow.has_picture:
            tooltip = f"{titles[arrow.end]} takes no picture: it makes one for each item"
        (x, y), (_, bottom) = route[0], route[1]
        path = [f"M{x:.1f} {y:.1f}V{bottom:.1f}"]
        for (x0, y0), (x1, y1), (_, y2) in zip(route[1::2], route[2::2], route[3::2], strict=False):
            middle = (y0 + y1) / 2
            end = y2 - _TIP if (x1, y2) == route[-1] else y2
            path.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {min(y1, end):.1f}V{end:.1f}")
        x, y = route[-1]
        tip = f"M{x - 4.5:.1f} {y - 8:.1f}L{x:.1f} {y:.1f}L{x + 4.5:.1f} {y - 8:.1f}Z"
        yield f'<g class="{kind}">{f"<title>{escape(tooltip)}</title>" if tooltip else ""}'
        yield f'<path class="arrow" d="{"".join(path)}"/><path class="tip" d="{tip}"/>'
        if arrow.label:
            width = _width(arrow.label, _SMALL) + 6
            left = x - width / 2
            yield f'<rect class="plate" x="{left:.1f}" y="{y - 25:.1f}" width="{width:.1f}" height="15" rx="4"/>'
            yield f'<text class="label" x="{x:.1f}" y="{y - 14:.1f}">{escape(arrow.label)}</text>'
        yield "</g>"


# -- text ------------------------------------------------------------------------------------------------------------

_THIN = frozenset("iljtfrI.,:;'|!()[] /\\-·")
_THICK = frozenset("mwMW@%…—×")


def _width(text: str, size: float, *, is_bold: bool = False, is_mono: bool = False) -> float:
    """Return about how wide ``text`` is in the usual fonts, in pixels: rather too much than too little."""
    return size * (1.16 if is_bold else 1.0) * sum(_share(sign, is_mono) for sign in text)


def _share(sign: str, is_mono: bool) -> float:
    if unicodedata.combining(sign):
        return 0.0
    if unicodedata.east_asian_width(sign) in "WF":
        return 1.05
    if is_mono:
        return 0.62
    return 0.36 if sign in _THIN else 0.92 if sign in _THICK else 0.68 if sign.isupper() else 0.58


def _cut(text: str, room: float, size: float, *, is_bold: bool = False, is_mono: bool = False) -> str:
    """Return ``text``, or as much of its beginning as fits, with an ellipsis."""
    if _width(text, size, is_bold=is_bold, is_mono=is_mono) <= room:
        return text
    left = room - _width("…", size, is_bold=is_bold, is_mono=is_mono)
    for place, sign in enumerate(text):
        left -= _width(sign, size, is_bold=is_bold, is_mono=is_mono)
        if left < 0:
            return text[:place].rstrip() + "…"
    return text
