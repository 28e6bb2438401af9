"""Sharpen photos and remove what their masks cover: a Prefect flow of five lines.

    python examples/clean_photos.py                       # a preview made on this machine: no key, no network
    BFL_API_KEY=… FLUX_ENDPOINT=bfl python examples/clean_photos.py

Run it twice: the second time nothing is paid for, and every task run ends `Cached`.
"""

import os

from prefect import flow

from flux_tasks import ImageRef, deblur, erase, use


@flow
def clean(photos: list[str], masks: list[str]) -> list[ImageRef]:
    sharp = deblur.map(photos)
    return erase.map(sharp, mask=masks).result()


if __name__ == "__main__":
    names = ("hens", "drums")
    with use(endpoint=os.environ.get("FLUX_ENDPOINT", "local"), store=os.environ.get("FLUX_STORE", "out/store")):
        results = clean([f"examples/photos/{n}.jpg" for n in names], [f"examples/masks/{n}.png" for n in names])
        for image in results:
            print(image.save(f"out/clean/{image.name}.png"), f"{image.width}×{image.height}", image.engine)
