"""The work that all contestants do: pictures in a folder, a chain of paid steps for each, an output for each."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        seconds: mean duration of a job; single ones spread by 15 %.
        megapixels: size of each picture.
        processes: how many processes share the work and the slots.
        recipes: how many recipes they run, in turn; each one does all of the work, with other parameters.
    """

    items: int = 120
    steps: int = 4
    seconds: float = 1.0
    megapixels: float = 0.4
    processes: int = 1
    slots: int = 24
    recipes: int = 1

    @property
    def jobs(self) -> int:
        return self.items * self.steps * self.recipes

    def __str__(self) -> str:
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        processes += f" on {self.recipes} recipes" if self.recipes > 1 else ""
        items, steps = f"{self.items:,} item{'s' * (self.items > 1)}", f"{self.steps} step{'s' * (self.steps > 1)}"
        what = f"{items} × {steps} of {self.seconds:g} s"
        return f"{what}, {self.megapixels:g} MP{processes}"


def write_photos(folder: Path, work: Work, first: int = 0) -> None:
    """Write the pictures, each with bytes of its own: they differ in a comment."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = grain(work.megapixels)
    for number in range(first, first + work.items):
        (folder / f"{number:06}.png").write_bytes(commented(picture, str(number)))


def grain(megapixels: float) -> bytes:
    """Return a PNG that compresses about as well as a photo does; no two are equal."""
    width = max(64, round((megapixels * 1e6 * 4 / 3) ** 0.5))
    buffer = io.BytesIO()
    Image.effect_noise((width, width * 3 // 4), 40).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def commented(picture: bytes, text: str) -> bytes:
    """Return a PNG with a comment after its header."""
    chunk = b"tEXt" + b"Comment\0" + text.encode()
    whole = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"".join((picture[:33], whole, picture[33:]))


def write_recipe(folder: Path, photos: Path, steps: int, number: int = 0) -> Path:
    """Write the recipe that does the same as the other contestants, or another one beside it; return its path."""
    name = f"recipe{number or ''}"
    lines = [f"name: {name}", f"source: {{images: '{photos}/*.png'}}", "steps:"]
    for step in range(steps):
        lines += [f"  - deblur: {{seed: {step + 100 * number}}}", f"    id: step{step}"]
    path = folder / f"{name}.yaml"
    output = f"output: {{path: '{folder}/out/{{{{ stem }}}}{(number and f'-{number}') or ''}.png'}}"
    path.write_text("\n".join([*lines, output, ""]))
    return path
