"""Written by `make stubs` from the catalogue and the operations; a test keeps it fresh."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, TypedDict

from flux_tasks.catalog.boxes import Box
from flux_tasks.images.masks import Mask
from pipelines.language.python.step_spec import Ref as Ref, StepSpec as StepSpec, Template as Template, step as step
from pipelines.language.document.expect import Expect
from pipelines.language.document.options import OnFailure
from pipelines.language.document.options import Preserve
from pipelines.recipe import Recipe

__all__: list[str]

_Picture = str | PathLike[str] | StepSpec | Ref
_From = str | StepSpec | Ref | Sequence[str | StepSpec | Ref]

class _Mask(TypedDict, total=False):
    file: str | PathLike[str]
    alpha: bool | str
    boxes: Sequence[Sequence[int | str] | str] | str | None
    invert: bool | str
    dilate: int | str
    resize: bool | str
    step: str
    annotations: str | Sequence[str] | Mapping[str, Any]

_MaskLike = _Picture | Mask | _Mask

class _Expect(TypedDict, total=False):
    size: Literal['same'] | Sequence[int]
    min_side: int
    aspect: str
    drift: float
    changed: float
    shift: float
    sharpness_gain: float
    solid: Literal[False]
    condition: str

class _OnFailure(TypedDict, total=False):
    retry_with: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    then: Literal['fail', 'keep']

class _Preserve(TypedDict, total=False):
    feather: float

def call(
    function: str | Callable[..., Any],
    *,
    with_: Mapping[str, Any] = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
    **further: Any
) -> StepSpec:
    """A function of your own as a step: itself, or ``"package.module:function"``.

    Args:
        further: what the function is given besides its picture.
        with_: the same, for names that mean something else here, such as ``id``.
    """

def recipe(
    recipe: Recipe | str | PathLike[str],
    *,
    with_: Mapping[str, Any] = ...,
    id: str = ...,
    from_: _From = ...,
) -> StepSpec:
    """Another recipe, or the file of one, as a step: its steps are done.

    Args:
        with_: values for its ``vars``.
    """

def deblur(
    *,
    user: str | None = ...,
    seed: int | str | None = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Sharpen a blurred photo; scene, people and colours stay.

    Args:
        user: Opaque id of the end user, 1–256 characters.
        seed: Same seed and same parameters repeat a result.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def erase(
    *,
    mask: _MaskLike = ...,
    user: str | None = ...,
    dilate_pixels: int | str = ...,
    seed: int | str | None = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Remove what a mask covers and rebuild the background.

    Args:
        mask: Black and white, the image's exact size; white marks what is removed.
        user: Opaque id of the end user, 1–256 characters.
        dilate_pixels: Grow the mask by so many pixels: 10 for clean masks, 15–20 for hair or smoke.
        seed: Same seed and same parameters repeat a result.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def outpaint(
    *,
    user: str | None = ...,
    width: int | str = ...,
    height: int | str = ...,
    auto_crop: bool | str = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    prompt: str | None = ...,
    reference_offset_x: int | str | None = ...,
    reference_offset_y: int | str | None = ...,
    mode: Literal['high', 'fast'] | Template = ...,
    disable_pup: bool | str = ...,
    aspect_ratio: str | None = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] | Template = ...,
    expand: Mapping[str, int | str] | str | None = ...,
    exact: bool | str = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Extend the frame beyond the picture's edges.

    Args:
        user: Opaque id of the end user, 1–256 characters.
        width: Pixels of the final canvas; sides at least 64, area at most 4,194,304.
        height: Pixels of the final canvas; sides at least 64, area at most 4,194,304.
        auto_crop: Crop an input that reaches beyond the canvas instead of refusing it.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        prompt: What to put there, in words.
        reference_offset_x: Where the input's top left corner lies on the canvas, in pixels; centred if left out.
        reference_offset_y: Where the input's top left corner lies on the canvas, in pixels; centred if left out.
        mode: high for detail and people, fast for landscapes and backgrounds.
        disable_pup: Turn off the service's prompt upsampling: exact prompts, lower latency.
        aspect_ratio: Shape of the canvas, such as 16:9, instead of width and height.
        anchor: Where the input sits on a canvas given by aspect_ratio.
        expand: Pixels to add: left, right, top, bottom; instead of width and height.
        exact: Keep sizes that are not multiples of 16.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def try_on(
    *,
    garment: _Picture = ...,
    prompt: str = ...,
    user: str | None = ...,
    seed: int | str | None = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    model: Literal['vto-v2', 'vto-v1'] | Template = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Dress a person in a garment; inputs up to 4 MP. (2 models, see ``model``)

    Args:
        garment: The garment.
        prompt: What to make or change, in words.
        user: Opaque id of the end user, 1–256 characters.
        seed: Same seed and same parameters repeat a result.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        model: Which tool; vto-v2 by default.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def fill(
    *,
    mask: _MaskLike = ...,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | str | None = ...,
    prompt_upsampling: bool | str | None = ...,
    seed: int | str | None = ...,
    guidance: float | str | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    safety_tolerance: int | str = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Paint a masked region anew, as a prompt says.

    Args:
        mask: Black and white, the image's size; white is painted anew. Optional if the image has alpha.
        user: Opaque id of the end user, 1–256 characters.
        prompt: What to put there, in words.
        steps: Denoising steps.
        prompt_upsampling: Let the service rewrite the prompt in more detail.
        seed: Same seed and same parameters repeat a result.
        guidance: How closely to follow the prompt.
        output_format: File type of the result: jpeg, png or webp.
        safety_tolerance: Moderation: 0 is strictest, 6 most tolerant.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def fill_finetuned(
    *,
    finetune_id: str = ...,
    mask: _MaskLike = ...,
    user: str | None = ...,
    prompt: str = ...,
    steps: int | str = ...,
    prompt_upsampling: bool | str = ...,
    seed: int | str | None = ...,
    guidance: float | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    safety_tolerance: int | str = ...,
    finetune_strength: float | str = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Fill with your own finetune.

    Args:
        finetune_id: Your finetune; write org-id/lora-name for one of another organisation.
        mask: Black and white, the image's size; white is painted anew. Optional if the image has alpha.
        user: Opaque id of the end user, 1–256 characters.
        prompt: What to make or change, in words.
        steps: Denoising steps.
        prompt_upsampling: Let the service rewrite the prompt in more detail.
        seed: Same seed and same parameters repeat a result.
        guidance: How closely to follow the prompt.
        output_format: File type of the result: jpeg, png or webp.
        safety_tolerance: Moderation: 0 is strictest, 6 most tolerant.
        finetune_strength: How strongly the finetune acts.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def expand(
    *,
    user: str | None = ...,
    prompt: str | None = ...,
    steps: int | str | None = ...,
    prompt_upsampling: bool | str | None = ...,
    seed: int | str | None = ...,
    guidance: float | str | None = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    safety_tolerance: int | str = ...,
    top: int | str | None = ...,
    bottom: int | str | None = ...,
    left: int | str | None = ...,
    right: int | str | None = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Add pixels on each side (older than outpaint).

    Args:
        user: Opaque id of the end user, 1–256 characters.
        prompt: What to put there, in words.
        steps: Denoising steps.
        prompt_upsampling: Let the service rewrite the prompt in more detail.
        seed: Same seed and same parameters repeat a result.
        guidance: How closely to follow the prompt.
        output_format: File type of the result: jpeg, png or webp.
        safety_tolerance: Moderation: 0 is strictest, 6 most tolerant.
        top: Pixels to add on this side, 0–2048.
        bottom: Pixels to add on this side, 0–2048.
        left: Pixels to add on this side, 0–2048.
        right: Pixels to add on this side, 0–2048.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def edit(
    *,
    prompt: str = ...,
    references: Sequence[_Picture] = ...,
    user: str | None = ...,
    seed: int | str | None = ...,
    width: int | str | None = ...,
    height: int | str | None = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    disable_pup: bool | str = ...,
    aspect_ratio: str | None = ...,
    prompt_upsampling: bool | str = ...,
    steps: int | str | None = ...,
    guidance: float | str | None = ...,
    input_image_blob_path: str | None = ...,
    finetune_id: str = ...,
    finetune_strength: float | str = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] | Template = ...,
    grounding: bool | str = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | str | None = ...,
    model: Literal['flux-2-pro', 'flux-kontext-pro', 'flux-kontext-max', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] | Template = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Edit and generate: the balanced choice. (17 models, see ``model``)

    Args:
        prompt: What to make or change, in words.
        references: Further pictures to go by, in the prompt's order.
        user: Opaque id of the end user, 1–256 characters.
        seed: Same seed and same parameters repeat a result.
        width: Pixels of the result, at least 64; left out, the first picture's size rounded to 16.
        height: Pixels of the result, at least 64; left out, the first picture's size rounded to 16.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        disable_pup: Turn off the service's prompt upsampling: exact prompts, lower latency.
        aspect_ratio: Width to height, 21:9 to 9:21.
        prompt_upsampling: Let the service rewrite the prompt in more detail.
        steps: Denoising steps. Kontext ignores it today.
        guidance: How closely to follow the prompt. Kontext ignores it today.
        input_image_blob_path: A picture that already lies in the service's storage.
        finetune_id: Your finetune; write org-id/lora-name for one of another organisation.
        finetune_strength: How strongly the finetune acts.
        resolution: Size of the result: 0.6, 1, 2.4, 4.2 or 16.8 MP.
        grounding: Send the prompt to a web search. Off here, and sent so; the service's own default is on.
        version: Release of the model.
        boxes: What to keep, move, add, remove or take from another picture, and where: a list of boxes.
        model: Which tool; flux-2-pro by default.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def generate(
    *,
    prompt: str = ...,
    image_prompt: _Picture = ...,
    images: Sequence[_Picture] = ...,
    user: str | None = ...,
    seed: int | str | None = ...,
    width: int | str | None = ...,
    height: int | str | None = ...,
    safety_tolerance: int | str = ...,
    output_format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    disable_pup: bool | str = ...,
    prompt_upsampling: bool | str = ...,
    aspect_ratio: str = ...,
    image_prompt_strength: float | str = ...,
    raw: bool | str = ...,
    finetune_id: str = ...,
    finetune_strength: float | str = ...,
    steps: int | str | None = ...,
    guidance: float | str | None = ...,
    input_image_blob_path: str | None = ...,
    resolution: Literal['768sq', '1k', '1.5k', '2k', '4k'] | Template = ...,
    grounding: bool | str = ...,
    version: str = ...,
    boxes: Sequence[Box | Mapping[str, Any]] | str | None = ...,
    model: Literal['flux-2-pro', 'flux-pro-1.1', 'flux-pro-1.1-ultra', 'flux-pro-1.1-ultra-finetuned', 'flux-dev', 'flux-2-pro-preview', 'flux-2-max', 'flux-2-flex', 'flux-2-klein-4b', 'flux-2-klein-9b', 'flux-2-klein-9b-preview', 'flux-2-klein-4b-finetuned', 'flux-2-klein-9b-finetuned', 'flux-2-klein-9b-kv-finetuned', 'flux-2-klein-9b-kv-bf16-finetuned', 'flux-2-klein-base-4b-finetuned', 'flux-2-klein-base-9b-finetuned', 'flux-3-image', 'flux-3-image-klein'] | Template = ...,
    variant: int | str = ...,
    fit: Literal['error', 'downscale'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Edit and generate: the balanced choice. (19 models, see ``model``)

    Args:
        prompt: What to make or change, in words.
        image_prompt: A picture to go by (FLUX 1.1 models).
        images: Pictures to go by (FLUX 3).
        user: Opaque id of the end user, 1–256 characters.
        seed: Same seed and same parameters repeat a result.
        width: Pixels of the result, at least 64; left out, the first picture's size rounded to 16.
        height: Pixels of the result, at least 64; left out, the first picture's size rounded to 16.
        safety_tolerance: Moderation: 0 is strictest, 5 most tolerant.
        output_format: File type of the result: jpeg, png or webp.
        disable_pup: Turn off the service's prompt upsampling: exact prompts, lower latency.
        prompt_upsampling: Let the service rewrite the prompt in more detail.
        aspect_ratio: Width to height, 21:9 to 9:21.
        image_prompt_strength: How strongly the picture guides.
        raw: A less processed, more natural look.
        finetune_id: Your finetune; write org-id/lora-name for one of another organisation.
        finetune_strength: How strongly the finetune acts.
        steps: Denoising steps.
        guidance: How closely to follow the prompt.
        input_image_blob_path: A picture that already lies in the service's storage.
        resolution: Size of the result: 0.6, 1, 2.4, 4.2 or 16.8 MP.
        grounding: Send the prompt to a web search. Off here, and sent so; the service's own default is on.
        version: Release of the model.
        boxes: What to keep, move, add, remove or take from another picture, and where: a list of boxes.
        model: Which tool; flux-2-pro by default.
        variant: Another result for the same request: a new job, which is paid for.
        fit: error refuses a picture that does not suit the tool; downscale makes it suit.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def auto_orient(
    *,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Turns a picture upright, as its EXIF data say.

    Args:
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def resize(
    *,
    width: int | str | None = ...,
    height: int | str | None = ...,
    max_side: int | str | None = ...,
    megapixels: float | str | None = ...,
    fit: Literal['contain', 'cover', 'stretch'] | Template = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] | Template = ...,
    upscale: bool | str = ...,
    filter: Literal['lanczos', 'bicubic', 'hamming', 'bilinear', 'box', 'nearest'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Scales a picture or a mask.

    Args:
        width: Pixels. Without height, the height follows.
        height: Pixels. Without width, the width follows.
        max_side: Pixels of the longer side.
        megapixels: Area at most, in MP of 1,048,576 px.
        fit: With width and height: contain keeps the shape and lies within them; cover keeps the shape, fills them and cuts off what is beyond; stretch distorts.
        anchor: With fit: cover, the part that is kept.
        upscale: Whether the picture may grow. Without it, a small picture stays as it is; with fit: cover or stretch, it gets the shape of width and height at a smaller size.
        filter: How pixels are averaged.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def crop(
    *,
    box: Sequence[int | str] | str | None = ...,
    width: int | str | None = ...,
    height: int | str | None = ...,
    aspect_ratio: str | None = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Cuts a part out of a picture or a mask.

    Args:
        box: Left, top, right, bottom in pixels; right and bottom excluded.
        width: Pixels. Without it, the whole width.
        height: Pixels. Without it, the whole height.
        aspect_ratio: Such as '16:9': the largest part of that shape.
        anchor: Which part is kept, where no box says so.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def pad(
    *,
    left: int | str = ...,
    right: int | str = ...,
    top: int | str = ...,
    bottom: int | str = ...,
    width: int | str | None = ...,
    height: int | str | None = ...,
    aspect_ratio: str | None = ...,
    anchor: Literal['center', 'left', 'right', 'top', 'bottom', 'top-left', 'top-right', 'bottom-left', 'bottom-right'] | Template = ...,
    color: str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Puts a border around a picture or a mask.

    Args:
        left: Pixels to add.
        right: Pixels to add.
        top: Pixels to add.
        bottom: Pixels to add.
        width: Pixels of the result. Without it, as wide as the picture.
        height: Pixels of the result. Without it, as high as the picture.
        aspect_ratio: Such as '1:1': adds only as much as this shape needs.
        anchor: Where the picture sits, where the four sides do not say so.
        color: A name, '#rrggbb', '#rrggbbaa' or transparent. A mask is padded with black.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def rotate(
    *,
    degrees: float | str = ...,
    expand: bool | str = ...,
    color: str = ...,
    filter: Literal['bicubic', 'bilinear', 'nearest'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Turns a picture or a mask.

    Args:
        degrees: Clockwise; below 0, the other way round. Multiples of 90 only move pixels.
        expand: Whether the result is as large as the whole turned picture. With false, it keeps its size, and what lies beyond is cut off.
        color: Of the corners: a name, '#rrggbb', '#rrggbbaa' or transparent. Those of a mask are black.
        filter: How pixels are averaged where degrees are no multiple of 90.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def flip(
    *,
    direction: Literal['horizontal', 'vertical'] | Template = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Mirrors a picture or a mask.

    Args:
        direction: horizontal: left becomes right; vertical: top becomes bottom.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def convert(
    *,
    format: Literal['jpeg', 'png', 'webp'] | Template | None = ...,
    quality: int | str | None = ...,
    mode: Literal['L', 'RGB', 'RGBA'] | Template | None = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Changes the file type or the colours.

    Args:
        format: File type. By default the picture's own; png if that is none of these or cannot hold the mode.
        quality: Of jpeg and webp; 95 by default.
        mode: L: greys; RGB: colours; RGBA: colours with alpha. L and RGB put transparent parts on white.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def load_image(
    *,
    file: _Picture = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Takes another picture from a file.

    Args:
        file: Where it is: a path, or a template of one.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def load_mask(
    *,
    file: _MaskLike = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Takes a mask from a file.

    Args:
        file: Where it is: a path, or a template of one.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def cutout(
    *,
    mask: _MaskLike = ...,
    feather: float | str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Makes transparent what a mask leaves black.

    Args:
        mask: A mask: the picture shows where it is white.
        feather: Pixels over which the edge of the mask is softened, inwards only.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def flatten(
    *,
    color: str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Puts a picture on a colour, dropping its alpha.

    Args:
        color: An opaque name or '#rrggbb'.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def composite(
    *,
    over: _Picture = ...,
    mask: _MaskLike = ...,
    feather: float | str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Puts a picture on another, through a mask or its alpha.

    Args:
        over: The picture on which it is put.
        mask: A mask: the picture shows where it is white.
        feather: Pixels over which the edge of the mask is softened, inwards only.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_from_alpha(
    *,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Makes a mask of what is transparent.

    Args:
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_from_boxes(
    *,
    boxes: Sequence[Sequence[int | str] | str] | str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Makes a mask of rectangles.

    Args:
        boxes: Rectangles: left, top, right, bottom in pixels; right and bottom excluded.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_from_color(
    *,
    color: str = ...,
    tolerance: int | str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Makes a mask of what has a colour.

    Args:
        color: An opaque name or '#rrggbb'.
        tolerance: How far each of red, green and blue may be off.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_union(
    *,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Puts masks together: white where any of them is white.

    Args:
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_dilate(
    *,
    pixels: int | str = ...,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Grows the white of a mask, or shrinks it.

    Args:
        pixels: To grow by in every direction; below 0, to shrink by.
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """

