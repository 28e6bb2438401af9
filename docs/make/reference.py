"""Write ``docs/recipe-reference.md``: every key, option, operation and tool of a recipe, as tables.

All of it comes from the JSON Schema of recipes, and so from the models that check a recipe. The generator stands beside
the page because nothing needs it when flux-pipelines runs. ``make docs`` runs it; a test fails when the page is out of
date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from flux_tasks.catalog.signatures import signature
from pipelines.language.names import IMAGE_FACTS, ITEM_NAMES, MASK_FACTS
from pipelines.language.schema import schema
from pipelines.operations.registry import OPERATIONS

PAGE = Path(__file__).parents[1] / "recipe-reference.md"

Schema = Mapping[str, Any]

_WHOLE = schema()
_STEP = _WHOLE["$defs"]["step"]
_STEP_NAMES = {name for choice in _STEP["oneOf"] for name in choice["required"]}
_NAMED = {"picture": "picture", "mask": "mask", "template": "", "templates": ""}
_MOST_NAMES = 20
_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}

_HEAD = """\
<!-- Written by `make docs` from the models of the language; a test fails when it is out of date. -->

# Recipe reference

This page lists everything that a recipe can contain. The [tutorial](recipes.md) explains how the parts work together.
`flux-pipelines schema` prints the same facts as JSON Schema, for editors.

Every parameter of a step also takes a template, such as `"{{ column }}"`. A *picture* is a path, a URL, or `{step: id}`
for the result of another step."""

_OPTIONS = "Write an option beside the step's name, not below it."

_TOOLS = """\
Each tool is a step, under its name or an alias. Each task is a step, too; where a task has several tools, `model`
chooses one. Prices are in credits: 1 credit is 0.01 USD, and MP is 1,048,576 pixels. `flux-pipelines tools NAME` shows
where a price was read."""

_OPERATIONS = """\
Operations run on this machine and cost nothing. Their results are stored like those of tools. Where an operation
changes nothing, the bytes of its picture stay as they are."""


def page() -> str:
    """Return the text of the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    parts: dict[str, Schema] = _WHOLE["properties"]
    yield from _section(2, "A recipe", _table(_WHOLE))
    for name in ("source", "output", "budget"):
        yield from _section(2, f"`{name}`", [parts[name]["description"], "", *_table(_mapping_in(parts[name]))])
    yield from _section(2, "Options of a step", _options())
    yield from _section(
        2, "Masks", [_WHOLE["$defs"]["mask"]["description"], "", *_table(_mapping_in(_WHOLE["$defs"]["mask"]))]
    )
    yield from _section(2, "Names in templates and conditions", _names())
    yield from _section(2, "Tools", _tools())
    for task in catalog.TASKS:
        yield from _section(3, f"`{task}`", _task(task))
    yield from _section(2, "Functions and recipes", _table({"properties": _others()}))
    yield from _section(2, "Operations", _operations())
    for name, operation in OPERATIONS.items():
        needed = {n for n, info in operation.parameters.model_fields.items() if info.is_required()}
        needed |= {n for n, slot in operation.inputs.items() if slot.required}
        if table := _table({**_step(name), "required": needed}):
            yield from _section(3, f"`{name}`", [operation.summary, "", *table])


