"""Datasets by themselves: kinds of columns, and checks of whole outputs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Here
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flux_tasks.settings import Settings
from pipelines.data.formats.number import cell
from pipelines.data.writers.columns.kinds import fit, kind_of, merge, settled
from pipelines.data.writers.verify import verify
from pipelines.recipe import Recipe
from pipelines.run.run import Run

_plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.integers(-9, 9).map(lambda n: cell(f"0{n}")),
)
_values = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(_values, min_size=1, max_size=5))
def test_every_value_that_a_column_was_made_of_fits_it_and_json_holds_it(values: list[Any]) -> None:
    kind: Any = "null"
    for value in values:
        kind = merge(kind, kind_of(value))
    kind = settled(kind)
    for value in values:
        found = json.loads(json.dumps(fit(value, kind), allow_nan=False))
        assert found is None or merge(kind, kind_of(found)) == kind


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (("1", "2"), "int64"),
        (("1", "2.50"), "float64"),
        (("007", "8"), "string"),
        (("1", "x"), "string"),
        (("",), "string"),
    ],
)
def test_the_text_of_a_table_becomes_a_number_only_where_nothing_is_lost(texts: tuple[str, ...], kind: str) -> None:
    found: Any = "null"
    for text in texts:
        found = merge(found, kind_of(cell(text)))
    assert found == kind


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Makes an output of three pictures, without any paid step."""
    (folder := tmp_path / "set" / "photos").mkdir(parents=True)
    for number in range(3):
        Image.linear_gradient("L").rotate(number * 9).convert("RGB").save(folder / f"p{number}.png")

    def write(**output: Any) -> Path:
        import asyncio

        out = f"{tmp_path}/set/out"
        place = {"dataset": out} if "format" in output else {"path": f"{out}/{{{{ stem }}}}.png"}
        recipe = Recipe(
            source=f"{folder}/*.png",
            steps=[{"crop": {"box": [0, 0, 99, 99]}}],
            output={**place, **output},
        )
        with Run(recipe.compiled, Settings(key="k", store=str(tmp_path / "store"))) as run:
            asyncio.run(run.answer_from_store())
        assert not run.summary.problem
        return tmp_path / "set" / "out"

    return write


def findings(folder: Path) -> tuple[int, list[tuple[str, str]]]:
    """How many pictures are good, and what is wrong, with names from the folder."""
    found = list(verify(str(folder)))
    wrong = [(str(one.verdict), str(Path(one.location).relative_to(folder))) for one in found if one is not None]
    return found.count(None), wrong


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "webdataset"])
def test_verify_finds_what_is_missing_changed_and_extra_in_a_dataset(
    written: Callable[..., Path], kind: str, here_cli: Here
) -> None:
    out = written(format=kind)
    assert findings(out) == (6, [])
    assert here_cli("verify", str(out)).returncode == 0
    (out / "stray.png").write_bytes(b"x")
    if kind == "imagefolder":
        changed, missing = out / "train" / "p1.png", out / "train" / "original" / "p2.png"
        missing.unlink()
        Image.new("RGB", (9, 9)).save(changed)
        wrong = [("changed", "train/p1.png"), ("missing", "train/original/p2.png"), ("extra", "stray.png")]
        assert findings(out) == (4, wrong)
    else:
        shard = out / "data" / f"train-00000.{'tar' if kind == 'webdataset' else 'parquet'}"
        data = bytearray(shard.read_bytes())
        data[data.index(b"IDAT") + 30] ^= 1
        shard.write_bytes(data)
        assert findings(out) == (0, [("changed", f"data/{shard.name}"), ("extra", "stray.png")])
        finding = next(one for one in verify(str(out)) if one)
        assert "other pictures in p0" in finding.what
        shard.unlink()
        assert findings(out) == (0, [("missing", f"data/{shard.name}"), ("extra", "stray.png")])
    told = here_cli("verify", str(out))
    assert told.returncode == 1
    assert "extra: " in told.stdout


def test_verify_checks_files_against_the_provenance_beside_them(written: Callable[..., Path], here_cli: Here) -> None:
    out = written(provenance=True)
    assert findings(out) == (3, [])
    (out / "p0.png").unlink()
    Image.new("RGB", (9, 9)).save(out / "p1.png")
    shutil.copy(out / "p2.png", out / "other.png")
    assert findings(out) == (1, [("missing", "p0.png"), ("changed", "p1.png"), ("extra", "other.png")])
    out = written(provenance=True)
    assert findings(out) == (3, [("extra", "other.png")]), "the next run has put back what was gone"


def test_verify_of_a_folder_of_which_nothing_is_known_says_so(tmp_path: Path, here_cli: Here) -> None:
    told = here_cli("verify", str(tmp_path))
    assert told.returncode == 2
    assert "is no dataset, and no picture in it has a provenance" in told.stderr
    assert "there is nothing at nowhere" in here_cli("verify", "nowhere").stderr
