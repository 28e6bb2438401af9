"""The graph of a recipe as Mermaid text."""

from __future__ import annotations

import re

from pipelines.language.compiled import CompiledRecipe
from pipelines.report.drawing.elements import Sketch

__all__ = ["mermaid"]


def mermaid(recipe: CompiledRecipe) -> str:
    """The recipe as a Mermaid flowchart, without a line end at its end.

    Raises:
        RecipeError: the recipe is wrong.
    """
    sketch = Sketch.of(recipe)
    names = {box.id: f"n{number}" for number, box in enumerate(sketch.boxes)}
    lines = ["graph TD"]
    for box in sketch.boxes:
        first, last = _SHAPES[box.kind]
        words = [box.title, *(line.text for line in box.lines), " · ".join(filter(None, (box.price, box.fan)))]
        label = "<br/>".join(_quoted(_shortened(text)) for text in words if text)
        lines.append(f'  {names[box.id]}{first}"{label}"{last}')
    for arrow in sketch.arrows:
        shaft = "-->" if arrow.carries else "-.->"
        label = f'|"{_quoted(arrow.label)}"|' if arrow.label else ""
        lines.append(f"  {names[arrow.start]} {shaft}{label} {names[arrow.end]}")
    for kind, style in _STYLES.items():
        if chosen := [names[box.id] for box in sketch.boxes if kind in (box.worth, box.kind)]:
            lines += [f"  classDef {kind} {style}", f"  class {','.join(chosen)} {kind}"]
    return "\n".join(lines)


_SHAPES = {"source": ("([", "])"), "step": ("[", "]"), "output": ("[/", "/]"), "saved": ("[/", "/]")}
_STYLES = {"paid": "stroke-width:3px", "unpriced": "stroke-width:3px", "saved": "stroke-dasharray:4 3"}
_PLAIN = re.compile(r"[^\W_]|[ /,·×–…]|(?<=[A-Za-z0-9])[-._](?=[A-Za-z0-9])")
_RESERVED = "ﬂ¶ß°"  # Mermaid's own marks for coded signs


def _quoted(text: str) -> str:
    """``text`` for a Mermaid label: every sign that might mean something there is written by its number."""
    return "".join(
        sign if _PLAIN.match(text, place) and sign not in _RESERVED else f"#{ord(sign)};"
        for place, sign in enumerate(text)
    )


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
