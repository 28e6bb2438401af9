"""Two buckets with different accounts in one run: the options of a recipe and of the settings, end to end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Here
from fake_bfl import FakeBfl
from object_stores import forget_filesystems, rclone_s3
from scripted import Answer, ScriptedServer

from flux_tasks import files
from flux_tasks.errors import RecipeError
from pipelines import Recipe

MINE, THEIRS = ("reader-key-id", "reader-secret-text"), ("writer-key-id", "writer-secret-text")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(folder, monkeypatch)


@pytest.fixture
def plain_aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user with one profile, ``reader``, and nothing else about S3."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FLUX_STORAGE"))]:
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(
        f"[reader]\naws_access_key_id = {MINE[0]}\naws_secret_access_key = {MINE[1]}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("WRITER_KEY", THEIRS[0])
    monkeypatch.setenv("WRITER_SECRET", THEIRS[1])
    yield
    forget_filesystems()


@pytest.fixture
def servers(tmp_path: Path, folder: Path, plain_aws: None) -> Iterator[tuple[str, str]]:
    """Two servers that check signatures, each for another account; the first has a bucket with the photos."""
    photos, results = tmp_path / "a" / "buckets" / "photos", tmp_path / "b" / "buckets" / "results"
    photos.mkdir(parents=True)
    results.mkdir(parents=True)
    for photo in (folder / "photos").iterdir():
        (photos / photo.name).write_bytes(photo.read_bytes())
    with rclone_s3(photos.parent, *MINE) as first, rclone_s3(results.parent, *THEIRS) as second:
        yield first, second


RECIPE = """\
name: two accounts
storage_options:
  "s3://photos/": {profile: reader, region: us-east-1}
  "s3://results/": {key: {env: WRITER_KEY}, secret: {env: WRITER_SECRET}, endpoint_url: "%s"}
