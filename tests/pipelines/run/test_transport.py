"""How pictures are sent, as a recipe says it: by step or for all of it, in no digest; nothing is left of addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from command_line import Here
from object_stores import moto_s3, new_bucket_name, reach_s3

from flux_tasks import files
from flux_tasks.errors import RecipeError
from flux_tasks.local import LocalServer
from pipelines import Recipe


def recipe(**more: Any) -> Recipe:
    step = {"deblur": {}, **more.pop("step", {})}
    return Recipe(source="photos/*.png", steps=[step], output="out/{{ stem }}.png", **more)


def test_it_changes_no_digest_and_survives_yaml() -> None:
    for made in (recipe(transport="url"), recipe(step={"transport": "auto"})):
        assert made.digest == recipe().digest
        assert Recipe.parse(made.to_yaml()).to_yaml() == made.to_yaml()
        assert "transport: " in made.to_yaml()


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"deblur": {}, "transport": "base64"}, "'base64' is not a way to send pictures: write one of bytes, auto and"),
        ({"resize": {"width": 9}, "transport": "auto"}, "resize sends no pictures: leave transport out"),
        ({"fill": {"mask": "m.png", "prompt": "x"}, "transport": "url"}, "fill takes pictures as bytes only"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_spent(step: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Recipe(source="a/*.png", steps=[step], output="out/{{ stem }}.png").check()


@pytest.mark.parametrize("place", ["transport: url\nsteps: [deblur: {}]", "steps: [{deblur: {}, transport: url}]"])
def test_a_recipe_sends_signed_addresses_of_its_bucket_and_none_is_written_down(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    book: list[str] = []
    with moto_s3(book) as endpoint, reach_s3(endpoint), LocalServer() as server:
        bucket = new_bucket_name()
        files.exists(f"s3://{bucket}/any")  # imports the library the way this one does
        fsspec.filesystem("s3").mkdir(bucket)
        for photo in (folder / "photos").iterdir():
            files.write(f"s3://{bucket}/{photo.name}", photo.read_bytes())
        text = f'{place}\nsource: "s3://{bucket}/*.png"\noutput: "{folder}/out/{{{{ stem }}}}.png"\n'
        (folder / "r.yaml").write_text(text)
        done = Here(folder, monkeypatch)("run", str(folder / "r.yaml"), "--endpoint", server.url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert len({line for line in book if "X-Amz-Signature" in line}) == len(list((folder / "photos").iterdir()))
    left = [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]
    assert not any("X-Amz-Signature" in text for text in [*left, done.stdout, done.stderr])
