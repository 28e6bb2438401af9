"""The defaults of 2026-09-19, when a job key held that date and every default. They never change.

Stores of that time are read by these keys; see ``flux_tasks.jobs.identity``.
"""

from collections.abc import Mapping
from typing import Any

DATE = "2026-09-19"

_JPEG: dict[str, Any] = {"seed": None, "safety_tolerance": 2, "output_format": "jpeg"}
_PNG = {**_JPEG, "output_format": "png"}
_PAINTED = {**_JPEG, "prompt": "", "steps": 50, "prompt_upsampling": False, "guidance": 60}
_KONTEXT = {**_PNG, "aspect_ratio": None, "prompt_upsampling": False}
_SIZED = {**_JPEG, "prompt": "", "width": 1024, "height": 768, "prompt_upsampling": False}
_ULTRA = {**_JPEG, "prompt": "", "prompt_upsampling": False, "aspect_ratio": "16:9", "image_prompt_strength": 0.1}
_FLUX2 = {**_JPEG, "width": None, "height": None}
_PRO2 = {**_FLUX2, "disable_pup": False}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "deblur-v1": _PNG,
    "erase-v1": {**_PNG, "dilate_pixels": 10},
    "outpainting-v1": {
        **{"auto_crop": False, "safety_tolerance": 2, "output_format": "png", "prompt": None, "mode": "high"},
        **{"reference_offset_x": None, "reference_offset_y": None, "disable_pup": False},
    },
    "vto-v2": _JPEG,
    "vto-v1": _JPEG,
    "flux-pro-1.0-fill": _PAINTED,
    "flux-pro-1.0-fill-finetuned": {**_PAINTED, "finetune_strength": 1.1},
    "flux-pro-1.0-expand": {**_PAINTED, "top": 0, "bottom": 0, "left": 0, "right": 0},
    "flux-kontext-pro": _KONTEXT,
    "flux-kontext-max": _KONTEXT,
    "flux-pro-1.1": _SIZED,
    "flux-pro-1.1-ultra": {**_ULTRA, "raw": False},
    "flux-pro-1.1-ultra-finetuned": {**_ULTRA, "finetune_strength": 1.2},
    "flux-dev": {**_SIZED, "steps": 28, "guidance": 3.0},
    "flux-2-pro": _PRO2,
    "flux-2-pro-preview": _PRO2,
    "flux-2-max": _PRO2,
    "flux-2-flex": {
        **_FLUX2,
        **{"prompt_upsampling": True, "input_image_blob_path": None, "guidance": 5.0, "steps": 50},
    },
    "flux-2-klein-4b": _FLUX2,
    "flux-2-klein-9b": _FLUX2,
    "flux-2-klein-9b-preview": _FLUX2,
}
