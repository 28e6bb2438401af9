"""The contract as an OpenAPI 3.1 document, made from the catalogue's own request models.

Statuses and bodies are those of normal operation; a server with a fault schedule has further answers.
"""

from typing import Any

from flux_tasks import catalog
from flux_tasks.catalog import CONTRACT_VERSION, Tool
from flux_tasks.catalog.fields import MEDIA_TYPES, ImageField
from flux_tasks.local.service.checks import STRICT_DILATION

STATUSES = (
    *("Task not found", "Pending", "Reasoning", "Generating"),
    *("Request Moderated", "Content Moderated", "Ready", "Error"),
)
"""Every status of OAS-0919. Clients must be prepared for others: the service has added some before."""

SHORT_PATHS = {"/v1/flux-kontext": "flux-kontext-pro", "/v1/flux-fill": "flux-pro-1.0-fill"}
"""Paths that SEED-2 shows and the service no longer has, each with the tool it leads to."""

SAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQAAAACCEkxzAAAAGUlEQVR42mNgGL7g/38GBgYmGG9gGcMVAADoVwIdTCJ3EgAAAABJRU5ErkJggg=="
)
"""A PNG of 64x64 px, black with a white square: small enough for an example, as a picture and as its mask."""

ABOUT = """The HTTP API of Black Forest Labs as of {version}, answered by this machine. Its pictures are previews.

A POST to a tool is answered at once with an id and an address to poll. With a `webhook_url`, that address is called
when the job ends. The poll of a job that is `Ready` has the address of the result, which is valid for 10 minutes by
default and needs no key; a poll after that has a new one. Be prepared for statuses that are not listed here, and read
the body of a poll before its HTTP status: the service also answers 422, 500 or 503 with a status in it.

Error bodies have `detail`: a list for a body that breaks the schema, a sentence for everything else. Beside it stands
`status_code`, unless the server is strict."""


ABOUT_KEY = "Any key, or none, unless the server was started with one."


def openapi(*, strict: bool = False) -> dict[str, Any]:
    """Return the document that the server, ``strict`` or not, publishes at ``/openapi.json``."""
    paths: dict[str, Any] = {tool.path: {"post": _submission(tool, strict=strict)} for tool in catalog.TOOLS.values()}
    for path, name in () if strict else SHORT_PATHS.items():
        former = {"operationId": path.rpartition("/")[2], "deprecated": True}
        paths[path] = {"post": {**_submission(catalog.TOOLS[name], strict=strict), **former}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BFL API, served locally by flux-pipelines",
            "version": CONTRACT_VERSION,
            "description": ABOUT.format(version=CONTRACT_VERSION),
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "tools", "description": "Each submits one job."},
            {"name": "jobs", "description": "Status and result of a job."},
            {"name": "account", "description": "Credits and finetunes."},
        ],
        "paths": {**paths, **_jobs(), **_account()},
        "components": {
            "schemas": {
                **_answers(strict=strict),
                **{tool.request.__name__: _body(tool, strict=strict) for tool in catalog.TOOLS.values()},
            },
            "responses": _refusals(),
            "callbacks": {"ended": {"{$request.body#/webhook_url}": {"post": _callback()}}},
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-key", "description": ABOUT_KEY}},
        },
    }


# -- operations -------------------------------------------------------------------------------------------------------


def _operation(
    name: str, tag: str, summary: str, responses: dict[str, Any], *refusals: str, keyed: bool, **more: Any
) -> dict[str, Any]:
    return {
        **{"operationId": name, "tags": [tag], "summary": summary, "security": [{"key": []}] if keyed else []},
        "responses": {**responses, **_refused(*refusals)},
        **more,
    }


