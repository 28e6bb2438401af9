"""The steps of a recipe as a graph: their order, what feeds what, and one node for each combination of a matrix.

A step with a matrix becomes one node for each combination of its values, and so does every step that it feeds. Where
two branches meet, values that both have from one step stay together, and all others are combined.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, product
from typing import Any, NamedTuple, Self, TypeAlias

from flux_tasks.catalog import Tool
from flux_tasks.catalog.signatures import CALL_OPTIONS
from pipelines.language.document.output import Output
from pipelines.language.model import Action, HasAction, Step, image_inputs, parameter_types, tool_for
from pipelines.language.names import SOURCE
from pipelines.operations.base import primary_of

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,23}")


@dataclass(frozen=True)
class NodeRef:
    """A picture parameter that gets the result of a node; ``mask``: ``invert``, ``dilate`` or ``resize`` it first."""

    node: str
    mask: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node(HasAction):
    """One step in one combination of the values that are varied.

    Attributes:
        id: the step's id, with what is varied: ``paint[seed=1]``.
        parameters: with the values of the matrix, and a ``NodeRef`` for the picture of another node.
        image: the node whose result is its primary picture, ``source``, or None if it makes one from words.
        axes: values by name: of its own matrix, and of the nodes that feed it.
        variant: a text that tells these values from others.
        rank: its place in an order in which each node comes after the nodes that feed it.
    """

    id: str
    step: Step
    action: Action
    parameters: Mapping[str, Any]
    image: str | None
    axes: Mapping[str, Any]
    variant: str
    rank: int = 0

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The nodes (or ``source``) that it needs, its primary picture's first."""
        primary = () if self.image is None else (self.image,)
        refs = (value.node for value in _flat(self.parameters.values()) if isinstance(value, NodeRef))
        return (*dict.fromkeys((*primary, *refs)),)

    @property
    def passes_input_through(self) -> bool:
        """Whether its input is its result where it does not apply: an image is no mask, and a mask is no image."""
        if isinstance(self.action, Tool):
            return True
        primary = primary_of(self.action.inputs)
        return primary is None or self.action.inputs[primary].role in ("any", self.action.output_kind)

    @property
    def names(self) -> dict[str, Any]:
        """What its templates know besides the item: the values that are varied, ``variant``, and its ``vars``."""
        return {**self.axes, "variant": self.variant, **self.step.vars}


@dataclass(frozen=True)
class OutputTarget:
    """Where the result of a node (or ``source``) is written, and what its template knows besides the item."""

    node: str
    output: Output
    names: Mapping[str, Any]
    is_output: bool = True
    """It is an output of the recipe, not an intermediate result that a step saves."""

    @property
    def annotations(self) -> tuple[str, ...]:
        """Where its labels are written."""
        return tuple(target.path for target in self.output.annotations)


@dataclass(frozen=True)
class Graph:
    """Every node of a recipe, each after the nodes that feed it, and where the results go."""

    nodes: tuple[Node, ...]
    targets: tuple[OutputTarget, ...]

    @classmethod
    def of(cls, steps: Sequence[Step], outputs: Sequence[Output]) -> Self:
        """Return the graph of steps that have been checked: there is no circle and nothing unknown."""
        spread: dict[str, list[tuple[str, _Axes]]] = {SOURCE: [(SOURCE, {})]}
        nodes: list[Node] = []
        for step in in_order(steps):
            spread[step.id] = []
            for node, axes in _nodes_of(step, spread):
                spread[step.id].append((node.id, axes))
                nodes.append(replace(node, rank=len(nodes)))
        names = {node.id: node.names for node in nodes} | {SOURCE: {"variant": ""}}
        targets = [OutputTarget(node, o, names[node]) for o in outputs for node, _ in spread[o.step]]
        targets += [
            OutputTarget(n.id, Output(path=n.step.save), n.names, is_output=False) for n in nodes if n.step.save
        ]
        return cls(tuple(nodes), tuple(targets))

    def node(self, name: str) -> Node:
        """Return the node called ``name``."""
        return next(node for node in self.nodes if node.id == name)


class _Value(NamedTuple):
    """One of the values that a step varies: its number, what it is called, and itself."""

    number: int
    label: str
    value: Any


_Axes: TypeAlias = dict[tuple[str, str], _Value]
"""One combination of the values that are varied, by step and name."""


def _nodes_of(step: Step, spread: Mapping[str, Sequence[tuple[str, _Axes]]]) -> Iterator[tuple[Node, _Axes]]:
    """Yield the nodes of a step, one for each combination."""
    fed = list(dict.fromkeys(dependencies_of(step)))
    choices = [
        [((step.id, name), _Value(*one)) for one in zip(count(), _labels(values), values, strict=False)]
        for name, values in step.matrix.items()
    ]
    for combination in product(*(spread[name] for name in fed)):
        found = [entry for _, axes in combination for entry in axes.items()]
        inherited = dict(found)
        if any(inherited[axis].number != value.number for axis, value in found):
            continue  # they contradict one another
        feeds = {name: node for name, (node, _) in zip(fed, combination, strict=True)}
        for own in product(*choices):
            axes = inherited | dict(own)
            yield _node(step, feeds, {name: one.value for (_, name), one in own}, axes), axes


