"""The FLUX 3 image tools: generation and editing with up to ten pictures, and boxes in the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from flux_tasks.catalog import tips
from flux_tasks.catalog.boxes import Boxes, strange_names
from flux_tasks.catalog.fields import ImageField, Request, fact
from flux_tasks.catalog.rules import Price, PromptLimit, Revision, SizeRule
from flux_tasks.catalog.tool import Tool

__all__ = ["TOOLS"]

Ratio = Literal[
    "auto", "21:9", "2:1", "16:9", "3:2", "7:5", "4:3", "5:4", "1:1", "4:5", "3:4", "5:7", "2:3", "9:16", "1:2", "9:21"
]
_SIDES = {"768sq": 768, "1k": 1024, "1.5k": 1536, "2k": 2048, "4k": 4096}
"""Sides of a square result in pixels: 0.6, 1, 2.4, 4.2 and 16.8 MP, as published (F3-DOCS)."""
_MAX_AREA = 16_777_216


class Flux3Request(Request):
    """Make a picture from words, or edit up to ten. A strict body: no seed, size, file type or webhook (F3-DOCS)."""

    prompt: Annotated[str, fact("What to make or change, in words.", min_length=1)]
    images: Annotated[
        Annotated[list[str], Field(min_length=1, max_length=10)] | str | None,
        ImageField("reference", most=10),
        fact("Pictures to edit or to go by, as base64 or http(s) URLs; a prompt calls them image 1, image 2 …"),
    ] = None
    aspect_ratio: Annotated[Ratio, fact("Width to height; auto follows the first picture.")] = "auto"
    resolution: Annotated[
        Literal["768sq", "1k", "1.5k", "2k", "4k"], fact("Size of the result: 0.6, 1, 2.4, 4.2 or 16.8 MP.")
    ] = "1k"
    safety_tolerance: Annotated[int, fact("Moderation: 0 is strictest, 4 most tolerant.", ge=0, le=4)] = 2
    grounding: Annotated[
        bool, fact("Send the prompt to a web search. Off here, and sent so; the service's own default is on.")
    ] = False
    version: Annotated[str, fact("Release of the model.", "F3-COMFY")] = "latest"


class Flux3Options(Request):
    """What is written into the prompt."""

    boxes: Annotated[
        Boxes | None,
        Field(description="What to keep, move, add, remove or take from another picture, and where: a list of boxes."),
    ] = None


def _size(parameters: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return about the size of a result: the area of its tier, and the shape asked for or the first picture's."""
    ratio = str(parameters.get("aspect_ratio") or "auto")
    width, height = size or (0, 0)
    if ":" in ratio:
        width, height = map(int, ratio.split(":"))
    if not width or not height:
        return None
    shape = min(max(width / height, 9 / 21), 21 / 9)
    side = _SIDES.get(str(parameters.get("resolution")), 1024)
    sides = side * shape**0.5 / 16, side / shape**0.5 / 16
    width, height = (round(one) * 16 for one in sides)
    if width * height > _MAX_AREA:  # the largest result is a picture that the tool itself takes
        width, height = (int(one) * 16 for one in sides)
    return width, height


def _remarks(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    strange = strange_names(str(parameters.get("prompt", "")))
    return (
        *(["grounding sends the prompt to a web search"] if parameters.get("grounding") else ()),
        *(f"prompt: <{name}> is the id of no box: write such a box, or the id of another one" for name in strange),
    )


def _prices(source: str, note: str, credits: Mapping[str, float]) -> dict[str, Price]:
    unknown = "published nowhere"
    return {
        tier: Price(
            credits.get(tier),
            per="image",
            date="2026-10-12",
            source=source,
            note=note if tier in credits else unknown,
            label=tier,
        )
        for tier in _SIDES
    }


def _model(name: str, summary: str, prices: Mapping[str, Price], *, sources: tuple[str, ...]) -> Tool:
    return Tool(
        name=name,
        path=f"/v1/{name}",
        task="edit",
        summary=summary,
        request=Flux3Request,
        options=Flux3Options,
        price=prices["1k"],
        price_by=("resolution", prices),
        sizes=SizeRule(max_input=_MAX_AREA, min_side=256, is_about=True, source="F3-COMFY"),
        sources=sources,
        strict=True,
        slots="flux-3",
        delivery=3600.0,
        expands_prompt=True,
        revisions=(Revision(1, "2026-10-12", "the first in this catalogue"),),
        service_defaults={"grounding": True},
        instead={
            "seed": "it has no seed, write variant for another result",
            **dict.fromkeys(("width", "height"), "write aspect_ratio and resolution"),
            "output_format": "it gives PNG files",
        },
        output_size=_size,
        warnings=_remarks,
        prompt_limit=PromptLimit(15_000, "character", "F3-COMFY"),
        tips=tips.FLUX3,
        charged_when_refused="unknown",
    )


assert set(get_args(Flux3Request.model_fields["resolution"].annotation)) == _SIDES.keys()  # noqa: S101 - one list, written twice for the type checker

TOOLS = (
    _model(
        "flux-3-image",
        "Edit and generate up to 4K, with boxes in the prompt; no seed.",
        _prices("F3-PRICE", "", {"768sq": 4.1, "1k": 4.8, "2k": 10.0, "4k": 60.7}),
        sources=("F3-DOCS", "F3-BOXES", "F3-COMFY"),
    ),
    _model(
        "flux-3-image-klein",
        "The small model of FLUX 3; its body is taken to be that of flux-3-image.",
        _prices("VERCEL", "reseller figure", {"1k": 0.9, "2k": 1.4, "4k": 3.6}),
        sources=("VERCEL", "F3-DOCS"),
    ),
)
