"""The server's OpenAPI document: complete, true, and held against the running server by schemathesis."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from jsonschema_rs import Draft202012Validator, ValidationError
from pydantic import TypeAdapter
from pydantic import ValidationError as Unreadable
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from scripted import Answer, ScriptedServer

from flux_tasks import catalog
from flux_tasks.api.slots import CLASS_LIMITS
from flux_tasks.local.service import checks
from flux_tasks.local.web import wire
from flux_tasks.local.web.openapi import SAMPLE, SHORT_PATHS, STATUSES, openapi

pytestmark = pytest.mark.early

DATA = Path(__file__).parents[3] / "data"
FACTS = json.loads(DATA.joinpath("contract_facts.json").read_text(encoding="utf-8"))
SEED_3 = json.loads(DATA.joinpath("seed_003_openapi.json").read_text(encoding="utf-8"))

DOCUMENT = openapi()
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]
SUBMISSIONS = {tool.path: tool for tool in catalog.TOOLS.values()}
SUBMISSIONS |= {path: catalog.TOOLS[name] for path, name in SHORT_PATHS.items()}

DELIBERATELY_DIFFERENT = {
    # The docs page of erase (SEED-1) says 0–100.
    ("/v1/flux-tools/erase-v1", "dilate_pixels"): "integer 0..100 = 10",
    # The specification's default of 0 violates its own minimum of 64: left out means automatic.
    **{(p, side): "integer? 64.." for p in FACTS["bodies"] if "flux-2-" in p for side in ("width", "height")},
    # Only SEED-3 names a lowest seed, and a longest prompt.
    **{(p, "seed"): "integer? 0.." for p, body in FACTS["bodies"].items() if "seed" in body["fields"]},
    **{(p, "prompt"): "string! ..10000" for p in FACTS["bodies"] if "kontext" in p},
}
SEED_3_FIELDS = {f"/v1/flux-kontext-{name}": {"image", "steps", "guidance"} for name in ("pro", "max")}


def validator(document: Mapping[str, Any], schema: Mapping[str, Any], *, formats: bool = True) -> Draft202012Validator:
    """For a schema that refers to others of its document."""
    return Draft202012Validator({**schema, "components": document["components"]}, validate_formats=formats)


def resolved(document: Mapping[str, Any], node: Any) -> Any:
    """What ``node`` refers to, if it is a reference."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def body_schema(document: Mapping[str, Any], path: str) -> dict[str, Any]:
    schema: dict[str, Any] = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


def conforms(response: httpx.Response, method: str, path: str) -> None:
    """Raise unless the answer's status is documented, and its body is as documented for that status."""
    documented = DOCUMENT["paths"][path][method]["responses"]
    assert str(response.status_code) in documented, response.text
    content = resolved(DOCUMENT, documented[str(response.status_code)])["content"]
    media_type = response.headers["content-type"].partition(";")[0]
    assert media_type in content
    if media_type == "application/json":
        validator(DOCUMENT, content[media_type]["schema"]).validate(response.json())


# -- what the document says -------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_and_the_server_publishes_it(shared: Any) -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    assert shared.get("/openapi.json").json() == DOCUMENT
    for reference in re.findall(r"#/components/[\w/]+", json.dumps(DOCUMENT)):
        assert resolved(DOCUMENT, {"$ref": reference})
    for name in DOCUMENT["components"]["schemas"]:
        validator(DOCUMENT, {"$ref": f"#/components/schemas/{name}"})


def test_every_route_of_the_api_is_in_the_document_and_no_other(serving: Any) -> None:
    routes = serving().server._server.config.app.routes
    served = {(method.lower(), route.path) for route in routes for method in route.methods - {"HEAD"}}
    assert set(OPERATIONS) == {(m, path) for m, path in served if path.startswith(("/v1/", "/delivery/"))}


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [DOCUMENT["paths"][path][method]["operationId"] for method, path in OPERATIONS]
    assert len(names) == len(set(names))
    assert {tool.name for tool in catalog.TOOLS.values()} < set(names)