def _submission(tool: Tool, *, strict: bool) -> dict[str, Any]:
    answer = _ref("AsyncResponse")
    more: dict[str, Any] = {}
    if tool.webhooks:
        answer = {"anyOf": [answer, _ref("AsyncWebhookResponse")]}
        more = {"callbacks": {"ended": {"$ref": "#/components/callbacks/ended"}}}
    body = _json(_ref(tool.request.__name__))
    body["content"]["application/json"]["examples"] = {"least": {"summary": "The smallest body", "value": _least(tool)}}
    poll = {"operationId": "get_result", "parameters": {"id": "$response.body#/id"}}
    return _operation(
        *(tool.name, "tools", tool.summary),
        {"200": {**_answer("Submitted and charged.", answer), "links": {"result": poll}}},
        *("400", *(() if strict else ("401",)), "402", "403", "413", "421", "422", "429", "500", "503"),
        keyed=True,
        description=f"Sources: {', '.join(f'{tag} ({catalog.SOURCES[tag]})' for tag in tool.sources)}.",
        requestBody={"required": True, **body},
        **more,
    )


def _jobs() -> dict[str, Any]:
    job = {"anyOf": [_ref("SettledCostResultResponse"), _ref("ResultResponse")]}
    file: dict[str, Any] = {media_type: {} for media_type in MEDIA_TYPES.values()}
    sentence = {"text/plain": {"schema": {"type": "string"}}}
    result = _operation(
        *("get_result", "jobs", "How far a job is, and where its result is."),
        {
            "200": _answer("The job; with its settled cost once it has ended.", job),
            "404": _answer("No such job, or the server has forgotten it.", _ref("ResultResponse")),
            "422": _answer("No id was given.", _ref("HTTPValidationError")),
        },
        *("421", "500"),
        keyed=False,
        parameters=[_parameter("query", "id", "The id in the answer to the submission.")],
    )
    delivery = _operation(
        *("delivery", "jobs", "The result's file, for 10 minutes after a poll has named this address."),
        {
            "200": {"description": "The file.", "content": file},
            "403": {"description": "The address has expired: poll again.", "content": sentence},
            "404": {"description": "No such address.", "content": sentence},
        },
        *("421", "500"),
        keyed=False,
        parameters=[
            _parameter("path", "token", "From the answer to a poll."),
            _parameter("path", "name", "sample.<format>"),
        ],
    )
    return {"/v1/get_result": {"get": result}, "/delivery/{token}/{name}": {"get": delivery}}


def _account() -> dict[str, Any]:
    finetune = {"404": _answer("No such finetune: a local server has none.", _ref("Detail"))}

    def get(name: str, summary: str, answer: str, responses: dict[str, Any], **more: Any) -> dict[str, Any]:
        responses = {"200": _answer("As asked.", _ref(answer)), **responses}
        refusals = ("403", "421", "422", "500")
        return {"get": _operation(name, "account", summary, responses, *refusals, keyed=True, **more)}

    asked = _parameter("query", "finetune_id", "One of your finetunes.")
    delete = _operation(
        *("delete_finetune", "account", "Delete a finetune."),
        {"200": _answer("Deleted.", _ref("DeleteFinetuneResponse")), **finetune},
        *("403", "413", "421", "422", "500"),
        keyed=True,
        requestBody={"required": True, **_json(_ref("DeleteFinetuneInputs"))},
    )
    details = ("finetune_details", "How a finetune was made.", "FinetuneDetailResponse")
    return {
        "/v1/credits": get("credits", "Credits left on the account.", "CreditsResponse", {}),
        "/v1/my_finetunes": get("my_finetunes", "Ids of your finetunes.", "MyFinetunesResponse", {}),
        "/v1/finetune_details": get(*details, finetune, parameters=[asked]),
        "/v1/delete_finetune": {"post": delete},
    }


