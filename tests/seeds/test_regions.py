"""Regions: the endpoints of the endpoint reference, and keeping to one when that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_bfl import FakeBfl
from PIL import Image

from flux_tasks import background, catalog
from flux_tasks.errors import DeliveryFailed, RecipeError
from flux_tasks.jobs import job
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.endpoint import close
from flux_tasks.settings import Settings, from_environment, is_in_region, region_of


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://api.eu.bfl.ai", "eu"),
        ("https://api.eu2.bfl.ai/v1/get_result", "eu"),
        ("https://api.eu1.bfl.ai", "eu"),
        ("https://api.us.bfl.ai", "us"),
        ("https://api.isr.bfl.ai", "isr"),
        ("https://delivery-eu1.bfl.ai/x", "eu"),
        ("https://delivery-us.bfl.ai/x", "us"),
        ("https://delivery.eu.bfl.ai/x", "eu"),
        ("https://api.bfl.ai", ""),
        ("https://delivery.bfl.ai", ""),
        ("https://gateway.bfl.ai", ""),
        ("http://api.eu.bfl.ai", ""),
        ("https://api.eu.bfl.ai.evil.example", ""),
        ("https://bfldeliveryprod.blob.core.windows.net", ""),
    ],
)
def test_a_host_of_bfl_names_its_region(url: str, region: str) -> None:
    assert region_of(url) == region


def test_a_server_of_ones_own_is_a_region_of_its_own() -> None:
    assert is_in_region("http://127.0.0.1:8000", "http://127.0.0.1:9000/x")
    assert not is_in_region("http://127.0.0.1:8000", "http://localhost:8000/x")
    assert not is_in_region("https://own.example", "https://api.eu.bfl.ai")


def test_a_strict_region_needs_an_endpoint_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("eu", "us", "https://api.eu.bfl.ai", "local", "http://127.0.0.1:8000"):
        assert Settings(endpoint=endpoint, region="strict").region == "strict"
    with pytest.raises(RecipeError, match="region: 'bfl' has no region to keep to: set the endpoint to eu or us"):
        Settings(region="strict")
    with pytest.raises(RecipeError, match="region: 'stict' is not one of any, strict"):
        Settings(region="stict")  # type: ignore[arg-type]
    monkeypatch.setenv("FLUX_REGION", "strict")
    monkeypatch.setenv("FLUX_ENDPOINT", "eu")
    assert from_environment().region == "strict"
    monkeypatch.setenv("FLUX_REGION", "eu")
    with pytest.raises(RecipeError, match="FLUX_REGION: 'eu' is not one of any, strict"):
        from_environment()


def test_a_whole_job_in_a_strict_region_is_refused_with_both_hosts_and_is_collected_without_it(tmp_path: Path) -> None:
    with FakeBfl() as bfl:
        own, other = bfl.url, bfl.url.replace("127.0.0.1", "localhost")
        answer = bfl._poll

        def elsewhere(job_id: str) -> object:
            polled = answer(job_id)
            if "result" in polled.body:
                polled.body["result"]["sample"] = polled.body["result"]["sample"].replace(own, other)
            return polled

        bfl._poll = elsewhere  # type: ignore[assignment,method-assign]
        call = prepare(
            catalog.TOOLS["deblur-v1"], {"image": Image.linear_gradient("L").resize((96, 80)).convert("RGB")}
        )
        strict = Settings(endpoint=own, key="k", store=str(tmp_path), poll_interval=0.002, region="strict")
        with pytest.raises(DeliveryFailed, match=f"{other[7:]} is not in the region of {own[7:]}"):
            background.run(job.execute(call, strict))
        background.run(close(strict))
        free = Settings(endpoint=own, key="k", store=str(tmp_path), poll_interval=0.002)
        assert background.run(job.execute(call, free)).outcome == "collected"
        background.run(close(free))
        assert bfl.jobs == 1
        assert not [r for r in bfl.requests if r.headers["host"].startswith("localhost") and "x-key" in r.headers]