def as_fact(info: Mapping[str, Any], *, required: bool) -> str:
    """A property of a body in the notation of the facts file."""
    shapes = info.get("anyOf", [info])
    shape = next(s for s in shapes if s["type"] != "null")
    image = any("contentEncoding" in s for s in shapes)
    kind = "|".join(shape["enum"]) if "enum" in shape else shape["type"]
    if image and not any(s.get("format") == "uri" for s in shapes):
        kind = "base64"
    if several := [s for s in shapes if s["type"] == "array"]:
        kind, shape = "list", {"minimum": several[0]["minItems"], "maximum": several[0]["maxItems"]}
    text = kind + "?" * ({"type": "null"} in shapes) + "!" * required
    lowest = shape.get("minimum", shape.get("minLength"))
    highest = shape.get("maximum", shape.get("maxLength"))
    if lowest is not None or highest is not None:
        text += f" {'' if lowest is None else format(lowest, 'g')}..{'' if highest is None else format(highest, 'g')}"
    if "multipleOf" in shape:
        text += f" *{shape['multipleOf']}"
    if "default" in info:
        default = info["default"]
        shown = default if isinstance(default, str) and default else json.dumps(default)
        text += f" = {format(default, 'g') if isinstance(default, float) else shown}"
    return text


@pytest.mark.parametrize("path", FACTS["bodies"])
def test_every_field_of_a_body_is_as_the_contract_says(path: str) -> None:
    schema, expected = resolved(DOCUMENT, body_schema(DOCUMENT, path)), FACTS["bodies"][path]
    required = set(schema.get("required", ()))
    found = {
        name: as_fact(info, required=name in required)
        for name, info in schema["properties"].items()
        if name not in SEED_3_FIELDS.get(path, ())
    }
    assert found == {name: DELIBERATELY_DIFFERENT.get((path, name), fact) for name, fact in expected["fields"].items()}
    assert schema.get("additionalProperties", True) is not expected["strict"]


def test_addresses_and_ratios_have_their_form() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["DeblurRequest"]["properties"]["webhook_url"]["anyOf"][0]["format"] == "uri"
    ratio = validator(DOCUMENT, schemas["UltraRequest"]["properties"]["aspect_ratio"])
    assert [text for text in ("16:9", "16x9", "1:100", "٣:٤") if ratio.is_valid(text)] == ["16:9"]
    assert schemas["FillRequest"]["properties"]["image"]["contentEncoding"] == "base64"
    assert schemas["AsyncResponse"]["properties"]["polling_url"]["format"] == "uri"
    assert "10 minutes" in schemas["Result"]["properties"]["sample"]["description"]


def test_answers_have_the_models_of_the_contract() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    job = ["result", "progress", "details", "preview"]
    for name, required, nullable in (
        ("AsyncResponse", ["id", "polling_url"], ["cost", "input_mp", "output_mp"]),
        ("AsyncWebhookResponse", ["id", "status", "webhook_url"], ["cost", "input_mp", "output_mp"]),
        ("ResultResponse", ["id", "status"], job),
        ("SettledCostResultResponse", ["id", "status", "cost"], job),
        ("CreditsResponse", ["credits"], []),
        ("MyFinetunesResponse", ["finetunes"], []),
        ("FinetuneDetailResponse", ["finetune_details"], []),
        ("DeleteFinetuneResponse", ["status", "message", "deleted_finetune_id", "timestamp"], []),
    ):
        assert schemas[name]["required"] == required
        assert set(schemas[name]["properties"]) == {*required, *nullable}
        for optional in nullable:
            assert {"type": "null"} in schemas[name]["properties"][optional]["anyOf"]
    assert schemas["StatusResponse"]["enum"] == list(STATUSES)


