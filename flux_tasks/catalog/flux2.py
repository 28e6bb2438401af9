"""The FLUX.2 family: one body for editing and for generation, with up to eight reference pictures."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from flux_tasks.catalog import tips
from flux_tasks.catalog.fields import (
    DisablePup,
    FinetuneId,
    FourReferences,
    OptionalFormat,
    OptionalUpsampling,
    Reference,
    Request,
    Tolerance5,
    fact,
)
from flux_tasks.catalog.rules import Price, PromptLimit, SizeRule
from flux_tasks.catalog.tool import Tool
from flux_tasks.units import px_size

MAX_AREA = 4_194_304

Side = Annotated[
    int | None,
    fact("Pixels of the result, at least 64; left out, the first picture's size rounded to 16.", ge=64),
]


class _Flux2(FourReferences):
    width: Side = None
    height: Side = None
    safety_tolerance: Tolerance5 = 2
    output_format: OptionalFormat = "jpeg"


class KleinRequest(_Flux2):
    """FLUX.2 klein: fastest, up to four references, prompts are taken as written."""


class KleinFinetunedRequest(KleinRequest):
    """FLUX.2 klein with your own finetune: the body of its base tool and two fields (LORA)."""

    finetune_id: FinetuneId
    finetune_strength: Annotated[float, fact("How strongly the finetune acts.", "LORA", allow_inf_nan=False)] = 1.0


class _EightReferences(_Flux2):
    input_image_5: Reference = None
    input_image_6: Reference = None
    input_image_7: Reference = None
    input_image_8: Reference = None


class ProRequest(_EightReferences):
    """FLUX.2 pro and max: up to eight references."""

    disable_pup: DisablePup = False


class FlexRequest(_EightReferences):
    """FLUX.2 flex: steps and guidance are yours to set."""

    prompt_upsampling: OptionalUpsampling = True
    input_image_blob_path: Annotated[str | None, fact("A picture that already lies in the service's storage.")] = None
    guidance: Annotated[
        float | None, fact("How closely to follow the prompt. BFL's pages say 4.5 by default.", ge=1.5, le=10)
    ] = 5.0
    steps: Annotated[int | None, fact("Denoising steps.", ge=1, le=50)] = 50


def _flux2_size(parameters: Mapping[str, Any], size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the size asked for, else the first input's, cut to multiples of 16 within 4 MP (DOCS-F2), else None."""
    width, height = parameters.get("width"), parameters.get("height")
    if width and height:
        return int(width) // 16 * 16, int(height) // 16 * 16
    if size is None or width or height:
        return None
    scale = min(1.0, (MAX_AREA / (size[0] * size[1])) ** 0.5)
    return max(16, int(size[0] * scale) // 16 * 16), max(16, int(size[1] * scale) // 16 * 16)


def _size_problems(parameters: Mapping[str, Any]) -> dict[str, str]:
    width, height = parameters.get("width"), parameters.get("height")
    if isinstance(width, int) and isinstance(height, int) and width * height > MAX_AREA:
        return {"width": f"{px_size((width, height))} is more than 4 MP ({MAX_AREA:,} px): make the result smaller"}
    return {}


def _size_warnings(parameters: Mapping[str, Any]) -> tuple[str, ...]:
    off = [n for n in ("width", "height") if (parameters.get(n) or 0) % 16]
    return tuple(f"{name} is not a multiple of 16: the service rounds it down" for name in off)


def _model(name: str, summary: str, request: type[Request], price: Price, *aliases: str, **facts: Any) -> Tool:
    found: dict[str, Any] = {"sources": ("OAS-0919", "DOCS-F2"), **facts}
    return Tool(
        name=name,
        task="edit",
        summary=summary,
        request=request,
        price=price,
        sizes=SizeRule(max_area=MAX_AREA, reduces=True, multiple=16, source="DOCS-F2"),
        aliases=aliases,
        output_size=_flux2_size,
        limits=_size_problems,
        warnings=_size_warnings,
        prompt_limit=PromptLimit(32_000, "token", "SEED-2"),
        **found,
    )


def _price(first: float, extra: float) -> Price:
    return Price(first, extra, inputs=True, date="2026-06-30", source="DOCS-PRICE")


_KLEIN_4B, _KLEIN_9B = _price(1.4, 0.1), _price(1.5, 0.2)
_LORA_PRICE = "public beta: the price of the base tool"


def _finetuned(base: str, price: Price, which: str) -> Tool:
    return _model(
        f"{base}-finetuned",
        f"{which} with your own finetune; public beta.",
        KleinFinetunedRequest,
        replace(price, note=_LORA_PRICE),
        sources=("LORA", "OAS-0919"),
        tips=tips.LORA,
    )


_CONTESTED = {"flux-2-klein": ("flux-2-klein-9b", "BFL's SDK")}  # SDK

TOOLS = (
    _model("flux-2-pro", "Edit and generate: the balanced choice.", ProRequest, _price(3, 1.5), "flux-2"),
    _model("flux-2-pro-preview", "Newest weights of pro.", ProRequest, _price(3, 1.5)),
    _model("flux-2-max", "Edit and generate at the best quality; supports grounding search.", ProRequest, _price(7, 3)),
    _model("flux-2-flex", "Typography; steps and guidance to set.", FlexRequest, _price(5, 5)),
    _model("flux-2-klein-4b", "Fastest and cheapest.", KleinRequest, _KLEIN_4B, contested=_CONTESTED),
    _model("flux-2-klein-9b", "Fast, better quality than 4b.", KleinRequest, _KLEIN_9B),
    _model("flux-2-klein-9b-preview", "Newest weights of klein 9b.", KleinRequest, _KLEIN_9B),
    _finetuned("flux-2-klein-4b", _KLEIN_4B, "Klein 4b"),
    _finetuned("flux-2-klein-9b", _KLEIN_9B, "Klein 9b"),
    _finetuned("flux-2-klein-9b-kv", _KLEIN_9B, "Klein 9b, faster with several pictures,"),
    _finetuned("flux-2-klein-9b-kv-bf16", _KLEIN_9B, "Klein 9b kv at full precision"),
    _finetuned("flux-2-klein-base-4b", _KLEIN_4B, "Klein 4b before its distillation"),
    _finetuned("flux-2-klein-base-9b", _KLEIN_9B, "Klein 9b before its distillation"),
)
