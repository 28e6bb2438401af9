"""What identifies a result, and why a call is not answered by it, in plain words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_keys
import pytest

from flux_tasks import InvalidRequest, catalog
from flux_tasks.catalog import TOOLS
from flux_tasks.catalog.rules import Revision
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.explanation import differences, find_records
from flux_tasks.jobs.identity import Identity
from flux_tasks.store.records import Store

STORE = Store(str(golden_keys.PICTURES / "store"))
INPUTS = golden_keys.PICTURES / "inputs"
CALLS = json.loads((golden_keys.PICTURES / "calls.json").read_text())


def identity(task: str, engine: str = "bfl", model: str | None = None, variant: int = 0, **arguments: Any) -> Identity:
    given = {"image": INPUTS / "a.png", **arguments} if task != "generate" else arguments
    return prepare(catalog.tool(task, model), given, variant=variant).identity(engine)


def described(text: str) -> str:
    [found] = find_records(STORE, text)
    return found.describe()


# -- what identifies a result -----------------------------------------------------------------------------------------


def test_a_result_says_tool_engine_pictures_and_what_is_no_default() -> None:
    text = described(CALLS[4]["key"])
    assert "the result of erase-v1" in text
    assert "  tool    erase-v1, revision 1 (2026-09-19: the first in this catalogue)" in text
    assert "  engine  local:classical@1" in text
    assert "  image   picture f06457835e3c" in text
    assert "  mask    file febd7c6fd3de, dilate 2, size 96×80 px" in text
    assert "Defaults hold for the rest (dilate_pixels 10, safety_tolerance 2, output_format 'png')" in text
    assert "Its key is of September 2026" in text


def test_the_variant_of_an_old_record_is_found_by_trying() -> None:
    assert "  variant             2" in described(CALLS[9]["key"])


def test_a_result_is_found_by_the_beginning_of_its_key_the_key_of_today_its_job_and_its_picture(tmp_path: Path) -> None:
    by_key = described(CALLS[0]["key"])
    assert described(CALLS[0]["key"][:8]) == by_key
    assert described(golden_keys.prepared(CALLS[0]).key("local:classical@1")[:12]) == by_key
    record = STORE.record("results", CALLS[0]["key"])
    assert record is not None
    assert described(record["job_id"]) == by_key
    place = tmp_path / "copy.png"
    place.write_bytes(next(Path(STORE.url).glob(f"blobs/*/{CALLS[0]['digest']}.png")).read_bytes())
    assert CALLS[0]["key"] in {one.key for one in find_records(STORE, str(place))}


def test_refusals_and_unsettled_jobs_are_explained_too() -> None:
    assert "moderation refused deblur-v1" in described("d6e887e9")
    assert "an unsettled job whose id is not known: deblur-v1 for a" in described("45c5c206")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nowhere.png", "no file, no job, and not the beginning of a key"),
        ("f" * 64, "no file, no job, and not the beginning of a key"),
        (
            str(INPUTS / "a.png"),
            f"is not a picture that the store {STORE.url} has: .*; --store or FLUX_STORE names another store",
        ),
    ],
)
def test_what_the_store_does_not_have_is_said(text: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what):
        find_records(STORE, text)


def test_the_beginning_of_several_keys_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key in ("abcd" + "0" * 60, "abcd" + "1" * 60):
        store.put_record("results", key, {})
    with pytest.raises(InvalidRequest, match="begins 2 keys"):
        find_records(store, "abcd")


def test_damaged_records_are_explained_as_far_as_they_go(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put_record("results", "a" * 64, {"image": 3, "tool": 4})
    store.put_record(
        "results", "b" * 64, {"operation": {"operation": "resize", "version": "1"}, "parameters": {"w": 1}}
    )
    [damaged], [free] = find_records(store, "aaaa"), find_records(store, "bbbb")
    assert "does not follow from what it holds" in damaged.describe()
    assert "a result made on this machine, free" in free.describe()
    assert "resize" in free.describe()


# -- why a call is no hit ---------------------------------------------------------------------------------------------


def test_the_same_call_has_no_differences() -> None:
    assert differences(identity("deblur"), identity("deblur", safety_tolerance=2, seed=None)) == []


@pytest.mark.parametrize(
    ("stored", "given", "said"),
    [
        (identity("deblur", seed=7), identity("deblur", seed=8), ["seed: 7 → 8"]),
        (identity("deblur", seed=7), identity("deblur"), ["seed: 7 → not set"]),
        (
            identity("deblur", safety_tolerance=1),
            identity("deblur"),
            ["safety_tolerance: 1 → 2 (the default)"],
        ),
        (identity("deblur", "local:classical@1"), identity("deblur"), ["engine: local:classical@1 → bfl"]),
        (identity("deblur"), identity("deblur", variant=2), ["variant: 0 → 2"]),
        (
            identity("deblur"),
            identity("deblur", image=INPUTS / "b.png"),
            ["the image is another picture (b13b5ba4eb9d → f06457835e3c)"],
        ),
        (
            identity("erase", mask=INPUTS / "mask.png"),
            identity("erase", mask=INPUTS / "b.png", dilate_pixels=12),
            ["dilate_pixels: 10 (the default) → 12", "the mask is another file (febd7c6fd3de → f06457835e3c)"],
        ),
        (
            identity("erase", mask={"file": INPUTS / "mask.png", "dilate": 2}),
            identity("erase", mask=INPUTS / "mask.png"),
            ["mask: dilate: 2 → 0"],
        ),
        (
            identity("edit", prompt="x"),
            identity("edit", prompt="x", references=[INPUTS / "b.png"]),
            ["input_image_2 is given"],
        ),
        (identity("edit", prompt="x"), identity("deblur"), ["tool: flux-2-pro → deblur-v1"]),
        (
            identity("generate", prompt="a" * 100 + " red house"),
            identity("generate", prompt="a" * 100 + " green house"),
            ["prompt: '…aaaaaaaaaaaaaaaaaaa red house' → '…aaaaaaaaaaaaaaaaaaa green house'"],
        ),
    ],
)
def test_each_difference_is_a_sentence_with_both_values(stored: Identity, given: Identity, said: list[str]) -> None:
    assert differences(stored, given) == said


def test_a_new_revision_says_its_reason() -> None:
    tool = TOOLS["deblur-v1"]
    now = replace(identity("deblur"), tool=replace(tool, revisions=(*tool.revisions, Revision(2, "2026-12-01", "new"))))
    assert differences(identity("deblur"), now) == ["revision: 1 → 2 (2026-12-01: new)"]
