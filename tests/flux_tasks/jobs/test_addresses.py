"""Pictures sent as addresses: signed ones of buckets, the service's own deliveries; the same keys, no secret left."""

from __future__ import annotations

import base64
import logging
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fake_bfl import FakeBfl
from object_stores import azurite, moto_s3, new_bucket_name, reach_azure, reach_gcs, reach_s3
from pictures import encoded, noise
from scripted import Answer, Request

from flux_tasks import background, catalog, files
from flux_tasks.errors import JobFailed
from flux_tasks.images import byte_cache
from flux_tasks.images.redirects import is_public
from flux_tasks.jobs import job
from flux_tasks.jobs.call import Call, prepare
from flux_tasks.jobs.result import JobResult
from flux_tasks.local import LocalServer
from flux_tasks.settings import Settings

PHOTO = encoded(noise((96, 80)))
SIGNATURES = ("X-Amz-Signature", "sig=", "Signature=")


class Fetching(FakeBfl):
    """Takes addresses, as the service does, or refuses them with words that repeat them.

    Attributes:
        refuses: answers 422 to each request with an address.
        fails: ends each job with an address in it with an error that repeats it.
    """

    refuses = fails = False

    def _submit(self, path: str, request: Request) -> Answer:
        if self.refuses and (address := _address(request.json())):
            return Answer(422, {"detail": f"could not fetch {address}"})
        return super()._submit(path, request)

    def _poll(self, job_id: str) -> Answer:
        address = _address(self.bodies[int(job_id.removeprefix("job-")) - 1])
        if self.fails and address:
            return Answer(200, {"id": job_id, "status": "Error", "details": {"error": f"cannot read {address}"}})
        return super()._poll(job_id)

    def _work(self, body: dict[str, Any]) -> bytes:  # type: ignore[override]
        address = _address(body)
        if address.startswith(self.url):
            body = {"image": base64.b64encode(self.known[Path(address).stem]["data"])}
        elif address:
            with urllib.request.urlopen(address) as answer:
                body = {"image": base64.b64encode(answer.read())}
        return FakeBfl._work(body)


def _address(body: dict[str, Any]) -> str:
    return next((value for value in body.values() if isinstance(value, str) and value.startswith("http")), "")


@pytest.fixture
def bfl() -> Iterator[Fetching]:
    with Fetching(pending_polls=0) as server:
        yield server


@pytest.fixture
def settings(bfl: Fetching, tmp_path: Path) -> Settings:
    return Settings(endpoint=bfl.url, key="k", store=str(tmp_path / "store"), poll_interval=0.002, transport="url")


