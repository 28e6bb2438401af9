"""The fields that several tools share, each with its range, its default and the document it comes from.

Documents (dates in ``SOURCES``) have short tags; a field without one of its own comes from the tool's first document.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

SOURCES: dict[str, str] = {
    "SEED-0": "docs.bfl.ai, page FLUX Deblur (2026)",
    "SEED-1": "docs.bfl.ml, page FLUX Erase (2026)",
    "SEED-2": "black-forest-labs/skills, bfl-api endpoints reference (2026-01-24)",
    "SEED-3": "api-evangelist OpenAPI of FLUX image editing (2026, third party)",
    "SEED-4": "docs.bfl.ai, API reference of flux-pro-1.0-fill (2026)",
    "OAS-0919": "official OpenAPI document of api.bfl.ai, fetched 2026-09-19",
    "DOCS-F2": "docs.bfl.ai, pages FLUX.2 image editing and text to image (2026)",
    "DOCS-OUT": "docs.bfl.ai, page FLUX Outpainting (2026)",
    "DOCS-PRICE": "docs.bfl.ai, page pricing (mid 2026)",
    "HELP-MOD": "help.bfl.ai, article 2916279050 on moderated jobs (2026-06-12)",
    "SKILL": "black-forest-labs/skills (2026-01/02)",
    "INF-11": "survey of bfl.ai/pricing (2026-10-07, third party)",
    "RUNWARE": "runware.ai model pages (2026, reseller)",
    "FAL": "fal.ai model pages (2026, reseller)",
    "COMFYPRICE": "Comfy-Org pricing page (2026-08-21, reseller)",
    "KONTEXT-SIZES": "diffusers, preferred sizes of FLUX.1 Kontext (2025); 1392×752 was seen for 16:9",
    "GRIDBUG": "a note on unaligned outpaint canvases (2026, third party)",
    "SDK": "black-forest-labs/blackforest, SDK 0.2 (2026)",
    "LORA": "docs.bfl.ai, page FLUX.2 LoRA inference, public beta (2026-09)",
    "F3-DOCS": "docs.bfl.ai, pages FLUX 3 Image (2026-10-01)",
    "F3-BOXES": "docs.bfl.ai, page FLUX 3 Image, bounding boxes (2026-10-01)",
    "F3-PRICE": "docs.bfl.ai, page pricing, as quoted in 2026-10",
    "F3-COMFY": "docs.comfy.org, FLUX 3 Image in Router and node (2026-10, partner)",
    "VERCEL": "vercel.com, AI gateway pages of FLUX 3 (2026-10, reseller)",
}


@dataclass(frozen=True, slots=True)
class ImageField:
    """Marks a request field that carries an image.

    Attributes:
        role: ``image`` (the picture to edit), ``mask`` (where), or ``reference`` (a further picture).
        url: whether the service also takes an http(s) URL instead of base64.
        most: pictures that it takes; above 1 the field is a list.
    """

    role: Literal["image", "mask", "reference"]
    url: bool = True
    most: int = 1


class Request(BaseModel):
    """Base of every request body.

    Strict on our side, where a typo is an error. The local server validates the same models leniently, because the
    service ignores unknown fields of most tools.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def fact(description: str, source: str = "", **limits: Any) -> Any:
    """Return a pydantic ``Field`` without default: description, limits, and the document they come from."""
    return Field(description=description, json_schema_extra={"source": source} if source else None, **limits)


OutputFormat: TypeAlias = Literal["jpeg", "png", "webp"]

MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Media types of the file types that the service takes and delivers."""

EXTENSIONS = ("png", "jpg", "jpeg", "webp")
"""Extensions of such files."""

OptionalFormat = Annotated[OutputFormat | None, fact("File type of the result: jpeg, png or webp.")]
Seed = Annotated[int | None, fact("Same seed and same parameters repeat a result.", ge=0)]
"""At least 0: SEED-3 says so, and no other document names a lowest one."""

User = Annotated[str | None, fact("Opaque id of the end user, 1–256 characters.", min_length=1, max_length=256)]
WebhookUrl = Annotated[
    str | None,
    fact(
        "Address that the service calls when the job ends.", min_length=1, max_length=2083, pattern=r"^https?://[^\s/]+"
    ),
]
WebhookSecret = Annotated[str | None, fact("Secret that the webhook carries back in X-Webhook-Secret.", "DOCS-F2")]
Tolerance5 = Annotated[int, fact("Moderation: 0 is strictest, 5 most tolerant.", ge=0, le=5)]
Tolerance6 = Annotated[int, fact("Moderation: 0 is strictest, 6 most tolerant.", ge=0, le=6)]
Prompt = Annotated[str, fact("What to make or change, in words.")]
OptionalPrompt = Annotated[str | None, fact("What to put there, in words.")]
FinetuneId = Annotated[str, fact("Your finetune; write org-id/lora-name for one of another organisation.")]
OptionalUpsampling = Annotated[bool | None, fact("Let the service rewrite the prompt in more detail.")]
Upsampling = Annotated[bool, fact("Let the service rewrite the prompt in more detail.")]
DisablePup = Annotated[bool, fact("Turn off the service's prompt upsampling: exact prompts, lower latency.")]

Image = Annotated[str, ImageField("image"), fact("The picture to work on, as base64 or an http(s) URL.")]
ImageBase64 = Annotated[str, ImageField("image", url=False), fact("The picture to work on, as base64.")]
MaskImage = Annotated[
    str, ImageField("mask"), fact("Black and white, the image's exact size; white marks what is removed.")
]
MaskBase64 = Annotated[
    str | None,
    ImageField("mask", url=False),
    fact("Black and white, the image's size; white is painted anew. Optional if the image has alpha."),
]
Reference = Annotated[str | None, ImageField("reference"), fact("A picture to go by, as base64 or an http(s) URL.")]
ReferenceBase64 = Annotated[str | None, ImageField("reference", url=False), fact("A picture to go by, as base64.")]


class WithUser(Request):
    """Bodies with an end-user id."""

    user: User = None


class WithWebhook(Request):
    """Bodies whose tool can call back instead of being polled."""

    webhook_url: WebhookUrl = None
    webhook_secret: WebhookSecret = None


class FourReferences(WithUser, WithWebhook):
    """Bodies that edit or combine up to four pictures, or make one from words alone."""

    prompt: Prompt
    input_image: Reference = None
    input_image_2: Reference = None
    input_image_3: Reference = None
    input_image_4: Reference = None
    seed: Seed = None


WEBHOOK_FIELDS = tuple(WithWebhook.model_fields)
"""Fields that ask for a call-back."""

CALLER_FIELDS = (*WEBHOOK_FIELDS, *WithUser.model_fields)
"""Fields that name the caller and where to call back: they change nothing in the picture, so no key contains them."""