def _callback() -> dict[str, Any]:
    headers = {
        "x-webhook-secret": "The `webhook_secret` of the request, as it is.",
        "x-bfl-signature": "`sha256=` and the HMAC-SHA256 of the body under `webhook_secret`, in hex.",
    }
    return {
        "operationId": "ended",
        "summary": "The job has ended: the same content as a poll.",
        "parameters": [
            {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {"required": True, **_json(_ref("SettledCostResultResponse"))},
        "responses": {"2XX": {"description": "Received."}},
    }


# -- bodies -----------------------------------------------------------------------------------------------------------


def _body(tool: Tool, *, strict: bool) -> dict[str, Any]:
    schema = tool.request.model_json_schema()
    schema.pop("title")
    if not tool.strict:
        schema.pop("additionalProperties")
    for name, field in schema["properties"].items():
        field.pop("title", None)
        if field.get("default", "") is None:
            field.pop("default")  # left out and null mean the same; the contract names no default there
        if "source" in field:
            field["x-source"] = field.pop("source")
        if name in tool.image_fields:
            _refine(field, _picture(tool.image_fields[name]))
        if name in tool.service_defaults:
            field["default"] = tool.service_defaults[name]
        if name == "webhook_url":
            text = next(shape for shape in field["anyOf"] if shape != {"type": "null"})
            _refine(field, [{**text, "format": "uri"}])
    if strict and "dilate_pixels" in schema["properties"]:
        schema["properties"]["dilate_pixels"]["maximum"] = STRICT_DILATION
    for name in tool.seed_fields if strict else ():
        del schema["properties"][name]
    if tool.prompt_limit is not None and tool.prompt_limit.is_refused and not strict:
        schema["properties"]["prompt"]["maxLength"] = tool.prompt_limit.most
    for seed, known in () if strict else tool.accepts.items():
        alias = {"description": f"Another name of {known}; ignored beside it.", "deprecated": True}
        schema["properties"][seed] = {**schema["properties"][known], **alias}
    return schema


def _refine(field: dict[str, Any], shapes: list[dict[str, Any]]) -> None:
    """Replace a field's string by ``shapes``, beside null if it may be null."""
    shapes = [*shapes, *({"type": "null"} for shape in field.pop("anyOf", []) if shape == {"type": "null"})]
    field.pop("type", None)
    field.update(shapes[0] if len(shapes) == 1 else {"anyOf": shapes})


def _picture(mark: ImageField) -> list[dict[str, Any]]:
    url = [{"type": "string", "format": "uri", "pattern": "^https?://"}] if mark.url else []
    one = [{"type": "string", "contentEncoding": "base64"}, *url]
    several = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": mark.most}
    return one if mark.most == 1 else [*one, several]


def _least(tool: Tool) -> dict[str, Any]:
    """Return the smallest body that the tool takes."""
    values = {"prompt": "a lake at dawn", "finetune_id": "my-finetune", "width": 128, "height": 96}
    pictures = {name: SAMPLE for name, mark in tool.image_fields.items() if mark.role == "mask"}
    return {
        name: SAMPLE if name in tool.image_fields else values[name]
        for name, info in tool.request.model_fields.items()
        if info.is_required() or name in pictures
    }


# -- answers ----------------------------------------------------------------------------------------------------------


def _answers(*, strict: bool) -> dict[str, Any]:
    text, number = {"type": "string"}, {"type": "number"}
    uri = {"type": "string", "format": "uri"}
    price = {
        "cost": {**_or_null("number", minimum=0), "description": "Credits; an estimate until the job has ended."},
        "input_mp": {**_or_null("number", minimum=0), "description": "Megapixels of the pictures sent."},
        "output_mp": {**_or_null("number", minimum=0), "description": "Megapixels of the result."},
    }
    job = {
        "id": text,
        "status": _ref("StatusResponse"),
        "result": {"anyOf": [_ref("Result"), {"type": "null"}], "description": "Once the status is Ready."},
        "progress": _or_null("number", minimum=0, maximum=1),
        "details": {**_or_null("object"), "description": "Why it failed, or why it was moderated."},
        "preview": _or_null("object"),
    }
    settled = {"cost": {**number, "minimum": 0, "description": "Credits that were charged in the end."}}
    result = {
        "sample": {
            **uri,
            "description": "Address of the file, valid for 10 minutes; FLUX 3: an hour. No key is needed.",
        },
        "prompt": text,
        "expanded_prompt": {**text, "description": "What the service made of the prompt, for tools that expand it."},
        "seed": {"type": "integer"},
        "start_time": {**number, "description": "Seconds since 1970."},
        "end_time": {**number, "description": "Seconds since 1970."},
        "duration": {**number, "description": "Seconds."},
    }
    code = {} if strict else {"status_code": {"type": "integer", "description": "The HTTP status (SEED-3)."}}
    place = {"type": "array", "items": {"anyOf": [text, {"type": "integer"}]}}
    return {
        "AsyncResponse": _object({"id": text, "polling_url": uri, **price}, "id", "polling_url"),
        "AsyncWebhookResponse": _object(
            {"id": text, "status": text, "webhook_url": text, **price}, "id", "status", "webhook_url"
        ),
        "StatusResponse": {
            "type": "string",
            "enum": list(STATUSES),
            "description": "A status that is not listed here means that the job is still running.",
        },
        "Result": _object(result, "sample"),
        "ResultResponse": _object(job, "id", "status"),
        "SettledCostResultResponse": _object({**job, **settled}, "id", "status", "cost"),
        "CreditsResponse": _object({"credits": number}, "credits"),
        "MyFinetunesResponse": _object({"finetunes": {"type": "array", "items": text}}, "finetunes"),
        "FinetuneDetailResponse": _object({"finetune_details": {"type": "object"}}, "finetune_details"),
        "DeleteFinetuneInputs": _object({"finetune_id": text}, "finetune_id"),
        "DeleteFinetuneResponse": _object(
            fields := dict.fromkeys(("status", "message", "deleted_finetune_id", "timestamp"), text), *fields
        ),
        "Detail": _object({"detail": text, **code}, "detail"),
        "HTTPValidationError": _object(
            {"detail": {"type": "array", "items": _ref("ValidationError")}, **code}, "detail"
        ),
        "ValidationError": _object({"loc": place, "msg": text, "type": text}, "loc", "msg", "type"),
    }


_REFUSALS = {
    "400": ("BadRequest", "Bad parameters. This server answers 422 instead, unless a fault says otherwise."),
    "401": ("Unauthorized", "No key, or not the right one. This server answers 403, unless a fault says otherwise."),
    "402": ("InsufficientCredits", "Not enough credits. No job was created, nothing was charged."),
    "403": ("NotAuthenticated", "No key, or not the right one."),
    "413": ("TooLarge", "The body is too large."),
    "421": ("Misdirected", "The request used a name that is not this machine's own."),
    "422": ("Unprocessable", "A list for a body that breaks the schema, a sentence for everything else."),
    "429": ("TooManyTasks", "Too many active jobs. No job was created, nothing was charged: try again later."),
    "500": ("ServerError", "An error inside the server."),
    "503": ("Unavailable", "It cannot take the job now, for example because its log of charges cannot be written."),
}


def _refused(*statuses: str) -> dict[str, Any]:
    return {status: {"$ref": f"#/components/responses/{_REFUSALS[status][0]}"} for status in statuses}


def _refusals() -> dict[str, Any]:
    either = {"anyOf": [_ref("HTTPValidationError"), _ref("Detail")]}
    return {
        name: _answer(text, either if status == "422" else _ref("Detail")) for status, (name, text) in _REFUSALS.items()
    }


# -- schema words -----------------------------------------------------------------------------------------------------


def _object(fields: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required)}


def _or_null(kind: str, **limits: Any) -> dict[str, Any]:
    return {"anyOf": [{"type": kind, **limits}, {"type": "null"}]}


def _ref(schema: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, **_json(schema)}


def _parameter(place: str, name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": place, "required": True, "description": text, "schema": {"type": "string"}}
