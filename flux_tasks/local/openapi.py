"""The contract as an OpenAPI 3.1 document, made from the catalogue's own request models."""

from __future__ import annotations

from typing import Any

from flux_tasks import catalog
from flux_tasks.catalog import CONTRACT_VERSION

__all__ = ["openapi"]


def openapi() -> dict[str, Any]:
    """The document that the server publishes at ``/openapi.json``."""
    schemas: dict[str, Any] = {
        "AsyncResponse": _object(
            {"id": "string", "polling_url": "string", "cost": "number", "input_mp": "number", "output_mp": "number"},
            "id",
            "polling_url",
        ),
        "ResultResponse": _object(
            {
                "id": "string",
                "status": "string",
                "result": "object",
                "progress": "number",
                "details": "object",
                "preview": "object",
                "cost": "number",
            },
            "id",
            "status",
        ),
    }
    paths: dict[str, Any] = {}
    for tool in catalog.TOOLS.values():
        schema = tool.request.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        if not tool.strict:
            schema.pop("additionalProperties", None)
        schemas[tool.request.__name__] = schema
        paths[tool.path] = {
            "post": {
                "operationId": tool.name,
                "summary": tool.summary,
                "requestBody": {"required": True, "content": _json_of(tool.request.__name__)},
                "responses": {"200": {"description": "Submitted", "content": _json_of("AsyncResponse")}},
                "security": [{"key": []}],
            }
        }
    paths["/v1/get_result"] = {
        "get": {
            "operationId": "get_result",
            "parameters": [{"name": "id", "in": "query", "required": True, "schema": {"type": "string"}}],
            "responses": {"200": {"description": "The job", "content": _json_of("ResultResponse")}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "BFL API, served locally by flux-pipelines", "version": CONTRACT_VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "x-key"}},
        },
    }


def _object(fields: dict[str, str], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind if name in required else [kind, "null"]} for name, kind in fields.items()},
        "required": list(required),
    }


def _json_of(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
