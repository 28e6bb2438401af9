"""Does what a plan says with ``blackforest``, the official client, and writes down what it was told.

Runs in the environment of the other clients: ``python official.py PLAN ANSWERS``, both JSON. The client is as it comes
from the package index; its ``base_url`` argument is all that points it at the server of the plan.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import requests
from blackforest import BFLClient, BFLError
from blackforest.types.general.client_config import ClientConfig
from blackforest.types.inputs.generic import ImageInput

PATIENT = ClientConfig(sync=True, timeout=120, polling_interval=0.1, max_retries=2000)


def follow(client: BFLClient, job: str) -> dict[str, Any]:
    """The job's last status, asked for one at a time."""
    while (told := client.get_task_status(job)).status == "Pending":
        time.sleep(0.05)
    return {"id": job, "status": told.status, "result": told.result}


def perform(client: BFLClient, do: str, call: dict[str, Any]) -> dict[str, Any]:
    if do == "generate and wait":
        done = client.generate(call["model"], call["inputs"], PATIENT)
        return {"id": done.id, "result": done.result}
    if do == "generate and ask":
        asked = client.generate(call["model"], call["inputs"])
        return {"polling_url": asked.polling_url, **follow(client, asked.id)}
    if do == "process and wait":
        given = call["input"] if isinstance(call["input"], str) else ImageInput(**call["input"])
        sent = client.process_image(given, call["endpoint"], **call["inputs"])
        return {"id": sent.task_id, "result": client.get_polling_result(sent.task_id, PATIENT)}
    if do == "process with defaults":
        sent = client.process_image(call["input"])
        return {"id": sent.task_id}
    if do == "ask":
        return follow(client, call["id"])
    if do == "report usage":
        client.track_usage_via_api(call["model"], 1)
        return {}
    raise ValueError(do)


def answer(client: BFLClient, call: dict[str, Any]) -> dict[str, Any]:
    try:
        return perform(client, call.pop("do"), call)
    except BFLError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, requests.RequestException):
            cause = cause.__cause__ or cause.__context__
        response = getattr(cause, "response", None)
        told = {} if response is None else {"status_code": response.status_code, "body": response.json()}
        return {"error": str(error), **told}


def main(plan: Path, answers: Path) -> None:
    asked = json.loads(plan.read_text())
    client = BFLClient(asked["key"], base_url=asked["url"])
    others = {name: BFLClient(**settings) for name, settings in asked["others"].items()}
    told = {name: answer(others.get(call.pop("as", ""), client), call) for name, call in asked["calls"].items()}
    answers.write_text(json.dumps({"models": list(client.model_input_registry), "told": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