@pytest.fixture(params=["s3", "az"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "s3":
        with moto_s3() as endpoint, reach_s3(endpoint):
            yield _filled("s3")
    else:
        with azurite(tmp_path) as endpoint, reach_azure(endpoint):
            yield _filled("az")


@pytest.fixture
def s3() -> Iterator[str]:
    with moto_s3() as endpoint, reach_s3(endpoint):
        yield _filled("s3")


def _filled(protocol: str) -> str:
    name = new_bucket_name()
    files.exists(f"{protocol}://{name}/any")  # imports the library the way this one does
    fsspec.filesystem(protocol).mkdir(name)
    files.write(f"{protocol}://{name}/a.png", PHOTO)
    return f"{protocol}://{name}/a.png"


def deblur(picture: Any) -> Call:
    return prepare(catalog.TOOLS["deblur-v1"], {"image": picture})


def perform(call: Call, settings: Settings, **options: Any) -> JobResult:
    return background.run(job.execute(call, settings, **options))


def test_a_picture_in_a_bucket_is_sent_as_a_signed_address_under_the_same_key_and_leaves_no_trace_of_it(
    bfl: Fetching, settings: Settings, bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    result = perform(deblur(bucket), settings)
    assert (result.outcome, bfl.jobs) == ("done", 1)
    sent = bfl.bodies[0]["image"]
    assert any(signature in sent for signature in SIGNATURES)
    assert deblur(bucket).key("bfl") == deblur(PHOTO).key("bfl")
    again = perform(deblur(PHOTO), replace(settings, transport="bytes"))
    assert (again.outcome, again.key, bfl.jobs) == ("cached", result.key, 1)
    left = [path.read_text(errors="replace") for path in (tmp_path / "store").rglob("*") if path.is_file()]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("flux")]
    assert not any(signature in text for text in [*left, *said, repr(result)] for signature in SIGNATURES)


def test_the_local_server_fetches_an_address_and_makes_what_it_makes_of_the_bytes(s3: str, tmp_path: Path) -> None:
    with LocalServer() as server:
        settings = Settings(endpoint=server.url, store=str(tmp_path / "a"), poll_interval=0.002, transport="url")
        by_address = perform(deblur(s3), settings)
        by_bytes = perform(deblur(s3), replace(settings, store=str(tmp_path / "b"), transport="bytes"))
        assert (by_address.key, by_address.image.digest) == (by_bytes.key, by_bytes.image.digest)


@pytest.mark.parametrize("transport", ["bytes", "auto"])
def test_the_bytes_are_sent_by_default_and_where_the_service_cannot_reach_the_bucket(
    bfl: Fetching, settings: Settings, s3: str, transport: Any
) -> None:
    perform(deblur(s3), replace(settings, transport=transport))
    assert base64.b64decode(bfl.bodies[0]["image"]) == PHOTO


def test_auto_sends_the_address_of_a_bucket_that_is_public_and_https(
    bfl: Fetching, settings: Settings, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def public(_: str) -> bool:
        return True

    monkeypatch.setattr("flux_tasks.jobs.addresses.is_public", public)
    perform(deblur(s3), replace(settings, transport="auto"))
    assert bfl.bodies[0]["image"].startswith("http")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://8.8.8.8/a.png?x", True),
        ("http://8.8.8.8/a.png", False),
        ("https://127.0.0.1/a.png", False),
        ("https://localhost:9000/a.png", False),
        ("https://10.0.0.3/a.png", False),
        ("https://169.254.169.254/a", False),
        ("https://[::1]/a.png", False),
        ("https://2130706433/a.png", False),
        ("https://me:word@8.8.8.8/a.png", False),
        ("https:///a.png", False),
        ("ftp://8.8.8.8/a.png", False),
    ],
)
async def test_only_https_outside_private_networks_is_public(address: str, expected: bool) -> None:
    assert await is_public(address) is expected


def test_a_refused_address_is_followed_by_the_bytes_which_are_paid_for_once(
    bfl: Fetching, settings: Settings, s3: str, caplog: pytest.LogCaptureFixture
) -> None:
    bfl.refuses = True
    other = s3.replace("a.png", "b.png")
    files.write(other, encoded(noise((64, 64))))
    assert [perform(deblur(place), settings).outcome for place in (s3, other)] == ["done", "done"]
    assert bfl.jobs == 2
    posts = [request.json() for request in bfl.requests if request.method == "POST"]
    assert [_address(body) != "" for body in posts] == [True, False, False], "the host is asked for once"
    said = [record.getMessage() for record in caplog.records if "sent as bytes from now on" in record.getMessage()]
    assert len(said) == 1
    assert not any(signature in caplog.text for signature in SIGNATURES)


def test_what_is_wrong_with_the_request_itself_is_said_and_the_address_still_used(
    bfl: Fetching, settings: Settings, s3: str
) -> None:
    bfl.submit_answer = Answer(422, {"detail": "too large"})
    with pytest.raises(Exception, match="too large"):
        perform(deblur(s3), settings)
    bfl.submit_answer = None
    perform(deblur(s3), settings)
    assert bfl.bodies[0]["image"].startswith("http")


def test_a_job_that_fails_over_its_address_is_not_sent_again_by_itself_and_the_next_has_bytes(
    bfl: Fetching, settings: Settings, s3: str, tmp_path: Path
) -> None:
    bfl.fails = True
    with pytest.raises(JobFailed, match=r"cannot read http://127.0.0.1:\d+/.*a\.png\?…") as caught:
        perform(deblur(s3), settings)
    assert bfl.jobs == 1
    left = [path.read_text(errors="replace") for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not any(signature in text for text in [*left, str(caught.value)] for signature in SIGNATURES)
    assert perform(deblur(s3), settings).outcome == "done"
    assert base64.b64decode(bfl.bodies[1]["image"]) == PHOTO


def test_a_picture_that_has_changed_since_it_was_read_or_is_changed_for_the_tool_is_not_sent_by_address(
    bfl: Fetching, settings: Settings, s3: str
) -> None:
    first = deblur(s3)
    changed = bytearray(PHOTO)
    changed[-20] ^= 1
    files.write(s3, bytes(changed))
    assert perform(first, settings).outcome == "done"
    byte_cache.shared.put(first.main.digest, PHOTO)  # type: ignore[union-attr]
    turned = encoded(noise((96, 80)).convert("P"), "BMP")
    files.write(s3, turned)
    converted = prepare(catalog.TOOLS["deblur-v1"], {"image": s3}, fit="downscale")
    assert perform(converted, settings).outcome == "done"
    assert [_address(body) for body in bfl.bodies] == ["", ""]


@pytest.mark.parametrize(("seconds", "is_sent"), [(300.0, True), (0.0, False)])
def test_the_next_step_gets_the_services_own_delivery_while_it_lives(
    bfl: Fetching, settings: Settings, monkeypatch: pytest.MonkeyPatch, seconds: float, is_sent: bool
) -> None:
    monkeypatch.setattr("flux_tasks.jobs.addresses._DELIVERY_LIVES", seconds)
    first = perform(deblur(PHOTO), settings)
    assert base64.b64decode(bfl.bodies[0]["image"]) == PHOTO, "the bytes have no address"
    perform(prepare(catalog.TOOLS["flux-2-pro"], {"prompt": "x", "image": first.image}), settings)
    assert (bfl.bodies[1]["input_image"] == f"{bfl.url}/files/job-1.png") is is_sent


def test_a_bucket_whose_account_cannot_sign_is_sent_as_bytes(
    bfl: Fetching, settings: Settings, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from object_stores import fake_gcs

    with fake_gcs(tmp_path_factory.mktemp("gcs")) as endpoint, reach_gcs(endpoint):
        assert perform(deblur(_filled("gs")), settings).outcome == "done"
    assert base64.b64decode(bfl.bodies[0]["image"]) == PHOTO
