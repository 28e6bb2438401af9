"""The steps of a recipe in Python: a function for every task and every local operation, with all their parameters.

::

    from pipelines import Recipe
    from pipelines.steps import call, deblur, erase, mask_from_boxes, outpaint

    corner = mask_from_boxes(boxes=[[10, 10, 100, 100]], from_="source")
    recipe = Recipe(
        "restore",
        source="photos/*.jpg",
        steps=[deblur(when="sharpness < 120"), corner, erase(mask=corner), outpaint(aspect_ratio="16:9")],
        output="out/{{ stem }}.png",
    )

The picture that a step works on is the one of the step before, or of ``from_``. Every other picture is a path, another
step, or ``step("id")``; a mask also a ``Mask`` or a mapping. Every parameter may be a template. Importing this imports
neither Prefect nor a cloud library. The types of the parameters are in ``steps.pyi``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flux_tasks.errors import InvalidRequest, Problem, nearest
from pipelines.language.python.draft import Ref, StepSpec, Template, make_step, step
from pipelines.language.python.signatures import (
    BESIDE,
    FOR_RECIPES,
    STEPS,
    docstring,
    main_names,
    parameters,
    signature,
)
from pipelines.operations.user_function import UserFunction

__all__ = ["StepSpec", "Ref", "Template", "call", "recipe", "step", *STEPS]

_BESIDE = {p.name for p in BESIDE}


def call(function: str | Callable[..., Any], *, with_: Mapping[str, Any] | None = None, **further: Any) -> StepSpec:
    """A function of your own as a step: itself, or ``"package.module:function"``.

    Args:
        further: what the function is given besides its picture, and what may stand beside every step.
        with_: the former, for names that mean something else here, such as ``id``.

    Raises:
        InvalidRequest: it cannot be a step, or has no such parameter.
    """
    beside, given = _apart(further)
    given |= with_ or {}
    if isinstance(function, str):
        return make_step("call", given, beside, of=function)
    found = UserFunction.of(function)
    problems = found.check({n: v for n, v in given.items() if n not in found.inputs}, where="call", partial=True)
    if problems:
        raise InvalidRequest.of(problems)
    return make_step("call", given, beside, of=found.reference)


def recipe(recipe: Any, *, with_: Mapping[str, Any] | None = None, **beside: Any) -> StepSpec:
    """Another recipe, or the file of one, as a step: its steps are done.

    Args:
        with_: values for its ``vars``.
        beside: ``id`` and ``from_``.

    Raises:
        InvalidRequest: something else stands beside it.
    """
    unknown = [name for name in beside if name not in FOR_RECIPES]
    if unknown:
        remedy = f"; beside it stand {', '.join(FOR_RECIPES)}, and values for its vars are written with_={{…}}"
        raise InvalidRequest.of(
            [Problem(f"recipe.{n}", f"is not known here{nearest(n, FOR_RECIPES) or remedy}") for n in unknown]
        )
    return make_step("recipe", with_ or {}, beside, of=recipe)


def _apart(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands beside a step, and its parameters."""
    beside = {name: value for name, value in given.items() if name in _BESIDE}
    return beside, {name: value for name, value in given.items() if name not in _BESIDE}


def _function(name: str) -> Callable[..., StepSpec]:
    known = tuple(p.name for p in parameters(name))

    def make(**given: Any) -> StepSpec:
        beside, given = _apart(given)
        return make_step(name, given, beside, known, main_names(name))

    make.__name__ = make.__qualname__ = name
    make.__doc__ = docstring(name)
    make.__signature__ = signature(name)
    return make


globals().update({name: _function(name) for name in STEPS})
