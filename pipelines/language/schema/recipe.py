"""The JSON Schema (draft 2020-12) of recipe files: for editors, which complete and explain what can be written.

It is made of the same models that check a recipe, so it has their descriptions, ranges and defaults. It is a little
more generous than the reader, which alone knows which step feeds which: what the reader takes, the schema takes, if
names are written in small letters and with either hyphens or underscores. Editors find it by a recipe's first line::

    # yaml-language-server: $schema=recipe.schema.json

A step is one mapping with a property for every step there is, of which ``oneOf`` asks for exactly one: from that,
editors complete names and parameters, and show where a wrong parameter is, which they do not for a choice among sixty
mappings. They propose the names of tasks, operations and tools; short names are patterns, and are only checked.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from pipelines.language.expect import Expect
from pipelines.language.names import IMAGE_FACTS, ITEM_NAMES, SOURCE
from pipelines.language.schema.steps import DEFINITIONS, PATH, Schema, fields_of, step_names, without_null

__all__ = ["schema", "text"]

_WORD = "^[^\\s\\d./\\\\{}()\\[\\]:;,'\"-][^\\s./\\\\{}()\\[\\]:;,'\"-]*$"
_ID = "^[^\\s\\d./\\\\{}()\\[\\]:;,'\"][^\\s./\\\\{}()\\[\\]:;,'\"]*$"
_NULL = {"type": "null"}
_TAKEN = [*ITEM_NAMES, *IMAGE_FACTS, "env", "row", "variant", "before", SOURCE]
_NAMES = {"pattern": _WORD, "not": {"enum": _TAKEN}}
_RESULT: Schema = {
    "type": "string",
    "pattern": "(\\{\\{|\\{%)[\\s\\S]*\\.([pP][nN][gG]|[jJ][pP][eE]?[gG]|[wW][eE][bB][pP])$",
    "description": "A path or URL with a template in it, such as 'out/{{ stem }}.png'; it ends in .png, .jpg, .jpeg or "
    ".webp, and that is the file type.",
    "examples": ["out/{{ stem }}.png"],
}


@cache
def text() -> str:
    """The schema as the text of a file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def schema() -> Schema:
    """JSON Schema of a recipe file; nothing has to be fetched for it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:flux-pipelines:recipe",
        "title": "A recipe of flux-pipelines",
        "description": "Where pictures come from, what is done to each, and where the results go.",
        "type": "object",
        "additionalProperties": False,
        "required": ["source", "steps", "output"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "What people call it.", "default": "recipe"},
            "vars": {
                "type": ["object", "null"],
                "description": "Constants for templates: {style: oil} is {{ style }}. --set style=ink changes it.",
                "propertyNames": _NAMES,
                "additionalProperties": {"not": {"$ref": "#/$defs/template"}},
            },
            "env": {
                "type": ["array", "null"],
                "description": "Environment variables that templates may see, as {{ env.NAME }}. No secrets.",
                "items": {"type": "string"},
            },
            "source": _source(),
            "steps": {
                "type": "array",
                "minItems": 1,
                "description": "What is done, in order: each gets the picture of the one before, or of those in from.",
                "items": {"anyOf": [{"$ref": "#/$defs/step"}, {"$ref": "#/$defs/name"}]},
            },
            "output": {
                "description": "Where results go: a path template, {path, from}, or a list of these.",
                "anyOf": [
                    _RESULT,
                    {"$ref": "#/$defs/output"},
                    {"type": "array", "minItems": 1, "items": {"anyOf": [_RESULT, {"$ref": "#/$defs/output"}]}},
                ],
            },
            "budget": {
                "description": "The most that a run may spend, in credits (1 credit = 0.01 USD).",
                "anyOf": [
                    {"type": "number", "minimum": 0},
                    {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["credits"],
                        "properties": {
                            "credits": {"type": "number", "minimum": 0, "description": "1 credit is 0.01 USD."}
                        },
                    },
                    _NULL,
                ],
            },
        },
        "$defs": {
            "step": _step(),
            "name": {
                "enum": [name for name, (_, _, others) in step_names().items() for name in (name, *others)],
                "description": "A step that is given no parameters.",
            },
            "output": {
                "type": "object",
                "additionalProperties": False,
                "required": ["path"],
                "properties": {
                    "path": _RESULT,
                    "from": {
                        "type": "string",
                        "minLength": 1,
                        "description": "The id of the step whose result it is; the last one if left out.",
                    },
                },
            },
            "expect": _expect(),
            **_parameters(),
            **DEFINITIONS,
        },
    }


def _source() -> Schema:
    glob = {**PATH, "examples": ["photos/*.jpg"]}
    ending = "|".join("".join(f"[{c}{c.upper()}]" for c in e) for e in ("csv", "tsv", "jsonl", "ndjson", "parquet"))
    properties: dict[str, Any] = {
        "images": {
            "description": "Globs of pictures, on any path or fsspec URL; each picture is an item.",
            "anyOf": [glob, {"type": "array", "minItems": 1, "items": glob}, _NULL],
        },
        "table": {
            "type": "string",
            "pattern": f"(^|\\.)({ending})$",
            "description": "A CSV, TSV, JSONL or Parquet file, or a glob of several; each row is an item.",
        },
        "image": {
            **PATH,
            "description": "With a table: where each row's picture is, such as 'photos/{{ file }}'.",
        },
        "columns": {
            "type": ["object", "null"],
            "description": "Names with templates, filled in for each item, such as mask: 'masks/{{ stem }}.png'.",
            "propertyNames": _NAMES,
            "additionalProperties": {"type": "string"},
        },
        "filter": {
            "type": ["string", "boolean", "null"],
            "minLength": 1,
            "description": "An expression; items for which it is false are left out.",
        },
        "sample": {
            "description": "So many items at random (a whole number), or that share of them (below 1).",
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                _NULL,
            ],
        },
        "seed": {"type": ["integer", "null"], "minimum": 0, "default": 0, "description": "Of the sample."},
        "limit": {"type": ["integer", "null"], "minimum": 1, "description": "So many items at most."},
    }
    return {
        "description": "Where items come from: a glob of pictures, or a mapping with images or a table.",
        "anyOf": [
            glob,
            {"type": "array", "minItems": 1, "items": glob},
            {
                "type": "object",
                "additionalProperties": False,
                "properties": properties,
                "anyOf": [{"required": ["images"]}, {"required": ["table"]}],
                "dependentRequired": {"image": ["table"]},
            },
        ],
    }


def _step() -> Schema:
    steps: dict[str, Schema] = {
        "call": {
            "type": "string",
            "pattern": "^[^\\s:]+:[^\\s:.]+$",
            "description": "A function of your own, package.module:function. It takes a Pillow image and returns one.",
        },
        "recipe": {**PATH, "description": "Another recipe, whose steps are done; with sets its vars."},
    }
    patterns: dict[str, Schema] = {}
    names = ["call", "recipe"]
    bodies = _parameters()
    for name, (words, body, others) in step_names().items():
        ref = next(known for known, same in bodies.items() if same == body)
        steps[name] = {"description": words, "$ref": f"#/$defs/{ref}"}
        names += [name, *others]
        if others:
            patterns[f"^({'|'.join(map(re.escape, others))})$".replace("\\-", "-")] = {
                "$ref": f"#/$defs/step/properties/{name}"
            }
    return {
        "type": "object",
        "description": "A step: its name with its parameters below it, and what stands beside it.",
        "properties": {**steps, **_beside()},
        "patternProperties": patterns,
        "additionalProperties": False,
        "oneOf": [{"required": [name]} for name in names],
        "allOf": [
            {
                "if": {"required": ["recipe"]},
                "then": {
                    "propertyNames": {"enum": ["recipe", "id", "from", "with"]},
                    "properties": {"from": {"type": "string"}},
                },
            },
            {"if": {"required": ["with"]}, "then": {"anyOf": [{"required": ["call"]}, {"required": ["recipe"]}]}},
            {
                "if": {"required": ["on_failure"], "properties": {"on_failure": {"not": _NULL}}},
                "then": {"required": ["expect"]},
            },
        ],
    }


def _parameters() -> dict[str, Schema]:
    """What stands below steps, by the first step that has it: many tools take the same."""
    found: dict[str, Schema] = {}
    for name, (_, body, _) in step_names().items():
        if body not in found.values():
            found[f"parameters.{name}"] = body
    return found


def _beside() -> dict[str, Schema]:
    step = {"type": "string", "minLength": 1}
    changed = {"type": "object", "minProperties": 1}
    return {
        "id": {
            "type": ["string", "null"],
            "pattern": _ID,
            "not": {"const": SOURCE},
            "description": "What other steps call it; its name if left out.",
        },
        "from": {
            "description": "The id of the step whose picture it gets, or source; the step before if left out. "
            "A list is the main picture and further ones.",
            "anyOf": [step, {"type": "array", "items": step}, _NULL],
        },
        "when": {
            "type": ["string", "boolean", "null"],
            "minLength": 1,
            "description": "A condition, such as 'sharpness < 120'; where it is false, the step is skipped. It knows "
            f"columns, vars, {', '.join(IMAGE_FACTS)}, mask_exists, mask_coverage.",
            "examples": ["width < 1024", "mask_exists"],
        },
        "matrix": {
            "type": ["object", "null"],
            "minProperties": 1,
            "description": "Lists of values by name; the step runs for every combination. The name of a parameter sets "
            "it (seed, prompt, model …), other names are for templates.",
            "propertyNames": {"pattern": _WORD},
            "additionalProperties": {"type": "array", "minItems": 1},
        },
        "vars": {"type": ["object", "null"], "description": "Names that only this step's templates know."},
        "expect": {"description": "What the result has to be.", "anyOf": [{"$ref": "#/$defs/expect"}, _NULL]},
        "on_failure": {
            "description": "What is done with a result that is not as expect says: fail the item (default), keep the "
            "result, or try again with changed parameters, each of which is a job of its own.",
            "anyOf": [
                {"enum": ["fail", "keep"]},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["retry_with"],
                    "properties": {
                        "retry_with": {
                            "description": "Changed parameters, such as {seed: 2}, or a list of such.",
                            "anyOf": [changed, {"type": "array", "minItems": 1, "maxItems": 10, "items": changed}],
                        },
                        "then": {"enum": ["fail", "keep"], "default": "fail"},
                    },
                },
                _NULL,
            ],
        },
        "preserve": {
            "description": "Put the pixels outside the mask back; feather softens the edge by so many pixels.",
            "anyOf": [
                {"type": ["boolean", "null"]},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "feather": {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 100,
                            "default": 0,
                            "description": "Pixels by which the edge is softened, inwards.",
                        }
                    },
                },
            ],
        },
        "save": {
            **_RESULT,
            "type": ["string", "null"],
            "description": "Where to write this step's result, too, such as 'out/sharp/{{ stem }}.png'.",
        },
        "with": {
            "type": ["object", "null"],
            "description": "Of call: what the function is given besides its picture. Of recipe: values of its vars.",
        },
    }


def _expect() -> Schema:
    fields = {name: without_null(found) for name, found in fields_of(Expect).items()}
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": fields}


if __name__ == "__main__":
    from flux_tasks import files

    files.write("configs/recipe.schema.json", text().encode())
