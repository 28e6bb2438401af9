"""Sizes, credits, money and durations as people read them."""

from __future__ import annotations

import math

__all__ = ["credits", "dollars", "px_size"]


def px_size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]} px"


def credits(value: float) -> str:
    """Credits with at most two decimals."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def dollars(credits: float) -> str:
    """Credits in USD, halves of a cent rounded up."""
    return f"${math.floor(credits + 0.5 + 1e-9) / 100:,.2f}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
