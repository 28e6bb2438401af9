"""Draw the graph of a recipe as Mermaid text."""

from __future__ import annotations

import re

from pipelines.language.compiled import CompiledRecipe
from pipelines.report.drawing.elements import Sketch


def mermaid(recipe: CompiledRecipe) -> str:
    """Return the recipe as a Mermaid flowchart, without a line end at its end."""
    sketch = Sketch.of(recipe)
    names = {box.id: f"n{number}" for number, box in enumerate(sketch.boxes)}
    lines = ["graph TD"]
    for box in sketch.boxes:
        first, last = _SHAPES[box.kind]
        texts = [box.title, *(line.text for line in box.lines), " · ".join(filter(None, (box.price, box.fan)))]
        label = "<br/>".join(_quote(_shorten(text)) for text in texts if text)
        lines.append(f'  {names[box.id]}{first}"{label}"{last}')
    for arrow in sketch.arrows:
        shaft = "-->" if arrow.has_picture else "-.->"
        label = f'|"{_quote(arrow.label)}"|' if arrow.label else ""
        lines.append(f"  {names[arrow.start]} {shaft}{label} {names[arrow.end]}")
    for kind, style in _STYLES.items():
        if chosen := [names[box.id] for box in sketch.boxes if kind in (box.worth, box.kind)]:
            lines += [f"  classDef {kind} {style}", f"  class {','.join(chosen)} {kind}"]
    return "\n".join(lines)


_SHAPES = {"source": ("([", "])"), "step": ("[", "]"), "output": ("[/", "/]"), "saved": ("[/", "/]")}
_STYLES = {"paid": "stroke-width:3px", "unpriced": "stroke-width:3px", "saved": "stroke-dasharray:4 3"}
_SAFE = re.compile(r"[^\W_]|[ /,·×–…]|(?<=[A-Za-z0-9])[-._](?=[A-Za-z0-9])")
_RESERVED = "ﬂ¶ß°"  # Mermaid marks coded characters with these


def _quote(text: str) -> str:
    """Return ``text`` for a Mermaid label, with a number for every character that may have a meaning there."""
    return "".join(
        sign if _SAFE.match(text, place) and sign not in _RESERVED else f"#{ord(sign)};"
        for place, sign in enumerate(text)
    )


def _shorten(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
