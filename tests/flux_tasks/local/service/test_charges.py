"""Every charge stands in the charge log once, with what became of it."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from flux_tasks import catalog
from flux_tasks.local.service.charges import STAND_IN_PRICE, ChargeLog

DEBLUR = "flux-tools/deblur-v1"


def test_a_charge_names_the_job_its_tool_its_time_and_its_cost(serving: Any, gate: Any) -> None:
    api = serving()
    submitted = api.post("flux-2-max", {"prompt": "a"}).json()
    api.finish(submitted["id"])
    [entry] = api.server.charges.entries
    assert (entry.id, entry.tool, entry.cost, entry.settled, entry.status) == (
        submitted["id"],
        "flux-2-max",
        7.0,
        7.0,
        "Ready",
    )
    assert datetime.fromisoformat(entry.time).utcoffset() is not None


def test_the_book_can_be_read_over_http_and_needs_no_key(serving: Any, gate: Any) -> None:
    api = serving(key="secret", credits=20)
    answer = api.finish(api.post("flux-2-pro", {"prompt": "a"}, headers={"x-key": "secret"}))
    api.deliver(answer)
    api.deliver(answer)
    charges = api.get("/local/charges").json()
    assert (charges["credits"], charges["charged"], charges["jobs"]) == (17, 3, 1)
    [entry] = charges["entries"]
    assert entry["deliveries"] == 2
    assert "secret" not in json.dumps(charges)


def test_a_job_that_is_running_is_charged_and_not_settled(serving: Any, gate: Any) -> None:
    api = serving()
    gate.shut()
    api.post("flux-2-pro", {"prompt": "a"})
    [entry] = api.server.charges.entries
    assert (entry.status, entry.cost, entry.settled) == ("Pending", 3.0, None)


def test_a_failed_job_keeps_its_entry_and_costs_nothing(serving: Any, gate: Any) -> None:
    api = serving(credits=10)
    gate.failing = ValueError("no")
    api.finish(api.post("flux-2-pro", {"prompt": "a"}))
    [entry] = api.server.charges.entries
    assert (entry.status, entry.cost, entry.settled) == ("Error", 3.0, 0.0)
    assert (api.server.charges.credits, api.server.charges.charged) == (10, 0)


def test_the_same_job_has_the_same_key_however_its_body_is_written(serving: Any, gate: Any) -> None:
    api = serving()
    bodies = [
        b'{"prompt": "a", "seed": 1}',
        b'{"seed":1,"prompt":"\\u0061"}',
        b'{"prompt": "a", "seed": 1, "webhook_url": "http://127.0.0.1:9/", "webhook_secret": "x", "user": "me"}',
        b'{"prompt": "a", "seed": 2}',
    ]
    for body in bodies:
        assert api.post("flux-2-pro", content=body, headers={"content-type": "application/json"}).status_code == 200
    keys = [entry.key for entry in api.server.charges.entries]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(len(key) == 64 for key in keys)


def test_a_price_that_nobody_knows_is_the_stand_in(serving: Any, gate: Any) -> None:
    api = serving()
    assert catalog.TOOLS["deblur-v1"].price.first is None
    assert api.post(DEBLUR, {"image": api.base64(api.photo())}).json()["cost"] == STAND_IN_PRICE == 1.0


@pytest.mark.parametrize("tool", catalog.TOOLS.values(), ids=lambda tool: tool.name)
def test_every_tool_is_charged_by_the_catalogues_own_table(serving: Any, gate: Any, tool: catalog.Tool) -> None:
    api = serving()
    body: dict[str, Any] = {"prompt": "a", "finetune_id": "mine"}
    pictures = 0
    for name, mark in tool.image_fields.items():
        if tool.request.model_fields[name].is_required() or mark.role == "mask":
            body[name] = api.base64(api.mask() if mark.role == "mask" else api.photo())
            pictures += mark.role != "mask"
    if tool.strict:
        body = {n: v for n, v in body.items() if n in tool.request.model_fields}
        body |= {"width": 1024, "height": 2048} if tool.has_canvas else {}
    answer = api.http.post(tool.path, json=body).json()
    price = tool.price_for(body).estimate(answer["output_mp"], [0.01] * pictures)
    assert answer["cost"] == (STAND_IN_PRICE if price is None else price)


def test_nothing_is_written_when_the_balance_does_not_suffice() -> None:
    charges = ChargeLog(1.0)
    assert not charges.charge("a", "flux-2-pro", "key", 1.5)
    assert (len(charges), charges.entries, charges.credits) == (0, (), 1.0)
    assert charges.charge("b", "flux-2-pro", "key", 1.0)
    assert charges.credits == 0


def test_a_job_is_settled_once() -> None:
    charges = ChargeLog(10)
    charges.charge("a", "flux-2-pro", "key", 3)
    charges.settle("a", "Error", refund=True)
    charges.settle("a", "Ready", refund=False)
    charges.settle("a", "Error", refund=True)
    charges.settle("nobody", "Error", refund=True)
    assert (charges.credits, charges.charged, charges.entries[0].status) == (10, 0, "Error")
