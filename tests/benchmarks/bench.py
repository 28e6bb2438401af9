"""Speed, side by side in one run, as ratios. `make bench`; asserts nothing, because machines differ.

Figures of this table: what is measured, against what, the medians, their ratio.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
PREFECT_HOME = tempfile.TemporaryDirectory(prefix="bench-prefect-")
os.environ |= {"PREFECT_HOME": PREFECT_HOME.name}
os.environ.pop("PREFECT_API_URL", None)

import httpx  # noqa: E402
from fake_bfl import FakeBfl  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402

from flux_tasks.images import masks  # noqa: E402
from flux_tasks.settings import Settings  # noqa: E402
from pipelines.recipe import Recipe  # noqa: E402
from pipelines.run.run import Run  # noqa: E402

ITEMS, STEPS, SECONDS, SLOTS = 48, 4, 1.0, 24


def median(work: Callable[[], object], runs: int = 7) -> float:
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def row(what: str, ours: float, other: str, theirs: float, unit: float = 1000) -> None:
    print(f"{what:44} {ours * unit:9.1f}   {other:34} {theirs * unit:9.1f}   ratio {ours / theirs:.3f}", flush=True)


def bench_masks() -> None:
    mask = Image.new("L", (1024, 1024))
    mask.paste(255, (300, 300, 600, 700))
    ours = median(lambda: masks.dilate(mask, 10))
    theirs = median(lambda: mask.filter(ImageFilter.MaxFilter(21)), 3)
    row("dilate 1 MP by 10 px (ms)", ours, "Pillow's MaxFilter", theirs)


def small_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((128, 96), number + 1).convert("RGB").save(folder / f"{number:04}.png")


class TimedBfl(FakeBfl):
    """Jobs take ``SECONDS`` of real time."""

    def _submit(self, path, request):  # type: ignore[no-untyped-def]
        answer = super()._submit(path, request)
        self.known[answer.body["id"]]["ready"] = time.monotonic() + SECONDS
        return answer

    def _poll(self, job_id):  # type: ignore[no-untyped-def]
        self.known[job_id]["polls"] = 9 if time.monotonic() >= self.known[job_id]["ready"] else -9
        return super()._poll(job_id)


async def plain_script(url: str, photos: Path) -> None:
    """What somebody would write by hand: httpx, a semaphore, a poll every 50 ms, a chain of four per picture."""
    slots = asyncio.Semaphore(SLOTS)
    async with httpx.AsyncClient(timeout=30) as client:

        async def chain(path: Path) -> None:
            data = path.read_bytes()
            for seed in range(STEPS):
                async with slots:
                    body = {"image": base64.b64encode(data).decode(), "seed": seed}
                    job = (await client.post(f"{url}/v1/flux-tools/deblur-v1", json=body)).json()
                    while (poll := (await client.get(job["polling_url"])).json())["status"] != "Ready":
                        await asyncio.sleep(0.05)
                data = (await client.get(poll["result"]["sample"])).content
                Image.open(io.BytesIO(data)).verify()

        await asyncio.gather(*(chain(path) for path in sorted(photos.iterdir())))


def bench_chain() -> None:
    with tempfile.TemporaryDirectory() as name, TimedBfl() as bfl:
        folder = Path(name)
        small_pictures(folder / "photos", ITEMS)
        text = f"source: {{images: '{folder}/photos/*.png'}}\nsteps:\n"
        text += "".join(f"  - deblur: {{seed: {n}}}\n    id: s{n}\n" for n in range(STEPS))
        recipe = Recipe.parse(text + f"output: {{path: '{folder}/out/{{{{ stem }}}}.png'}}\n")
        ideal = ITEMS * STEPS * SECONDS / SLOTS
        started = time.perf_counter()
        asyncio.run(plain_script(bfl.url, folder / "photos"))
        plain = time.perf_counter() - started

        from pipelines.flows.recipe_flow import advance, flow

        @flow
        def warm() -> None:
            """Start Prefect's embedded server outside the measurement."""

        warm()
        settings = Settings(endpoint=bfl.url, store=str(folder / "store"), max_jobs=SLOTS)

        async def whole(run: Run) -> None:
            if not await run.answer_from_store():
                await advance(run)

        times = []
        for _ in range(2):
            with Run(recipe.compiled, settings) as run:
                started = time.perf_counter()
                asyncio.run(whole(run))
                times.append(time.perf_counter() - started)
        what = f"recipe, {ITEMS} items × {STEPS} steps of {SECONDS:g} s (s)"
        row(what, times[0], "hand-written asyncio + httpx", plain, 1)
        row("share of the slots in use: ideal (s)", ideal, "recipe", times[0], 1)
        row("share of the slots in use: ideal (s)", ideal, "hand-written", plain, 1)
        row("the same recipe again, all cached (s)", times[1], "first run", times[0], 1)


if __name__ == "__main__":
    bench_masks()
    bench_chain()
