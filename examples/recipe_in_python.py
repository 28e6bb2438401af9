"""`configs/compose.yaml` in Python: editors complete every step and parameter, and the digest is the same.

    python examples/recipe_in_python.py                   # a preview made on this machine: no key, no network
    BFL_API_KEY=… FLUX_ENDPOINT=bfl python examples/recipe_in_python.py

Give a step another step where YAML names it by its id.
"""

import os
from pathlib import Path

from flux_tasks import ImageRef
from pipelines import Recipe
from pipelines.steps import composite, edit, flatten, generate, pad

placed = pad(width=640, height=480, anchor="bottom", color="transparent", id="placed")
montage = composite(over="{{ background }}", id="montage")
centred = pad(width=320, height=320, color="transparent", id="centred", from_="source")
packshot = flatten(color="white", id="packshot")
study = generate(
    model="flux-2-klein-4b",
    prompt="abstract colour study, {{ mood }}",
    width=256,
    height=256,
    seed=4,
    id="study",
    save="out/compose/studies/{{ stem }}.jpg",
)
picture = edit(
    model="flux-2-pro",
    prompt="Image 1 is a rough montage: make it one photograph, with {{ what }} standing on the ground where it is. "
    "It looks exactly as in image 2. Light and colours as in image 3: {{ mood }}.",
    seed=11,
    id="picture",
    from_=[montage, packshot, study],
    expect={"size": "same", "solid": False},
)

recipe = Recipe(
    name="compose",
    source={
        "table": "examples/tables/compositions.csv",
        "image": "examples/cutouts/{{ object }}.png",
        "columns": {"background": "examples/scenes/{{ scene }}.jpg"},
    },
    steps=[pad(bottom=40, color="transparent"), placed, montage, centred, packshot, study, picture],
    output=[
        {"path": "out/compose/{{ stem }}-in-{{ scene }}.jpg", "from": "picture"},
        {"path": "out/compose/montages/{{ stem }}.png", "from": "montage"},
    ],
    budget=40,
)

if __name__ == "__main__":
    recipe.run(endpoint=os.environ.get("FLUX_ENDPOINT", "local"), store=os.environ.get("FLUX_STORE", "out/store"))
    for path in sorted(Path("out/compose").glob("*.jpg")):
        image = ImageRef.of(path)
        print(path, f"{image.width}×{image.height}", image.engine)
