"""The same flow with async tasks, `adeblur` and `aerase`: it works on all photos at once."""

import asyncio
import os

from prefect import flow

from flux_tasks import ImageRef, adeblur, aerase, use


async def clean_one(name: str) -> ImageRef:
    sharp = await adeblur(f"examples/photos/{name}.jpg")
    return await aerase(sharp, mask=f"examples/masks/{name}.png")


@flow
async def clean(names: list[str]) -> list[ImageRef]:
    return await asyncio.gather(*(clean_one(name) for name in names))


if __name__ == "__main__":
    with use(endpoint=os.environ.get("FLUX_ENDPOINT", "local"), store=os.environ.get("FLUX_STORE", "out/store")):
        for image in asyncio.run(clean(["hens", "drums"])):
            print(image.save(f"out/clean/{image.name}.png"), f"{image.width}×{image.height}", image.engine)