source: "s3://photos/*"
steps: [deblur: {}]
output: "s3://results/clean/{{ stem }}.png"
"""


def test_two_buckets_with_different_accounts_work_in_one_run_and_no_secret_is_left_anywhere(
    here: Here, folder: Path, bfl: FakeBfl, servers: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = servers
    trusted = {"s3://photos/": {"endpoint_url": first}, "s3://results/": {"endpoint_url": second}}
    monkeypatch.setenv("FLUX_STORAGE_OPTIONS", json.dumps(trusted))
    recipe = folder / "accounts.yaml"
    recipe.write_text(RECIPE % second)
    checked = here("validate", str(recipe))
    assert (checked.returncode, "warning" in checked.stdout) == (0, False), checked.stderr + checked.stdout
    places = ("--report", "s3://results/report.html", "--manifest", "s3://results/rows.jsonl")
    done = here("run", str(recipe), "--endpoint", bfl.url, *places, key="k")
    assert done.returncode == 0, done.stderr + done.stdout
    written = tmp_path / "b" / "buckets" / "results"
    assert {path.name for path in written.iterdir()} == {"clean", "report.html", "rows.jsonl"}
    assert len(list((written / "clean").iterdir())) == bfl.jobs == len(list((folder / "photos").iterdir()))
    again = here("run", str(recipe), "--endpoint", bfl.url, *places, key="k")
    assert (again.returncode, bfl.jobs) == (0, len(list((folder / "photos").iterdir())))
    shown = done.stdout + done.stderr + checked.stdout
    left = [path.read_bytes() for root in (folder / "store", written) for path in root.rglob("*") if path.is_file()]
    for secret in (MINE[1], THEIRS[1]):
        assert secret not in shown
        assert not any(secret.encode() in data for data in left)


def test_a_recipe_sends_no_credentials_to_an_endpoint_of_its_own_choosing(
    here: Here, folder: Path, bfl: FakeBfl, plain_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", MINE[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MINE[1])
    recipe = folder / "elsewhere.yaml"
    with ScriptedServer() as evil:
        recipe.write_text(RECIPE % evil.url)
        for command in (["validate"], ["plan", "--endpoint", bfl.url], ["run", "--endpoint", bfl.url]):
            done = here(command[0], str(recipe), *command[1:], key="k")
            assert done.returncode == 2
            assert f"{recipe}:4: storage_options.s3://results/.endpoint_url: " in done.stderr
            assert "only the recipe names it: write anon: true, or trust it, FLUX_STORAGE_OPTIONS=" in done.stderr
        assert evil.requests == []
    assert bfl.jobs == 0


def test_an_anonymous_place_gets_no_credentials(
    here: Here, folder: Path, plain_aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", MINE[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MINE[1])
    recipe = folder / "public.yaml"
    refused = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    with ScriptedServer() as public:
        public.on("GET /public", Answer(403, refused))
        recipe.write_text(
            f'storage_options: {{"s3://public/": {{anon: true, endpoint_url: "{public.url}"}}}}\n'
            'source: "s3://public/*.png"\nsteps: [deblur: {}]\noutput: "out/{{ stem }}.png"\n'
        )
        assert here("validate", str(recipe)).returncode == 2
        assert public.requests
        assert not any("authorization" in request.headers for request in public.requests)


def test_options_are_in_no_digest_and_survive_yaml(plain_aws: None) -> None:
    plain = {"source": "s3://a/*.png", "steps": [{"deblur": {}}], "output": "s3://b/{{ stem }}.png"}
    options = {"s3://a/": {"profile": "reader"}, "s3://b/": {"secret": {"env": "WRITER_SECRET"}}}
    recipe = Recipe(**plain, storage_options=options)  # type: ignore[arg-type]
    assert recipe.digest == Recipe(**plain).digest  # type: ignore[arg-type]
    read = Recipe.parse(recipe.to_yaml())
    assert (read.compiled.storage_options, read.digest) == (options, recipe.digest)
    assert THEIRS[1] not in recipe.to_yaml() + repr(recipe) + repr(recipe.compiled)


def test_a_secret_in_a_recipe_is_refused_also_in_python() -> None:
    recipe = Recipe(
        source="s3://a/*.png",
        steps=[{"deblur": {}}],
        output="out/{{ stem }}.png",
        storage_options={"s3://a/": {"key": "an-id", "secret": THEIRS[1]}},
    )
    with pytest.raises(RecipeError, match=r"storage_options\.s3://a/\.secret: holds a secret itself") as caught:
        recipe.check()
    assert THEIRS[1] not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "source", "is_told"),
    [
        ("s3://photos/", "s3://photos/*.png", False),
        ("s3://photos/2026/", "s3://photos/20*/*.png", False),
        ("s3://photos/2026/", "s3://photos/2025/*.png", True),
        ("s3://photo/", "s3://photos/*.png", True),
        ("gs://photos/", "s3://photos/*.png", True),
        ("s3://shards/", "tar://a.png::s3://shards/0.tar", False),
    ],
)
def test_validate_warns_of_options_for_places_that_nothing_uses(
    here: Here, folder: Path, prefix: str, source: str, is_told: bool
) -> None:
    recipe = folder / "unused.yaml"
    recipe.write_text(
        f'storage_options: {{"{prefix}": {{anon: true}}}}\nsource: "{source}"\nsteps: [deblur: {{}}]\n'
        'output: "out/{{ stem }}.png"\n'
    )
    done = here("validate", str(recipe), "--offline")
    assert done.returncode == 0, done.stderr
    assert ("warning: storage_options." in done.stdout) is is_told
    assert ("nothing of the recipe lies there" in done.stdout) is is_told


def test_all_problems_are_told_at_once_with_their_lines(here: Here, folder: Path) -> None:
    recipe = folder / "wrong.yaml"
    recipe.write_text(
        'storage_options:\n  "s3://a/": {profil: x}\n  "gs://b/": {token: abcdefgh}\nsource: "s3://a/*.png"\n'
        'steps: [deblur: {}]\noutput: "out/{{ stem }}.png"\n'
    )
    done = here("validate", str(recipe), "--offline")
    assert done.returncode == 2
    assert f"{recipe}:2: storage_options.s3://a/.profil: " in done.stderr
    assert f"{recipe}:3: storage_options.gs://b/.token: holds a secret itself" in done.stderr
    assert "abcdefgh" not in done.stderr


def test_a_store_at_an_account_of_its_own_is_read_and_written(
    here: Here, folder: Path, bfl: FakeBfl, servers: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"s3://results/": {"endpoint_url": servers[1], "key": {"env": "WRITER_KEY"}, "secret": THEIRS[1]}}
    monkeypatch.setenv("FLUX_STORAGE_OPTIONS", json.dumps(options))
    done = here(
        "run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--store", "s3://results/store", "--alone", key="k"
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert files.folders("s3://results/store") != []
    assert here("store", "stats", "--store", "s3://results/store").returncode == 0


def test_a_recipe_runs_over_storage_blocks_of_prefect(
    here: Here, folder: Path, bfl: FakeBfl, prefect_server: str, servers: tuple[str, str], tmp_path: Path
) -> None:
    from prefect.filesystems import LocalFileSystem, RemoteFileSystem

    account = {"key": THEIRS[0], "secret": THEIRS[1], "endpoint_url": servers[1]}
    LocalFileSystem(basepath=str(folder)).save("photos-of-a-test", overwrite=True)
    RemoteFileSystem(basepath="s3://results/deep", settings=account).save("results-of-a-test", overwrite=True)
    recipe = folder / "blocks.yaml"
    recipe.write_text(
        'source: "block://local-file-system/photos-of-a-test/photos/*"\nsteps: [deblur: {}]\n'
        'output: "block://remote-file-system/results-of-a-test/{{ stem }}.png"\n'
    )
    done = here("run", str(recipe), "--endpoint", bfl.url, key="k")
    assert done.returncode == 0, done.stderr + done.stdout
    written = list((tmp_path / "b" / "buckets" / "results" / "deep").iterdir())
    assert len(written) == bfl.jobs == len(list((folder / "photos").iterdir()))
    left = [path.read_bytes() for path in (folder / "store").rglob("*") if path.is_file()]
    assert not any(THEIRS[1].encode() in data for data in left)
    assert here("validate", str(recipe), "--offline").returncode == 0
