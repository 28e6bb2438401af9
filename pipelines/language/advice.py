"""Advice on a recipe that is valid: where it goes against what a tool's documents advise, or labels may be wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from flux_tasks.catalog import Tool
from flux_tasks.errors import Problem, quote
from flux_tasks.files.locations import embedded
from flux_tasks.files.remote.options import is_under
from flux_tasks.settings import current
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.fields import texts_in
from pipelines.language.graph import Node
from pipelines.operations.geometry import Resize
from pipelines.operations.images import Convert
from pipelines.operations.registry import Operation
from pipelines.operations.user_function import UserFunction

_WORDS = {"upscale": ", which enlarges its picture", "jpeg": ", which gives a JPEG"}


def advice(recipe: CompiledRecipe) -> list[Problem]:
    """Return a warning for each step that comes after one that it should come before, with the document's reason.

    And for each function of the user's own that labels go through, for storage options that nothing uses, and for a
    command of ``on_end`` that is not there.
    """
    nodes = {node.id: node for node in recipe.graph.nodes}
    found: dict[Problem, None] = {}
    if recipe.source.annotations is not None:
        what = (
            "labels stay where they are through a function of your own: write none after it if it moves what they show"
        )
        own = (step.id for step in recipe.steps if isinstance(step.action, UserFunction))
        found = {Problem(step, what): None for step in own}
    for node in recipe.graph.nodes:
        for tip in node.action.tips if isinstance(node.action, Tool) else ():
            for earlier in _before(node, nodes):
                kind = next((kind for kind in _kinds_of(earlier) if kind in tip.not_after), None)
                if kind is not None:
                    named = "" if earlier.step.id == earlier.step.task else f" ({earlier.step.id})"
                    what = f"comes after {earlier.step.task}{named}{_WORDS.get(kind, '')}: {tip.text} ({tip.source})"
                    found[Problem(node.step.id, what)] = None
    found |= dict.fromkeys(recipe.placed([*_unused_options(recipe), *_missing_programs(recipe)]))
    return list(found)


def _unused_options(recipe: CompiledRecipe) -> Iterator[Problem]:
    """Yield a warning for each prefix with storage options under which nothing of the recipe lies, nor the store."""
    data = {name: value for name, value in recipe.to_data().items() if name != "storage_options"}
    places = [*texts_in(data), current().store]
    if not recipe.storage_options or any(text.startswith(("{{", "{%", "block://")) for text in places):
        return  # a column or a storage block may name any place
    starts = [templates.folder_of((embedded(text) or (text,))[-1]) for text in places if "://" in text]
    for prefix in recipe.storage_options:
        if not any(is_under(start, prefix) or is_under(prefix, start) for start in starts):
            what = "nothing of the recipe lies there: take it out, or write the prefix as the places are written"
            yield Problem(f"storage_options.{prefix}", what)


def _missing_programs(recipe: CompiledRecipe) -> Iterator[Problem]:
    for call in recipe.on_end:
        if call.command and shutil.which(call.command[0]) is None:
            what = "there is no such program here, so that nobody would be told"
            yield Problem("on_end.command", f"{quote(call.command[0])}: {what}")


def _before(node: Node, nodes: dict[str, Node]) -> Iterator[Node]:
    """Yield the nodes whose pictures become the main picture of ``node``, the nearest first."""
    while node.image in nodes:
        node = nodes[node.image]
        yield node


def _kinds_of(node: Node) -> Iterator[str]:
    """Yield what a node does to its picture, in the words of ``Tip.not_after``."""
    action, given = node.action, node.parameters
    if isinstance(action, Tool):
        yield action.task
        if (given.get("output_format") or action.output_format) == "jpeg":
            yield "jpeg"
    elif isinstance(action, Operation):
        if action.parameters is Resize and given.get("upscale") is True:
            yield "upscale"
        if action.parameters is Convert and given.get("format") == "jpeg":
            yield "jpeg"
