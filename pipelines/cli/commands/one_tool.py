"""``erase``, ``deblur`` and the other tools: one step over a folder of photos, without a recipe; one is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError, listed, quote
from pipelines.cli.commands.run import Outputs, carry_out
from pipelines.cli.common import Budget, Exit, Limit, Location, Places
from pipelines.cli.terminal import print_line

ABOUT = {
    "deblur": "Deblur photos.",
    "erase": "Erase what masks show from photos.",
    "fill": "Fill what masks show in photos, by a prompt.",
    "outpaint": "Enlarge the canvas of photos.",
    "expand": "Add pixels at the sides of photos.",
    "edit": "Edit photos by a prompt.",
    "try_on": "Dress the people in photos in garments.",
}
"""The steps that have a command of their own."""

_MASKED = ("erase", "fill")
_OUTPUTS = Outputs()


_Photos = Annotated[Location, Parameter(metavar="PHOTOS", help="a folder, a photo or a glob; also in a bucket")]
_Out = Annotated[Location, Parameter(metavar="FOLDER", help="where the results go: a folder, or a path template")]
_Masks = Annotated[
    Location | None,
    Parameter(metavar="FOLDER", help="masks with the names of the photos, white where the tool works; or a template"),
]
_Prompt = Annotated[str, Parameter(metavar="TEXT", help="what the tool is to do, in words")]
_Model = Annotated[str, Parameter(metavar="NAME", help="which of the tools; flux-pipelines tools lists them")]
_More = Annotated[
    Sequence[str],
    Parameter(
        name="--with",
        metavar="NAME=VALUE",
        n_tokens=1,
        help="a parameter or an option of the step, such as seed=7; may be repeated",
    ),
]
_Print = Annotated[bool, Parameter(name="--print", help="print the recipe that this is, and do nothing")]


def _command(step: str) -> Callable[..., Exit]:
    def apply(
        photos: _Photos,
        /,
        *,
        out: _Out,
        masks: _Masks = None,
        prompt: _Prompt = "",
        model: _Model = "",
        more: _More = (),
        print_only: _Print = False,
        limit: Limit = None,
        budget: Budget = None,
        places: Places = Places(),
        outputs: Outputs = _OUTPUTS,
    ) -> Exit:
        from pipelines.language.reading import loader

        text = _recipe(step, str(photos), str(out), str(masks or ""), prompt, model, more)
        recipe = loader.parse(text)
        if print_only:
            print_line(text.rstrip())
            return Exit.OK
        return carry_out(recipe, places.settings(), outputs, limit=limit, budget=budget)

    name = step.replace("_", "-")
    masked = " --masks masks/" if step in _MASKED else ""
    extra = {"fill": " --prompt ivy", "edit": " --prompt snow", "outpaint": " --with aspect_ratio=16:9"}
    extra |= {"expand": " --with left=256", "try_on": " --prompt coat --with garment=coat.png"}
    apply.__name__ = name
    apply.__doc__ = f"""{ABOUT[step]}

    What a run with a recipe does: nothing is paid for twice, and a report
    is written. --print shows the recipe, for you to keep and to extend.

    For example:
      flux-pipelines {name} photos/{masked} --out out/{extra.get(step, "")}
    """
    return apply


COMMANDS = tuple(map(_command, ABOUT))


def _recipe(step: str, photos: str, out: str, masks: str, prompt: str, model: str, more: Sequence[str]) -> str:
    """Return the recipe of one step over a folder, as YAML.

    Raises:
        RecipeError: an option cannot be used.
    """
    import yaml

    from pipelines.language.document.options import StepOptions

    problems: list[Problem] = []
    action: dict[str, Any] = {}
    source: dict[str, Any] = {"images": photos}
    if masks:
        source["columns"] = {"mask": _beside(masks, problems)}
        action["mask"] = "{{ mask }}"
    elif step in _MASKED and not any(text.startswith("mask=") for text in more):
        problems.append(Problem("--masks", "is missing: name the folder with the masks"))
    action |= {name: text for name, text in (("prompt", prompt), ("model", model)) if text}
    beside: dict[str, Any] = {}
    for text in more:
        name, sign, given = text.partition("=")
        if not sign or not name.strip():
            problems.append(Problem("--with", f"{quote(text)} is not NAME=VALUE"))
            continue
        read: Any = given
        with suppress(ValueError):  # it is a text
            read = json.loads(given)
        (beside if name.strip() in StepOptions.model_fields else action)[name.strip()] = read
    if problems:
        raise RecipeError(problems)
    target = out if "{{" in out else f"{out.rstrip('/')}/{{{{ stem }}}}.png"
    data = {"name": step, "source": source, "steps": [{step: action, **beside}], "output": target}
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


def _beside(masks: str, problems: list[Problem]) -> str:
    """Return the template of the mask of a photo, which has the photo's name and any one extension."""
    from flux_tasks import files
    from flux_tasks.images.encoding import EXTENSIONS

    if "{{" in masks:
        return masks
    try:
        names = files.listing(masks)
    except OSError as error:
        problems.append(Problem("--masks", f"{files.quoted(masks)} cannot be listed: {error}"))
        return ""
    found = sorted({kind for name in names if (kind := files.extension(name)) in {*EXTENSIONS.values(), "jpeg"}})
    if len(found) != 1:
        example = f"{files.join(masks, '{{ stem }}.png')}"
        has = f"has masks of several kinds ({listed(found)})" if found else "has no masks"
        problems.append(Problem("--masks", f"{files.quoted(masks)} {has}: write a template, such as {quote(example)}"))
        return ""
    return files.join(masks, f"{{{{ stem }}}}.{found[0]}")
