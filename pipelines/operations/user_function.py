"""The user's own function as a step of a recipe: ``call: package.module:function``.

Any function that takes an upright Pillow image of mode L, LA, RGB or RGBA, and returns one, can be a step::

    def grain(image: Image.Image, strength: int = 4) -> Image.Image: ...

Further parameters that are annotated ``Image.Image`` are further pictures; all others are written in the recipe.
A recipe may call functions that are marked with ``@operation``, and those that are written in a module beside it;
``@operation(gives="mask")`` marks one that returns masks. The source of the function's module is part of the key
of a result, so that results are new after an edit of the module; other modules that it imports are not.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints, overload

from PIL import Image

from flux_tasks.errors import InvalidImage, InvalidRequest, Problem, cut, nearest, quote, shown
from flux_tasks.images.encoding import MAX_PIXELS
from flux_tasks.images.mask_reading import interpret
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.operations.base import ImageInput, ImageKind, Pictures, describe, pictures_by_input
from pipelines.operations.importing import UNMARKED, import_user_module, is_beside, source_digest, users_code
from pipelines.operations.pixels import encode, has_same_pixels, normalised, open_pixels, own_bytes

__all__ = ["UserFunction", "load", "operation"]

Function = TypeVar("Function", bound=Callable[..., Any])

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@overload
def operation(function: Function) -> Function: ...
@overload
def operation(function: None = None, *, gives: ImageKind = "image") -> Callable[[Function], Function]: ...
def operation(function: Any = None, *, gives: ImageKind = "image") -> Any:
    """Mark a function as a step that gives an image or a mask. The function itself does not change.

    Raises:
        InvalidRequest: ``gives`` is neither ``image`` nor ``mask``, or what is decorated is no function.
    """
    if gives not in ("image", "mask"):
        raise InvalidRequest.of([Problem("operation", f"gives={shown(gives)} is not known: write 'image' or 'mask'")])

    def mark(decorated: Any) -> Any:
        try:
            decorated.__flux_gives__ = gives
        except (AttributeError, TypeError):
            what = f"{shown(decorated)} cannot be marked as a step: decorate a function that is written with def"
            raise InvalidRequest.of([Problem("operation", what)]) from None
        return decorated

    return mark if function is None else mark(function)


_given: dict[str, Any] = {}
"""Functions that this program itself has given to a recipe, by their references."""


def load(reference: str, *, where: str = "call", folder: Path | None = Path()) -> UserFunction:
    """Return the function that ``package.module:function`` names; modules in the current folder come first.

    Args:
        folder: that of the recipe, whose modules need no mark; None if it is not on this machine.

    Raises:
        InvalidRequest: there is no such module or function, the module raises, a recipe may not call the function, or
            it cannot be a step.
    """
    if not isinstance(reference, str) or not _REFERENCE.fullmatch(reference):
        what = f"{shown(reference)} names no function: write it as package.module:function, such as my_ops:grain"
        raise InvalidRequest.of([Problem(where, what)])
    module_name, _, name = reference.partition(":")
    module = import_user_module(module_name, where, folder)
    try:
        function = getattr(module, name)
    except AttributeError:
        offered = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        hint = nearest(name, offered) or (f"; it has {', '.join(offered[:12])}" if offered else "; it has no function")
        raise InvalidRequest.of([Problem(where, f"{cut(module_name)} has no {quote(name)}{hint}")]) from None
    except Exception as error:  # a module may answer for its own names
        raise InvalidRequest.of([Problem(where, f"{cut(reference)} cannot be imported: {describe(error)}")]) from None
    is_given = reference in _given and _given[reference] is function
    if not (is_given or _is_marked(function) or _is_written_beside(function, module, folder)):
        raise InvalidRequest.of([Problem(where, f"{cut(reference)} {UNMARKED}")])
    return _step(function, reference, module, where)


def _is_marked(function: Any) -> bool:
    mark = inspect.getattr_static(function, "__flux_gives__", None)  # some objects have an answer to every name
    return isinstance(mark, str) and mark in ("image", "mask")


def _is_written_beside(function: Any, module: types.ModuleType, folder: Path | None) -> bool:
    """Check whether a function is written in a module of ``folder``; what that imports from elsewhere is not."""
    homes = {module.__name__}
    if inspect.isroutine(function) or inspect.isclass(function):
        with suppress(ValueError):
            both = (function, inspect.unwrap(function))
            homes = {getattr(one, "__module__", None) or module.__name__ for one in both}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in homes}
    return any(is_beside(name, file, folder) for name, file in files.items())


def _step(function: Any, reference: str, module: types.ModuleType | None, where: str) -> UserFunction:
    """Return ``function`` as a step.

    Raises:
        InvalidRequest: it cannot be one.
    """

    def refuse(what: str) -> InvalidRequest:
        return InvalidRequest.of([Problem(where, f"{reference} {what}")])

    if not callable(function):
        raise refuse(f"is {type(function).__name__}, no function: name one that takes an image and returns one")
    try:
        bare = inspect.unwrap(function)
        takes = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        raise refuse("does not show its parameters: call it from a function that is written with def") from None
    for called in (function, bare, function.__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            raise refuse("is async: write it with a plain def, it runs on a thread of its own")
        if inspect.isgeneratorfunction(called):
            raise refuse("yields: return one image")
    others = takes[1:]
    if not takes or takes[0].kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
        raise refuse("takes no picture: its first parameter is the picture")
    if any(p.kind == p.POSITIONAL_ONLY and p.default is p.empty for p in others):
        raise refuse("has further parameters without a name (before '/'): let only the first one stand there")
    try:
        source = source_digest(bare, module)
    except (OSError, TypeError):
        raise refuse("has no source that can be read, and its source is part of the key of what it makes") from None
    step = UserFunction(reference, getattr(function, "__flux_gives__", "image"), function, source)
    if any(p.name == "image" and _is_picture(a) for p, a in _annotated(function, others)):
        raise refuse("calls a further picture 'image': the main one is called so, give it another name")
    return step


def _annotated(function: Any, parameters: Sequence[inspect.Parameter]) -> list[tuple[inspect.Parameter, Any]]:
    try:
        hints = get_type_hints(function)
    except Exception:  # an annotation that is there for type checkers only
        hints = {}
    return [(p, hints.get(p.name, p.annotation)) for p in parameters]


def _is_picture(annotation: Any) -> bool:
    """Check whether it is ``Image.Image``, alone or with None; as a class or, where that failed, as text."""
    if isinstance(annotation, str):
        return any(re.fullmatch(r"(PIL\.)?Image\.Image", part.strip()) for part in annotation.split("|"))
    return annotation is Image.Image or Image.Image in getattr(annotation, "__args__", ())


@dataclass(frozen=True)
class UserFunction:
    """A user's function as a step of a recipe. It may be called from several threads at once.

    Attributes:
        reference: ``package.module:function``.
        output_kind: ``image`` or ``mask``.
        function: takes an upright Pillow image of mode L, LA, RGB or RGBA, and parameters; returns a Pillow image.
        source: SHA-256, 64 hex digits, of the source of its module; of its own where there is no file (a notebook).
    """

    reference: str
    output_kind: ImageKind
    function: Callable[..., Any]
    source: str
    keeps_when_same_size: ClassVar[bool] = False
    needs_pixels: ClassVar[bool] = True

    @classmethod
    def of(cls, function: Callable[..., Any], *, where: str = "call") -> UserFunction:
        """Return a function of a module, a script or a notebook as a step.

        Raises:
            InvalidRequest: it cannot be a step, or has no name of its own (a lambda, a function in a function).
        """
        name, module = getattr(function, "__qualname__", ""), getattr(function, "__module__", None) or ""
        if not _REFERENCE.fullmatch(f"{module}:{name}"):
            what = f"{shown(function)} cannot be named in a recipe: write it with def at the top of a module"
            raise InvalidRequest.of([Problem(where, what)])
        step = _step(function, f"{module}:{name}", sys.modules.get(module), where)
        _given[step.reference] = function
        return step

    @cached_property
    def _others(self) -> list[inspect.Parameter]:
        """Its parameters after the first."""
        return list(inspect.signature(self.function).parameters.values())[1:]

    @cached_property
    def inputs(self) -> Mapping[str, ImageInput]:
        """Its pictures: ``image``, the primary one, and each further parameter that is annotated ``Image.Image``."""
        further = {
            p.name: ImageInput("any", required=p.default is p.empty)
            for p, annotation in _annotated(self.function, self._others)
            if _is_picture(annotation) and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
        }
        return {"image": ImageInput("any", is_primary=True), **further}

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from any other step, for the key of its results."""
        return {"call": self.reference, "source": self.source, "gives": self.output_kind}

    def for_role(self, role: ImageKind) -> UserFunction:
        """Return the step itself: it takes images and masks."""
        return self

    def chosen(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """``parameters``: the defaults of the function's signature are part of its source."""
        return dict(parameters)

    def defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``parameters``, as for ``chosen``."""
        return dict(parameters)

    def output_size(self, parameters: Mapping[str, Any], size: tuple[int, int]) -> None:
        """Return None: the size is not known."""

    def check(self, parameters: Mapping[str, Any], *, where: str = "", partial: bool = False) -> list[Problem]:
        """Return the problems of parameters that the function does not have, and of required ones that are missing.

        Args:
            where: prefix of each problem's path; the reference if empty.
            partial: do not ask for required parameters.
        """
        where = where or self.reference
        named = [p for p in self._others if p.name not in self.inputs and p.kind != p.POSITIONAL_ONLY]
        takes = {p.name: p for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        problems = []
        for name in parameters:
            if name in self.inputs:
                problems.append(Problem(f"{where}.{name}", "is a picture: give it a step or a file, no plain value"))
            elif name not in takes and not any(p.kind == p.VAR_KEYWORD for p in named):
                hint = nearest(str(name), takes) or f"; it takes {', '.join(takes) or 'none'}"
                problems.append(Problem(f"{where}.{name}", f"{self.reference} has no such parameter{hint}"))
        for name, parameter in takes.items():
            if parameter.default is parameter.empty and name not in parameters and not partial:
                problems.append(Problem(f"{where}.{name}", "is required: write a value for it"))
        return problems

    def perform(self, parameters: Mapping[str, Any], pictures: Pictures) -> ImageRef:
        """Return what the function returns, in memory; the file of the primary picture where it changes nothing.

        Raises:
            InvalidRequest: a parameter or a picture is missing or unknown.
            InvalidImage: a picture cannot be read, the function raises, or it returns something else than an image.
        """
        given = pictures_by_input(self.inputs, pictures, where=self.reference, problems=self.check(parameters))
        main = given["image"][0]
        opened = {name: open_pixels(chosen[0]) for name, chosen in given.items()}
        image = opened.pop("image")
        before = image.copy()
        try:
            with users_code():
                result = self.function(image, **opened, **copy.deepcopy(dict(parameters)))
            made = _made(result, mask=self.output_kind == "mask")
        except BaseException as error:  # SystemExit and GeneratorExit, too: a function does not end the run
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            what = str(error) if isinstance(error, _NoImage) else describe(error)
            raise InvalidImage(f"{self.reference}: {what}") from None
        if has_same_pixels(made, before):
            return own_bytes(main)
        profile = made.info.get("icc_profile") or before.info.get("icc_profile")
        return encode(made, given, profile=None if self.output_kind == "mask" else profile)


class _NoImage(Exception):
    """A function returned something else than an image that can be used."""


def _made(result: Any, *, mask: bool) -> Image.Image:
    if not isinstance(result, Image.Image):
        hint = "return Image.fromarray(…)" if hasattr(result, "__array_interface__") else "return a Pillow image"
        found = "nothing" if result is None else f"a {type(result).__name__}"
        raise _NoImage(f"returned {found}, not an image: {hint}")
    if not 0 < result.width * result.height <= MAX_PIXELS:
        raise _NoImage(f"returned {px_size(result.size)}: return from 1 px to {MAX_PIXELS // 1_000_000} MP")
    made = result if mask and result.mode[0] in "IFP" else normalised(result)  # greys of more bits, indices
    try:
        return interpret(made) if mask else made
    except InvalidImage as error:
        raise _NoImage(f"returned no clear mask: {error}") from None
