"""The FLUX tools: deblur, erase, outpaint, try-on."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from flux_tasks.catalog import tips
from flux_tasks.catalog.fields import (
    DisablePup,
    Image,
    ImageField,
    MaskImage,
    OptionalFormat,
    OptionalPrompt,
    Prompt,
    Request,
    Seed,
    Tolerance5,
    WithUser,
    WithWebhook,
    fact,
)
from flux_tasks.catalog.rules import PIXELS_PER_MP, Price, SizeRule
from flux_tasks.catalog.tool import Tool
from flux_tasks.images.canvas import ANCHORS, MAX_CANVAS


class DeblurRequest(WithUser, WithWebhook):
    """Sharpen a blurred photo. The instruction is fixed on the server: no prompt, no mask."""

    image: Image
    seed: Seed = None
    safety_tolerance: Tolerance5 = 2
    output_format: OptionalFormat = "png"


class EraseRequest(WithUser, WithWebhook):
    """Remove what the mask covers. The instruction is fixed on the server: no prompt."""

    image: Image
    mask: MaskImage
    dilate_pixels: Annotated[
        int,
        fact("Grow the mask by so many pixels: 10 for clean masks, 15–20 for hair or smoke.", "SEED-1", ge=0, le=100),
    ] = 10
    seed: Seed = None
    safety_tolerance: Tolerance5 = 2
    output_format: OptionalFormat = "png"


Side = Annotated[int, fact("Pixels of the final canvas; sides at least 64, area at most 4,194,304.", ge=64)]
Offset = Annotated[
    int | None, fact("Where the input's top left corner lies on the canvas, in pixels; centred if left out.")
]


class OutpaintRequest(WithUser):
    """Extend the frame. The only strict body: unknown fields are refused. No seed and no webhook (OAS-0919)."""

    input_image: Image
    width: Side
    height: Side
    auto_crop: Annotated[bool, fact("Crop an input that reaches beyond the canvas instead of refusing it.")] = False
    safety_tolerance: Tolerance5 = 2
    output_format: OptionalFormat = "png"
    prompt: OptionalPrompt = None
    reference_offset_x: Offset = None
    reference_offset_y: Offset = None
    mode: Annotated[
        Literal["high", "fast"], fact("high for detail and people, fast for landscapes and backgrounds.")
    ] = "high"
    disable_pup: DisablePup = False


class Expand(Request):
    """Pixels to add on each side."""

    left: Annotated[int, Field(ge=0, le=4096)] = 0
    right: Annotated[int, Field(ge=0, le=4096)] = 0
    top: Annotated[int, Field(ge=0, le=4096)] = 0
    bottom: Annotated[int, Field(ge=0, le=4096)] = 0


class OutpaintOptions(Request):
    """Other ways to give the canvas; see ``flux_tasks.images.canvas``."""

    aspect_ratio: Annotated[
        str | None,
        Field(
            description="Shape of the canvas, such as 16:9, instead of width and height.",
            pattern=r"^\s*[1-9]\d*(\.\d+)?\s*[:/x]\s*[1-9]\d*(\.\d+)?\s*$",
        ),
    ] = None
    anchor: Annotated[
        Literal["center", "left", "right", "top", "bottom", "top-left", "top-right", "bottom-left", "bottom-right"],
        Field(description="Where the input sits on a canvas given by aspect_ratio."),
    ] = "center"
    expand: Annotated[
        Expand | None, Field(description="Pixels to add: left, right, top, bottom; instead of width and height.")
    ] = None
    exact: Annotated[bool, Field(description="Keep sizes that are not multiples of 16.")] = False


assert set(ANCHORS) == set(OutpaintOptions.model_fields["anchor"].annotation.__args__)  # type: ignore[union-attr] # noqa: S101 - one list, written twice for the type checker


class TryOnRequest(WithUser, WithWebhook):
    """Dress the person in the garment."""

    prompt: Prompt
    person: Annotated[str, ImageField("image"), fact("The person, as base64 or an http(s) URL.")]
    garment: Annotated[str, ImageField("reference"), fact("The garment, as base64 or an http(s) URL.")]
    seed: Seed = None
    safety_tolerance: Tolerance5 = 2
    output_format: OptionalFormat = "jpeg"


_FAST_OUTPAINT = Price(
    None, date="2026-11-21", source="DOCS-OUT", note="only said to be cheaper than mode high", label="fast"
)


def _outpaint_size(parameters: Mapping[str, Any], _: tuple[int, int] | None) -> tuple[int, int] | None:
    width, height = parameters.get("width"), parameters.get("height")
    return (width, height) if width and height else None


def _erase_warnings(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    if int(parameters.get("dilate_pixels", 10)) > 25:
        return ("dilate_pixels above 25: the specification of 2026-09-19 caps it there (the docs page says 100)",)
    return ()


_TRY_ON_PRICE = Price(3.75, 0.5, per="input", date="2026-11-21", source="FAL", note="reseller figure")

TOOLS = (
    Tool(
        name="deblur-v1",
        path="/v1/flux-tools/deblur-v1",
        task="deblur",
        summary="Sharpen a blurred photo; scene, people and colours stay.",
        request=DeblurRequest,
        price=Price(None, date="2026-11-21", source="SEED-0", note="published nowhere; read it from the answer"),
        sizes=SizeRule(max_area=MAX_CANVAS, sure_area=4_000_000, same_size=True, source="SEED-0"),
        sources=("OAS-0919", "SEED-0"),
        aliases=("deblur", "flux-deblur"),
        tips=tips.DEBLUR,
    ),
    Tool(
        name="erase-v1",
        path="/v1/flux-tools/erase-v1",
        task="erase",
        summary="Remove what a mask covers and rebuild the background.",
        request=EraseRequest,
        price=Price(
            3.0, 0.4, inputs=True, date="2026-10-07", source="INF-11", note="the price per input is a reseller's"
        ),
        sizes=SizeRule(
            max_area=MAX_CANVAS,
            reduces=True,  # RUNWARE; no document names a limit
            best_area=(PIXELS_PER_MP // 2, 2 * PIXELS_PER_MP),
            best_ratio=2.0,
            same_size=True,
            source="SEED-1",
        ),
        sources=("OAS-0919", "SEED-1"),
        aliases=("erase", "flux-erase"),
        tips=tips.ERASE,
        warnings=_erase_warnings,
    ),
    Tool(
        name="outpainting-v1",
        path="/v1/flux-tools/outpainting-v1",
        task="outpaint",
        summary="Extend the frame beyond the picture's edges.",
        request=OutpaintRequest,
        options=OutpaintOptions,
        price=Price(10.0, 10.0, date="2026-11-21", source="RUNWARE", note="mode high; reseller figure"),
        price_by=("mode", {"fast": _FAST_OUTPAINT}),
        sizes=SizeRule(max_area=MAX_CANVAS, multiple=16, source="DOCS-OUT"),
        sources=("OAS-0919", "DOCS-OUT"),
        aliases=("outpaint", "outpainting", "flux-outpaint", "flux-outpainting"),
        strict=True,
        output_size=_outpaint_size,
        tips=tips.OUTPAINT,
    ),
    Tool(
        name="vto-v2",
        path="/v1/flux-tools/vto-v2",
        task="try_on",
        summary="Dress a person in a garment; inputs up to 4 MP.",
        request=TryOnRequest,
        price=_TRY_ON_PRICE,
        sizes=SizeRule(max_area=MAX_CANVAS, reduces=True, source="OAS-0919"),
        aliases=("try-on", "vto", "flux-vto"),
    ),
    Tool(
        name="vto-v1",
        path="/v1/flux-tools/vto-v1",
        task="try_on",
        summary="The earlier try-on; inputs above 2 MP are reduced to about 1 MP.",
        request=TryOnRequest,
        price=_TRY_ON_PRICE,
        sizes=SizeRule(max_area=2 * 1_048_576, reduces=True, reduced_area=1_048_576, source="OAS-0919"),
        aliases=("try-on-v1",),
    ),
)
