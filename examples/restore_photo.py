"""One photo through the whole chain: deblur → erase → fill → outpaint, the flow of `pipelines/flows/restore.py`."""

import os

from flux_tasks import use
from pipelines.flows.restore import restore

if __name__ == "__main__":
    with use(endpoint=os.environ.get("FLUX_ENDPOINT", "local"), store=os.environ.get("FLUX_STORE", "out/store")):
        image = restore("examples/photos/hens.jpg", "examples/masks/hens.png", "examples/fills/hens.png", "a lawn")
        print(image.save("out/hens-restored.png"), f"{image.width}×{image.height}", image.engine)
