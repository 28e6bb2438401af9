"""The contract as data: every tool of the BFL API, one entry each.

Client, checks, prices, local server, JSON Schema, docs and task signatures read this table. To add a tool, add one
``Tool`` to the tuple of its family.
"""

from dataclasses import replace

from flux_tasks.catalog import flux1, flux2, flux3, flux_tools
from flux_tasks.catalog.fields import SOURCES
from flux_tasks.catalog.tool import CONTRACT_VERSION, Tool
from flux_tasks.errors import InvalidRequest, Problem, nearest, quote, shown

__all__ = [
    "CONTRACT_VERSION",
    "DEFAULT_MODELS",
    "MODELS",
    "SOURCES",
    "TASKS",
    "TOOLS",
    "Tool",
    "contested",
    "find",
    "tool",
]

_TOOLS = (*flux_tools.TOOLS, *flux1.TOOLS, *flux2.TOOLS, *flux3.TOOLS)
_BOTH = {t.name for t in (*flux2.TOOLS, *flux3.TOOLS)}

MODELS: dict[str, tuple[str, ...]] = {
    "try_on": tuple(t.name for t in _TOOLS if t.task == "try_on"),
    "edit": tuple(t.name for t in _TOOLS if t.task == "edit"),
    "generate": tuple(t.name for t in _TOOLS if t.task == "generate" or t.name in _BOTH),
}
"""The tools behind each task that takes ``model=``. FLUX.2 and FLUX 3 both edit and generate."""


def _pointing(one: Tool) -> Tool:
    """Return a tool that says, for parameters that it lacks, which other models of its task have them."""
    holders: dict[str, list[str]] = {}
    for other in _TOOLS:
        for name in other.parameters if other.name in MODELS.get(one.task, ()) else ():
            holders.setdefault(name, []).append(other.name)
    said = {
        name: f"{' and '.join(names) if len(names) < 3 else f'{names[0]} and {len(names) - 1} others'} "
        f"{'has' if len(names) == 1 else 'have'} it"
        for name, names in holders.items()
        if one.name not in names
    }
    if "mask" in one.image_fields:
        said["boxes"] = "write mask: {boxes: [[left, top, right, bottom]]}, or edit with the model flux-3-image"
    elif one.task == "edit":
        said["mask"] = "an edit follows its prompt; erase and fill take a mask"
    return replace(one, instead={**said, **one.instead})


TOOLS: dict[str, Tool] = {t.name: _pointing(t) for t in _TOOLS}
"""Every tool by the API's own name."""

_ALIASES: dict[str, str] = {alias: t.name for t in TOOLS.values() for alias in t.aliases}

_CONTESTED = {
    name: f"{name} means {t.name} here and {other} in {place}: write one of the two"
    for t in TOOLS.values()
    for name, (other, place) in t.contested.items()
}
"""Names that mean one tool here and another elsewhere, each with the reason why it is refused."""

DEFAULT_MODELS = {"try_on": "vto-v2", "edit": "flux-2-pro", "generate": "flux-2-pro"}
"""The tool of a task that takes ``model=``, if none is given."""

TASKS: tuple[str, ...] = (*dict.fromkeys(t.task for t in TOOLS.values()),)
"""Names of the Python tasks, and of the steps in recipes."""


def find(name: str) -> Tool | None:
    """Return the tool called ``name``, by the API's name or an alias, or None."""
    name = _plain(name)
    return TOOLS.get(name) or TOOLS.get(_ALIASES.get(name, ""))


def contested(name: str) -> str:
    """Return why ``name`` is refused, if it means one tool here and another elsewhere; else an empty string."""
    return _CONTESTED.get(_plain(name), "")


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def tool(task: str, model: str | None = None, *, where: str = "") -> Tool:
    """Return the tool that ``task`` calls; for tasks with several models, the one named ``model``.

    ``task`` may also be a tool's own name or alias.

    Raises:
        InvalidRequest: unknown, with the nearest name; or a model that the task does not have.
    """
    task_name = task.replace("-", "_")
    if task_name in MODELS:
        model_name = DEFAULT_MODELS[task_name] if model is None else model
        found = find(model_name) if isinstance(model_name, str) else None
        if found is None or found.name not in MODELS[task_name]:
            known = MODELS[task_name]
            hint = nearest(str(model), known)
            what = f"{shown(model)} is not a model of {task_name}{hint}; it has {', '.join(known)}"
            what = contested(str(model)) or what
            raise InvalidRequest.of([Problem(f"{where or task_name}.model", what)])
        return found
    found = find(task)
    if found is None:
        hint = nearest(task, [*TASKS, *TOOLS, *_ALIASES])
        raise InvalidRequest.of([Problem(where, contested(task) or f"there is no tool {quote(task)}{hint}")])
    if model is not None and (not isinstance(model, str) or find(model) is not found):
        raise InvalidRequest.of([Problem(f"{where or task_name}.model", f"{task_name} takes no model: leave it out")])
    return found
