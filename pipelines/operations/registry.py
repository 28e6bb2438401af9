"""Local operations: steps that cost nothing. Each result depends on its pictures and parameters alone.

Results are PNG with 8 bits a channel, unless ``convert`` says otherwise. Where an operation changes no pixel, the
result is the file itself. A result of the same kind (colours or greys) keeps the colour profile; of other metadata it
keeps only the mark of a local preview. Every picture can be a mask; a result that is a mask has black and white only.

To add an operation, write its class in ``images``, ``masks``, ``geometry`` or ``turning``, and add one entry to
``OPERATIONS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from flux_tasks.errors import FluxError, InvalidImage, InvalidRequest, ItemError, Problem, explain, nearest, shown
from flux_tasks.images import masks
from flux_tasks.images.encoding import MAX_PIXELS
from flux_tasks.images.mask_reading import read_mask
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.operations import geometry, images, turning
from pipelines.operations.base import ImageInput, ImageKind, Pictures, describe, pictures_by_input, primary_of
from pipelines.operations.masks import Dilate, FromAlpha, FromBoxes, FromColor, Invert, Union
from pipelines.operations.parameters import Edit
from pipelines.operations.pixels import encode, has_same_pixels, open_pixels, own_bytes
from pipelines.operations.placement import Placement

__all__ = ["OPERATIONS", "Operation"]


@dataclass(frozen=True)
class Operation:
    """One local operation, as data.

    Attributes:
        name: what the recipe calls it.
        summary: one line for people.
        output_kind: ``image``, ``mask``, or ``same``: what its primary picture is (see ``for_role``).
        inputs: its pictures by parameter.
        parameters: everything else that it takes, as a pydantic model.
        version: raised when the pixels of its results or a default change; part of the key.
        for_masks: the parameters for a primary picture that is a mask, if they are others.
        keeps_when_same_size: the result is the primary picture, unchanged, if both have the same size.
        needs_pixels: the result depends on pixels; if not, the size of the primary picture is enough to work it out.
    """

    name: str
    summary: str
    output_kind: Literal["image", "mask", "same"]
    inputs: Mapping[str, ImageInput]
    parameters: type[Edit]
    version: int = 1
    for_masks: type[Edit] | None = None
    keeps_when_same_size: bool = False
    needs_pixels: bool = True

    @property
    def primary(self) -> str:
        """The parameter of the primary picture; for an operation that loads one, its file."""
        return primary_of(self.inputs) or next(iter(self.inputs))

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from any other step, for the key of its results; ``masks`` is how it reads those it gets."""
        gives = "mask" if self.output_kind == "mask" else "image"
        reads = {"masks": "read"} if self._masks else {}
        return {"operation": self.name, "version": str(self.version), "gives": gives, **reads}

    @property
    def _masks(self) -> list[str]:
        return [name for name, slot in self.inputs.items() if slot.role == "mask"]

    def reads_as_before(self, pictures: Mapping[str, ImageRef | list[ImageRef]]) -> bool:
        """Check whether every mask means what it meant up to November 2026, when only its luminance counted.

        Call it on a thread: it decodes them.
        """
        given = [pictures[name] for name in self._masks if name in pictures]
        masked = [one for chosen in given for one in (chosen if isinstance(chosen, list) else [chosen])]
        try:
            if any(one.header.mode in ("I", "F") for one in masked):  # they were cut off, not scaled
                return False
            return all(read_mask(one).tobytes() == masks.binarise(one.open()).tobytes() for one in masked)
        except InvalidImage:
            return False

    def for_role(self, role: ImageKind) -> Operation:
        """Return the operation for a primary picture that is an image or a mask; one that takes either gives the same.

        A mask stays black and white: it is scaled without greys, and padded with black.
        """
        if self.output_kind != "same":
            return self
        parameters = self.for_masks if role == "mask" and self.for_masks else self.parameters
        inputs = {**self.inputs, self.primary: replace(self.inputs[self.primary], role=role)}
        return replace(self, output_kind=role, inputs=inputs, parameters=parameters)

    def check(self, parameters: Mapping[str, Any], *, where: str = "", partial: bool = False) -> list[Problem]:
        """Return everything that is wrong with ``parameters``, pictures aside.

        Args:
            parameters: None counts as not given.
            where: prefix of each problem's path; the operation's name if empty.
            partial: do not ask for required parameters.
        """
        where = where or self.name
        fields = self.parameters.model_fields
        given = {name: value for name, value in parameters.items() if name in fields and value is not None}
        wrong = [*self._wrong_names(parameters), *self._wrong_values(given, partial=partial)]
        wrong += self.parameters.conflicts(given).items()
        problems = [Problem(f"{where}.{name}", what) for name, what in wrong]
        groups = self.parameters.exclusive_groups
        used = [group for group in groups if any(name in given for name in group)]
        choice = ", or ".join((" and " if len(groups) > 1 else " or ").join(group) for group in groups)
        if len(used) > 1:
            problems.append(Problem(where, f"has {len(used)} sizes: keep one of {choice}"))
        elif groups and not used and not partial:
            problems.append(Problem(where, f"changes nothing as it is: write {choice}"))
        return problems

    def _wrong_names(self, parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        fields = self.parameters.model_fields
        for name, value in parameters.items():
            if name in self.inputs:
                yield name, "is a picture: give it a step or a file, no plain value"
            elif name not in fields:
                known = [*fields, *self.inputs]
                hint = nearest(str(name), known) or f"; it takes {', '.join(known)}"
                yield name, f"{self.name} has no such parameter{hint}"
            elif name == "color" and value is None:
                yield name, "is empty: put #rrggbb in quotes, because # begins a comment in YAML"

    def _wrong_values(self, given: Mapping[str, Any], *, partial: bool) -> Iterable[tuple[str, str]]:
        try:
            self.parameters.model_validate(given)
        except ValidationError as error:
            wrong = (e for e in error.errors(include_url=False) if not (partial and _is_absent(e)))
            return {_place(e["loc"]): _sentence(e) for e in wrong}.items()
        return ()

    def chosen(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters that differ from their defaults, as they go into the key.

        Raises:
            InvalidRequest: they are wrong.
        """
        return self._read(parameters).model_dump(mode="json", exclude_defaults=True)

    def defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters`` with every default filled in, as they went into the key up to September 2026.

        Raises:
            InvalidRequest: they are wrong.
        """
        return self._read(parameters).model_dump(mode="json")

    def _read(self, parameters: Mapping[str, Any]) -> Edit:
        problems = self.check(parameters)
        if problems:
            raise InvalidRequest.of(problems)
        return self.parameters.model_validate({name: v for name, v in parameters.items() if v is not None})

    def output_size(self, parameters: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size of the result in pixels for a primary picture of ``size``, as people see it.

        Returns:
            None if the parameters are wrong, or do not suit a picture of that size.
        """
        try:
            return self._sized(self._read(parameters), size)
        except ItemError:
            return None

    def placement(self, parameters: Mapping[str, Any], size: tuple[int, int]) -> Placement:
        """Return where a primary picture of ``size``, as people see it, lies on the result.

        Raises:
            InvalidRequest, InvalidImage: the parameters are wrong, or do not suit a picture of that size.
        """
        return self._read(parameters).placement(size)

    def _sized(self, edit: Edit, size: tuple[int, int]) -> tuple[int, int]:
        width, height = edit.size(size)
        if width * height > MAX_PIXELS:
            what = f"the result would be {px_size((width, height))}"
            raise InvalidImage(f"{what}: {MAX_PIXELS // 1_000_000} MP are the most")
        return width, height

    def perform(self, parameters: Mapping[str, Any], pictures: Pictures) -> ImageRef:
        """Return the result, in memory: the file of the primary picture where nothing changes, else a new file.

        Raises:
            InvalidRequest: parameters or pictures are missing or wrong.
            InvalidImage: a picture cannot be read, or the operation cannot use it.
            ServerUnavailable: a picture could not be fetched after several tries.
        """
        given = pictures_by_input(self.inputs, pictures, where=self.name, problems=self.check(parameters))
        edit, main = self._read(parameters), given[self.primary][0]
        try:
            self._sized(edit, main.upright_size)
            keeps = edit.is_unchanged(main)
            if keeps and self.output_kind != "mask":
                return own_bytes(main)
            further_masks = [name for name in self._masks if name != self.primary and name in given]
            for mask in (picture for name in further_masks for picture in given[name]):
                masks.check_fit(mask, main, remedy="a step with resize")
            opened = {n: [open_pixels(picture) for picture in given[n]] for n in given if n not in further_masks}
            shown, profile = opened[self.primary][0], opened.get(edit.profile_of, [None])[0]
            opened |= {name: [read_mask(picture) for picture in given[name]] for name in self._masks if name in given}
            image, *rest = opened.pop(self.primary)
            made = edit.apply(image, {**opened, self.primary: rest})
        except FluxError as error:
            if isinstance(error, InvalidImage):
                raise InvalidImage(f"{self.name}: {error}") from None
            raise
        except Exception as error:  # a limit of Pillow, or of the memory
            raise InvalidImage(f"{self.name}: {main.name} cannot be processed: {describe(error)}") from None
        kept = profile.info.get("icc_profile") if profile is not None and self.output_kind != "mask" else None
        recoloured = self.output_kind != "mask" and kept != shown.info.get("icc_profile")
        if keeps is not False and not recoloured and has_same_pixels(made, shown):
            return own_bytes(main)
        made, kind, options = edit.encoding(made, main)
        return encode(made, given, profile=kept, kind=kind, **options)

    def __repr__(self) -> str:
        return f"Operation({self.name!r})"


def _is_absent(error: Any) -> bool:
    """Check whether a required parameter is missing; a box that lacks a number is something else."""
    return error["type"] == "missing" and len(error["loc"]) == 1


def _place(location: tuple[int | str, ...]) -> str:
    """Return the path of what is wrong; for a box, that of the whole box."""
    depth = {"box": 1, "boxes": 2}.get(str(location[0]), len(location))
    return ".".join(map(str, location[:depth]))


def _sentence(error: Any) -> str:
    if error["type"] == "value_error":
        return f"{shown(error['input'])} {explain(error)}"
    if len(error["loc"]) > 1 or (error["type"] != "missing" and error["loc"][0] in ("box", "boxes")):
        return "is not a box: write four whole numbers, [left, top, right, bottom]"
    return explain(error)


_WHITE = "A mask: the picture shows where it is white."
_FILE = "Where it is: a path, or a template of one."
_IMAGE = {"image": ImageInput("image", is_primary=True)}
_EITHER = {"image": ImageInput("any", is_primary=True)}
_MASK = {"mask": ImageInput("mask", is_primary=True)}
_MASKS = {"masks": ImageInput("mask", many=True, is_primary=True, least=2)}
_MASKED = {**_IMAGE, "mask": ImageInput("mask", description=_WHITE)}
_TWO = {
    **_IMAGE,
    "over": ImageInput("image", description="The picture on which it is put."),
    "mask": ImageInput("mask", required=False, description=_WHITE),
}
_IMAGE_FILE = {"file": ImageInput("image", description=_FILE)}
_MASK_FILE = {"file": ImageInput("mask", description=_FILE)}


def _reshaping(
    name: str, summary: str, parameters: type[Edit], for_masks: type[Edit] | None = None, *, keeps: bool = True
) -> Operation:
    """Return an operation that changes the size or the shape of an image or a mask, and nothing else.

    Args:
        keeps: a result of the same size is the picture itself.
    """
    return Operation(name, summary, "same", _EITHER, parameters, for_masks=for_masks, keeps_when_same_size=keeps)


_ALL = (
    _reshaping("auto_orient", "Turns a picture upright, as its EXIF data say.", geometry.AutoOrient),
    _reshaping("resize", "Scales a picture or a mask.", geometry.Resize, geometry.ResizeMask),
    _reshaping("crop", "Cuts a part out of a picture or a mask.", geometry.Crop),
    _reshaping("pad", "Puts a border around a picture or a mask.", geometry.Pad, geometry.PadMask),
    _reshaping("rotate", "Turns a picture or a mask.", turning.Rotate, turning.RotateMask, keeps=False),
    _reshaping("flip", "Mirrors a picture or a mask.", turning.Flip, keeps=False),
    Operation("convert", "Changes the file type or the colours.", "image", _IMAGE, images.Convert),
    Operation("load_image", "Takes another picture from a file.", "image", _IMAGE_FILE, images.Load),
    Operation("load_mask", "Takes a mask from a file.", "mask", _MASK_FILE, images.Load),
    Operation("cutout", "Makes transparent what a mask leaves black.", "image", _MASKED, images.Cutout),
    Operation("flatten", "Puts a picture on a colour, dropping its alpha.", "image", _IMAGE, images.Flatten),
    Operation("composite", "Puts a picture on another, through a mask or its alpha.", "image", _TWO, images.Composite),
    Operation("mask_from_alpha", "Makes a mask of what is transparent.", "mask", _IMAGE, FromAlpha),
    Operation("mask_from_boxes", "Makes a mask of rectangles.", "mask", _IMAGE, FromBoxes, needs_pixels=False),
    Operation("mask_from_color", "Makes a mask of what has a colour.", "mask", _IMAGE, FromColor),
    Operation("mask_union", "Puts masks together: white where any of them is white.", "mask", _MASKS, Union),
    Operation("mask_dilate", "Grows the white of a mask, or shrinks it.", "mask", _MASK, Dilate),
    Operation("mask_invert", "Swaps black and white of a mask.", "mask", _MASK, Invert),
)

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _ALL}
"""Every local operation by its name."""
