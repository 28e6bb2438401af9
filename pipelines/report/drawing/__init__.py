"""Drawings of a recipe's graph, as SVG and as Mermaid text."""
