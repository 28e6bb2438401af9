"""A refusal ends with what the tool's documents advise for its status, where they advise anything."""

from __future__ import annotations

import pytest
from scripted import Answer, ScriptedServer

from flux_tasks import catalog
from flux_tasks.api.client import BflClient
from flux_tasks.errors import FluxError, InvalidRequest, KeyRefused

REFUSALS = [
    ("deblur-v1", 403, KeyRefused, "the key is missing, or its project has no access to this tool"),
    ("erase-v1", 401, KeyRefused, "the key is missing, or its project has no access to this tool"),
    (
        "deblur-v1",
        422,
        InvalidRequest,
        "check that the picture is whole, that its address can be reached, and its 4 MP at",
    ),
    ("erase-v1", 422, InvalidRequest, "check that the picture is whole, and that the mask has exactly its size"),
    ("flux-pro-1.0-fill", 422, InvalidRequest, "check that the mask has exactly the picture's size"),
]


@pytest.mark.parametrize(("name", "status", "error", "words"), REFUSALS)
async def test_a_refusal_ends_with_what_the_documents_advise(
    name: str, status: int, error: type[FluxError], words: str
) -> None:
    tool = catalog.TOOLS[name]
    with ScriptedServer() as server:
        server.on(f"POST {tool.path}", Answer(status, {"detail": "Not authenticated"}))
        async with BflClient(server.url, "the-key") as client:
            with pytest.raises(error) as caught:
                await client.submit(tool, {})
    assert f"(the documents advise: {words}" in str(caught.value)
    assert "Not authenticated" in str(caught.value)


@pytest.mark.parametrize(("name", "status"), [("flux-2-pro", 403), ("flux-2-pro", 422), ("deblur-v1", 400)])
async def test_a_refusal_without_advice_has_the_servers_words_alone(name: str, status: int) -> None:
    tool = catalog.TOOLS[name]
    with ScriptedServer() as server:
        server.on(f"POST {tool.path}", Answer(status, {"detail": "no"}))
        async with BflClient(server.url, "the-key") as client:
            with pytest.raises(FluxError) as caught:
                await client.submit(tool, {})
    assert "advise" not in str(caught.value)


async def test_without_a_key_the_advice_is_to_set_one() -> None:
    tool = catalog.TOOLS["deblur-v1"]
    with ScriptedServer() as server:
        server.on(f"POST {tool.path}", Answer(403, {"detail": "Not authenticated"}))
        async with BflClient(server.url) as client:
            with pytest.raises(KeyRefused, match="no key was sent, set BFL_API_KEY"):
                await client.submit(tool, {})
