"""Engines: they make the pictures that the local server delivers.

An engine is found by name. Its identity (``local:<name>@<version>``) is part of every job key, so it is known without
importing the engine itself, whose libraries are heavy.
"""

import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, cast

from PIL import Image

from flux_tasks.catalog import Tool
from flux_tasks.errors import Problem, RecipeError, nearest
from flux_tasks.images.encoding import mark_preview
from flux_tasks.images.reference import LOCAL_ENGINE

Progress = Callable[[float], None]
"""Receives the share that is done, 0 to 1. May be called from any thread."""


@dataclass(frozen=True, slots=True)
class Work:
    """One checked job: everything that its pixels depend on.

    Attributes:
        parameters: of the request, with the contract's defaults; no images.
        pictures: encoded bytes by request field, in the order of the request.
        size: (width, height) of the result.
        seed: 0 to 2**31 - 1; the same seed, parameters and pictures give the same result.
    """

    tool: Tool
    parameters: Mapping[str, Any]
    pictures: Mapping[str, bytes]
    size: tuple[int, int]
    seed: int


class Engine(Protocol):
    """Makes the result of any tool. Called from several threads at once."""

    def run(self, work: Work, progress: Progress) -> Image.Image:
        """Return the result, ``work.size`` pixels large.

        Raises:
            InvalidImage: an input is damaged.
            Exception: anything else ends the job with ``Error``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """Where an engine is, which modules it needs, and whether it works in processes of its own."""

    version: str
    place: str
    needs: tuple[str, ...] = ()
    is_separate: bool = False


ENGINES: dict[str, Entry] = {
    "classical": Entry(
        "1",
        "flux_tasks.local.engines.classical.tools:ClassicalEngine",
        needs=("numpy", "scipy", "cv2"),
        is_separate=True,
    )
}
"""Engines by name. The version is repeated here, because reading the engine's own would import it."""


def _entry(name: str) -> Entry:
    if name not in ENGINES:
        hint = nearest(name, ENGINES) or f": write {' or '.join(ENGINES)}"
        raise RecipeError([Problem("engine", f"there is no local engine '{name}'{hint}")])
    return ENGINES[name]


def identity(name: str) -> str:
    """Return the engine's name in job keys and results, such as ``local:classical@1``.

    Raises:
        RecipeError: there is no such engine.
    """
    return f"{LOCAL_ENGINE}{name}@{_entry(name).version}"


def missing(name: str) -> list[str]:
    """Return the modules that an engine needs and that are not installed, without importing any."""
    return [module for module in _entry(name).needs if importlib.util.find_spec(module) is None]


@cache
def load(name: str) -> Engine:
    """Return the engine called ``name``, or what runs it in processes of its own; see ``identity`` for errors."""
    if not _entry(name).is_separate:
        return imported(name)
    process = importlib.import_module("flux_tasks.local.engines.process")  # it imports this module
    return cast(Engine, process.EngineProcesses(name))


def imported(name: str) -> Engine:
    """Import the engine called ``name`` into this process, and return it."""
    module, _, attribute = _entry(name).place.partition(":")
    return cast(Engine, getattr(importlib.import_module(module), attribute)())


def offsets(parameters: Mapping[str, Any], picture: tuple[int, int]) -> tuple[int, int]:
    """Return where the picture's top left corner lies on an outpaint's canvas; centred by default (OAS-0919).

    An offset that moves the whole picture off the canvas is replaced by the nearest one that does so.
    """
    found = []
    for axis, canvas, side in zip(("x", "y"), (parameters["width"], parameters["height"]), picture, strict=True):
        offset = parameters.get(f"reference_offset_{axis}")
        found.append((canvas - side) // 2 if offset is None else max(-side, min(offset, canvas)))
    return found[0], found[1]


_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 1, "compress_type": 3},
    "jpeg": {"quality": 92},
    "webp": {"quality": 90},
}


def encode(image: Image.Image, output_format: str, engine: str) -> bytes:
    """Return the file to deliver: marked as a local preview made by ``engine``, with the input's colour profile."""
    buffer = io.BytesIO()
    image.save(
        buffer,
        output_format.upper(),
        icc_profile=image.info.get("icc_profile"),
        **_SAVE_OPTIONS[output_format],
        **mark_preview(image, engine),
    )
    return buffer.getvalue()
