"""The FLUX.1 family: fill, expand, Kontext editing, and text to image."""

from collections.abc import Mapping
from typing import Annotated, Any

from flux_tasks.catalog import tips
from flux_tasks.catalog.fields import (
    FinetuneId,
    FourReferences,
    ImageBase64,
    MaskBase64,
    OptionalFormat,
    OptionalPrompt,
    OptionalUpsampling,
    Prompt,
    ReferenceBase64,
    Seed,
    Tolerance6,
    Upsampling,
    WithUser,
    WithWebhook,
    fact,
)
from flux_tasks.catalog.rules import MAX_INPUT_PIXELS, Price, PromptLimit, SizeRule
from flux_tasks.catalog.tool import Tool
from flux_tasks.errors import shown

Steps = Annotated[int | None, fact("Denoising steps.", ge=15, le=50)]
Guidance = Annotated[float | None, fact("How closely to follow the prompt.", ge=1.5, le=100)]
FinetuneStrength = Annotated[float, fact("How strongly the finetune acts.", ge=0, le=2)]
AspectRatio = Annotated[str, fact("Width to height, 21:9 to 9:21.", pattern=r"^[0-9]{1,2}:[0-9]{1,2}$")]
OptionalRatio = Annotated[str | None, fact("Width to height, 21:9 to 9:21.", pattern=r"^[0-9]{1,2}:[0-9]{1,2}$")]


_WIDEST = 21 / 9  # and as high (OAS-0919); 7:3, as Kontext's guide writes it, is the same


def _ratio(parameters: Mapping[str, Any]) -> float | None:
    width, _, height = str(parameters.get("aspect_ratio") or "").partition(":")
    if not (width.isdecimal() and height.isdecimal()):
        return None
    return int(width) / int(height) if int(height) else float("inf")


def _ratio_problems(parameters: Mapping[str, Any]) -> dict[str, str]:
    ratio = _ratio(parameters)
    if ratio is None or 1 / _WIDEST - 1e-9 <= ratio <= _WIDEST + 1e-9:
        return {}
    return {
        "aspect_ratio": f"{shown(parameters['aspect_ratio'])} is not between 21:9 and 9:21: write a ratio within these"
    }


class _Painting(WithUser, WithWebhook):
    image: ImageBase64
    prompt: OptionalPrompt = ""
    steps: Steps = 50
    prompt_upsampling: OptionalUpsampling = False
    seed: Seed = None
    guidance: Guidance = 60
    output_format: OptionalFormat = "jpeg"
    safety_tolerance: Tolerance6 = 2


class FillRequest(_Painting):
    """Repaint the white of the mask, as the prompt describes."""

    mask: MaskBase64 = None


class FillFinetunedRequest(FillRequest):
    """Fill with your own finetune."""

    finetune_id: FinetuneId
    finetune_strength: FinetuneStrength = 1.1
    prompt: Prompt = ""
    steps: Annotated[int, fact("Denoising steps.", ge=15, le=50)] = 50
    prompt_upsampling: Upsampling = False
    guidance: Annotated[float, fact("How closely to follow the prompt.", ge=1.5, le=100)] = 60


ExpandSide = Annotated[int | None, fact("Pixels to add on this side, 0–2048.", ge=0, le=2048)]


class ExpandRequest(_Painting):
    """Add pixels on each side (the older way; see outpaint)."""

    top: ExpandSide = 0
    bottom: ExpandSide = 0
    left: ExpandSide = 0
    right: ExpandSide = 0


class KontextRequest(FourReferences):
    """Edit one picture, or combine up to four, as the prompt describes. The result has about 1 MP."""

    aspect_ratio: OptionalRatio = None
    output_format: OptionalFormat = "png"
    prompt_upsampling: Upsampling = False
    safety_tolerance: Tolerance6 = 2
    steps: Annotated[int | None, fact("Denoising steps. Kontext ignores it today.", "SEED-3", ge=1, le=50)] = None
    guidance: Annotated[
        float | None, fact("How closely to follow the prompt. Kontext ignores it today.", "SEED-3", ge=1.5, le=10)
    ] = None


Pixels = Annotated[int, fact("Pixels, a multiple of 32.", ge=256, le=1440, multiple_of=32)]


class Pro11Request(WithUser, WithWebhook):
    """Make a picture from words, if wanted guided by a picture."""

    prompt: OptionalPrompt = ""
    image_prompt: ReferenceBase64 = None
    width: Pixels = 1024
    height: Pixels = 768
    prompt_upsampling: Upsampling = False
    seed: Seed = None
    safety_tolerance: Tolerance6 = 2
    output_format: OptionalFormat = "jpeg"


class DevRequest(Pro11Request):
    """Make a picture from words with the open-weight model."""

    prompt: Prompt = ""
    steps: Annotated[int | None, fact("Denoising steps.", ge=1, le=50)] = 28
    guidance: Annotated[float | None, fact("How closely to follow the prompt.", ge=1.5, le=5)] = 3.0


class _UltraBase(WithWebhook):
    prompt: OptionalPrompt = ""
    prompt_upsampling: Upsampling = False
    seed: Seed = None
    aspect_ratio: AspectRatio = "16:9"
    safety_tolerance: Tolerance6 = 2
    output_format: OptionalFormat = "jpeg"
    image_prompt: ReferenceBase64 = None
    image_prompt_strength: Annotated[float, fact("How strongly the picture guides.", ge=0, le=1)] = 0.1


