"""The steps of a recipe in Python: one function for every task and every local operation, with all its parameters.

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
from pipelines.language.python import signatures
from pipelines.language.python.step_spec import Ref, StepSpec, Template, make_step, step
from pipelines.operations.user_function import UserFunction

__all__ = ["StepSpec", "Ref", "Template", "call", "recipe", "step", *signatures.STEPS]

_OPTIONS = {p.name for p in signatures.OPTIONS}


def call(function: str | Callable[..., Any], *, with_: Mapping[str, Any] | None = None, **further: Any) -> StepSpec:
    """Return a step that calls a function of your own: itself, or ``"package.module:function"``.

    Args:
        further: what the function is given besides its picture, and options of the step.
        with_: the former, for names that are options of the step, such as ``id``.

    Raises:
        InvalidRequest: it cannot be a step, or has no such parameter.
    """
    options, given = _split(further)
    given |= with_ or {}
    if isinstance(function, str):
        return make_step("call", given, options, of=function)
    found = UserFunction.of(function)
    problems = found.check({n: v for n, v in given.items() if n not in found.inputs}, where="call", partial=True)
    if problems:
        raise InvalidRequest.of(problems)
    return make_step("call", given, options, of=found.reference)


def recipe(recipe: Any, *, with_: Mapping[str, Any] | None = None, **options: Any) -> StepSpec:
    """Return a step that does all steps of another recipe, or of the file of one.

    Args:
        with_: values for its ``vars``.
        options: ``id`` and ``from_``.

    Raises:
        InvalidRequest: there is no such option.
    """
    known = [p.name for p in signatures.OPTIONS_OF_RECIPES]
    problems = []
    for name in options:
        if name not in known:
            remedy = f"; it takes {', '.join(known)}, and values for its vars are written with_={{…}}"
            problems.append(Problem(f"recipe.{name}", f"unknown key{nearest(name, known) or remedy}"))
    if problems:
        raise InvalidRequest.of(problems)
    return make_step("recipe", with_ or {}, options, of=recipe)


def _split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of a step, and its parameters."""
    options = {name: value for name, value in given.items() if name in _OPTIONS}
    return options, {name: value for name, value in given.items() if name not in _OPTIONS}


def _function(name: str) -> Callable[..., StepSpec]:
    known = tuple(p.name for p in signatures.parameters(name))

    def make(**given: Any) -> StepSpec:
        options, own = _split(given)
        return make_step(name, own, options, known=known, primary=signatures.primary_names(name))

    make.__name__ = make.__qualname__ = name
    make.__doc__ = signatures.docstring(name)
    make.__signature__ = signatures.signature(name)
    return make


globals().update({name: _function(name) for name in signatures.STEPS})
