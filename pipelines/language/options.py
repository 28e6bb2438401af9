"""The options that stand beside a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["OnFailure", "Preserve"]


@dataclass(frozen=True)
class OnFailure:
    """What is done when a result is not as ``expect`` says.

    Attributes:
        retries: changed parameters to try, in turn; each is a job of its own.
        then: ``fail`` the item, or ``keep`` the last result.
    """

    retries: tuple[Mapping[str, Any], ...] = ()
    then: str = "fail"


@dataclass(frozen=True)
class Preserve:
    """Put the untouched pixels back after an edit; ``feather`` softens the edge by so many pixels, inwards."""

    feather: float = 0.0
