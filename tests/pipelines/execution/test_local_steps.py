"""Free results are kept from run to run, and found again after an upgrade."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from pictures import encoded, noise
from pydantic import create_model

from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from pipelines.execution import local_steps
from pipelines.execution.local_steps import LocalResult, operate
from pipelines.language.graph import Node
from pipelines.operations.registry import OPERATIONS
from pipelines.recipe import Recipe

RECIPE = "name: r\nsource: {images: 'x.png'}\nsteps: [{resize: {width: 32}}]\noutput: {path: 'out/{{ stem }}.png'}\n"


@pytest.fixture
def node() -> Node:
    [node] = Recipe.parse(RECIPE).graph.nodes
    return node


@pytest.fixture
def image() -> ImageRef:
    return ImageRef.of(encoded(noise((96, 80))))


def with_option(node: Node) -> Node:
    """``node`` after an upgrade that gave its operation one more optional parameter."""
    operation: Any = node.action
    model = create_model("More", __base__=operation.parameters, gamma=(Literal["linear", "none"], "none"))
    return replace(node, action=replace(operation, parameters=model))


def result(node: Node, image: ImageRef, store: Store, **more: Any) -> LocalResult:
    return operate(node, {"width": 32, **more}, image, store)


def test_a_new_optional_parameter_of_an_operation_changes_no_key(node: Node, image: ImageRef, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = result(node, image, store)
    assert not first.from_store
    assert result(node, image, store, fit="contain", upscale=False) == LocalResult(first.image, from_store=True)
    assert result(with_option(node), image, store) == LocalResult(first.image, from_store=True)
    assert result(with_option(node), image, store, gamma="none").from_store
    assert not result(with_option(node), image, store, gamma="linear").from_store
    assert not result(node, image, store, upscale=True, width=200).from_store


def test_a_free_result_of_september_2026_is_found(
    node: Node, image: ImageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, resize = Store(str(tmp_path)), OPERATIONS["resize"]
    with monkeypatch.context() as patch:
        patch.setattr(type(resize), "chosen", type(resize).defaults)  # its key held every default
        former = result(node, image, store)
    [name] = store.records("results")
    monkeypatch.setattr(local_steps, "_stored", lambda *_: pytest.fail("it was worked out again"))
    assert result(node, image, store) == LocalResult(former.image, from_store=True)
    assert store.records("results") == [name]
