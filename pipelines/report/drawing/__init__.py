"""Drawings of a recipe's graph, as SVG and as Mermaid text."""

from __future__ import annotations

from pipelines.report.drawing.mermaid import mermaid
from pipelines.report.drawing.svg import svg

__all__ = ["mermaid", "svg"]