def test_everything_needs_a_key_but_polls_and_deliveries() -> None:
    open_to_all = {path for m, path in OPERATIONS if DOCUMENT["paths"][path][m]["security"] != [{"key": []}]}
    assert open_to_all == {"/v1/get_result", "/delivery/{token}/{name}"}
    assert DOCUMENT["components"]["securitySchemes"]["key"]["name"] == "x-key"


def test_only_outpainting_and_flux_3_cannot_call_back() -> None:
    silent = [path for path in SUBMISSIONS if "callbacks" not in DOCUMENT["paths"][path]["post"]]
    assert silent == ["/v1/flux-tools/outpainting-v1", "/v1/flux-3-image", "/v1/flux-3-image-klein"]
    answer = DOCUMENT["paths"][silent[0]]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/AsyncResponse"}


def test_a_strict_server_documents_nothing_that_only_seed_documents_show() -> None:
    document = openapi(strict=True)
    assert set(DOCUMENT["paths"]) - set(document["paths"]) == set(SHORT_PATHS)
    lenient, strict = (d["components"]["schemas"] for d in (DOCUMENT, document))
    fields = {name: set(schema.get("properties", ())) for name, schema in lenient.items()}
    shown = {name: names - set(strict[name].get("properties", ())) for name, names in fields.items()}
    assert {name: names for name, names in shown.items() if names} == {
        "KontextRequest": {"image", "steps", "guidance"},
        "Detail": {"status_code"},
        "HTTPValidationError": {"status_code"},
    }
    assert "maxLength" not in strict["KontextRequest"]["properties"]["prompt"]
    assert "401" not in document["paths"]["/v1/flux-kontext-pro"]["post"]["responses"]
    assert {"400", "401", "503"} <= set(DOCUMENT["paths"]["/v1/flux-kontext-pro"]["post"]["responses"])


# -- what the server does ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SUBMISSIONS)
def test_the_example_of_a_tool_is_taken_and_what_becomes_of_it_is_as_documented(shared: Any, path: str) -> None:
    [example] = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"].values()
    validator(DOCUMENT, body_schema(DOCUMENT, path)).validate(example["value"])
    submitted = shared.http.post(path, json=example["value"])
    conforms(submitted, "post", path)
    ended = shared.finish(submitted)
    settled = validator(DOCUMENT, {"$ref": "#/components/schemas/SettledCostResultResponse"})
    settled.validate(ended)
    delivered = shared.deliver(ended)
    assert (
        delivered.headers["content-type"]
        in (DOCUMENT["paths"]["/delivery/{token}/{name}"]["get"]["responses"]["200"]["content"])
    )


