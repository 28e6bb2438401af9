"""Does what a plan says with litellm's provider ``black_forest_labs`` and writes down what it was told.

Runs in the environment of the other clients: ``python through_litellm.py PLAN ANSWERS``, both JSON, with
``BFL_API_BASE`` and ``BFL_API_KEY`` in the environment.

One thing of litellm is changed: ``assert_bfl_polling_url`` lets loopback addresses pass, too. It asks for https and a
host below ``bfl.ai``, whatever ``api_base`` says, and litellm has no setting for it. The calls of the plan's
``untouched`` are made before that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a newer one at import

import httpx
import litellm
from litellm.llms.black_forest_labs.common_utils import IMAGE_EDIT_MODELS, IMAGE_GENERATION_MODELS
from litellm.llms.black_forest_labs.image_edit import handler as editing
from litellm.llms.black_forest_labs.image_generation import handler as generating

litellm.suppress_debug_info = True


def believing_loopback(check: Callable[[str], None]) -> Callable[[str], None]:
    def checked(url: str) -> None:
        if urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"):
            check(url)

    return checked


def arguments(call: dict[str, Any]) -> dict[str, Any]:
    given = {name: base64.b64decode(call[name]) for name in ("image", "mask") if name in call}
    return {**call["arguments"], **given}


def result(response: litellm.ImageResponse) -> dict[str, Any]:
    return {"url": response.data[0].url, "usd": response._hidden_params.get("response_cost")}


def refusal(error: Exception) -> dict[str, Any]:
    """What litellm raised, and the server's answer if there is one behind it."""
    told = {"error": str(error), "kind": type(error).__name__}
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, httpx.HTTPStatusError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return told
    return {**told, "status_code": cause.response.status_code, "body": cause.response.json()}


def answer(call: dict[str, Any]) -> dict[str, Any]:
    try:
        return result(getattr(litellm, call["function"])(**arguments(call)))
    except Exception as error:
        return refusal(error)


async def answer_later(call: dict[str, Any]) -> dict[str, Any]:
    if not call["function"].startswith("a"):
        return await asyncio.to_thread(answer, call)
    try:
        return result(await getattr(litellm, call["function"])(**arguments(call)))
    except Exception as error:
        return refusal(error)


async def together(calls: dict[str, Any]) -> dict[str, Any]:
    """All answers; litellm waits 1.5 s between two polls, so the calls wait side by side."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(calls)))
    return dict(zip(calls, await asyncio.gather(*map(answer_later, calls.values())), strict=True))


@contextlib.contextmanager
def environment(**wanted: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main(plan: Path, answers: Path) -> None:
    asked = json.loads(plan.read_text())
    told = {name: answer(call) for name, call in asked["untouched"].items()}
    for handler in (editing, generating):
        handler.assert_bfl_polling_url = believing_loopback(handler.assert_bfl_polling_url)
    for name, call in asked["elsewhere"].items():
        with environment(**call["environment"]):
            told[name] = answer(call)
    told |= asyncio.run(together(asked["calls"]))
    priced = {name.partition("/")[2] for name in litellm.model_cost if name.startswith("black_forest_labs/")}
    models = {"generate": list(IMAGE_GENERATION_MODELS), "edit": list(IMAGE_EDIT_MODELS), "priced": sorted(priced)}
    answers.write_text(json.dumps({"models": models, "told": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
