"""The smallest server that keeps the BFL contract and a log of its charges; independent of ``flux_tasks.local``."""

from __future__ import annotations

import base64
import io
import itertools
from collections import Counter
from typing import Any

from PIL import Image
from scripted import Answer, Request, ScriptedServer

__all__ = ["FakeBfl"]


class FakeBfl(ScriptedServer):
    """Accepts every tool, charges 3 credits a job, and delivers the input's pixels turned upside down.

    Attributes:
        charged: jobs created, by tool path.
        pending_polls: polls that answer ``Pending`` before ``Ready``.
        hold: while true, no job becomes ready.
    """

    def __init__(self, *, key: str | None = None, pending_polls: int = 1) -> None:
        super().__init__()
        self.key = key
        self.pending_polls = pending_polls
        self.hold = False
        self.charged: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.known: dict[str, dict[str, Any]] = {}
        self.submit_answer: Answer | None = None
        self._ids = itertools.count(1)

    @property
    def jobs(self) -> int:
        """Jobs created, and so charged."""
        return sum(self.charged.values())

    def _answer(self, request: Request) -> Answer:
        path = request.path.split("?")[0]
        if f"{request.method} {path}" in self._scripts:
            return super()._answer(request)
        if request.method == "POST" and path.startswith("/v1/"):
            return self._submit(path, request)
        if path == "/v1/get_result":
            return self._poll(request.path.split("id=")[1])
        if path == "/v1/credits":
            return self._refused(request) or Answer(200, {"credits": 500.0})
        if path.startswith("/files/"):
            job = self.known.get(path.removeprefix("/files/").removesuffix(".png"))
            return Answer(404, b"") if job is None else Answer(200, job["data"])
        return Answer(404, {"detail": "Not Found"})

    def _refused(self, request: Request) -> Answer | None:
        if self.key is not None and request.headers.get("x-key") != self.key:
            return Answer(403, {"detail": "Not authenticated"})
        return None

    def _submit(self, path: str, request: Request) -> Answer:
        if (refused := self._refused(request)) is not None:
            return refused
        if self.submit_answer is not None and self.submit_answer.status != 200:
            return self.submit_answer
        body = request.json()
        job_id = f"job-{next(self._ids)}"
        self.charged[path] += 1
        self.bodies.append(body)
        self.known[job_id] = {"polls": 0, "data": self._work(body)}
        answer = Answer(200, {"id": job_id, "polling_url": f"{self.url}/v1/get_result?id={job_id}", "cost": 3.0})
        if self.submit_answer is not None:
            answer.cut = self.submit_answer.cut
        return answer

    def _poll(self, job_id: str) -> Answer:
        job = self.known.get(job_id)
        if job is None:
            return Answer(404, {"id": job_id, "status": "Task not found"})
        job["polls"] += 1
        if self.hold or job["polls"] <= self.pending_polls:
            return Answer(200, {"id": job_id, "status": "Pending", "progress": 0.5})
        sample = f"{self.url}/files/{job_id}.png"
        return Answer(200, {"id": job_id, "status": "Ready", "result": {"sample": sample}, "cost": 3.0})

    @staticmethod
    def _work(body: dict[str, Any]) -> bytes:
        encoded = body.get("image") or body.get("input_image") or body.get("person")
        if encoded:
            image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
        else:
            image = Image.new("RGB", (64, 64), "teal")
        if "reference_offset_x" in body:
            canvas = Image.new("RGB", (body["width"], body["height"]), "gray")
            canvas.paste(image, (body["reference_offset_x"], body["reference_offset_y"]))
            image = canvas
        buffer = io.BytesIO()
        image.transpose(Image.Transpose.ROTATE_180).save(buffer, "PNG")
        return buffer.getvalue()
