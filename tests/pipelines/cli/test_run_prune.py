"""`run --prune`: outputs whose source is gone are listed, and removed with `--yes`; nothing else ever is."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import Here
from PIL import Image
from recipes import Painter, Place, age, place

from flux_tasks.store.records import Store
from pipelines.recipe import Recipe
from pipelines.run.prune import Prune

LABELS = {
    "images": [{"id": n, "file_name": f"{name}.png", "width": 96, "height": 80} for n, name in ((1, "a"), (2, "b"))],
    "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 20, 20]} for n in (1, 2)],
    "categories": [{"id": 1, "name": "cup"}],
}


class Home:
    """A folder with recipes, run in this process."""

    def __init__(self, here: Place, program: Here) -> None:
        self.folder, self._here, self._program = here.folder, here, program

    def photos(self, *names: str) -> None:
        for name in names:
            path = self.folder / "photos" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize((96, 80)).rotate(len(name) * 9 + ord(name[0])).convert("RGB").save(path)
            age(path.parent, path.name)

    def recipe(self, text: str = "", name: str = "p", **changes: str) -> None:
        parts = {
            "source": f"images: '{self.folder}/photos/*.png'",
            "steps": "  - deblur: {}",
            "output": f"'{self.folder}/out/{{{{ stem }}}}.png'",
            **changes,
        }
        body = (
            f"name: {name}\nsource: {{{parts['source']}}}\nsteps:\n{parts['steps']}\noutput: {parts['output']}\n{text}"
        )
        (self.folder / f"{name}.yaml").write_text(body)

    def run(self, *options: str, name: str = "p") -> Any:
        command = ("run", str(self.folder / f"{name}.yaml"), "--endpoint", self._here.bfl.url, "--no-report")
        return self._program(*command, *options, key="k")

    def prune(self, *options: str, name: str = "p") -> Any:
        return self.run("--prune", *options, name=name)

    def out(self) -> set[str]:
        below = self.folder / "out"
        return {str(path.relative_to(below)) for path in below.rglob("*") if path.is_file()}

    def remove(self, name: str) -> None:
        (self.folder / "photos" / f"{name}.png").unlink()


@pytest.fixture
def home(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with place(painter, 0) as here:
        made = Home(here, Here(here.folder, monkeypatch))
        made.photos("a", "b", "größe 1")
        made.recipe()
        yield made


def test_what_has_no_source_any_more_is_listed_and_with_yes_removed(home: Home) -> None:
    home.run()
    (home.folder / "out" / "my own.png").write_bytes(b"mine")
    home.remove("größe 1")
    shown = home.prune()
    assert f"  {home.folder}/out/größe 1.png: {home.folder}/photos/größe 1.png is gone" in shown.stdout
    assert "prune: 1 output whose source is gone, which run --prune --yes removes:" in shown.stdout
    assert home.out() == {"a.png", "b.png", "größe 1.png", "my own.png"}
    done = home.prune("--yes")
    assert (done.returncode, home.out()) == (0, {"a.png", "b.png", "my own.png"})
    assert "prune: 1 output removed" in done.stdout
    assert "prune: no output whose source is gone" in home.prune("--yes").stdout


def test_a_plan_lists_what_would_be_removed_and_pays_for_nothing(home: Home) -> None:
    home.run()
    home.remove("a")
    home.photos("new")
    command = ("plan", str(home.folder / "p.yaml"), "--endpoint", home._here.bfl.url, "--prune")
    shown = home._program(*command)
    assert shown.stdout.splitlines()[-1] == f"  {home.folder}/out/a.png: {home.folder}/photos/a.png is gone"
    assert (shown.returncode, home._here.jobs) == (0, 3)
    assert "leave --json out" in home._program(*command, "--json").stderr
    assert "leave --limit out" in home._program(*command, "--limit", "1").stderr


def test_a_picture_that_comes_back_gets_its_result_from_the_store(home: Home) -> None:
    home.run()
    home.remove("a")
    home.prune("--yes")
    home.photos("a")
    home.run()
    assert home.out() == {"a.png", "b.png", "größe 1.png"}
    assert home._here.jobs == 3


def test_an_edited_recipe_knows_what_it_wrote_before(home: Home) -> None:
    home.run()
    home.recipe(output=f"'{home.folder}/out/new/{{{{ stem }}}}.webp'", steps="  - edit: {prompt: x}")
    home.remove("a")
    home.prune("--yes")
    assert home.out() == {"b.png", "größe 1.png", "new/b.webp", "new/größe 1.webp"}
    home.remove("b")
    home.prune("--yes")
    assert home.out() == {"größe 1.png", "new/größe 1.webp"}


def test_what_was_left_out_by_a_filter_stays(home: Home) -> None:
    home.run()
    home.recipe(source=f"images: '{home.folder}/photos/*.png', filter: \"stem == 'a'\", limit: 1")
    assert "prune: no output whose source is gone" in home.prune("--yes").stdout
    assert home.out() == {"a.png", "b.png", "größe 1.png"}


def test_what_somebody_has_changed_since_stays(home: Home) -> None:
    home.recipe(output=f"['{home.folder}/out/{{{{ stem }}}}.png', '{home.folder}/out/{{{{ stem }}}}.jpg']")
    home.run()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (9, 9)).save(home.folder / "out" / name)
    home.remove("a")
    home.remove("b")
    home.prune("--yes")
    assert home.out() == {"a.png", "a.jpg", "größe 1.png", "größe 1.jpg"}


def test_what_another_item_is_written_to_stays(home: Home) -> None:
    home.run()
    source, there = home.folder / "photos" / "a.png", home.folder / "photos" / "deeper" / "a.png"
    there.parent.mkdir()
    source.rename(there)
    home.recipe(source=f"images: ['{home.folder}/photos/*.png', '{home.folder}/photos/*/*.png']")
    home.run()
    there.rename(source)
    home.prune("--yes", "--allow-empty")
    assert home.out() == {"a.png", "b.png", "größe 1.png"}


def test_what_another_recipe_has_written_or_reads_stays(home: Home) -> None:
    home.run()
    home.recipe(name="other")
    home.run(name="other")
    home.recipe(
        name="reader", source=f"images: '{home.folder}/out/b.png'", output=f"'{home.folder}/r/{{{{ stem }}}}.png'"
    )
    home.recipe(name="p", output=f"'{home.folder}/out/{{{{ stem }}}}.png'")
    home.remove("a")
    assert "no output whose source is gone" in home.prune("--yes").stdout
    for run in (home.folder / "store" / "runs").iterdir():
        record = json.loads((run / "run.json").read_text())
        if record["file"].endswith("other.yaml"):
            shutil.rmtree(run)
    home.run(name="reader")
    home.remove("b")
    home.prune("--yes")
    assert home.out() == {"b.png", "größe 1.png"}


def test_a_recipe_whose_manifest_is_lost_keeps_all_that_may_be_its_own(home: Home) -> None:
    home.run()
    home.recipe(name="other", output=f"'{home.folder}/out/{{{{ stem }}}}.webp'")
    home.run("--manifest", str(home.folder / "lost.jsonl"), name="other")
    (home.folder / "lost.jsonl").unlink()
    home.remove("a")
    assert "no output whose source is gone" in home.prune("--yes").stdout


def test_a_manifest_that_each_run_writes_over_is_read_before(home: Home) -> None:
    manifest = ("--manifest", str(home.folder / "last.jsonl"))
    home.run(*manifest)
    home.remove("a")
    home.prune("--yes", *manifest)
    assert home.out() == {"b.png", "größe 1.png"}


def test_places_that_have_gone_to_another_item_stay(home: Home) -> None:
    numbered = f"'{home.folder}/out/{{{{ index }}}}.png'"
    only = f"images: '{home.folder}/photos/*.png', filter: \"stem != 'b'\""
    home.recipe(output=numbered, source=only)
    home.run()
    home.remove("a")
    home.prune("--yes")
    assert home.out() == {"0.png", "1.png"}


def test_other_values_of_variables_are_another_source(home: Home) -> None:
    home.photos("deep/c")
    rows = home.folder / "rows.csv"
    rows.write_text("file\na.png\nb.png\n")
    image = f"table: '{rows}', image: '{home.folder}/photos/{{{{ word }}}}{{{{ file }}}}'"
    home.recipe(source=image, text="vars: {word: ''}\n")
    home.run()
    rows.write_text("file\nc.png\n")
    home.prune("--yes", "--set", "word=deep/")
    assert home.out() == {"a.png", "b.png", "c.png"}


def test_a_row_that_was_taken_out_of_a_table_is_gone_though_its_picture_is_there(home: Home) -> None:
    rows = home.folder / "rows.csv"
    rows.write_text("file,id\na.png,one\nb.png,two\n")
    home.recipe(
        source=f"table: '{rows}', image: '{home.folder}/photos/{{{{ file }}}}'",
        output=f"'{home.folder}/out/{{{{ id }}}}.png'",
    )
    home.run()
    rows.write_text("file,id\nb.png,two\n")
    home.prune("--yes")
    assert home.out() == {"two.png"}


@pytest.mark.parametrize("kind", ["imagefolder", "parquet", "webdataset"])
def test_rows_of_datasets_are_taken_out(home: Home, kind: str) -> None:
    output = f"{{dataset: '{home.folder}/out', format: {kind}, provenance: true}}"
    home.recipe(output=output)
    home.run()
    assert (home.folder / "out" / "card" / "1-image.jpg").exists()
    home.remove("a")
    shown = home.prune()
    assert f"  {home.folder}/out/train/a: {home.folder}/photos/a.png is gone" in shown.stdout
    done = home.prune("--yes")
    assert done.returncode == 0, done.stderr
    assert names(home.folder / "out", kind) == ["b", "größe 1"]
    assert [*(home.folder / "out").glob("card/*")] == [], "they may show what is gone"
    assert "](card/" not in (home.folder / "out" / "README.md").read_text()
    checked = home._program("verify", str(home.folder / "out"))
    assert checked.returncode == 0, checked.stdout
    home.photos("a")
    home.run()
    assert names(home.folder / "out", kind) == ["a", "b", "größe 1"]
    for name in ("a", "b", "größe 1"):
        home.remove(name)
    assert "--allow-empty" in home.prune("--yes").stderr
    done = home.prune("--yes", "--allow-empty")
    assert done.returncode == 0, done.stdout + done.stderr
    assert names(home.folder / "out", kind) == []
    assert home._program("verify", str(home.folder / "out")).returncode == 0


def names(folder: Path, kind: str) -> list[str]:
    """The names of the rows that other programs find."""
    if kind == "imagefolder":
        metadata = folder / "train" / "metadata.jsonl"
        rows = [json.loads(line) for line in metadata.read_text().splitlines()] if metadata.exists() else []
        pictures = {path.name for path in (folder / "train").glob("*.png")}
        assert pictures == {row["file_name"] for row in rows}
        return sorted(row["id"] for row in rows)
    if kind == "parquet":
        from pyarrow import parquet

        return sorted(
            one for file in (folder / "data").glob("*.parquet") for one in parquet.read_table(file)["id"].to_pylist()
        )
    import tarfile

    found = set()
    for file in (folder / "data").glob("*.tar"):
        with tarfile.open(file) as tar:
            found |= {name.partition(".")[0] for name in tar.getnames()}
    return sorted(found)


def test_a_file_of_somebodys_own_beside_a_result_stays(home: Home) -> None:
    home.run()
    own = home.folder / "out" / "a.png.json"
    own.write_text(json.dumps({"digest": "0" * 64, "notes": "mine"}))
    home.remove("a")
    assert "prune: 1 output removed" in home.prune("--yes").stdout
    assert own.exists()
    assert not own.with_suffix("").exists()


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc", "labelme"])
def test_sidecars_and_labels_go_with_their_picture(home: Home, kind: str) -> None:
    (home.folder / "labels.json").write_text(json.dumps(LABELS))
    home.remove("größe 1")
    place_of_labels = f"{{path: '{home.folder}/out/labels', format: {kind}}}"
    home.recipe(
        source=f"images: '{home.folder}/photos/*.png', annotations: '{home.folder}/labels.json'",
        output=f"{{path: '{home.folder}/out/{{{{ stem }}}}.png', provenance: true, annotations: {place_of_labels}}}",
    )
    home.run()
    before = home.out()
    home.remove("a")
    assert home.prune("--yes").returncode == 0
    assert {name for name in before - home.out() if "labels" not in name} == {"a.png", "a.png.json"}
    if kind == "coco":
        left = json.loads((home.folder / "out" / "labels" / "instances.json").read_text())
        assert [image["file_name"] for image in left["images"]] == ["b.png"]
        assert len(left["annotations"]) == 1
    else:
        assert [Path(name).stem for name in before - home.out() if "labels" in name] == ["a"]


def test_labels_that_somebody_has_corrected_or_that_another_recipe_writes_too_stay(home: Home) -> None:
    (home.folder / "labels.json").write_text(json.dumps(LABELS))
    home.remove("größe 1")
    shutil.copytree(home.folder / "photos", home.folder / "others")
    places = f"annotations: {{path: '{home.folder}/labels', format: voc}}"
    for name, folder in (("p", "photos"), ("q", "others")):
        home.recipe(
            name=name,
            source=f"images: '{home.folder}/{folder}/*.png', annotations: '{home.folder}/labels.json'",
            output=f"{{path: '{home.folder}/{name}/{{{{ stem }}}}.png', {places}}}",
        )
    home.run()
    corrected = home.folder / "labels" / "a.xml"
    corrected.write_text(corrected.read_text().replace("cup", "mug"))
    home.remove("a")
    assert home.prune("--yes").returncode == 0
    assert not (home.folder / "p" / "a.png").exists()
    assert "mug" in corrected.read_text()
    home.run(name="q")
    home.photos("c")
    home.remove("b")
    assert home.prune("--yes").returncode == 0
    assert not (home.folder / "p" / "b.png").exists()
    assert {path.name for path in (home.folder / "labels").iterdir()} >= {"a.xml", "b.xml"}


# -- what is not known is not removed ---------------------------------------------------------------------------------


def test_a_folder_that_has_lost_all_its_pictures_may_only_be_away(home: Home) -> None:
    home.photos("../disk/n")
    (home.folder / "photos" / "linked").symlink_to(home.folder / "disk")
    home.recipe(source=f"images: '{home.folder}/photos/'")
    home.run()
    (home.folder / "disk").rename(home.folder / "away")
    for make in (lambda: None, (home.folder / "disk").mkdir):
        make()
        refused = home.prune("--yes")
        assert "photos/linked has no picture any more, or is away at the moment" in refused.stderr
        assert "n.png" in home.out()
    (home.folder / "photos" / "linked").unlink()
    home.prune("--yes", "--allow-empty")
    assert home.out() == {"a.png", "b.png", "größe 1.png"}


def test_a_picture_of_a_dataset_that_somebody_has_changed_stays(home: Home) -> None:
    home.recipe(output=f"{{dataset: '{home.folder}/out'}}")
    home.run()
    Image.new("RGB", (9, 9)).save(home.folder / "out" / "train" / "a.png")
    for name in ("a", "b"):
        home.remove(name)
    home.prune("--yes")
    assert {path.name for path in (home.folder / "out" / "train").glob("*.png")} == {"a.png", "größe 1.png"}


def test_what_the_text_of_another_recipe_names_as_a_mask_or_a_reference_stays(home: Home) -> None:
    home.recipe(steps="  - resize: {width: 96, height: 80}")
    home.run()
    home.photos("../others/a")
    source = f"images: '{home.folder}/others/*.png'"
    for step in ("erase: {mask: '%s/out/{{ stem }}.png'}", "edit: {prompt: x, references: ['%s/out/a.png']}"):
        home.recipe(
            name="q", source=source, steps=f"  - {step % home.folder}", output=f"'{home.folder}/q/{{{{ stem }}}}.png'"
        )
        home.run(name="q")
        if "erase" in step:
            home.remove("a")
        home.prune("--yes")
        assert "a.png" in home.out()


@pytest.mark.parametrize("is_shared", [True, False], ids=["manifest of both", "manifest lost"])
def test_what_a_recipe_has_written_whose_manifest_is_lost_stays(home: Home, is_shared: bool) -> None:
    shutil.copytree(home.folder / "photos", home.folder / "others")
    output = "'{{ folder }}/{{ stem }}.png'"
    text = f"vars: {{folder: '{home.folder}/out'}}\n"
    home.recipe(text, name="q", source=f"images: '{home.folder}/others/*.png'", output=output)
    manifest = home.folder / "manifest.jsonl"
    home.run("--manifest", str(manifest), name="q")
    if not is_shared:
        manifest.unlink()
    home.run(*(["--manifest", str(manifest)] if is_shared else []))
    home.remove("a")
    home.prune("--yes")
    assert home.out() == {"a.png", "b.png", "größe 1.png"}


def test_a_glob_that_finds_nothing_needs_a_word(home: Home) -> None:
    home.photos("more/c")
    home.recipe(source=f"images: ['{home.folder}/photos/*.png', '{home.folder}/photos/more/*.png']")
    home.run()
    shutil.rmtree(home.folder / "photos" / "more")
    refused = home.prune("--yes")
    assert refused.returncode == 1
    assert "finds nothing, so nothing is removed; write --allow-empty if that is meant" in refused.stderr
    assert "c.png" in home.out()
    home.prune("--yes", "--allow-empty")
    assert home.out() == {"a.png", "b.png", "größe 1.png"}


def test_a_source_with_a_row_that_cannot_be_read_removes_nothing(home: Home) -> None:
    rows = home.folder / "rows.jsonl"
    rows.write_text('{"file": "a.png"}\n{"file": "b.png"}\n')
    home.recipe(source=f"table: '{rows}', image: '{home.folder}/photos/{{{{ file }}}}'")
    home.run()
    rows.write_text('{"file": "a.png"}\nbroken\n')
    refused = home.prune("--yes")
    assert "1 items cannot be read, so nobody knows what is theirs" in refused.stderr
    assert home.out() == {"a.png", "b.png"}


def test_a_run_that_was_stopped_removes_nothing(home: Home) -> None:
    home.run()
    home.remove("a")
    home.photos("new")
    refused = home.prune("--yes", "--budget", "0")
    assert refused.returncode == 3
    assert (
        "--prune: the run was stopped: run it again first\nflux-pipelines: --prune: nothing was removed"
        in refused.stderr
    )
    assert "a.png" in home.out()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--prune", "--limit", "2"), "--prune: goes with a run over all items only: leave --limit out"),
        (("--prune", "--sample", "2"), "--prune: goes with a run over all items only: leave --sample out"),
        (("--yes",), "--yes: belongs to --prune: add that, or leave it out"),
        (("--allow-empty",), "--allow-empty: belongs to --prune: add that, or leave it out"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_paid(
    home: Home, options: tuple[str, ...], said: str
) -> None:
    refused = home.run(*options)
    assert (refused.returncode, home._here.jobs) == (2, 0)
    assert said in refused.stderr


# -- kills ------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is dead: nothing that it would still do happens."""


