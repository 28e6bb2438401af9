"""A COCO file is read in one pass, whatever its order and its size, and its labels are read where they lie."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import Scene

from flux_tasks.errors import InvalidRequest, RecipeError
from pipelines.data.annotations import coco_index, read_annotations

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=5), st.integers(1, 40), st.sampled_from([None, 1]))
def test_every_object_is_read_as_json_has_it_however_it_is_cut(data: dict[str, Any], block: int, indent: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coco_index, "_BLOCK", block)
        text = json.dumps(data, ensure_ascii=bool(indent), indent=indent).encode()
        found: dict[str, Any] = {}
        for entry in coco_index.entries(io.BytesIO(text)):
            if entry.number is None:
                found[entry.name] = entry.read()
            elif entry.number < 0:
                found[entry.name] = []
            else:
                assert orjson.loads(text[entry.start : entry.start + len(entry.text)]) == entry.read()
                found.setdefault(entry.name, []).append(entry.read())
    assert found == data


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": 1', '{"a": [1', '{"a": [1,]}', '{"a" 1}', '{"a": NaN}', "{} {}"]
)
def test_what_is_no_object_of_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        list(coco_index.entries(io.BytesIO(text.encode())))
    with pytest.raises(RecipeError, match=r"labels\.json (is no JSON object|is neither COCO)"):
        read_annotations(str(tmp_path / "labels.json"))


@pytest.mark.parametrize("order", ["images annotations categories", "categories annotations images"])
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_the_order_and_the_size_of_a_file_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, small: int
) -> None:
    monkeypatch.setattr(coco_index, "_SMALL", small)
    scene = Scene(tmp_path).fill(5)
    file = scene.coco()
    data = json.loads(file.read_text())
    data["images"][1]["file_name"] = "été.png"
    data["annotations"][3]["note"] = "où"
    data["annotations"].reverse()
    file.write_text(json.dumps({name: data[name] for name in ("info", *order.split())}, ensure_ascii=False))
    known = read_annotations(str(file))
    for number, objects in enumerate(scene.objects):
        labels = known.of("été.png" if number == 1 else f"p{number:02d}.png")
        assert labels is not None
        found = [(label.name, tuple(map(int, label.box))) for label in labels.labels]
        assert found == [*reversed(objects)]


def test_a_large_file_that_is_changed_while_it_is_read_is_not_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco_index, "_SMALL", 0)
    file = Scene(tmp_path).fill(2).coco()
    known = read_annotations(str(file))
    file.write_bytes(b" " * 50 + file.read_bytes())
    with pytest.raises(InvalidRequest, match=r"somebody has changed it while it was read"):
        known.of("p01.png")


def test_what_tells_the_labels_of_a_picture_changes_with_them_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path).fill(3)
    before = read_annotations(str(scene.coco())).at("p01.png").digest
    for number, is_same in ((2, True), (1, False)):
        (scene.objects[number]).append(("dog", (1, 2, 9, 9 + number)))
        assert (read_annotations(str(scene.coco(f"labels/{number}.json"))).at("p01.png").digest == before) == is_same
    renamed = [{"id": number, "name": f"my {name}"} for name, number in scene.ids.items()]
    other = read_annotations(str(scene.coco("labels/names.json", categories=renamed))).at("p01.png").digest
    assert other not in (before, "")
