"""Settings: from the environment, from arguments, for a block; and a key that is never shown."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_type_hints

import pytest

from flux_tasks import background
from flux_tasks.errors import KeyRefused, RecipeError
from flux_tasks.settings import SettingChanges, Settings, current, from_environment, is_bfl, is_loopback, use

KEY = "0123-throw-away"


pytestmark = pytest.mark.usefixtures("plain_environment")


# -- environment ------------------------------------------------------------------------------------------------------


def test_without_a_variable_the_defaults_hold() -> None:
    settings = from_environment()
    assert settings == Settings()
    assert (settings.endpoint, settings.base_url, settings.key) == ("bfl", "https://api.bfl.ai", "")
    assert (settings.store, settings.max_jobs, settings.on_uncertain) == ("~/.flux-pipelines", 24, "hold")


def test_every_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFL_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("FLUX_ENDPOINT", "eu")
    monkeypatch.setenv("FLUX_STORE", "s3://bucket/store")
    monkeypatch.setenv("FLUX_MAX_JOBS", " 6 ")
    monkeypatch.setenv("FLUX_ON_UNCERTAIN", "resubmit")
    assert from_environment() == Settings(
        endpoint="eu", key=KEY, store="s3://bucket/store", max_jobs=6, on_uncertain="resubmit"
    )
    assert current() == from_environment()


def test_the_official_sdks_variable_is_taken_when_ours_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BFL_BASE_URL", "https://api.us.bfl.ai/")
    assert from_environment().base_url == "https://api.us.bfl.ai"
    monkeypatch.setenv("FLUX_ENDPOINT", "eu")
    assert from_environment().base_url == "https://api.eu.bfl.ai"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FLUX_MAX_JOBS", "many", "FLUX_MAX_JOBS: 'many' is not a whole number"),
        ("FLUX_MAX_JOBS", "²", "FLUX_MAX_JOBS: '²' is not a whole number"),
        ("FLUX_MAX_JOBS", "-1", "FLUX_MAX_JOBS: '-1' is not a whole number"),
        ("FLUX_MAX_JOBS", "0", "FLUX_MAX_JOBS: 0 is below 1"),
        ("FLUX_OVERBOOK", "4", "FLUX_OVERBOOK: 4 is not a whole number from 0 to 3"),
        ("FLUX_OVERBOOK", "-1", "FLUX_OVERBOOK: '-1' is not a whole number"),
        ("FLUX_POLL_INTERVAL", "0", "FLUX_POLL_INTERVAL: '0' is not a number of seconds above 0"),
        ("BFL_BASE_URL", "ftp://x", "BFL_BASE_URL: 'ftp://x' is not an endpoint"),
        ("BFL_API_KEY", "two words", "BFL_API_KEY: holds a character that no key has"),
        ("FLUX_REGION", "strict", "FLUX_REGION: 'bfl' has no region to keep to"),
        (
            "FLUX_ENDPOINT",
            "locla",
            r"FLUX_ENDPOINT: 'locla' is not an endpoint \(did you mean 'local'\?\): write bfl, eu, us, local",
        ),
        ("FLUX_ON_UNCERTAIN", "Resubmit", "FLUX_ON_UNCERTAIN: 'Resubmit' is not one of hold, resubmit"),
        ("FLUX_ENDPIONT", "local", "FLUX_ENDPIONT: is not a setting: write FLUX_ENDPOINT, or unset it"),
        ("FLUX_MAXJOBS", "3", "FLUX_MAXJOBS: is not a setting: write FLUX_MAX_JOBS, or unset it"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=message):
        from_environment()


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FLUX_CAPACITOR": "1.21", "FLUX_SPOOL": "spool", "FLUX_STORES": "", "BFL_API_URL": "x"}.items():
        monkeypatch.setenv(name, value)
    assert from_environment() == Settings()


# -- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_in_no_representation() -> None:
    settings = Settings(key=KEY)
    for shown in (repr(settings), str(settings), f"{settings}", repr([settings]), repr({"settings": settings})):
        assert KEY not in shown


@pytest.mark.parametrize("key", ["two words", "new\nline", "tab\there", "kéy", "nul\0", "“quoted”"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(RecipeError, match="key: holds a character that no key has") as caught:
        Settings(key=key)
    assert key not in str(caught.value)
    assert key not in repr(caught.value.problems)


@pytest.mark.parametrize("endpoint", ["http://example.com", "http://api.bfl.ai", "http://10.0.0.5:8000"])
def test_a_key_is_not_sent_in_the_clear(endpoint: str) -> None:
    with pytest.raises(RecipeError, match="the key is not sent over plain http") as caught:
        Settings(endpoint=endpoint, key=KEY)
    assert KEY not in str(caught.value)
    assert Settings(endpoint=endpoint).base_url == endpoint


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "local"])
def test_a_key_may_stay_on_this_machine(endpoint: str) -> None:
    assert Settings(endpoint=endpoint, key=KEY).key == KEY


@pytest.mark.parametrize("endpoint", ["bfl", "eu", "us", "https://api.bfl.ai", "https://gateway.bfl.ai"])
def test_towards_bfl_a_missing_key_is_said_with_both_ways_out(endpoint: str) -> None:
    with pytest.raises(KeyRefused, match=r"set BFL_API_KEY, or choose --endpoint local"):
        Settings(endpoint=endpoint).require_key()
    Settings(endpoint=endpoint, key=KEY).require_key()
    Settings(endpoint="local").require_key()
    Settings(endpoint="https://example.com").require_key()


# -- endpoints --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "bf",
        "BFL",
        "api.bfl.ai",
        "ftp://host",
        "https://",
        "http://[",
        "http://host:99999",
        "https://host?key=1",
        "h#x",
    ],
)
def test_what_is_no_endpoint_is_refused_with_examples(endpoint: str) -> None:
    with pytest.raises(RecipeError, match=r"is not an endpoint.*http://127\.0\.0\.1:8000"):
        Settings(endpoint=endpoint)


def test_an_endpoint_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(RecipeError, match="holds a user name or password") as caught:
        Settings(endpoint="https://me:throw-away@example.com")
    assert "throw-away" not in str(caught.value)


def test_a_trailing_slash_and_white_space_do_not_matter() -> None:
    assert Settings(endpoint=" https://api.eu.bfl.ai/ ").base_url == "https://api.eu.bfl.ai"
    assert Settings(endpoint="local").base_url == ""


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        Settings(endpoint="nowhere", max_jobs=0, on_uncertain="guess")  # type: ignore[arg-type]
    assert [p.where for p in caught.value.problems] == ["endpoint", "max_jobs", "on_uncertain"]


@pytest.mark.parametrize("jobs", ["6", 2.5, True, None])
def test_a_number_of_jobs_is_a_whole_number(jobs: Any) -> None:
    with pytest.raises(RecipeError, match=r"max_jobs: .* is not a whole number"):
        Settings(max_jobs=jobs)


@pytest.mark.parametrize(
    ("url", "bfl", "loopback"),
    [
        ("https://api.bfl.ai/v1/x", True, False),
        ("https://API.EU2.BFL.AI", True, False),
        ("https://bfl.ai", True, False),
        ("http://api.bfl.ai", False, False),
        ("https://api.bfl.ai.evil.com", False, False),
        ("https://evilbfl.ai", False, False),
        ("https://api.bfl.ai@evil.com/", False, False),
        ("https://evil.com/api.bfl.ai", False, False),
        ("https://evil.com#.bfl.ai", False, False),
        ("https://[", False, False),
        ("https://api.bfl.ai:99999", False, False),
        ("", False, False),
        ("http://127.0.0.1:80", False, True),
        ("http://127.8.9.1", False, True),
        ("http://[::1]:80", False, True),
        ("http://LOCALHOST", False, True),
        ("http://localhost.evil.com", False, False),
        ("http://127.0.0.1.evil.com", False, False),
        ("http://0.0.0.0", False, False),
        ("http://[", False, False),
    ],
)
def test_bfl_and_this_machine_are_known_by_their_hosts_and_nothing_else(url: str, bfl: bool, loopback: bool) -> None:
    assert is_bfl(url) is bfl
    assert is_loopback(url) is loopback


# -- use --------------------------------------------------------------------------------------------------------------


def test_settings_hold_for_a_block_and_blocks_nest() -> None:
    with use(endpoint="local", store="a") as outer:
        assert current() is outer
        with use(store="b", max_jobs=3) as inner:
            assert (inner.endpoint, inner.store, inner.max_jobs) == ("local", "b", 3)
            assert current() is inner
        assert current() is outer
        with use(Settings(endpoint="eu")):
            assert (current().endpoint, current().store) == ("eu", "~/.flux-pipelines")
    assert current() == from_environment()


def test_a_block_that_fails_gives_the_settings_back() -> None:
    with pytest.raises(ZeroDivisionError), use(store="a"):
        raise ZeroDivisionError
    assert current().store == "~/.flux-pipelines"


def test_an_unknown_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"stor: is not a setting \(did you mean 'store'\?\)"), use(stor="x"):
        pass


def test_the_keyword_arguments_that_type_checkers_know_are_the_settings_with_their_types() -> None:
    assert get_type_hints(SettingChanges) == get_type_hints(Settings)


def test_a_change_that_cannot_be_used_leaves_the_settings_alone() -> None:
    with pytest.raises(RecipeError), use(max_jobs=0):
        pass
    assert current() == Settings()


def test_settings_of_a_block_hold_in_async_tasks_on_the_background_loop_and_in_plain_threads() -> None:
    async def store() -> str:
        await asyncio.sleep(0)
        return current().store

    async def both() -> list[str]:
        async def with_its_own(name: str) -> str:
            with use(store=name):
                return await store()

        own = await asyncio.gather(with_its_own("a"), with_its_own("b"), store())
        return [*own, await background.arun(store()), await asyncio.to_thread(lambda: current().store)]

    with use(store="block"):
        assert asyncio.run(both()) == ["a", "b", "block", "block", "block"]
        assert background.run(store()) == "block"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: current().store).result() == "block"


def test_blocks_in_two_threads_do_not_disturb_each_other() -> None:
    barrier = threading.Barrier(2)

    def work(name: str) -> list[str]:
        with use(store=name):
            barrier.wait()
            seen = [current().store]
            barrier.wait()
        barrier.wait()
        return [*seen, current().store]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, "ab")) == [["a", "~/.flux-pipelines"], ["b", "~/.flux-pipelines"]]


def test_the_environment_itself_is_never_changed() -> None:
    before = dict(os.environ)
    with use(endpoint="local", key=KEY, store="x"):
        assert dict(os.environ) == before
    assert dict(os.environ) == before
