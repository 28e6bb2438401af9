"""Storage options: which of them a location has, what may be written, and that no secret is ever shown."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from hypothesis import given
from hypothesis import strategies as st

from flux_tasks import background, files
from flux_tasks.errors import RecipeError
from flux_tasks.files.remote import options as storage
from flux_tasks.files.remote.accounts import account_of
from flux_tasks.files.remote.rules import combined, option_problems, untrusted_endpoints
from flux_tasks.settings import Settings, current, use

SECRET = "correct-horse-battery-staple"


def told(options: Any, *, is_recipe: bool = True) -> str:
    return "; ".join(
        f"{'.'.join(place)}: {what}" if place else what for place, what in option_problems(options, is_recipe=is_recipe)
    )


# -- which options hold -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://archive/a.png", "archive"),
        ("s3a://archive/a.png", "archive"),
        ("s3://archive/deep/er/a.png", "deep"),
        ("s3://archive/deeper/a.png", "archive"),
        ("s3://archive", "archive"),
        ("s3://archives/a.png", "all"),
        ("gs://archive/a.png", None),
        ("abfs://archive/a.png", "azure"),
    ],
)
def test_the_longest_prefix_of_whole_folders_holds_alone(location: str, expected: str | None) -> None:
    names = {"s3://": "all", "s3://archive": "archive", "s3://archive/deep/": "deep", "az://archive/": "azure"}
    with storage.using({prefix: {"profile": name} for prefix, name in names.items()}):
        assert storage.options_of(location) == ({"profile": expected} if expected else {})


@given(st.lists(st.text("ab/", min_size=1, max_size=6), min_size=1, max_size=6), st.text("ab/", max_size=8))
def test_no_prefix_holds_for_what_does_not_lie_in_it(prefixes: list[str], path: str) -> None:
    with storage.using({f"s3://{prefix}": {"profile": prefix} for prefix in prefixes}):
        found = storage.options_of(f"s3://{path}")
    inside = [p for p in prefixes if not p.strip("/") or f"{path.strip('/')}/".startswith(f"{p.strip('/')}/")]
    assert found.get("profile", "").strip("/") == max((p.strip("/") for p in inside), key=len, default="")


def test_settings_hold_over_the_recipe_where_both_name_a_place() -> None:
    both = combined(
        {"s3://a/": {"profile": "mine", "region": "eu"}, "s3://b/": {"anon": True}}, {"s3a://a": {"profile": "x"}}
    )
    assert both == {"s3://a/": {"profile": "x", "region": "eu"}, "s3://b/": {"anon": True}}


def test_threads_with_and_without_the_context_of_their_starter_see_the_options() -> None:
    def seen(_: int) -> Any:
        return storage.options_of("s3://a/x").get("profile")

    with use(storage_options={"s3://a/": {"profile": "reader"}}):
        with background.Pool(2) as pool, ThreadPoolExecutor(2) as plain:
            assert {*pool.map(seen, range(4)), *plain.map(seen, range(4))} == {"reader"}

        async def on_loop() -> Any:
            return seen(0)

        assert background.run(on_loop()) == "reader"
    assert seen(0) is None


def test_the_environment_has_them_as_json_or_names_a_file_so_that_child_processes_have_them(
    plain_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain_environment.setenv("FLUX_STORAGE_OPTIONS", '{"s3://a/": {"profile": "reader"}}')
    assert current().storage_options == {"s3://a/": {"profile": "reader"}}
    assert storage.options_of("s3://a/b") == {"profile": "reader"}, "also where nobody has set anything"
    (tmp_path / "accounts.yaml").write_text("s3://a/: {profile: other}\n")
    plain_environment.setenv("FLUX_STORAGE_OPTIONS", str(tmp_path / "accounts.yaml"))
    assert storage.options_of("s3://a/b") == current().storage_options["s3://a/"] == {"profile": "other"}


@pytest.mark.parametrize("text", ['{"s3://a/": ', '{"s3://a/": 3}', "no/such/file.json", f'{{"key": "{SECRET}'])
def test_a_variable_that_cannot_be_read_is_named_and_not_quoted(
    plain_environment: pytest.MonkeyPatch, text: str
) -> None:
    plain_environment.setenv("FLUX_STORAGE_OPTIONS", text)
    with pytest.raises(RecipeError, match=r"FLUX_STORAGE_OPTIONS: .*: write \{") as caught:
        current()
    assert SECRET not in str(caught.value)


# -- what may be written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["key", "secret", "token", "password", "account_key", "sas_token", "connection_string", "client_secret"],
)
@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_recipe_with_a_secret_itself_is_refused_and_the_secret_not_repeated(scheme: str, name: str) -> None:
    found = told({f"{scheme}://a/": {name: SECRET}})
    assert found
    assert SECRET not in found


def test_the_refusal_of_a_secret_names_the_remedies() -> None:
    found = told({"s3://a/": {"secret": SECRET}})
    assert found.startswith("s3://a/.secret: holds a secret itself: write {env: NAME}, a profile, or put it into FLUX_")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "is not a mapping of URL prefixes"),
        ({"s3://a/": "anon"}, "s3://a/: has no options"),
        ({"a/b": {"anon": True}}, "a/b: is no place on a remote filesystem"),
        ({"https://a/": {"anon": True}}, "is a web address, which has no options"),
        ({"s3://a/*.png": {"anon": True}}, "is a pattern or a template"),
        ({"s3://k:s@a/": {"anon": True}}, "holds a user name or a password"),
        ({"sftp://a/": {"port": 3}}, "only options of s3, gs, az may stand in a recipe"),
        ({"s3://a/": {"profil": "x"}}, "s3://a/.profil: is not an option of s3:// (did you mean 'profile'?)"),
        ({"s3://a/": {"anonymous": True}}, "write anon"),
        ({"s3://a/": {"endpoint": "http://h"}}, "write endpoint_url"),
        ({"s3://a/": {"anon": "yes"}}, "'yes' is not true or false"),
        ({"s3://a/": {"client_kwargs": {"verify": False}}}, "may not stand in a recipe"),
        ({"s3://a/": {"use_ssl": False}}, "may not stand in a recipe"),
        ({"s3://a/": {"profile": "{{ who }}"}}, "is not a text without templates"),
        ({"s3://a/": {"region": 3}}, "3 is not a text"),
        ({"s3://a/": {"endpoint_url": "minio:9000"}}, "is not an address"),
        ({"s3://a/": {"endpoint_url": f"https://me:{SECRET}@h"}}, "holds a user name or a password"),
        ({"az://a/": {"account_name": "evil.example/x"}}, "is no storage account"),
        ({"s3://a/": {"key": {"env": "BFL_API_KEY"}}}, "'BFL_API_KEY' is not for a bucket"),
        ({"s3://a/": {"key": {"env": "NOT_THERE_AT_ALL"}}}, "the environment has no 'NOT_THERE_AT_ALL': set it"),
        ({"s3://a/": {"region": {"env": "AWS_SECRET_ACCESS_KEY"}}}, "sounds like a secret"),
        ({"s3://a/": {"key": {"env": 3}}}, "names no environment variable"),
        ({"gs://a/": {"token": "/home/me/key.json"}}, "holds a secret itself"),
    ],
)
def test_what_a_recipe_may_not_say_is_said_with_what_to_write_instead(options: Any, words: str) -> None:
    found = told(options)
    assert words in found
    assert SECRET not in found


def test_settings_may_say_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET)
    settings = Settings(
        storage_options={
            "s3://a/": {"key": "id", "secret": SECRET, "client_kwargs": {"verify": False}},
            "sftp://host/": {"username": "me", "password": {"env": "MINE"}},
            "gs://a/": {"token": {"type": "service_account"}},
        }
    )
    assert SECRET not in repr(settings)
    assert isinstance(hash(settings), int)
    with pytest.raises(RecipeError, match=r"storage_options\.s3://a/\.profil: is not an option"):
        Settings(storage_options={"s3://a/": {"profil": "x"}})


# -- who is trusted ---------------------------------------------------------------------------------------------------


def untrusted(recipe: dict[str, Any], settings: dict[str, Any] | None = None) -> list[str]:
    return [problem.where for problem in untrusted_endpoints(recipe, settings or {})]


def test_credentials_go_to_no_endpoint_that_only_a_recipe_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIRS", "https://evil.example")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    evil = {"endpoint_url": "https://evil.example"}
    for options in (evil, {**evil, "profile": "x"}, {**evil, "anon": False}, {"endpoint_url": {"env": "THEIRS"}}):
        assert untrusted({"s3://a/": options}) == ["storage_options.s3://a/.endpoint_url"]
    assert untrusted({"gs://a/": evil, "az://b/": evil}) != []
    assert untrusted({"s3://a/": {**evil, "anon": True}}) == [], "no credentials are sent"
    assert untrusted({"s3://a/": evil}, {"s3://b/": {"endpoint_url": "https://evil.example/"}}) == []
    assert untrusted({"s3://a/": evil}, {"s3://b/": {"endpoint_url": "https://evil.example.org"}}) != []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "HTTPS://Evil.example")
    assert untrusted({"s3://a/": evil}) == []


def test_anonymous_means_that_no_credential_is_sent_even_if_the_environment_has_some() -> None:
    assert account_of("gs", "gs://a/", {"anon": True}) == {"token": "anon"}
    s3 = account_of("s3", "s3://a/", {"anon": True})
    assert (s3["anon"], s3["key"], s3["secret"], s3["token"], s3["profile"]) == (True, None, None, None, None)
    azure = account_of("az", "az://a/", {"anon": True, "account_name": "public"})
    assert azure["connection_string"] == "BlobEndpoint=https://public.blob.core.windows.net"


@pytest.mark.parametrize(
    "location", ["abfs://c@evil.example/x", "abfs://c@evil.example#.dfs.core.windows.net/x", "az://c@/x"]
)
def test_a_location_at_azure_that_names_another_host_is_refused(location: str) -> None:
    with pytest.raises(OSError, match="names no storage account"):
        account_of("az", location, {})


def test_a_secret_is_in_no_message_about_a_location(monkeypatch: pytest.MonkeyPatch) -> None:
    class Talking(MemoryFileSystem):  # type: ignore[misc]
        protocol = "talking"

        def __init__(self, password: str = "", **options: Any) -> None:
            super().__init__(**options)
            self.password = password

        def cat_file(self, path: str, **_: Any) -> bytes:
            raise OSError(f"refused: {self.password}")

        def info(self, path: str, **_: Any) -> Any:
            raise RuntimeError(f"refused: {self.password}")

    monkeypatch.setitem(_registry, "talking", Talking)
    with use(storage_options={"talking://a/": {"password": SECRET}}):
        for look in (files.read, files.size):
            with pytest.raises(OSError, match="refused: <secret>") as caught:
                look("talking://a/x")
            assert SECRET not in json.dumps(str(caught.value))


@pytest.mark.parametrize(
    ("location", "extra", "library"),
    [
        ("s3://a/x", "s3", "s3fs"),
        ("gcs://a/x", "gcs", "gcsfs.core"),
        ("az://a/x", "azure", "adlfs"),
        ("abfss://a/x", "azure", "adlfs"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, location: str, extra: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for name in ("s3", "gcs", "az", "abfss"):
        monkeypatch.delitem(_registry, name, raising=False)
    with pytest.raises(OSError, match=rf"is not installed: pip install 'flux-pipelines\[{extra}\]'"):
        files.read(location)


@pytest.mark.parametrize("secret", ["account_key", "sas_token", "key", "token"])
def test_a_place_with_a_secret_is_not_anonymous_whatever_it_says(secret: str) -> None:
    options = {"az://b/": {"anon": True, "endpoint_url": "https://elsewhere.example", secret: {"env": "MINE"}}}
    [problem] = untrusted_endpoints(options, {})
    assert "would get credentials of this machine" in problem.what
    assert not [*untrusted_endpoints({"az://b/": {"anon": True, "endpoint_url": "https://elsewhere.example"}}, {})]


def test_an_address_in_the_environment_may_hold_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", f"https://user:{SECRET}@db.example/x")
    said = told({"s3://b/": {"anon": True, "endpoint_url": {"env": "DATABASE"}}})
    assert "holds a user name or a password" in said
    assert SECRET not in said
