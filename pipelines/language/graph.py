"""The steps of a recipe as a graph: order, what feeds what, and a matrix spread out into nodes.

A step with a matrix becomes one node for each combination of its values, and so does every step that it feeds: a graph
is known in full before the first picture is opened. Two branches that meet keep the combinations they share apart and
combine the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from flux_tasks.catalog import Tool
from pipelines.language.actions import CALL_OPTIONS, Action, HasAction, image_inputs, parameter_types, tool_for
from pipelines.language.model import Output, Step
from pipelines.language.names import SOURCE

__all__ = [
    "Graph",
    "Node",
    "NodeRef",
    "OutputTarget",
    "ancestors",
    "cycle",
    "dependencies_of",
    "in_order",
    "is_parameter",
]

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,23}")


@dataclass(frozen=True)
class NodeRef:
    """A picture parameter that gets the result of a node.

    ``mask`` says what is done to a mask on its way: ``invert``, ``dilate``, ``resize``.
    """

    node: str
    mask: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node(HasAction):
    """One step in one combination of the values that are varied.

    Attributes:
        id: the step's id, with what is varied: ``paint[seed=1]``.
        action: what does it.
        parameters: with the matrix's values filled in, and a ``NodeRef`` where another node's picture goes.
        image: the node whose result is its main picture, ``source``, or None for what makes one of words.
        axes: values by name: of its own matrix, and of those that feed it.
        rank: its place in an order in which everything comes after what feeds it.
    """

    id: str
    step: Step
    action: Action
    parameters: Mapping[str, Any]
    image: str | None
    axes: Mapping[str, Any]
    variant: str
    rank: int

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The nodes (or ``source``) that it needs, its main picture's first."""
        main = () if self.image is None else (self.image,)
        return (*dict.fromkeys((*main, *(ref.node for ref in _node_refs_in(self.parameters)))),)

    @property
    def passes_input_through(self) -> bool:
        """Whether its input stands for its result where it does not apply: an image is no mask, nor a mask an image."""
        if isinstance(self.action, Tool):
            return True
        main = next((slot for slot in self.action.inputs.values() if slot.is_primary), None)
        return main is None or main.role in ("any", self.action.output_kind)

    @property
    def names(self) -> dict[str, Any]:
        """What its templates know besides the item: the values that are varied, and ``variant``, which names them."""
        return {**self.axes, "variant": self.variant, **self.step.vars}


@dataclass(frozen=True)
class OutputTarget:
    """A node's result on its way to a file.

    Attributes:
        node: the node, or ``source``.
        path: template.
        names: what the template knows besides the item.
        is_output: an output of the recipe, not an intermediate result that a step saves.
    """

    node: str
    path: str
    names: Mapping[str, Any]
    is_output: bool = True

    @cached_property
    def output(self) -> Output:
        """The path, as an output."""
        return Output(path=self.path)


@dataclass(frozen=True)
class Graph:
    """Every node of a recipe in an order that can be gone through, and where the results go."""

    nodes: tuple[Node, ...]
    targets: tuple[OutputTarget, ...]

    @classmethod
    def of(cls, steps: Sequence[Step], outputs: Sequence[Output]) -> Graph:
        """Spread ``steps`` out; they have been checked, so there is no circle and nothing unknown."""
        spread: dict[str, list[_Variant]] = {SOURCE: [_Variant(SOURCE, {})]}
        nodes: list[Node] = []
        for step in in_order(steps):
            spread[step.id] = list(_spread(step, spread))
            nodes += [
                Node(v.node, step, v.action or step.action, v.parameters, v.image, v.values, v.text, len(nodes) + n)
                for n, v in enumerate(spread[step.id])
            ]
        names = {node.id: node.names for node in nodes} | {SOURCE: {"variant": ""}}
        targets = [OutputTarget(v.node, o.path, names[v.node]) for o in outputs for v in spread[o.step]]
        targets += [OutputTarget(n.id, n.step.save, n.names, is_output=False) for n in nodes if n.step.save]
        return cls(tuple(nodes), tuple(targets))

    def node(self, name: str) -> Node:
        """The node called ``name``."""
        return next(node for node in self.nodes if node.id == name)