def _section(level: int, title: str, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", f"{'#' * level} {title}", "", *lines)


def _options() -> Iterator[str]:
    """Return the table of what stands beside a step, and a table of each option that is a mapping of its own."""
    options = {name: found for name, found in _STEP["properties"].items() if name not in _STEP_NAMES}
    yield from (_OPTIONS, "")
    yield from _table({"properties": options})
    for name, option in options.items():
        if inner := _table(_mapping_in(option)):
            yield from _section(3, f"`{name}`", inner)


def _others() -> dict[str, Schema]:
    """Return the steps that are neither tools nor operations: they are a value, not a mapping of parameters."""
    return {name: found for name, found in _STEP["properties"].items() if name in _STEP_NAMES and "$ref" not in found}


def _names() -> Iterator[str]:
    rows = {
        "every item": ", ".join(f"`{name}`" for name in (*ITEM_NAMES, "row")),
        "the picture that the step gets": ", ".join(f"`{name}`" for name in IMAGE_FACTS),
        "a mask of the step, or of a column": ", ".join(f"`mask_{name}`, `<column>_{name}`" for name in MASK_FACTS),
        "the recipe": "the names in `vars`; `env.NAME` for the variables in `env`",
        "a step with a matrix": "the names of the matrix; `variant`",
        "`expect: {condition: …}`": "the facts of the result; `before.width` and so on, the facts of the step's input",
    }
    yield from _rows(("names of", "names"), list(rows.items()))


def _tools() -> Iterator[str]:
    yield from (_TOOLS, "")
    rows = [
        (f"`{t.name}`", f"`{t.task}`", t.price_text, ", ".join(f"`{a}`" for a in t.aliases), t.summary)
        for t in catalog.TOOLS.values()
    ]
    yield from _rows(("tool", "task", "price", "aliases", "what it does"), rows)


def _task(task: str) -> Iterator[str]:
    """Return the table of a task's parameters, and another one of those that only some of its tools take."""
    tools = [catalog.TOOLS[name] for name in catalog.MODELS.get(task, (catalog.tool(task).name,))]
    takes = [{*_properties(_step(tool.name)), *tool.image_fields} for tool in tools]
    table = _properties(_step(task))
    if len(tools) > 1:
        table = {**table, "model": {**table["model"], "enum": [tool.name for tool in tools]}}
    needed = {name for name, found in signature(task).parameters.items() if found.default is found.empty}
    only = {
        name: _which(tools, [name in names for names in takes])
        for name in table
        if name != "model" and any(name not in names for names in takes)
    }
    yield _step(task)["description"]
    yield ""
    yield from _table({"properties": {n: s for n, s in table.items() if n not in only}, "required": needed})
    if only:
        yield from ("", "Some tools also take:", "")
        rows = [(*_row(name, table[name], required=False), where) for name, where in only.items()]
        yield from _rows(("name", "value", "default", "meaning", "tools"), rows)
    if tips := dict.fromkeys(tip for tool in tools for tip in tool.tips if not tip.about.isdigit()):
        yield from ("", "What the documents advise:", "")
        for tip in tips:
            text = f"where {tip.about}: {tip.text}" if tip.about else tip.text
            yield f"- {text[:1].upper()}{text[1:]} ({tip.source})."


def _which(tools: Sequence[Tool], are: Sequence[bool]) -> str:
    """Name the tools that are so, or those that are not if these are fewer."""
    yes, no = (
        [f"`{t.name}`" for t, is_so in zip(tools, are, strict=True) if is_so is wanted] for wanted in (True, False)
    )
    return ", ".join(yes) if len(yes) <= len(no) else f"all but {', '.join(no)}"


def _operations() -> Iterator[str]:
    yield from (_OPERATIONS, "")
    kinds = {"any": "image or mask", "same": "what it takes"}
    rows = []
    for operation in OPERATIONS.values():
        slot = next((slot for slot in operation.inputs.values() if slot.is_primary), None)
        takes = "a `file`"
        if slot is not None:
            takes = f"{slot.least} or more {slot.role}s" if slot.many else kinds.get(slot.role, slot.role)
        gives = kinds.get(operation.output_kind, operation.output_kind)
        rows.append((f"`{operation.name}`", takes, gives, operation.summary))
    yield from _rows(("operation", "takes", "gives", "what it does"), rows)


# -- schemas ---------------------------------------------------------------------------------------------------------


def _step(name: str) -> dict[str, Any]:
    """Return the description and the parameters of a step."""
    found = _STEP["properties"][name]
    return {**_resolved(found), "description": found["description"]}


def _resolved(found: Schema) -> Schema:
    return _WHOLE["$defs"][found["$ref"].rpartition("/")[2]] if "$ref" in found else found


def _mapping_in(found: Schema) -> Schema:
    """Return the alternative of ``found`` that is a mapping with known names, or an empty schema."""
    found = _resolved(found)
    if "properties" in found:
        return found
    choices = [_mapping_in(choice) for choice in found.get("anyOf", ())]
    return next((choice for choice in choices if choice), {})


def _properties(found: Schema) -> dict[str, Schema]:
    """Return properties by name; a pattern of numbered names is one entry."""
    numbered = {
        f"{names[0]} … {names[-1]}": inner
        for pattern, inner in found.get("patternProperties", {}).items()
        if len(names := pattern.strip("^()$").split("|")) > 1
    }
    return {**found.get("properties", {}), **numbered}


def _value(found: Schema) -> str:
    """Describe in words what can be written."""
    reference = found.get("$ref", "").rpartition("/")[2]
    if reference in _NAMED:
        return _NAMED[reference]
    found = _resolved(found)
    if "anyOf" in found and "properties" not in found:
        values = list(dict.fromkeys(filter(None, map(_value, found["anyOf"]))))
        return " or ".join(_merged(values))
    if "const" in found or "enum" in found:
        names = [f"`{_yaml(v)}`" for v in found.get("enum", [found.get("const")]) if v is not None]
        return ", ".join(names) if len(names) <= _MOST_NAMES else "the name of one"
    kinds = found.get("type", "object" if "properties" in found else "")
    return " or ".join(filter(None, (_kind(k, found) for k in ([kinds] if isinstance(kinds, str) else kinds))))


def _kind(kind: str, found: Schema) -> str:
    if kind == "array":
        several = found.get("prefixItems")
        return (
            f"list of {len(several)} {_KINDS[several[0]['type']]}s" if several else f"list of {_value(found['items'])}"
        )
    if kind == "object":
        return "mapping"
    return _KINDS.get(kind, "") + _range(found) * (kind in ("integer", "number"))


def _range(found: Schema) -> str:
    low, high = found.get("minimum"), found.get("maximum")
    if "exclusiveMinimum" in found:
        below = f" and below {found['exclusiveMaximum']:g}" if "exclusiveMaximum" in found else ""
        return f", above {found['exclusiveMinimum']:g}{below}"
    if low is None:
        return ""
    is_open = high is None or high >= 65_535  # that is no limit to think about
    return f", at least {low:,g}" * (low >= 0) if is_open else f", {low:,g} to {high:,g}"


def _merged(values: Sequence[str]) -> list[str]:
    """Join ranges of one kind: ``whole number, 0 to 5 or 0 to 6``."""
    return [v.partition(", ")[2] if i and v.partition(", ")[0] == values[i - 1].partition(", ")[0] else v
            for i, v in enumerate(values)]  # fmt: skip


def _yaml(value: Any) -> str:
    if value == "":
        return '""'
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _row(name: str, found: Schema, *, required: bool) -> tuple[str, str, str, str]:
    default = found.get("default", _resolved(found).get("default"))
    known = "required" if required else f"`{_yaml(default)}`" if default is not None else ""
    meaning = found.get("description") or _resolved(found).get("description", "")
    return f"`{name}`", _value(found), known, meaning


def _table(found: Schema) -> list[str]:
    needed = found.get("required", ())
    rows = [_row(name, inner, required=name in needed) for name, inner in _properties(found).items()]
    return list(_rows(("name", "value", "default", "meaning"), rows)) if rows else []


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
