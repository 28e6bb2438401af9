"""Nothing is paid for whose result could not be written: places are looked at, and tried, before the first job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Here
from fake_bfl import FakeBfl
from object_stores import (
    azurite,
    fake_gcs,
    moto_s3,
    new_bucket_name,
    rclone_s3,
    reach_azure,
    reach_gcs,
    reach_s3,
)

from flux_tasks import files
from flux_tasks.errors import RecipeError, StoreUnavailable
from flux_tasks.settings import Settings
from pipelines import Recipe
from pipelines.execution.precheck import check_items
from pipelines.run.run import Run

SOURCE = 'name: r\nsource: "{folder}/photos/*"\nsteps: [deblur: {{}}]\noutput: "{output}"\n'


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The command line without a Prefect server: no run here may come that far."""
    return Here(folder, monkeypatch)


@pytest.fixture(params=["s3", "gs", "az"])
def object_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A protocol whose server answers and has no bucket."""
    if request.param == "s3":
        with moto_s3() as endpoint, reach_s3(endpoint):
            yield "s3"
    elif request.param == "az":
        with azurite(tmp_path_factory.mktemp("azure")) as endpoint, reach_azure(endpoint):
            yield "az"
    else:
        with fake_gcs(tmp_path_factory.mktemp("gcs")) as endpoint, reach_gcs(endpoint):
            yield "gs"


def written(folder: Path, output: str) -> str:
    path = folder / "places.yaml"
    path.write_text(SOURCE.format(folder=folder, output=output))
    return str(path)


def test_a_bucket_that_does_not_exist_is_named_by_validate_plan_and_run(
    here: Here, folder: Path, bfl: FakeBfl, object_store: str
) -> None:
    bucket = f"{object_store}://{new_bucket_name()}"
    recipe = written(folder, bucket + "/clean/{{ stem }}.png")
    for command in (["validate"], ["plan", "--endpoint", bfl.url], ["run", "--endpoint", bfl.url]):
        done = here(command[0], recipe, *command[1:], key="k")
        assert (done.returncode, done.stderr.splitlines()[0]) == (
            2,
            f"flux-pipelines: {recipe}:4: output.path: {bucket} does not exist: make it first, or write another name",
        )
    assert bfl.jobs == 0


def test_a_bucket_that_may_only_be_read_stops_the_run_before_its_first_job(
    here: Here, folder: Path, bfl: FakeBfl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("buckets") / "data"
    (root / "clean").mkdir(parents=True)
    recipe = written(folder, "s3://clean/{{ stem }}.png")
    with rclone_s3(root, "throw-away", "throw-away", "--read-only") as endpoint, reach_s3(endpoint):
        done = here("run", recipe, "--endpoint", bfl.url, key="k")
    assert done.returncode == 3
    assert "stopped: no job was begun: nothing can be written to s3://clean: " in done.stderr
    assert (bfl.jobs, list((root / "clean").iterdir())) == (0, [])


@pytest.mark.parametrize("option", ["--report", "--manifest"])
def test_the_places_of_report_and_manifest_are_tried_before_the_first_job(
    here: Here, folder: Path, bfl: FakeBfl, option: str
) -> None:
    (folder / "a file").write_text("")
    place = folder / "a file" / "below.html"
    done = here("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, option, str(place), key="k")
    assert done.returncode == 3
    assert "a file" in done.stderr
    assert bfl.jobs == 0


async def test_a_try_leaves_nothing_behind(folder: Path, bfl: FakeBfl, object_store: str) -> None:
    import fsspec

    bucket = new_bucket_name()
    files.exists(f"{object_store}://any-bucket/any")  # imports the library the way this one does
    fsspec.filesystem(object_store).mkdir(bucket)
    recipe = Recipe.load(written(folder, f"{object_store}://{bucket}/clean/{{{{ stem }}}}.png"))
    settings = Settings(endpoint=bfl.url, key="k", store=str(folder / "store"))
    with Run(recipe.compiled, settings) as run:
        await run.prepare_to_pay(str(folder / "not there" / "report.html"))
    assert files.listing(f"{object_store}://{bucket}/clean") == []
    assert not (folder / "not there").exists()


async def test_a_python_run_learns_of_it_before_prefect_starts(folder: Path, bfl: FakeBfl) -> None:
    recipe = Recipe.load(written(folder, "memory://clean/{{ stem }}.png"))
    settings = Settings(endpoint=bfl.url, key="k", store=str(folder / "store"))
    (folder / "file").write_text("")
    with Run(recipe.compiled, settings) as run, pytest.raises(StoreUnavailable, match="no job was begun: "):
        await run.prepare_to_pay(str(folder / "file" / "report.html"))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("out/{{ 'x' * 300 }}.png", "has 304 bytes: a name may have 255. Use a shorter one"),
        ("out/{{ 'ü' * 130 }}.png", "has 264 bytes: a name may have 255. Use a shorter one"),
        ("out/{{ 'x/' * 2500 }}{{ stem }}.png", "bytes: a path may have 4096"),
        ("a file/{{ stem }}.png", "a file is not a folder, and nothing can be written below it: use another name"),
        ("a file/deep/er/{{ stem }}.png", "a file is not a folder, and nothing can be written below it"),
        ("{{ 'a folder' }}.png", "is a folder: name a file"),
    ],
)
def test_an_item_whose_result_could_not_be_written_is_invalid_in_plan_and_run(
    here: Here, folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "a file").write_text("")
    (folder / "a folder.png").mkdir()
    recipe = written(folder, output)
    plan = here("plan", recipe, "--endpoint", bfl.url)
    assert plan.returncode in (0, 1), plan.stderr
    run = here("run", recipe, "--endpoint", bfl.url, key="k")
    assert run.returncode == 1
    for printed in (plan.stdout, run.stdout):
        assert "output.path: " in printed
        assert reason in " ".join(printed.split())
    assert bfl.jobs == 0


def test_a_key_of_an_object_has_1024_bytes_at_most() -> None:
    assert files.unwritable(f"s3://b/{'x' * 1024}") == ""
    assert "a path may have 1024" in files.unwritable(f"gs://b/{'x' * 1025}")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("https://host/clean/{{ stem }}.png", "nothing can be written to https://host/clean: write a folder, or"),
        ("nowhere://host/clean/{{ stem }}.png", "nowhere://host/clean: Protocol not known: nowhere"),
    ],
)
def test_an_output_that_no_library_writes_is_refused_by_validate_plan_and_run(
    here: Here, folder: Path, bfl: FakeBfl, output: str, reason: str
) -> None:
    recipe = written(folder, output)
    for command in (["validate"], ["plan", "--endpoint", bfl.url], ["run", "--endpoint", bfl.url]):
        done = here(command[0], recipe, *command[1:], key="k")
        assert (done.returncode, bfl.jobs) == (2, 0)
        assert f"{recipe}:4: output.path: {reason}" in done.stderr


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("out/{{ 'x' * 300 }}{{ stem }}.png", "a name may have 255"),
        ("a file/{{ stem }}.png", "is not a folder, and nothing can be written below it"),
        ("out/{{ 'same' }}.png", "is also another result's"),
        ("out/{{ '' }}.png", "has no name before its extension"),
    ],
)
def test_validate_names_the_items_that_plan_and_run_call_invalid(
    here: Here, folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "a file").write_text("")
    recipe = written(folder, output)
    done = here("validate", recipe)
    assert done.returncode == 1
    assert f"{recipe}: invalid: p1: output.path: " in done.stdout
    assert reason in done.stdout
    assert "items are invalid, and would not be paid for" in done.stdout
    plan = here("plan", recipe, "--endpoint", bfl.url)
    assert (plan.returncode, bfl.jobs) == (1, 0)
    assert reason in " ".join(plan.stdout.split())


@pytest.mark.parametrize("protocols", [("s3", "s3a"), ("gs", "gcs")])
def test_a_result_is_not_written_over_a_picture_under_another_name_of_its_protocol(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, protocols: tuple[str, str]
) -> None:
    import fsspec

    server = moto_s3() if protocols[0] == "s3" else fake_gcs(tmp_path_factory.mktemp("gcs"))
    with server as endpoint, (reach_s3 if protocols[0] == "s3" else reach_gcs)(endpoint):
        bucket = new_bucket_name()
        files.exists(f"{protocols[0]}://any-bucket/any")  # imports the library the way this one does
        fsspec.filesystem(protocols[0]).mkdir(bucket)
        files.write(f"{protocols[0]}://{bucket}/in/a.png", (folder / "photos" / "p0.png").read_bytes())
        for name, told in (
            ("{{ stem }}", "is also a picture that the run reads"),
            ("{{ stem }}-c", "the source would"),
        ):
            recipe = Recipe(
                source=f"{protocols[0]}://{bucket}/in/*.png",
                steps=[{"deblur": {}}],
                output=f"{protocols[1]}://{bucket}/in/{name}.png",
            )
            with pytest.raises(RecipeError, match=told):
                check_items(recipe.compiled)
