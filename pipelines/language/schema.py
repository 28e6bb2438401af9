"""The JSON Schema (draft 2020-12) of recipe files: for editors, which complete and explain what can be written.

It is built from the models that check a recipe, and accepts what the reader accepts, and a little more: only the reader
knows which step feeds which. A step is one mapping with a property for every step there is, of which ``oneOf`` asks for
exactly one: from that, editors complete names and parameters, and show where a wrong parameter is; for a choice among
sixty mappings they do not. Short names of steps are patterns: they are checked, and not proposed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from flux_tasks import catalog
from flux_tasks.catalog import Tool, signatures
from flux_tasks.catalog.fields import WEBHOOK_FIELDS
from flux_tasks.catalog.signatures import tools_of
from flux_tasks.images.masks import Mask
from pipelines.language.document.annotations import MaskLabels
from pipelines.language.document.fields import NULL, TEMPLATE, Part, Schema, choices_of, one_of, words_of
from pipelines.language.document.options import FunctionStep, RecipeStep, StepOptions
from pipelines.language.document.recipe import RecipeDocument
from pipelines.language.model import image_inputs
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import OPERATIONS, Operation

_PATH: Schema = {"type": "string", "minLength": 1}
_STEP: Schema = {**_PATH, "description": "The id of the step whose result it is."}


@cache
def text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """Return the JSON Schema of a recipe file; it refers to nothing outside itself."""
    document, parts = _of_part(RecipeDocument)
    options, further = _of_part(StepOptions)
    names = _step_names()
    bodies: dict[str, Schema] = {}
    step = _step(names, bodies, options["properties"])
    items = {"anyOf": [{"$ref": "#/$defs/step"}, {"$ref": "#/$defs/name"}]}
    described = document["properties"]["steps"]["description"]
    document["properties"]["steps"] = {"type": "array", "minItems": 1, "description": described, "items": items}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:flux-pipelines:recipe",
        "title": "A recipe of flux-pipelines",
        "description": RecipeDocument.__doc__,
        **document,
        "$defs": {
            "step": step,
            "name": {
                "enum": [one for name, found in names.items() for one in (name, *found.others)],
                "description": "A step that is given no parameters.",
            },
            **parts,
            **further,
            **bodies,
            **_definitions(),
        },
    }


def _of_part(part: type[Part]) -> tuple[Schema, dict[str, Schema]]:
    """Return the schema of a part of the document, and those of the parts within it by their names."""
    found = part.model_json_schema(ref_template="#/$defs/{model}")
    whole = json.loads(re.sub(r"(?<=#/\$defs/)\w+", lambda name: _definition(name[0]), json.dumps(found)))
    return whole, {_definition(name): inner for name, inner in whole.pop("$defs", {}).items()}


def _definition(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class _StepName(NamedTuple):
    """What a step does, the schema of its parameters, and other spellings of its name."""

    summary: str
    body: Schema
    others: tuple[str, ...]


def _step(names: Mapping[str, _StepName], bodies: dict[str, Schema], options: Schema) -> Schema:
    """Return the schema of a step; what stands below its name is added to ``bodies``, where many tools share one."""
    parts: dict[str, type[Part]] = {"call": FunctionStep, "recipe": RecipeStep}
    called = {name: _of_part(part)[0]["properties"][name] for name, part in parts.items()}
    steps: dict[str, Schema] = {}
    patterns: dict[str, Schema] = {}
    for name, found in names.items():
        body = next((known for known, same in bodies.items() if same == found.body), f"parameters.{name}")
        bodies[body] = found.body
        steps[name] = {"description": found.summary, "$ref": f"#/$defs/{body}"}
        if found.others:
            pattern = f"^({'|'.join(map(re.escape, found.others))})$".replace("\\-", "-")
            patterns[pattern] = {"$ref": f"#/$defs/step/properties/{name}"}
    of_recipe = {"propertyNames": {"enum": [*RecipeStep.fields()]}, "properties": {"from": {"type": "string"}}}
    on_failure = {"required": ["on_failure"], "properties": {"on_failure": {"not": NULL}}}
    every = [*called, *(one for name, found in names.items() for one in (name, *found.others))]
    return {
        "type": "object",
        "description": "A step: its name with its parameters below it, and its options beside it.",
        "properties": {**called, **steps, **options},
        "patternProperties": patterns,
        "additionalProperties": False,
        "oneOf": [{"required": [name]} for name in every],
        "allOf": [
            {"if": {"required": ["recipe"]}, "then": of_recipe},
            {"if": {"required": ["with"]}, "then": {"anyOf": [{"required": [name]} for name in called]}},
            {"if": on_failure, "then": {"required": ["expect"]}},
        ],
    }


def _step_names() -> dict[str, _StepName]:
    """Return every step by its name; tasks first."""
    found: dict[str, _StepName] = {}
    for task in catalog.TASKS:
        tools = tools_of(task)
        found[task] = _StepName(_summary(tools), _of_tools(tools, task), _spellings(task))
    for operation in OPERATIONS.values():
        summary = f"{operation.summary} Costs nothing: it is done here."
        found[operation.name] = _StepName(summary, _of_operation(operation), _spellings(operation.name))
    for tool in catalog.TOOLS.values():
        aliases = [alias for alias in tool.aliases if alias.replace("-", "_") not in catalog.TASKS]
        others = dict.fromkeys(one for name in (tool.name, *aliases) for one in (name, *_spellings(name)))
        left = tuple(name for name in others if name != tool.name and name not in found)
        found[tool.name] = _StepName(_summary((tool,)), _of_tools((tool,), tool.task), left)
    return found


def _spellings(name: str) -> tuple[str, ...]:
    """Return the same name with hyphens, and with underscores."""
    return tuple({name.replace("_", "-"), name.replace("-", "_")} - {name})


def _summary(tools: tuple[Tool, ...]) -> str:
    which = f" By {tools[0].name}, or another model." if len(tools) > 1 else ""
    return f"{tools[0].summary}{which} Price in credits: {tools[0].price}."


def _of_tools(tools: tuple[Tool, ...], task: str) -> Schema:
    """Return the parameters of tools that one step may call: those of any of them."""
    choices: dict[str, list[Schema]] = {}
    for tool in tools:
        fields = {**_of_fields(tool.request), **_of_fields(tool.options)}
        for name in tool.parameters:
            if name not in WEBHOOK_FIELDS:  # a recipe waits for its jobs
                choices.setdefault(name, []).append(_open(fields[name]))
        for name, found in image_inputs(tool, task).items():
            if not found.is_primary:
                choices.setdefault(name, []).append(_picture(found))
    numbered = [name for name in choices if name.startswith("input_image_") and name[-1].isdigit()]
    patterns = {f"^({'|'.join(numbered)})$": _merged(choices[numbered[0]])} if numbered else {}
    properties = {name: _merged(found) for name, found in choices.items() if name not in numbered}
    described = {found.name: found.description for found in signatures.parameters(task)}
    if len(tools) > 1:
        own = [tool.name for tool in tools]
        others = [alias for tool in tools for alias in tool.aliases]
        every = dict.fromkeys((*own, *others, *(one for name in (*own, *others) for one in _spellings(name))))
        properties["model"] = {"enum": [*every, None], "description": described["model"], "default": own[0]}
    else:  # its own name once more: allowed, and not worth being proposed
        patterns["^model$"] = {"type": ["string", "null"]}
    properties["variant"] = _open({"type": "integer", "description": described["variant"], "default": 0})
    properties["fit"] = _open({"enum": ["error", "downscale"], "description": described["fit"], "default": "error"})
    return _mapping(properties, patterns)


def _of_operation(operation: Operation) -> Schema:
    fields = _of_fields(operation.parameters)
    values = {n: _open(one_of([*choices_of(f, null=False), NULL], words_of(f))) for n, f in fields.items()}
    pictures = {name: _picture(found) for name, found in operation.inputs.items() if not found.is_primary}
    return _mapping({**pictures, **values}, {})


def _mapping(properties: Mapping[str, Schema], patterns: Mapping[str, Schema]) -> Schema:
    found: Schema = {"type": ["object", "null"], "additionalProperties": False, "properties": dict(properties)}
    return {**found, "patternProperties": dict(patterns)} if patterns else found


def _picture(found: ImageInput) -> Schema:
    one = {"$ref": "#/$defs/mask" if found.role == "mask" else "#/$defs/picture"}
    kind = {"anyOf": [one, {"type": "array", "items": one}]} if found.many else one
    return {"description": found.description, **kind}


def _definitions() -> dict[str, Schema]:
    """Return what parameters refer to."""
    fields = _of_fields(Mask)
    mask = {name: _open(one_of(choices_of(found, null=False), words_of(found))) for name, found in fields.items()}
    mask["file"] = one_of([_PATH, NULL], words_of(fields["file"]))
    mask["boxes"] = one_of([*choices_of(mask["boxes"]), NULL], words_of(mask["boxes"]))
    step = {"type": "object", "required": ["step"], "additionalProperties": False, "properties": {"step": _STEP}}
    labels = _of_part(MaskLabels)[0]["anyOf"]
    mask["annotations"] = {"description": MaskLabels.__doc__, "anyOf": [*labels, NULL, {"$ref": "#/$defs/templates"}]}
    left_out = {"step": NULL, "file": NULL, "boxes": NULL, "alpha": {"const": False}, "annotations": {"not": {}}}
    described = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"step": _STEP, **mask},
        "oneOf": [{"required": [name], "properties": {name: {"not": value}}} for name, value in left_out.items()],
    }
    inner = {"$ref": "#/$defs/templates"}
    containers = [
        {"type": "array", "contains": inner},
        {"type": "object", "not": {"additionalProperties": {"not": inner}}},
    ]
    text = "A template, such as '{{ prompt }}', filled in for each item."
    picture = "A picture: a path, or {step: id} for the result of another step."
    words = "A mask, white where the picture may change: a path, {step: id}, {boxes: […]}, {alpha: true} or "
    words += "{annotations: person}."
    return {
        "template": {"type": "string", "pattern": TEMPLATE, "description": text},
        "templates": {
            "description": "A list or mapping with a template in it.",
            "anyOf": [{"$ref": "#/$defs/template"}, *containers],
        },
        "picture": {"description": picture, "anyOf": [_PATH, step]},
        "mask": {"description": words, "anyOf": [_PATH, described]},
    }


def _of_fields(model: type[BaseModel]) -> dict[str, Schema]:
    """Return the fields of a model of parameters, without references, and without what only pydantic needs."""
    whole = model.model_json_schema()
    found: dict[str, Schema] = _tidy(whole.get("properties", {}), whole.get("$defs", {}), is_named=True)
    return found


def _tidy(value: Any, definitions: Mapping[str, Any], *, is_named: bool = False, is_choice: bool = False) -> Any:
    """Return ``value`` without titles, sources and null defaults; the keys of one that ``is_named`` are fields."""
    if isinstance(value, list):
        return [_tidy(inner, definitions, is_choice=is_choice) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value and not is_named:
        return {**_tidy(definitions[value["$ref"].rpartition("/")[2]], definitions), **words_of(value)}
    kept = value
    if not is_named:
        kept = {k: v for k, v in value.items() if k not in ("title", "source") and (k != "default" or v is not None)}
    if is_choice and "enum" in kept:
        kept = {**kept, "enum": sorted(kept["enum"], key=str)}  # typing keeps no order of Literal | None
    return {
        k: _tidy(v, definitions, is_named=not is_named and k == "properties", is_choice=k == "anyOf")
        for k, v in kept.items()
    }


def _open(found: Schema) -> Schema:
    """Return a field that may also be a template; lists and mappings may hold one anywhere."""
    choices = choices_of(found)
    if {"type": "string"} in choices:
        return found
    is_deep = any(one.get("type") in ("array", "object") for one in choices)
    return one_of([*choices, {"$ref": f"#/$defs/{'templates' if is_deep else 'template'}"}], words_of(found))


def _merged(found: Sequence[Schema]) -> Schema:
    """Return what any of several tools takes, in the words of the first."""
    choices: list[Schema] = []
    for one in found:
        choices += [choice for choice in choices_of(one) if choice not in choices]
    return one_of(sorted(choices, key=lambda choice: "$ref" in choice), words_of(found[0]))


if __name__ == "__main__":
    from flux_tasks import files

    files.write("configs/recipe.schema.json", text().encode())