def mask_invert(
    *,
    id: str = ...,
    from_: _From = ...,
    when: str | bool = ...,
    matrix: Mapping[str, Sequence[Any]] = ...,
    vars: Mapping[str, Any] = ...,
    expect: _Expect | Expect = ...,
    on_failure: Literal['fail', 'keep'] | _OnFailure | OnFailure = ...,
    preserve: bool | _Preserve | Preserve = ...,
    align: bool = ...,
    match_colour: bool = ...,
    require_mask: str | bool = ...,
    save: str | PathLike[str] = ...,
    transport: Literal["bytes", "auto", "url"] = ...,
) -> StepSpec:
    """Swaps black and white of a mask.

    Args:
        id: The name that other steps use; its tool's name if left out.
        from_: The id of the step whose picture it gets, or source; the step before if left out. A list is the main picture and further ones.
        when: A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows columns, vars, width, height, aspect, megapixels, has_alpha, sharpness, brightness, entropy, mask_exists, mask_coverage; with annotations, labels and count.
        matrix: Lists of values by name; the step runs for every combination. The name of a parameter sets it (seed, prompt, model …), other names are for templates.
        vars: Names that only this step's templates know.
        expect: What the result has to be.
        on_failure: What is done with a result that is not as expect says: fail the item (default), keep the result, or try again with changed parameters, each of which is a job of its own.
        preserve: Put the pixels outside the mask back; with outpaint, those of the original. feather softens the edge by this many pixels.
        align: Measure how the content of the result has moved and grown against the input, outside the mask, and move it back, to less than a pixel; expect judges what comes out.
        match_colour: Fit the colours inside the mask to its surroundings, where the result has another brightness or hue than the input.
        require_mask: True: the item ends as invalid, and this result is not written, if the step is skipped, or its mask is missing or has no white. A condition, such as mask_exists, is the same, but lets the step be skipped where it is false.
        save: Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.
        transport: How pictures are sent: bytes; auto, as an address where the service can fetch it; url, as an address wherever there is one. The recipe's own if left out.

    Raises:
        InvalidRequest: there is no such parameter; the check of the recipe finds what else is wrong.
    """