class UltraRequest(_UltraBase, WithUser):
    """Make a large picture from words."""

    raw: Annotated[bool, fact("A less processed, more natural look.")] = False


class UltraFinetunedRequest(_UltraBase):
    """Make a large picture with your own finetune. The one body without an end-user id."""

    finetune_id: FinetuneId
    finetune_strength: FinetuneStrength = 1.2


def _expanded(parameters: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    side = {name: int(parameters.get(name) or 0) for name in ("left", "right", "top", "bottom")}
    return size[0] + side["left"] + side["right"], size[1] + side["top"] + side["bottom"]


def _asked(parameters: Mapping[str, Any], _: tuple[int, int] | None) -> tuple[int, int]:
    return int(parameters.get("width", 1024)), int(parameters.get("height", 768))


_KONTEXT_SIZES = (
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104)),
    (1024, 1024),
    *((1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752), (1456, 720), (1504, 688), (1568, 672)),
)
"""(width, height) of every result of Kontext: about 1 MP each (KONTEXT-SIZES)."""


def _kontext_size(parameters: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size whose ratio is nearest to ``aspect_ratio``, or else to the first picture's, or else to 1:1."""
    ratio = _ratio(parameters) or (size[0] / size[1] if size else 1.0)
    return min(_KONTEXT_SIZES, key=lambda known: abs(known[0] / known[1] - ratio))


def _image_price(credits: float, source: str = "DOCS-PRICE", date: str = "2026-06-30") -> Price:
    return Price(credits, per="image", date=date, source=source)


_SAME_SIZE = SizeRule(max_area=MAX_INPUT_PIXELS, same_size=True, source="SEED-4")
_ANY_INPUT = SizeRule(max_area=MAX_INPUT_PIXELS, source="DOCS-F2")

_NO_PIXELS = "the result has about 1 MP, write aspect_ratio"


def _kontext(**facts: Any) -> Tool:
    return Tool(
        task="edit",
        request=KontextRequest,
        sizes=_ANY_INPUT,
        accepts={"image": "input_image"},
        seed_fields=("steps", "guidance"),
        sure_types=("image/png", "image/jpeg"),
        instead={"width": _NO_PIXELS, "height": _NO_PIXELS},
        prompt_limit=PromptLimit(10_000, "character", "SEED-3", is_refused=True),
        output_size=_kontext_size,
        limits=_ratio_problems,
        tips=tips.KONTEXT,
        **facts,
    )


TOOLS = (
    Tool(
        name="flux-pro-1.0-fill",
        task="fill",
        summary="Paint a masked region anew, as a prompt says.",
        request=FillRequest,
        price=_image_price(5),
        sizes=_SAME_SIZE,
        sources=("OAS-0919", "SEED-4"),
        aliases=("fill", "flux-fill"),
        tips=tips.FILL,
    ),
    Tool(
        name="flux-pro-1.0-fill-finetuned",
        task="fill_finetuned",
        summary="Fill with your own finetune.",
        request=FillFinetunedRequest,
        price=_image_price(5),
        sizes=_SAME_SIZE,
        aliases=("fill-finetuned", "flux-fill-finetuned"),
        tips=tips.FILL,
    ),
    Tool(
        name="flux-pro-1.0-expand",
        task="expand",
        summary="Add pixels on each side (older than outpaint).",
        request=ExpandRequest,
        price=_image_price(5, "COMFYPRICE", "2026-08-21"),
        sizes=_ANY_INPUT,
        aliases=("expand", "flux-expand"),
        output_size=_expanded,
    ),
    _kontext(
        name="flux-kontext-pro",
        summary="Edit a picture as a prompt says (FLUX.1 Kontext).",
        price=_image_price(4),
        sources=("OAS-0919", "SEED-3"),
        aliases=("flux-kontext", "kontext", "kontext-pro"),
    ),
    _kontext(
        name="flux-kontext-max",
        summary="Kontext at its best quality; 6 active jobs at most.",
        price=_image_price(8),
        sources=("OAS-0919", "SEED-2", "SEED-3"),
        aliases=("kontext-max",),
        slots="kontext-max",
    ),
    Tool(
        name="flux-pro-1.1",
        task="generate",
        summary="Text to image, FLUX 1.1 pro.",
        request=Pro11Request,
        price=_image_price(4),
        sizes=_ANY_INPUT,
        output_size=_asked,
    ),
    Tool(
        name="flux-pro-1.1-ultra",
        task="generate",
        summary="Text to image at up to 4 MP, FLUX 1.1 pro ultra.",
        request=UltraRequest,
        price=_image_price(6),
        sizes=_ANY_INPUT,
        aliases=("flux-ultra",),
        output_size=lambda *_: None,
        limits=_ratio_problems,
    ),
    Tool(
        name="flux-pro-1.1-ultra-finetuned",
        task="generate",
        summary="Ultra with your own finetune.",
        request=UltraFinetunedRequest,
        price=Price(None, date="2026-11-21", source="OAS-0919", note="published nowhere; ultra costs 6"),
        sizes=_ANY_INPUT,
        aliases=("flux-ultra-finetuned",),
        output_size=lambda *_: None,
        limits=_ratio_problems,
    ),
    Tool(
        name="flux-dev",
        task="generate",
        summary="Text to image, FLUX.1 dev.",
        request=DevRequest,
        price=_image_price(2.5),
        sizes=_ANY_INPUT,
        output_size=_asked,
    ),
)
