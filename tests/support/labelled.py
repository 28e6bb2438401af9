"""Pictures of coloured rectangles with known labels, and these labels in every format."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {"person": (255, 0, 0), "car": (0, 0, 255), "dog": (255, 255, 0)}
BACKGROUND = (90, 140, 90)

Box = tuple[int, int, int, int]


@dataclass
class Scene:
    """Pictures ``photos/p00.png`` … in a folder, and what is in each: names and boxes.

    Attributes:
        ids: COCO's id of each class.
    """

    folder: Path
    size: tuple[int, int] = (160, 120)
    objects: list[list[tuple[str, Box]]] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=lambda: {"person": 1, "car": 3, "dog": 18})

    def add(self, *objects: tuple[str, Box], orientation: int = 1) -> Path:
        """Draw one more picture. With an EXIF orientation it is stored so that people see it as it is drawn here."""
        image = Image.new("RGB", self.size, BACKGROUND)
        draw = ImageDraw.Draw(image)
        for name, (left, top, right, bottom) in objects:
            if right > left and bottom > top:
                draw.rectangle((left, top, right - 1, bottom - 1), fill=COLOURS[name])
        self.objects.append([*objects])
        path = self.folder / "photos" / f"p{len(self.objects) - 1:02d}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = image.transpose(turns[orientation]) if orientation in turns else image
        stored.save(path, **({"exif": exif} if orientation != 1 else {}))
        return path

    def fill(self, count: int = 12) -> Scene:
        """Draw pictures: each has a car, those whose number is no multiple of 4 a person, some a dog."""
        for number in range(count):
            found: list[tuple[str, Box]] = [("car", (90, 60 + number, 130, 84 + number))]
            if number % 4:
                found.append(("person", (24 + number, 20, 46 + number, 100)))
            if number % 3 == 0:
                found.append(("dog", (100, 20, 120 + number, 40)))
            self.add(*found)
        return self

    def coco(self, path: str = "labels/instances.json", **changes: Any) -> Path:
        """Write the labels as COCO, with the outline of each; ``changes`` replace parts of the file."""
        images, annotations = [], []
        for number, objects in enumerate(self.objects):
            width, height = self.size
            images.append({"id": 100 + number, "file_name": f"p{number:02d}.png", "width": width, "height": height})
            for name, (left, top, right, bottom) in objects:
                about = {"id": len(annotations) + 1, "image_id": 100 + number, "category_id": self.ids[name]}
                outline = [left, top, right, top, right, bottom, left, bottom]
                shape = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
                annotations.append({**about, **shape, "segmentation": [outline], "iscrowd": 0})
        categories = [{"id": number, "name": name, "supercategory": "thing"} for name, number in self.ids.items()]
        data = {"info": {"year": 2026}, "images": images, "annotations": annotations, "categories": categories}
        file = self.folder / path
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(json.dumps({**data, **changes}))
        return file


def bounds_of(image: Image.Image, colour: tuple[int, int, int]) -> Box | None:
    """Return the smallest box around the pixels of exactly this colour."""
    pixels = image.convert("RGB").tobytes()
    mask = bytes(255 * (pixels[at : at + 3] == bytes(colour)) for at in range(0, len(pixels), 3))
    return Image.frombytes("L", image.size, mask).getbbox()
