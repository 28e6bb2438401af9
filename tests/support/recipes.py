"""Random recipes that read well, a server that answers them as the catalogue says, and a run of one without Prefect."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from fake_bfl import FakeBfl
from hypothesis import strategies as st
from PIL import Image
from scripted import Answer, Request

from flux_tasks import background, catalog
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.settings import Settings
from pipelines.recipe import Recipe
from pipelines.run.run import Run

__all__ = ["HEAD", "OUTPUT", "Painter", "Place", "as_yaml", "perform", "place", "recipes"]


HEAD = "source: {images: 'FOLDER/photos/*.png', columns: {mask: 'FOLDER/masks/{{ stem }}.png'}}\nsteps:\n"
OUTPUT = "'FOLDER/out/{{ stem }}{{ variant }}.png'"
"""How the text of a recipe over a place's pictures begins, and where its results go; ``FOLDER`` is the place's."""


def as_yaml(data: Any, **options: Any) -> str:
    """The text of a recipe; written in C where that is there, since Python takes as long as reading it again."""
    return str(yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, **options))


class Painter(FakeBfl):
    """Delivers a picture of its own for every request, of the size that the catalogue says, at the catalogue's price.

    Attributes:
        spent: credits charged.
    """

    unknown = 2.0
    """Credits for a job of a tool without a published price."""

    def __init__(self) -> None:
        super().__init__(pending_polls=0)
        self.spent = 0.0
        self._path = ""

    def _submit(self, path: str, request: Request) -> Answer:
        self._path = path
        answer = super()._submit(path, request)
        if answer.status == 200 and isinstance(answer.body, dict):
            cost = self._cost(request.json())
            self.spent += cost
            answer.body["cost"] = self.known[answer.body["id"]]["cost"] = cost
        return answer

    def _poll(self, job_id: str) -> Answer:
        answer = super()._poll(job_id)
        if isinstance(answer.body, dict) and "cost" in answer.body:
            answer.body["cost"] = self.known[job_id].get("cost", 3.0)
        return answer

    def _cost(self, body: dict[str, Any]) -> float:
        """By the catalogue; all pictures are below a megapixel."""
        tool = catalog.tool(self._path.rsplit("/", 1)[-1])
        given = [1.0 for name, mark in tool.image_fields.items() if name in body and mark.role != "mask"]
        cost = tool.price_for(body).estimate(1.0, given)
        return self.unknown if cost is None else cost

    def _work(self, body: dict[str, Any]) -> bytes:  # type: ignore[override]
        tool = catalog.tool(self._path.rsplit("/", 1)[-1])
        main = body.get(tool.image_field or "")
        size = Image.open(io.BytesIO(_decoded(main))).size if main else None
        wide, high = tool.output_size(body, size) or (64, 64)
        digest = hashlib.sha256((self._path + json.dumps(body, sort_keys=True)).encode()).digest()
        image = Image.new("RGB", (wide, high), tuple(digest[:3]))
        image.paste(tuple(digest[3:6]), (0, 0, wide // 2, high // 2))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


@dataclass
class Place:
    """A folder with pictures and masks, a store, and a server."""

    folder: Path
    bfl: Painter
    settings: Settings
    jobs_before: int = 0
    spent_before: float = 0.0

    @property
    def jobs(self) -> int:
        """Jobs in the server's charge log since this place was made."""
        return self.bfl.jobs - self.jobs_before

    @property
    def spent(self) -> float:
        """Credits charged since."""
        return self.bfl.spent - self.spent_before

    def recipe(self, data: dict[str, Any]) -> Recipe:
        """The recipe over the pictures of this place."""
        return Recipe.parse(as_yaml(data).replace("FOLDER", str(self.folder)))