def test_every_status_is_documented_with_the_body_it_has(
    serving: Any, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, body = serving(key="secret", credits=10, cap=1), {"prompt": "a"}
    path, key = "/v1/flux-2-pro", {"x-key": "secret"}

    def post(status: int, body: Any = body, **headers: str) -> None:
        response = api.http.post(path, json=body, headers={**key, **headers})
        assert response.status_code == status, response.text
        conforms(response, "post", path)

    def get(path: str, status: int, **options: Any) -> None:
        response = api.get(path, **{"headers": key, **options})
        assert response.status_code == status, response.text
        conforms(response, "get", re.sub(r"^/delivery/.*", "/delivery/{token}/{name}", path))

    gate.shut()
    post(200)
    post(429)
    post(402, {**body, "width": 2048, "height": 2048})
    gate.open()
    post(403, **{"x-key": "wrong"})
    post(422, **{"x-key": "not a key"})
    post(422, {})
    post(422, {**body, "input_image": "-"})
    post(421, host="evil.example")
    get("/v1/get_result", 422)
    get("/v1/get_result", 404, params={"id": "nobody"})
    get("/v1/credits", 200)
    get("/v1/credits", 403, headers={})
    get("/v1/my_finetunes", 200)
    get("/v1/finetune_details", 404, params={"finetune_id": "mine"})
    get("/delivery/guess/sample.png", 404)
    monkeypatch.setattr(wire, "MAX_BODY", 5)
    post(413)
    monkeypatch.undo()
    monkeypatch.setattr(checks, "check_key", None)
    post(500)


def test_a_job_that_failed_and_one_that_is_at_work_are_as_documented(serving: Any, gate: Any) -> None:
    api = serving()
    gate.shut()
    submitted = api.post("flux-2-pro", {"prompt": "a"}).json()
    conforms(api.get("/v1/get_result", params={"id": submitted["id"]}), "get", "/v1/get_result")
    gate.failing = RuntimeError("out of luck")
    gate.open()
    api.finish(submitted["id"])
    conforms(api.get("/v1/get_result", params={"id": submitted["id"]}), "get", "/v1/get_result")


def test_the_call_back_is_as_documented(serving: Any, gate: Any) -> None:
    api = serving()
    with ScriptedServer() as receiver:
        receiver.on("POST /told", Answer(200))
        body = {"prompt": "a lake", "webhook_url": f"{receiver.url}/told", "webhook_secret": "hush"}
        submitted = api.post("flux-2-pro", body)
        conforms(submitted, "post", "/v1/flux-2-pro")
        api.finish(submitted.json()["id"])
        api.server.stop()  # ends when the call has been made
        [told] = receiver.seen("POST /told")
    [ended] = resolved(DOCUMENT, DOCUMENT["paths"]["/v1/flux-2-pro"]["post"]["callbacks"]["ended"]).values()
    schema = ended["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator(DOCUMENT, schema).validate(json.loads(told.body))
    assert {parameter["name"] for parameter in ended["post"]["parameters"]} <= set(told.headers)


# -- schemathesis -----------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """One request of schemathesis, and the answer."""

    method: str
    path: str
    headers: Mapping[str, list[str]]
    content: bytes
    status: int
    answer: bytes

    @property
    def body(self) -> dict[str, Any] | None:
        """The JSON object that was sent as such, if it was one."""
        try:
            body = json.loads(self.content)
        except ValueError:
            return None
        kinds = [value for name, value in self.headers.items() if name.lower() == "content-type"]
        return body if isinstance(body, dict) and kinds == [["application/json"]] else None

    @property
    def breaks_the_schema(self) -> bool:
        """Whether the answer says so: a list of violations rather than a sentence."""
        return self.status == 422 and isinstance(json.loads(self.answer)["detail"], list)


@dataclass
class Run:
    """What came of a run of schemathesis."""

    failures: list[str] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(sent.status for sent in self.sent)


def explore(schema: schemathesis.BaseSchema) -> Run:
    """All phases that are on, all operations that are selected."""
    run = Run()
    for event in from_schema(schema).execute():
        if isinstance(event, (events.NonFatalError, events.FatalError)):
            run.failures.append(repr(event))
        if not isinstance(event, events.ScenarioFinished):
            continue
        for name, interaction in event.recorder.interactions.items():
            request, response = interaction.request, interaction.response
            said = f"{request.method} {request.uri} {request.body!r}: {response and response.content!r}"
            if response is None:
                run.failures.append(said)
                continue
            content = request.body if isinstance(request.body, bytes) else b""
            path = httpx.URL(request.uri).path
            run.sent.append(
                Sent(request.method, path, request.headers, content, response.status_code, response.content)
            )
            for check in event.recorder.checks.get(name, ()):
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    run.failures.append(f"{event.phase.value}, {check.name}: {failure.message}\n{said}")
    return run


def configuration(**more: Any) -> SchemathesisConfig:
    """The same cases every time, and none that depend on earlier answers."""
    phase = {"extra-data-sources": {"responses": False}}
    return SchemathesisConfig.from_dict(
        {
            "seed": 3,
            "workers": 1,
            "generation": {"deterministic": True, "database": "none", "max-examples": 10},
            "phases": {"examples": phase, "coverage": phase, "fuzzing": phase, "stateful": {"enabled": False}},
            **more,
        }
    )


CHECKS = {
    # A picture may turn out to be none, a canvas too large: 422 for a body that keeps the schema. It is told with a
    # sentence and not with a list, which `obeys_the_schema` looks at.
    "positive_data_acceptance": {"enabled": False},
    # The service is built with FastAPI, which reads "2" and true as numbers, 0 and "off" as booleans: bodies that the
    # document does not allow, and that are taken nevertheless. `obeys_the_schema` lets only those pass.
    "negative_data_rejection": {"enabled": False},
}


@pytest.fixture
def pictured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three of four strings in image fields become a picture; no slot is ever missing; nothing outside is reached."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")  # requests looks through the whole environment for a proxy otherwise
    monkeypatch.setenv("NETRC", "")  # and for two files in the home
    fields = {name for tool in catalog.TOOLS.values() for name in (*tool.image_fields, *tool.accepts)}

    def before_call(_: schemathesis.HookContext, case: schemathesis.Case, __: dict[str, Any]) -> None:
        if isinstance(case.body, dict):
            for name in fields & set(case.body):
                if isinstance(case.body[name], str) and len(case.body[name]) % 4 != 3:
                    case.body[name] = SAMPLE

    async def nothing_there(_: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("there is nothing outside", request=request)

    monkeypatch.setitem(CLASS_LIMITS, "kontext-max", 10**6)
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", nothing_there)
    monkeypatch.setattr(logging.getLogger("flux_tasks.local"), "disabled", True)  # of call-backs to nowhere
    schemathesis.hook(before_call)
    yield
    schemathesis.hooks.unregister(before_call)


READERS = {kind: TypeAdapter(python) for kind, python in (("integer", int), ("number", float), ("boolean", bool))}


def as_fastapi_reads(body: dict[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` with numbers and booleans as FastAPI reads them from other scalars."""
    found = dict(body)
    for name in set(body) & set(properties):
        for shape in properties[name].get("anyOf", [properties[name]]):
            if body[name] is not None and shape["type"] in READERS:
                try:
                    found[name] = READERS[shape["type"]].validate_python(body[name])
                except Unreadable:
                    continue
    return found


def obeys_the_schema(sent: Sent, path: str, check: Draft202012Validator) -> None:
    """A body is told to break the schema if and only if it does."""
    body = sent.body
    if sent.breaks_the_schema:
        assert body is None or not check.is_valid(body), sent
    elif sent.status == 200:
        assert body is not None, sent
        for alias, known in SUBMISSIONS[path].accepts.items():
            if known in body:
                body.pop(alias, None)
        try:
            check.validate(as_fastapi_reads(body, resolved(DOCUMENT, body_schema(DOCUMENT, path))["properties"]))
        except ValidationError as error:
            raise AssertionError(f"{sent}: {error}") from None


@pytest.mark.usefixtures("pictured")
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part.rpartition("/")[2])
def test_the_server_keeps_to_its_document(serving: Any, gate: Any, method: str, path: str) -> None:
    api = serving(key="secret", credits=1e9, cap=10**6)
    gate.failing = RuntimeError("nobody asks for these pictures, and to encode them takes a sixth of the time")
    schema = schemathesis.openapi.from_url(
        f"{api.url}/openapi.json", config=configuration(headers={"x-key": "secret"}, checks=CHECKS)
    )
    run = explore(schema.include(method=method.upper(), path=path))
    assert run.failures == []
    assert max(run.statuses) < 500
    assert run.statuses[405]  # other methods were tried, too
    if path in SUBMISSIONS:
        assert run.statuses[200] >= 3
        assert run.statuses[403]
        submissions = [sent for sent in run.sent if sent.method == "POST"]
        assert any(sent.breaks_the_schema for sent in submissions)
        check = validator(DOCUMENT, body_schema(DOCUMENT, path), formats=False)
        for sent in submissions:
            obeys_the_schema(sent, path, check)


@pytest.mark.usefixtures("pictured")
def test_what_a_submission_names_can_be_polled_as_the_documents_links_say(serving: Any, gate: Any) -> None:
    api = serving(key="secret", credits=1e9, cap=10**6)
    phases = {name: {"enabled": False} for name in ("examples", "coverage", "fuzzing")}
    phases["stateful"] = {"enabled": True, "generation": {"max-examples": 10}}  # type: ignore[dict-item]
    schema = schemathesis.openapi.from_url(
        f"{api.url}/openapi.json", config=configuration(headers={"x-key": "secret"}, checks=CHECKS, phases=phases)
    )
    run = explore(schema.include(path=["/v1/flux-2-pro", "/v1/flux-tools/deblur-v1", "/v1/get_result"]))
    assert run.failures == []
    assert any(sent.path == "/v1/get_result" and sent.status == 200 for sent in run.sent)


# -- the document of SEED-3 -------------------------------------------------------------------------------------------

KONTEXT = ("/flux-kontext-pro", "/flux-kontext-max")


@pytest.mark.usefixtures("pictured")
@pytest.mark.parametrize("path", SEED_3["paths"])
def test_the_server_gets_along_with_clients_made_from_the_third_partys_document(
    serving: Any, gate: Any, path: str
) -> None:
    api = serving(key="secret", credits=1e9, cap=10**6)
    off = {
        "status_code_conformance": "it knows 401 where the service says 403, and no 429",
        "response_schema_conformance": "looked at below: 422 may be a sentence, and null stands for no value",
        **({"ignored_auth": "polls", "missing_required_header": "need no key"} if path == "/get_result" else {}),
    }
    checks = {**CHECKS, **{name: {"enabled": False} for name in off}}
    config = configuration(headers={"X-Key": "secret"}, checks=checks, **{"base-url": f"{api.url}/v1"})
    run = explore(schemathesis.openapi.from_dict(SEED_3, config=config).include(path=path))
    assert run.failures == []
    assert max(run.statuses) < 500
    if path not in KONTEXT:
        return
    valid = validator(SEED_3, body_schema(SEED_3, path))
    task = validator(SEED_3, {"$ref": "#/components/schemas/TaskResponse"})
    taken = 0
    for sent in run.sent:
        body = sent.body
        if sent.method != "POST" or sent.status == 403:  # other methods and other keys were tried, too
            continue
        if body is not None and valid.is_valid(body) and body["image"] == SAMPLE:
            assert sent.status == 200, sent
            task.validate(json.loads(sent.answer))
            taken += 1
    assert taken >= 3


@pytest.mark.parametrize("path", KONTEXT)
def test_a_body_of_the_third_partys_document_with_everything_in_it_is_made(shared: Any, path: str) -> None:
    body = {
        "prompt": "make it dusk",
        "image": shared.base64(shared.photo(), "JPEG"),
        "steps": 28,
        "guidance": 3.5,
        "seed": 7,
        "safety_tolerance": 2,
        "output_format": "jpeg",
        "prompt_upsampling": False,
    }
    validator(SEED_3, body_schema(SEED_3, path)).validate(body)
    submitted = shared.http.post(f"/v1{path}", json=body)
    assert submitted.status_code == 200
    validator(SEED_3, {"$ref": "#/components/schemas/TaskResponse"}).validate(submitted.json())
    ready = shared.finish(submitted)
    validator(SEED_3, {"$ref": "#/components/schemas/ResultResponse"}).validate(ready)
    assert (ready["status"], ready["result"]["seed"]) == ("Ready", 7)
    assert shared.deliver(ready).headers["content-type"] == "image/jpeg"
