"""An operation of your own as a step of a recipe: a plain function that takes a Pillow image and returns one.

    python examples/own_operation.py                      # or: flux-pipelines run examples/own_operation.yaml

The recipe beside this file calls it. It is free, and done again only if the picture, a parameter or this file changes.
A function that returns a mask is marked with `@operation(gives="mask")`.
"""

import os
from pathlib import Path

from PIL import Image, ImageEnhance

from flux_tasks import ImageRef
from pipelines import Recipe, operation


@operation
def vignette(image: Image.Image, strength: float = 0.5) -> Image.Image:
    """Darken the picture towards its corners; `strength` 1 makes them black."""
    distance = Image.radial_gradient("L").resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(ImageEnhance.Brightness(image).enhance(1 - strength), image, distance)


if __name__ == "__main__":
    recipe = Recipe.load("examples/own_operation.yaml")
    recipe.run(endpoint=os.environ.get("FLUX_ENDPOINT", "local"), store=os.environ.get("FLUX_STORE", "out/store"))
    for path in sorted(Path("out/own").glob("*.png")):
        image = ImageRef.of(path)
        print(path, f"{image.width}×{image.height}", image.engine)
