"""What stands below a step's name, as JSON Schema: from the catalogue's request models and the operations' models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeAlias

from pydantic import BaseModel

from flux_tasks import catalog
from flux_tasks.catalog import Tool
from flux_tasks.catalog.signatures import tools_of
from flux_tasks.images.masks import Mask
from pipelines.language.actions import image_inputs
from pipelines.operations.base import ImageInput
from pipelines.operations.registry import OPERATIONS, Operation

__all__ = ["DEFINITIONS", "PATH", "Schema", "fields_of", "names_of", "step_names", "without_null", "words_of"]

Schema: TypeAlias = dict[str, Any]

_WEBHOOKS = ("webhook_url", "webhook_secret")
_ANNOTATIONS = ("description", "default", "examples")
_STEP = {"type": "string", "minLength": 1, "description": "The id of the step whose result it is."}

PATH: Schema = {"type": "string", "minLength": 1}
"""A location: a path, a URL, or a template of one."""


def step_names() -> dict[str, tuple[str, Schema, tuple[str, ...]]]:
    """Every step by its name: what it does, what may stand below it, and other spellings of the name; tasks first."""
    found: dict[str, tuple[str, Schema, tuple[str, ...]]] = {}
    for task in catalog.TASKS:
        tools = tools_of(task)
        found[task] = (_summary(tools), _of_tools(tools, task), _spellings(task))
    for operation in OPERATIONS.values():
        words = f"{operation.summary} Costs nothing: it is done here."
        found[operation.name] = (words, _of_operation(operation), _spellings(operation.name))
    for tool in catalog.TOOLS.values():
        aliases = [alias for alias in tool.aliases if alias.replace("-", "_") not in catalog.TASKS]
        other = dict.fromkeys(one for name in (tool.name, *aliases) for one in (name, *_spellings(name)))
        others = tuple(name for name in other if name != tool.name and name not in found)
        found[tool.name] = (_summary((tool,)), _of_tools((tool,), tool.task), others)
    return found


def names_of(tools: tuple[Tool, ...]) -> list[str]:
    """Everything that ``tools`` are called, their own names first."""
    own = [tool.name for tool in tools]
    others = [alias for tool in tools for alias in tool.aliases]
    return list(dict.fromkeys((*own, *others, *(one for name in (*own, *others) for one in _spellings(name)))))


def _spellings(name: str) -> tuple[str, ...]:
    """The same name with hyphens, and with underscores."""
    return tuple({name.replace("_", "-"), name.replace("-", "_")} - {name})


def _summary(tools: tuple[Tool, ...]) -> str:
    which = f" By {tools[0].name}, or another model." if len(tools) > 1 else ""
    return f"{tools[0].summary}{which} Price in credits: {tools[0].price}."


def _of_tools(tools: tuple[Tool, ...], task: str) -> Schema:
    """The parameters of tools that one step may call: those of any of them."""
    choices: dict[str, list[Schema]] = {}
    for tool in tools:
        for name, found in _fields(tool).items():
            choices.setdefault(name, []).append(found)
        for name, slot in image_inputs(tool, task).items():
            if not slot.is_primary:
                info = tool.request.model_fields.get(name)
                words = (info.description or "") if info else "Further pictures to go by, in the prompt's order."
                choices.setdefault(name, []).append(_picture(slot, words.partition(", as base64")[0]))
    numbered = [name for name in choices if name.startswith("input_image_") and name[-1].isdigit()]
    patterns = {f"^({'|'.join(numbered)})$": _merged(choices.pop(numbered[0]))} if numbered else {}
    for name in numbered[1:]:
        choices.pop(name)
    own: dict[str, Schema] = {}
    if len(tools) > 1:
        which = f"Which tool; {tools[0].name} by default."
        own["model"] = {"enum": [*names_of(tools), None], "description": which, "default": tools[0].name}
    else:  # its own name once more: allowed, and not worth being proposed
        patterns["^model$"] = {"type": ["string", "null"]}
    own |= {
        "variant": _open(
            {
                "type": "integer",
                "description": "Another result for the same request: a new job, paid anew.",
                "default": 0,
            }
        ),
        "fit": _open(
            {
                "enum": ["error", "downscale"],
                "description": "What to do with a picture that the tool does not take as it is.",
                "default": "error",
            }
        ),
    }
    properties = {name: _merged(found) for name, found in choices.items()}
    return _mapping({**properties, **own}, patterns)


def _fields(tool: Tool) -> dict[str, Schema]:
    found = {**fields_of(tool.request), **fields_of(tool.options)}
    return {name: _open(found[name]) for name in tool.parameters if name not in _WEBHOOKS}


def _of_operation(operation: Operation) -> Schema:
    found = {name: _open(_or_null(one)) for name, one in fields_of(operation.parameters).items()}
    pictures = {
        name: _picture(slot, words_of(name, slot)) for name, slot in operation.inputs.items() if not slot.is_primary
    }
    return _mapping({**pictures, **found}, {})


def words_of(name: str, slot: ImageInput) -> str:
    """What a picture besides the main one is for, in an operation."""
    if name == "file":
        return "Where it is: a path, or a template of one."
    return "A mask; white is what counts." if slot.role == "mask" else f"The picture that goes {name} it."


def _mapping(properties: Mapping[str, Schema], patterns: Mapping[str, Schema]) -> Schema:
    found: Schema = {"type": ["object", "null"], "additionalProperties": False, "properties": dict(properties)}
    return {**found, "patternProperties": dict(patterns)} if patterns else found


def _picture(slot: ImageInput, words: str) -> Schema:
    one = {"$ref": "#/$defs/mask" if slot.role == "mask" else "#/$defs/picture"}
    return {"description": words, **({"anyOf": [one, {"type": "array", "items": one}]} if slot.many else one)}


# -- values -----------------------------------------------------------------------------------------------------------


def fields_of(model: type[BaseModel]) -> dict[str, Schema]:
    """The fields of a pydantic model, without references and without what only pydantic says."""
    whole = model.model_json_schema()
    found: dict[str, Schema] = _tidy(whole.get("properties", {}), whole.get("$defs", {}))
    return found


def _tidy(value: Any, definitions: Mapping[str, Any], *, named: bool = True, among: bool = False) -> Any:
    """``value`` without titles, sources and null defaults.

    Args:
        named: its keys are names of fields.
        among: it is one of several types.
    """
    if isinstance(value, list):
        return [_tidy(inner, definitions, named=False, among=among) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value and not named:
        return {**_tidy(definitions[value["$ref"].rpartition("/")[2]], definitions, named=False), **_words(value)}
    kept = value if named else {k: v for k, v in value.items() if k not in ("title", "source")}
    kept = {k: v for k, v in kept.items() if named or k != "default" or v is not None}
    if among and "enum" in kept:
        kept = {**kept, "enum": sorted(kept["enum"], key=str)}  # typing keeps no order of Literal | None
    return {
        k: _tidy(v, definitions, named=not named and k == "properties", among=k == "anyOf") for k, v in kept.items()
    }


def _words(value: Mapping[str, Any]) -> Schema:
    return {k: v for k, v in value.items() if k in _ANNOTATIONS and v is not None}


def without_null(found: Schema) -> Schema:
    """A field that cannot be empty."""
    choices = [one for one in found.get("anyOf", ()) if one != {"type": "null"}]
    return {**(choices[0] if len(choices) == 1 else {"anyOf": choices}), **_words(found)} if choices else found


def _or_null(found: Schema) -> Schema:
    return {**_words(found), "anyOf": [*(c for c in _choices(found) if c != {"type": "null"}), {"type": "null"}]}


def _open(found: Schema) -> Schema:
    """A field that may also be a template; lists and mappings may hold one anywhere."""
    choices = _choices(found)
    if any(one == {"type": "string"} for one in choices):
        return found
    is_deep = any(one.get("type") in ("array", "object") for one in choices)
    return {**_words(found), "anyOf": [*choices, {"$ref": f"#/$defs/{'templates' if is_deep else 'template'}"}]}


def _choices(found: Schema) -> list[Schema]:
    """What a field may be, without the words about it."""
    bare = {name: value for name, value in found.items() if name not in _ANNOTATIONS}
    return list(deepcopy(bare["anyOf"])) if set(bare) == {"anyOf"} else [bare]


def _merged(choices: list[Schema]) -> Schema:
    """What any of several tools takes, in the words of the first."""
    different = [one for index, one in enumerate(choices) if one not in choices[:index]]
    if len(different) == 1:
        return different[0]
    inner: list[Schema] = []
    for one in different:
        inner += [choice for choice in _choices(one) if choice not in inner]
    return {**_words(different[0]), "anyOf": [c for c in inner if "$ref" not in c] + [c for c in inner if "$ref" in c]}


def _mask_fields() -> Iterator[tuple[str, Schema]]:
    for name, found in fields_of(Mask).items():
        bare = without_null(found)
        yield name, _open({**bare, **PATH} if name == "file" else bare)


_MASK = dict(_mask_fields())

DEFINITIONS: dict[str, Schema] = {
    "template": {
        "type": "string",
        "pattern": "\\{\\{|\\{%",
        "description": "A template, such as '{{ prompt }}', filled in for each item.",
    },
    "templates": {
        "description": "A list or mapping with a template in it.",
        "anyOf": [
            {"$ref": "#/$defs/template"},
            {"type": "array", "contains": {"$ref": "#/$defs/templates"}},
            {"type": "object", "not": {"additionalProperties": {"not": {"$ref": "#/$defs/templates"}}}},
        ],
    },
    "picture": {
        "description": "A picture: a path, or {step: id} for the result of another step.",
        "anyOf": [
            PATH,
            {"type": "object", "required": ["step"], "additionalProperties": False, "properties": {"step": _STEP}},
        ],
    },
    "mask": {
        "description": "A mask, white where the picture may change: a path, {step: id}, {boxes: […]} or {alpha: true}.",
        "anyOf": [
            PATH,
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"step": _STEP, **_MASK},
                "oneOf": [
                    *({"required": [name]} for name in ("step", "file", "boxes")),
                    {"required": ["alpha"], "properties": {"alpha": {"not": {"const": False}}}},
                ],
            },
        ],
    },
}
"""What parameters refer to."""