def prune_until(moment: int, recipe: Recipe, store: Store) -> bool:
    """Remove what is stale, and die before the change of the disk with this number; True if there are not so many."""
    count = 0

    def mortal(change: Any) -> Any:
        def inner(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count > moment:
                raise Killed
            return change(*arguments, **options)

        return inner

    with pytest.MonkeyPatch.context() as patch:
        for name in ("unlink", "replace", "link", "rename"):
            patch.setattr(os, name, mortal(getattr(os, name)))
        try:
            prune = Prune(recipe.compiled, store, may_be_empty=False)
            prune.collect()
            assert [*prune.remove(prune.stale())] == []
        except Killed:
            return False
    return True


@pytest.mark.parametrize("kind", ["files", "imagefolder", "parquet", "webdataset"])
def test_a_removal_that_is_killed_at_any_moment_is_gone_on_with(home: Home, kind: str) -> None:
    home.photos("c")
    dataset = f"{{dataset: '{home.folder}/out', format: {kind}, provenance: true}}"
    files = f"{{path: '{home.folder}/out/{{{{ stem }}}}.png', provenance: true}}"
    home.recipe(output=files if kind == "files" else dataset)
    home.run()
    home.remove("a")
    home.remove("c")
    recipe, store = Recipe.load(home.folder / "p.yaml"), Store(str(home.folder / "store"))
    moment = 0
    while not prune_until(moment, recipe, store):
        moment += 1
        (home.folder / "out" / ".flux" / "writer.json").unlink(missing_ok=True)  # as of a process that has ended
        if kind == "files":
            assert home.out() >= {"b.png", "b.png.json", "größe 1.png", "größe 1.png.json"}
        elif moment % 4 == 0:
            home.run()  # whatever was half done, a run makes a whole dataset of it
            assert home._program("verify", str(home.folder / "out")).returncode == 0
            assert {"b", "größe 1"} <= set(names(home.folder / "out", kind))
    assert moment >= 3
    if kind == "files":
        assert home.out() == {"b.png", "b.png.json", "größe 1.png", "größe 1.png.json"}
    else:
        assert names(home.folder / "out", kind) == ["b", "größe 1"]
        assert home._program("verify", str(home.folder / "out")).returncode == 0
