"""What identifies a call: a key changes only when the result may differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import golden_keys
import pytest
from pydantic import Field, create_model

from flux_tasks import catalog
from flux_tasks.catalog import TOOLS, Tool, contract_0919
from flux_tasks.catalog.fields import fact
from flux_tasks.catalog.rules import Revision
from flux_tasks.catalog.tool import _FIRST
from flux_tasks.jobs.call import prepare

STORED = json.loads((golden_keys.PICTURES / "calls.json").read_text())
GOLDEN = golden_keys.read()


def key(tool: Tool | str, **arguments: Any) -> str:
    tool = TOOLS[tool] if isinstance(tool, str) else tool
    return prepare(tool, {"image": _PICTURE, **arguments}).key("bfl")


_PICTURE = (golden_keys.PICTURES / "inputs" / "a.png").read_bytes()


def next_revision(tool: Tool) -> Tool:
    return replace(tool, revisions=(*tool.revisions, Revision(tool.revision.number + 1, "2026-12-01", "new weights")))


def with_default(tool: Tool, name: str, default: Any) -> Tool:
    """``tool`` after a change of its contract: ``name`` has another default, or is new."""
    field = (Annotated[Any, fact("…")], Field(default))
    return replace(tool, request=create_model("Changed", __base__=tool.request, **{name: field}))


# -- golden keys ------------------------------------------------------------------------------------------------------


def test_no_key_has_changed_without_a_new_revision_of_its_tool() -> None:
    problems = [problem for entry in GOLDEN["calls"] if (problem := golden_keys.key_problem(entry))]
    assert not problems, "\n".join((*problems, golden_keys.REMEDY))


def test_no_default_has_changed_without_a_new_revision() -> None:
    problems = golden_keys.default_problems(GOLDEN["defaults"])
    assert not problems, "\n".join((*problems, golden_keys.REMEDY))


def test_what_is_written_down_is_complete() -> None:
    run = "run `make stubs`"
    assert GOLDEN["defaults"].items() >= golden_keys.present_defaults().items(), run
    calls = [golden_keys.prepared(entry) for entry in GOLDEN["calls"]]
    assert [call.tool.revision.number for call in calls] == [entry["revision"] for entry in GOLDEN["calls"]], run
    assert len(calls) >= 60
    assert {call.tool.name for call in calls} == set(TOOLS), "write three calls of the new tool into golden_keys.json"


def test_each_tool_has_one_key_for_defaults_written_out_and_left_out_and_another_one_beside() -> None:
    times: dict[str, Counter[str]] = {name: Counter() for name in TOOLS}
    for entry in GOLDEN["calls"]:
        times[golden_keys.prepared(entry).tool.name][entry["key"]] += 1
    for name, keys in times.items():
        assert len(keys) >= 2, name
        assert max(keys.values()) >= 2, name


def test_a_changed_key_and_a_changed_default_are_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOOLS, "deblur-v1", with_default(TOOLS["deblur-v1"], "safety_tolerance", 3))
    assert golden_keys.default_problems(GOLDEN["defaults"]) == [
        "deblur-v1 1: the default of safety_tolerance was 2 and is 3"
    ]
    changed = {**GOLDEN["calls"][0], "key": "0" * 64}
    assert "has changed, and deblur-v1 has no new revision" in golden_keys.key_problem(changed)
    monkeypatch.setitem(TOOLS, "deblur-v1", next_revision(TOOLS["deblur-v1"]))
    assert golden_keys.default_problems(GOLDEN["defaults"]) == []
    assert golden_keys.key_problem(changed) == ""


def test_every_revision_has_a_number_a_date_and_a_reason() -> None:
    for tool in TOOLS.values():
        assert [revision.number for revision in tool.revisions] == list(range(1, len(tool.revisions) + 1))
        assert all(revision.date and revision.reason for revision in tool.revisions)


# -- what changes a key, and what does not ----------------------------------------------------------------------------


def test_neither_a_new_optional_parameter_nor_a_new_tool_nor_a_new_date_changes_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, tool in TOOLS.items():
        monkeypatch.setitem(TOOLS, name, with_default(tool, "sharpen_twice", False))
    monkeypatch.setitem(TOOLS, "flux-9-image", replace(TOOLS["flux-dev"], name="flux-9-image", aliases=()))
    monkeypatch.setattr(catalog, "CONTRACT_VERSION", "2027-01-01")
    for entry in GOLDEN["calls"]:
        call = golden_keys.prepared(entry)
        assert "sharpen_twice" in call.tool.defaults({})
        assert call.key(entry["engine"]) == entry["key"]
        assert not golden_keys.key_problem({**entry, "arguments": {**entry["arguments"], "sharpen_twice": False}})
        assert golden_keys.key_problem({**entry, "arguments": {**entry["arguments"], "sharpen_twice": True}})


def test_a_new_parameter_that_is_set_is_another_call_and_left_alone_it_still_finds_old_stores() -> None:
    tool = with_default(TOOLS["deblur-v1"], "strength", 1.0)
    plain = prepare(TOOLS["deblur-v1"], {"image": _PICTURE}).identity("bfl")
    same = prepare(tool, {"image": _PICTURE, "strength": 1}).identity("bfl")
    other = prepare(tool, {"image": _PICTURE, "strength": 2}).identity("bfl")
    assert same.keys == plain.keys
    assert not set(other.keys) & set(plain.keys)


def test_a_new_revision_is_another_key_and_finds_no_result_of_an_old_store() -> None:
    before = prepare(TOOLS["deblur-v1"], {"image": _PICTURE}).identity("bfl")
    after = prepare(next_revision(TOOLS["deblur-v1"]), {"image": _PICTURE}).identity("bfl")
    assert not set(before.keys) & set(after.keys)


def test_where_a_noted_default_has_changed_calls_that_set_the_parameter_keep_their_keys() -> None:
    tool = TOOLS["deblur-v1"]
    changed = with_default(tool, "safety_tolerance", 3)
    changed = replace(changed, revisions=(replace(_FIRST, defaults={"safety_tolerance": 2}),))

    def keys(tool: Tool, **given: Any) -> tuple[str, ...]:
        return prepare(tool, {"image": _PICTURE, **given}).identity("bfl").keys

    assert keys(changed, safety_tolerance=2) == keys(tool)
    assert keys(changed, safety_tolerance=3) == keys(changed) == keys(tool, safety_tolerance=3)


def test_none_and_left_out_are_one_call() -> None:
    mask = {"boxes": [[0, 0, 9, 9]]}
    given = {"prompt": None, "steps": None, "guidance": None, "seed": None, "output_format": None}
    assert key("flux-pro-1.0-fill", mask=mask, **given) == key("flux-pro-1.0-fill", mask=mask)
    assert key("flux-2-pro", prompt="x", width=None, height=None) == key("flux-2-pro", prompt="x")


def test_a_number_a_format_and_a_model_have_one_key_in_every_spelling() -> None:
    class Format(StrEnum):
        webp = "webp"

    assert key("flux-2-flex", prompt="x", guidance=4) == key("flux-2-flex", prompt="x", guidance=4.0)
    assert key("deblur-v1", output_format=Format.webp) == key("deblur-v1", output_format="webp")
    spellings = ("flux-2-pro", "FLUX_2_PRO", "flux-2", None)
    assert len({key(catalog.tool("edit", model), prompt="x") for model in spellings}) == 1


def test_a_mask_has_one_key_with_its_options_written_out_and_left_out() -> None:
    boxes = [[0, 0, 9, 9]]
    plain = key("erase-v1", mask={"boxes": boxes})
    assert key("erase-v1", mask={"boxes": boxes, "invert": False, "dilate": 0, "resize": False}) == plain
    assert key("erase-v1", mask={"boxes": boxes, "invert": True}) != plain


# -- keys of before ---------------------------------------------------------------------------------------------------


def test_the_defaults_of_september_2026_are_those_of_the_stored_document() -> None:
    stored = json.loads((golden_keys.PICTURES / "defaults_2026_09_19.json").read_text())
    assert stored == contract_0919.DEFAULTS


@pytest.mark.parametrize("entry", STORED, ids=lambda entry: f"{entry['task']}-{entry['key'][:8]}")
def test_the_former_key_is_exactly_that_of_68a6cf4(entry: dict[str, Any]) -> None:
    assert golden_keys.prepared(entry).identity("local:classical@1").former_key == entry["key"]


def test_the_former_key_keeps_a_none_that_was_written_out() -> None:
    """At the time it was sent, and made another key than the default did."""
    mask = {"boxes": [[0, 0, 9, 9]]}
    told = prepare(TOOLS["flux-pro-1.0-fill"], {"image": _PICTURE, "mask": mask, "steps": None}).identity("bfl")
    plain = prepare(TOOLS["flux-pro-1.0-fill"], {"image": _PICTURE, "mask": mask}).identity("bfl")
    assert told.key == plain.key
    assert told.former_key != plain.former_key


def test_a_tool_that_came_later_has_no_former_key() -> None:
    tool = replace(TOOLS["flux-dev"], name="flux-9-image")
    assert len(prepare(tool, {"prompt": "x"}).identity("bfl").keys) == 1
