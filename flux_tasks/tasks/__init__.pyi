"""Written by `python -m flux_tasks.catalog.signatures` from the catalogue; a test keeps it fresh."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import task

from flux_tasks.catalog.boxes import Box
from flux_tasks.images import ImageLike, ImageRef
from flux_tasks.images.masks import Mask

MaskLike = Mask | ImageLike | dict[str, Any]

__all__: list[str]

@task
def deblur(
    image: ImageLike,
    *,
    user: str | None = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def adeblur(
    image: ImageLike,
    *,
    user: str | None = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def erase(
    image: ImageLike,
    mask: MaskLike,
    *,
    user: str | None = ...,
    dilate_pixels: int = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def aerase(
    image: ImageLike,
    mask: MaskLike,
    *,
    user: str | None = ...,
    dilate_pixels: int = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def outpaint(
    image: ImageLike,
    *,
    user: str | None = ...,
    width: int = ...,
    height: int = ...,
    auto_crop: bool = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    prompt: str | None = ...,
    reference_offset_x: int | None = ...,
    reference_offset_y: int | None = ...,
    mode: Literal['high', 'fast'] = ...,
    disable_pup: bool = ...,
    aspect_ratio: str | None = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] = ...,
    expand: Mapping[str, int] | None = ...,
    exact: bool = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def aoutpaint(
    image: ImageLike,
    *,
    user: str | None = ...,
    width: int = ...,
    height: int = ...,
    auto_crop: bool = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    prompt: str | None = ...,
    reference_offset_x: int | None = ...,
    reference_offset_y: int | None = ...,
    mode: Literal['high', 'fast'] = ...,
    disable_pup: bool = ...,
    aspect_ratio: str | None = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] = ...,
    expand: Mapping[str, int] | None = ...,
    exact: bool = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def try_on(
    person: ImageLike,
    garment: ImageLike,
    prompt: str,
    *,
    user: str | None = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    model: Literal['vto-v2', 'vto-v1'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def atry_on(
    person: ImageLike,
    garment: ImageLike,
    prompt: str,
    *,
    user: str | None = ...,
    seed: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    model: Literal['vto-v2', 'vto-v1'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def fill(
    image: ImageLike,
    *,
    mask: MaskLike | None = ...,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | None = ...,
    prompt_upsampling: bool | None = ...,
    seed: int | None = ...,
    guidance: float | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def afill(
    image: ImageLike,
    *,
    mask: MaskLike | None = ...,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | None = ...,
    prompt_upsampling: bool | None = ...,
    seed: int | None = ...,
    guidance: float | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def fill_finetuned(
    image: ImageLike,
    finetune_id: str,
    *,
    mask: MaskLike | None = ...,
    user: str | None = ...,
    prompt: str = ...,
    steps: int = ...,
    prompt_upsampling: bool = ...,
    seed: int | None = ...,
    guidance: float = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    finetune_strength: float = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def afill_finetuned(
    image: ImageLike,
    finetune_id: str,
    *,
    mask: MaskLike | None = ...,
    user: str | None = ...,
    prompt: str = ...,
    steps: int = ...,
    prompt_upsampling: bool = ...,
    seed: int | None = ...,
    guidance: float = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    finetune_strength: float = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def expand(
    image: ImageLike,
    *,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | None = ...,
    prompt_upsampling: bool | None = ...,
    seed: int | None = ...,
    guidance: float | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    top: int | None = ...,
    bottom: int | None = ...,
    left: int | None = ...,
    right: int | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def aexpand(
    image: ImageLike,
    *,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | None = ...,
    prompt_upsampling: bool | None = ...,
    seed: int | None = ...,
    guidance: float | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    safety_tolerance: int = ...,
    top: int | None = ...,
    bottom: int | None = ...,
    left: int | None = ...,
    right: int | None = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def edit(
    image: ImageLike,
    prompt: str,
    *,
    references: Sequence[ImageLike] = ...,
    user: str | None = ...,
    seed: int | None = ...,
    width: int | None = ...,
    height: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    disable_pup: bool = ...,
    aspect_ratio: str | None = ...,
    prompt_upsampling: bool = ...,
    steps: int | None = ...,
    guidance: float | None = ...,
    input_image_blob_path: str | None = ...,
    finetune_id: str = ...,
    finetune_strength: float = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] = ...,
    grounding: bool = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | None = ...,
    model: Literal['flux-2-pro', 'flux-kontext-pro', 'flux-kontext-max', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def aedit(
    image: ImageLike,
    prompt: str,
    *,
    references: Sequence[ImageLike] = ...,
    user: str | None = ...,
    seed: int | None = ...,
    width: int | None = ...,
    height: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    disable_pup: bool = ...,
    aspect_ratio: str | None = ...,
    prompt_upsampling: bool = ...,
    steps: int | None = ...,
    guidance: float | None = ...,
    input_image_blob_path: str | None = ...,
    finetune_id: str = ...,
    finetune_strength: float = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] = ...,
    grounding: bool = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | None = ...,
    model: Literal['flux-2-pro', 'flux-kontext-pro', 'flux-kontext-max', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
def generate(
    prompt: str,
    *,
    image_prompt: ImageLike | None = ...,
    images: Sequence[ImageLike] = ...,
    user: str | None = ...,
    seed: int | None = ...,
    width: int | None = ...,
    height: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    disable_pup: bool = ...,
    prompt_upsampling: bool = ...,
    aspect_ratio: str = ...,
    image_prompt_strength: float = ...,
    raw: bool = ...,
    finetune_id: str = ...,
    finetune_strength: float = ...,
    steps: int | None = ...,
    guidance: float | None = ...,
    input_image_blob_path: str | None = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] = ...,
    grounding: bool = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | None = ...,
    model: Literal['flux-2-pro', 'flux-pro-1.1', 'flux-pro-1.1-ultra', 'flux-pro-1.1-ultra-finetuned', 'flux-dev', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...

@task
async def agenerate(
    prompt: str,
    *,
    image_prompt: ImageLike | None = ...,
    images: Sequence[ImageLike] = ...,
    user: str | None = ...,
    seed: int | None = ...,
    width: int | None = ...,
    height: int | None = ...,
    safety_tolerance: int = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | None = ...,
    disable_pup: bool = ...,
    prompt_upsampling: bool = ...,
    aspect_ratio: str = ...,
    image_prompt_strength: float = ...,
    raw: bool = ...,
    finetune_id: str = ...,
    finetune_strength: float = ...,
    steps: int | None = ...,
    guidance: float | None = ...,
    input_image_blob_path: str | None = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] = ...,
    grounding: bool = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | None = ...,
    model: Literal['flux-2-pro', 'flux-pro-1.1', 'flux-pro-1.1-ultra', 'flux-pro-1.1-ultra-finetuned', 'flux-dev', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] = ...,
    variant: int = ...,
    fit: Literal['error', 'downscale'] = ...,
) -> ImageRef: ...