@dataclass(frozen=True)
class _Variant:
    node: str
    axes: Mapping[tuple[str, str], int]
    """Index of the value by step and name of what is varied."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What each value that is varied is called, by name."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    action: Action | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "_".join(f"{name.replace('_', '-')}-{label}" for name, label in self.labels.items())


def _spread(step: Step, spread: Mapping[str, Sequence[_Variant]]) -> Iterator[_Variant]:
    fed = list(dict.fromkeys(dependencies_of(step)))
    own = [(name, list(enumerate(values))) for name, values in step.matrix.items()]
    called = {name: _labels(values) for name, values in step.matrix.items()}
    for combination in product(*(spread[name] for name in fed)):
        axes = _merged(combination)
        if axes is None:
            continue
        chosen = dict(zip(fed, combination, strict=True))
        labels = {name: label for variant in combination for name, label in variant.labels.items()}
        values = {name: value for variant in combination for name, value in variant.values.items()}
        for numbered in product(*(pairs for _, pairs in own)):
            picked = {name: value for (name, _), (_, value) in zip(own, numbered, strict=True)}
            indices = {(step.id, name): index for (name, _), (index, _) in zip(own, numbered, strict=True)}
            marks = {name: called[name][index] for (name, _), (index, _) in zip(own, numbered, strict=True)}
            yield _variant(step, chosen, {**axes, **indices}, {**labels, **marks}, picked, {**values, **picked})


def _variant(
    step: Step,
    chosen: Mapping[str, _Variant],
    axes: Mapping[tuple[str, str], int],
    labels: Mapping[str, str],
    picked: Mapping[str, Any],
    values: Mapping[str, Any],
) -> _Variant:
    parameters = {**step.parameters, **{n: v for n, v in picked.items() if is_parameter(step, n)}}
    action = tool_for(step.task, parameters) if step.is_paid and "model" in picked else step.action
    parameters |= _listed(step, action)
    filled = {name: _filled(value, chosen) for name, value in parameters.items()}
    main = next((n for n, slot in image_inputs(action, step.task).items() if slot.is_primary), None)
    image = chosen[step.inputs[0]].node if main and step.inputs else None
    shown = ",".join(f"{name}={label}" for name, label in labels.items())
    return _Variant(f"{step.id}[{shown}]" if shown else step.id, axes, labels, filled, image, action, values)


def is_parameter(step: Step, name: str) -> bool:
    """Whether a name of the matrix is a parameter of what the step does, rather than a name for its templates."""
    action = step.action
    if isinstance(action, Tool):
        return name in action.parameters or name in CALL_OPTIONS or name in image_inputs(action, step.task)
    return name in action.inputs or name in parameter_types(action)


def _listed(step: Step, action: Action) -> dict[str, Any]:
    """What a list after ``from`` means besides the main picture: further references, or further pictures in order."""
    further = list(step.inputs[1:])
    slots = image_inputs(action, step.task)
    main = next((name for name, slot in slots.items() if slot.is_primary), None)
    if main and slots[main].many:
        return {main: [{"step": name} for name in step.inputs]}
    if not further:
        return {}
    if "references" in slots:
        return {"references": [*({"step": name} for name in further), *_as_list(step.parameters.get("references"))]}
    free = [name for name in slots if name != main]
    return {name: {"step": fed} for name, fed in zip(free, further, strict=False)}


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _filled(value: Any, chosen: Mapping[str, _Variant]) -> Any:
    """``value`` with a ``NodeRef`` for every mention of a step."""
    if isinstance(value, dict) and "step" in value:
        return NodeRef(chosen[value["step"]].node, {name: inner for name, inner in value.items() if name != "step"})
    if isinstance(value, list):
        return [_filled(inner, chosen) for inner in value]
    return value


def _node_refs_in(parameters: Mapping[str, Any]) -> Iterator[NodeRef]:
    for value in parameters.values():
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, NodeRef):
                yield inner


def _merged(variants: Sequence[_Variant]) -> dict[tuple[str, str], int] | None:
    """The axes of all of them together; None if they contradict one another."""
    found: dict[tuple[str, str], int] = {}
    for variant in variants:
        for axis, index in variant.axes.items():
            if found.setdefault(axis, index) != index:
                return None
    return found


def _labels(values: Sequence[Any]) -> list[str]:
    """What the values of a matrix are called: themselves if all are short and plain, else 1, 2, 3 …"""
    texts = [str(value) for value in values if not isinstance(value, (dict, list))]
    if len(set(texts)) == len(values) and all(_PLAIN.fullmatch(text) for text in texts):
        return texts
    return [str(number) for number in range(1, len(values) + 1)]


def dependencies_of(step: Step) -> Iterator[str]:
    """Ids of the steps (or ``source``) whose pictures a step gets."""
    yield from step.inputs
    for value in step.parameters.values():
        for inner in value if isinstance(value, list) else (value,):
            if isinstance(inner, dict) and isinstance(inner.get("step"), str):
                yield inner["step"]


def in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps, each after those that feed it; otherwise as they are written. Those of a circle are left out."""
    known = {step.id for step in steps}
    left = list(steps)
    done: set[str] = {SOURCE}
    found: list[Step] = []
    while left:
        ready = next((s for s in left if all(f in done or f not in known for f in dependencies_of(s))), None)
        if ready is None:
            break
        left.remove(ready)
        done.add(ready.id)
        found.append(ready)
    return found


def cycle(steps: Sequence[Step]) -> list[Step]:
    """Steps that feed one another in a circle, in its order; empty if there is none."""
    by_id = {step.id: step for step in steps}
    circling = {step.id for step in steps} - {step.id for step in in_order(steps)}
    if not circling:
        return []
    way = [next(step.id for step in steps if step.id in circling)]
    while True:
        following = next(f for f in dependencies_of(by_id[way[-1]]) if f in circling)
        if following in way:
            return [by_id[name] for name in reversed(way[way.index(following) :])]
        way.append(following)


def ancestors(step: str, steps: Mapping[str, Step]) -> set[str]:
    """Ids of all steps that feed ``step``, near and far."""
    found: set[str] = set()
    open_ends = [step]
    while open_ends:
        current = steps.get(open_ends.pop())
        for fed in dependencies_of(current) if current else ():
            if fed not in found:
                found.add(fed)
                open_ends.append(fed)
    return found