def _node(step: Step, feeds: Mapping[str, str], picked: Mapping[str, Any], axes: _Axes) -> Node:
    """Return the node of a step that these nodes feed, for the values that are ``picked`` for its own matrix."""
    own = {name: value for name, value in picked.items() if is_parameter(step, name)}
    parameters = {**step.parameters, **own}
    action = tool_for(step.task, parameters) if step.is_paid and "model" in picked else step.action
    parameters |= _listed(step, action)
    primary = primary_of(image_inputs(action, step.task))
    labels = {name: one.label for (_, name), one in axes.items()}
    shown = ",".join(f"{name}={label}" for name, label in labels.items())
    return Node(
        id=f"{step.id}[{shown}]" if shown else step.id,
        step=step,
        action=action,
        parameters={name: _with_nodes(value, feeds) for name, value in parameters.items()},
        image=feeds[step.inputs[0]] if primary and step.inputs else None,
        axes={name: one.value for (_, name), one in axes.items()},
        variant="_".join(f"{name.replace('_', '-')}-{label}" for name, label in labels.items()),
    )


def is_parameter(step: Step, name: str) -> bool:
    """Check whether a name of the matrix is a parameter of the step, and not a name for its templates."""
    action = step.action
    if isinstance(action, Tool):
        return name in action.parameters or name in CALL_OPTIONS or name in image_inputs(action, step.task)
    return name in action.inputs or name in parameter_types(action)


def _listed(step: Step, action: Action) -> dict[str, Any]:
    """Return what a list after ``from`` gives besides the primary picture: references, or further pictures in order."""
    inputs = image_inputs(action, step.task)
    primary = primary_of(inputs)
    further = [{"step": name} for name in step.inputs[1:]]
    if primary and inputs[primary].many:
        return {primary: [{"step": name} for name in step.inputs]}
    if further and "references" in inputs:
        listed = step.parameters.get("references") or []
        return {"references": [*further, *(listed if isinstance(listed, list) else [listed])]}
    return dict(zip((name for name in inputs if name != primary), further, strict=False))


def _with_nodes(value: Any, feeds: Mapping[str, str]) -> Any:
    """Return ``value`` with a ``NodeRef`` in the place of every mention of a step."""
    if isinstance(value, dict) and "step" in value:
        return NodeRef(feeds[value["step"]], {name: inner for name, inner in value.items() if name != "step"})
    return [_with_nodes(inner, feeds) for inner in value] if isinstance(value, list) else value


def _labels(values: Sequence[Any]) -> list[str]:
    """Return what the values of a matrix are called: themselves if all are short and plain, else 1, 2, 3 …"""
    texts = [str(value) for value in values if not isinstance(value, (dict, list))]
    if len(set(texts)) == len(values) and all(_PLAIN.fullmatch(text) for text in texts):
        return texts
    return [str(number) for number in range(1, len(values) + 1)]


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """Yield values, and those in lists."""
    for value in values:
        yield from value if isinstance(value, list) else (value,)


def dependencies_of(step: Step) -> Iterator[str]:
    """Yield the ids of the steps (or ``source``) whose pictures a step gets."""
    yield from step.inputs
    for value in _flat(step.parameters.values()):
        if isinstance(value, dict) and isinstance(value.get("step"), str):
            yield value["step"]


def in_order(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, each after those that feed it, otherwise as they are written; without those of a circle."""
    left, found = list(steps), list[Step]()
    while True:
        waiting = {step.id for step in left}
        ready = next((step for step in left if waiting.isdisjoint(dependencies_of(step))), None)
        if ready is None:
            return found
        left.remove(ready)
        found.append(ready)


def cycle(steps: Sequence[Step]) -> list[Step]:
    """Return steps that feed one another in a circle, in its order; an empty list if there is none."""
    ordered = {step.id for step in in_order(steps)}
    circling = {step.id: step for step in steps if step.id not in ordered}
    way = [*circling][:1]
    while way:
        following = next(fed for fed in dependencies_of(circling[way[-1]]) if fed in circling)
        if following in way:
            return [circling[name] for name in reversed(way[way.index(following) :])]
        way.append(following)
    return []


def lineages(steps: Sequence[Step]) -> dict[str, set[str]]:
    """Return, by the id of each step, that id and those of all steps that feed it, directly or through others."""
    found: dict[str, set[str]] = {}
    for step in in_order(steps):
        found[step.id] = {step.id}.union(*(found.get(fed, {fed}) for fed in dependencies_of(step)))
    by_id = {step.id: step for step in steps}
    for circling in by_id.keys() - found.keys():  # or fed by a circle
        found[circling], open_ends = {circling}, [circling]
        while open_ends:
            current = by_id.get(open_ends.pop())
            further = set(dependencies_of(current)) - found[circling] if current else set()
            found[circling] |= further
            open_ends += further
    return found