@contextmanager
def place(bfl: Painter, pictures: int = 2, **options: Any) -> Iterator[Place]:
    """A new one; ``options`` are of the settings. The last of several pictures has no mask, the first one has alpha."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for inner in ("photos", "masks"):
            (folder / inner).mkdir()
        for number in range(pictures):
            size = (96, 80) if number % 2 else (80, 80)
            image = Image.linear_gradient("L").resize(size).rotate(number * 9).convert("RGB")
            if number == 0:
                image.putalpha(Image.radial_gradient("L").resize(size))
            image.save(folder / "photos" / f"p{number}.png")
            mask = Image.new("L", size)
            mask.paste(255, (8, 8, 40, 40))
            if number == 0 or number < pictures - 1:
                mask.save(folder / "masks" / f"p{number}.png")
        store = str(folder / "store")
        settings = Settings(endpoint=bfl.url, key="k", store=store, poll_interval=0.002, **options)
        yield Place(folder, bfl, settings, bfl.jobs, bfl.spent)


def age(folder: Path, pattern: str = "*.png") -> None:
    """Let no file be so young that its fingerprint is not believed."""
    before = time.time() - 60
    for path in folder.rglob(pattern):
        os.utime(path, (before, before))
    time.sleep(0.03)


def perform(recipe: Recipe, settings: Settings, **options: Any) -> tuple[Run, list[dict[str, Any]]]:
    """A whole run without Prefect, and its rows in the order of the items."""

    async def call_tool(task: str, arguments: dict[str, Any]) -> JobResult:
        given = dict(arguments)
        tool = catalog.tool(task, given.pop("model", None))
        shape = {name: given.pop(name) for name in ("fit", "variant") if name in given}
        call = await asyncio.to_thread(prepare, tool, given, **shape)
        return await background.arun(job.execute(call, settings))

    async def whole(run: Run) -> None:
        if not await run.answer_from_store():
            await run.run_remaining(call_tool)

    with Run(recipe.compiled, settings, **options) as run:
        asyncio.run(whole(run))
    return run, list(run.rows())


# -- random recipes ---------------------------------------------------------------------------------------------------

_CONDITIONS = (
    "width > 85",
    "megapixels < 0.005 or not wide",
    "wide",
    "index == 0",
    "mask_exists",
    "aspect >= 1",
    "true",
)
_DOUBTFUL = ("sharpness > 60", "brightness > 120 and width > 85", "entropy < 1", "not has_alpha")
_MODELS = ("flux-2-klein-4b", "flux-2-pro", "flux-2-max")


@dataclass
class _Growing:
    """What a recipe has so far: ``images`` and ``masks`` are ids with the shape of their pictures."""

    draw: Any
    steps: list[dict[str, Any]] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=lambda: [("source", "source")])
    masks: list[tuple[str, str]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    varied: int = 0

    def one_of(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def some(self, share: int = 3) -> bool:
        return bool(self.draw(st.integers(0, share - 1)) == 0)

    def use(self, kind: str = "images") -> tuple[str, str]:
        found: tuple[str, str] = self.one_of(getattr(self, kind))
        self.used.add(found[0])
        return found

    def mask(self, shape: str) -> Any:
        """A mask for a picture of this shape."""
        fitting = [name for name, of in self.masks if of == shape]
        kinds = ["boxes", "file", *(["step"] if fitting else []), *(["other"] if self.masks else [])]
        kind = self.one_of(kinds)
        if kind == "boxes":
            return {"boxes": [[4, 4, 30, self.one_of((30, 44))]]}
        if kind == "file":
            return "{{ mask }}" if shape == "source" else {"file": "{{ mask }}", "resize": True}
        name = self.one_of(fitting) if kind == "step" else self.use("masks")[0]
        self.used.add(name)
        options = {"resize": True} if kind == "other" else {"dilate": 3} if self.some() else {}
        return {"step": name, **options}


def _paid(growing: _Growing, name: str) -> tuple[dict[str, Any], str]:
    """A step that calls a tool, and the shape of what it gives."""
    kind = growing.one_of(("deblur", "erase", "fill", "outpaint", "edit", "edit", "generate", "try_on"))
    if kind == "generate":
        return {
            kind: {"model": "flux-2-pro", "prompt": f"words {{{{ stem }}}} {name}", "width": 64, "height": 80}
        }, name
    fed, shape = growing.use()
    beside: dict[str, Any] = {"from": fed}
    given: dict[str, Any] = {}
    if kind in ("deblur", "erase", "fill") and growing.some():
        given["seed"] = growing.one_of((1, 2))
    if kind in ("erase", "fill"):
        given["mask"] = growing.mask(shape)
        if growing.some():
            beside["preserve"] = growing.one_of((True, {"feather": 2}))
    if kind == "outpaint":
        given["expand"] = {"right": growing.one_of((16, 48))}
    if kind in ("fill", "edit", "try_on"):
        given["prompt"] = growing.one_of(("a lake", "{{ stem }} in {{ style }}"))
    if kind == "edit":
        given["model"] = growing.one_of(_MODELS)
        if growing.some():
            beside["from"] = [fed, *(growing.use()[0] for _ in range(growing.one_of((1, 2))))]
    if kind == "try_on":
        given["garment"] = {"step": growing.use()[0]} if growing.some(2) else "FOLDER/photos/p0.png"
    return {kind: given, **beside}, name if kind in ("outpaint", "edit", "try_on") else shape


def _local(growing: _Growing, name: str, doubtful: bool) -> tuple[dict[str, Any], str, str]:
    """A step that costs nothing, the shape of what it gives, and whether that is a mask or an image."""
    makers = ["resize", "crop", "pad", "auto_orient", "flatten", "convert", "mask_from_boxes", "mask_from_boxes"]
    changers = ["mask_dilate", "mask_invert", "mask_union", "resize_mask"] if growing.masks else []
    kind = growing.one_of(makers + changers + ["mask_from_color", "mask_from_color"] * doubtful)
    if kind == "mask_union":
        first, shape = growing.use("masks")
        other = growing.one_of([mask for mask, of in growing.masks if of == shape])
        growing.used.add(other)
        return {kind: {}, "from": [first, other]}, shape, "masks"
    is_mask = kind in changers
    fed, shape = growing.use("masks" if is_mask else "images")
    given: dict[str, Any] = {
        "resize": {"width": growing.one_of((64, 80, 100)), "height": 72, "fit": "stretch"},
        "resize_mask": {"width": 70, "height": 70, "fit": "stretch"},
        "crop": {"aspect_ratio": "1:1"},
        "pad": {"left": growing.one_of((1, 16))},
        "mask_from_boxes": {"boxes": [[2, 2, growing.one_of((20, 60)), 50]]},
        "mask_from_color": {"color": growing.one_of(("black", "teal")), "tolerance": 90},
        "mask_dilate": {"pixels": growing.one_of((2, -1, -40))},
        "convert": {"format": "png"},
    }.get(kind, {})
    changes = kind in ("resize", "resize_mask", "crop", "pad")
    makes_mask = is_mask or kind in ("mask_from_boxes", "mask_from_color")
    return (
        {kind.removesuffix("_mask") if kind == "resize_mask" else kind: given, "from": fed},
        (name if changes else shape),
        ("masks" if makes_mask else "images"),
    )


def _vary(growing: _Growing, step: dict[str, Any], name: str) -> None:
    tool = next(iter(step))
    growing.varied += 1
    if tool == "edit" and growing.some(2):
        del step[tool]["model"]
        step["matrix"] = {"model": ["flux-2-klein-4b", "flux-2-pro"]} if growing.varied == 1 else {name: [1, 2]}
        step[tool].update({} if growing.varied == 1 else {"model": "flux-2-pro", "seed": f"{{{{ {name} }}}}"})
    elif "prompt" in step[tool]:
        step[tool]["prompt"] = f"take {{{{ {name} }}}}"
        step["matrix"] = {name: ["one", "two words", 3][: growing.one_of((2, 3))]}
    else:
        step[tool]["seed"] = f"{{{{ {name} }}}}"
        step["matrix"] = {name: [1, 2]}


@st.composite
def recipes(draw: Any, *, doubtful: bool = False) -> dict[str, Any]:
    """A recipe as plain data, over ``FOLDER``: branches, joins, masks of steps, matrices, conditions, several outputs.

    Nothing in it depends on more than sizes and columns, so that a plan of it is exact; unless it may be ``doubtful``:
    then there are conditions on what pictures show, masks made of their colours, and results that are tried again.
    """
    growing = _Growing(draw)
    for number in range(draw(st.integers(1, 7))):
        name = f"s{number}"
        kind = "images"
        if growing.some(2):
            step, shape, kind = _local(growing, name, doubtful)
        else:
            step, shape = _paid(growing, name)
            task = next(iter(step))
            if growing.varied < 2 and growing.some(4) and task in ("deblur", "erase", "fill", "edit", "generate"):
                _vary(growing, step, f"take{number}")
        if growing.some(4) and "mask_union" not in step:
            choices = [*_CONDITIONS, *_DOUBTFUL * doubtful]
            choices = [c for c in choices if "generate" not in step or c in ("wide", "index == 0", "true")]
            when = growing.one_of(choices)
            needs_mask = when == "mask_exists" and not {"erase", "fill"} & step.keys()
            step["when"] = "index < 2" if needs_mask else when
            shape = name if kind == "images" and shape != "source" else shape
        if doubtful and growing.some(5) and {"deblur", "erase", "fill"} & step.keys():
            step["expect"] = {"condition": growing.one_of(("brightness > 100", "width > 10"))}
            step["on_failure"] = {"retry_with": [{"seed": 7}, {"seed": 8}], "then": growing.one_of(("keep", "fail"))}
        step["id"] = name
        growing.steps.append(step)
        getattr(growing, kind).append((name, shape))
    loose = [s["id"] for s in growing.steps if s["id"] not in growing.used]
    outputs: list[dict[str, Any]] = []
    for step in growing.steps:
        path = f"FOLDER/out/{step['id']}-{{{{ stem }}}}-{{{{ variant }}}}.png"
        if step["id"] in loose and (growing.some(4) and len(loose) > 1 and outputs):
            step["save"] = path
        elif step["id"] in loose or growing.some(6):
            outputs.append({"path": path, "from": step["id"]})
    columns = {"mask": "FOLDER/masks/{{ stem }}.png", "wide": "{{ index > 0 }}"}
    return {
        "name": "random",
        "vars": {"style": "oil"},
        "source": {"images": "FOLDER/photos/*.png", "columns": columns},
        "steps": growing.steps,
        "output": outputs,
    }
