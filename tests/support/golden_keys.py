"""The keys of many calls, written down. `python tests/support/golden_keys.py` adds what is new, and changes nothing.

A key may change only together with the revision of its tool (``catalog.rules.Revision``), and so may a default.
"""

from __future__ import annotations

import json
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from flux_tasks import catalog
from flux_tasks.images.masks import Mask
from flux_tasks.jobs.call import Call, prepare
from pipelines.operations.registry import OPERATIONS

FILE = Path(__file__).parents[1] / "data" / "golden_keys.json"
PICTURES = Path(__file__).parents[1] / "data" / "store_of_68a6cf4"
"""Files with fixed bytes; the calls name them by their relative paths."""

REMEDY = """
If results of the tool may differ from before, give it a new revision in the catalogue (``Revision``: number, date,
reason), or the operation a new version; then run `make stubs`. Users then pay again for what
the old revision has settled. If results cannot differ, mend what has changed the key. Where a default has changed and
nothing else, note the old one in the revision that holds (``Revision.defaults``): calls that set the parameter keep
their keys."""


def read() -> dict[str, Any]:
    """What is written down: ``calls`` with their keys, and ``defaults`` by tool and revision."""
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def prepared(entry: dict[str, Any]) -> Call:
    """The call of one entry."""
    with chdir(PICTURES):
        tool = catalog.tool(entry["task"], entry["model"])
        return prepare(tool, entry["arguments"], variant=entry.get("variant", 0))


def key_problem(entry: dict[str, Any]) -> str:
    """How the key of an entry has changed though the revision of its tool has not; empty if all is well."""
    call = prepared(entry)
    if call.tool.revision.number != entry.get("revision") or call.key(entry["engine"]) == entry["key"]:
        return ""
    return f"the key of {entry['task']} {entry['arguments']} has changed, and {call.tool.name} has no new revision"


def present_defaults() -> dict[str, dict[str, Any]]:
    """The defaults of today: of tools at their revisions, of operations at their versions, and of masks."""
    return {
        **{f"{tool.name} {tool.revision.number}": _begun(tool) for tool in catalog.TOOLS.values()},
        **{f"{one.name} {one.version}": _fields(one.parameters) for one in OPERATIONS.values()},
        **{f"{one.name} {one.version}, mask": _fields(one.for_masks) for one in OPERATIONS.values() if one.for_masks},
        "mask": _fields(Mask),
    }


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {
        name: to_jsonable_python(info.default) for name, info in model.model_fields.items() if not info.is_required()
    }


def _begun(tool: catalog.Tool) -> dict[str, Any]:
    return {**tool.defaults({}), **tool.revision.defaults}


def default_problems(recorded: dict[str, dict[str, Any]]) -> list[str]:
    """Defaults that have changed within a revision."""
    return [
        f"{name}: the default of {parameter} was {value!r} and is {present.get(parameter)!r}"
        for name, present in present_defaults().items()
        for parameter, value in recorded.get(name, {}).items()
        if parameter in present and json.dumps(present[parameter]) != json.dumps(value)
    ]


def main() -> None:
    """Write down what is new; refuse what may not change."""
    written = read()
    problems = [*default_problems(written["defaults"]), *filter(None, map(key_problem, written["calls"]))]
    if problems:
        sys.exit("\n".join((*problems, REMEDY)))
    for entry in written["calls"]:
        call = prepared(entry)
        entry |= {"revision": call.tool.revision.number, "key": call.key(entry["engine"])}
    written["defaults"] |= present_defaults()
    lines = {
        "calls": ",\n  ".join(json.dumps(entry) for entry in written["calls"]),
        "defaults": ",\n  ".join(f"{json.dumps(n)}: {json.dumps(d)}" for n, d in sorted(written["defaults"].items())),
    }
    FILE.write_text(f'{{\n "calls": [\n  {lines["calls"]}\n ],\n "defaults": {{\n  {lines["defaults"]}\n }}\n}}\n')


if __name__ == "__main__":
    main()
