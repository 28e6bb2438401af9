"""What a dataset says of itself in ``.flux/dataset.json``: its format, its splits and its columns."""

from __future__ import annotations

import json

from flux_tasks import files
from flux_tasks.errors import Problem, cut, listed, shown
from pipelines.data.writers.columns.schema import Schema
from pipelines.data.writers.rows import HOME, document
from pipelines.language.document.output import Output

__all__ = ["about", "existing"]

_VERSION = 1


def about(output: Output, schema: Schema) -> bytes:
    """Return what a new dataset says of itself."""
    facts = {"version": _VERSION, "format": output.format, "split": output.split}
    return json.dumps({**facts, **schema.to_data()}, indent=1).encode()


def existing(output: Output) -> tuple[Schema | None, list[Problem]]:
    """Return the schema of a dataset that is there, and what keeps this output from adding to it.

    Raises:
        OSError: it cannot be read.
    """
    try:
        known = document(files.read(files.join(output.dataset, HOME, "dataset.json")))
        schema = Schema.from_data(known)
        version, kind, split = known["version"], known["format"], known["split"]
    except FileNotFoundError:
        others = [name for name in files.folders(output.dataset) if not name.startswith(".")]
        what = f"{files.quoted(output.dataset)} has folders ({listed(others)}), and is no dataset of this program"
        return None, [Problem("output.dataset", f"{what}: name another folder")] if others else []
    except (ValueError, KeyError, TypeError, AttributeError):
        what = f"{files.quoted(output.dataset)}: {HOME}/dataset.json is damaged: name another folder"
        return None, [Problem("output.dataset", what)]
    if version != _VERSION:
        what = f"{files.quoted(output.dataset)} was written by another version of this program: name another folder"
        return None, [Problem("output.dataset", what)]
    if kind != output.format:
        what = (
            f"{files.quoted(output.dataset)} is a dataset of the format {cut(str(kind))}: write that, or name another"
        )
        return None, [Problem("output.format", f"{what} folder")]
    if split != output.split and not (isinstance(split, str) and isinstance(output.split, str)):
        what = f"the rows of {files.quoted(output.dataset)} are split by {shown(split)}, and would be in two splits"
        return None, [Problem("output.split", f"{what}: write that, or name another folder")]
    return schema, []
