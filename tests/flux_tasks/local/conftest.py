"""A local server over real HTTP, and an engine whose every move the test decides."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from PIL import Image
from waiting import PATIENCE

from flux_tasks.local import LocalServer, engines


class Api:
    """A client of one server, with the few things every test needs."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self.url = server.url
        self.http = httpx.Client(
            base_url=server.url, timeout=PATIENCE, verify=False
        )  # it takes 25 ms to read certificates

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """POST ``body`` as JSON to ``/v1/<path>``."""
        return self.http.post(f"/v1/{path}", **({"json": body} if body is not None else {}), **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def poll(self, job_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.http.get("/v1/get_result", params={"id": job_id}).json()
        return answer

    def finish(self, submitted: httpx.Response | str) -> dict[str, Any]:
        """Poll until the job ends; the last answer."""
        if not isinstance(submitted, str):
            assert submitted.status_code == 200, submitted.text
        job_id = submitted if isinstance(submitted, str) else submitted.json()["id"]
        over, pause = time.monotonic() + PATIENCE, 0.005
        while time.monotonic() < over:
            answer = self.poll(job_id)
            if answer["status"] != "Pending":
                return answer
            time.sleep(pause)
            pause = min(2 * pause, 0.1)  # a poll takes as much CPU as making a small picture
        raise AssertionError(f"{job_id} did not end: {answer}")

    def make(self, path: str, body: dict[str, Any]) -> Image.Image:
        """The decoded result of a job."""
        return Image.open(io.BytesIO(self.deliver(self.finish(self.post(path, body))).content))

    def deliver(self, answer: dict[str, Any]) -> httpx.Response:
        assert answer["status"] == "Ready", answer
        return self.http.get(answer["result"]["sample"])

    @staticmethod
    def bytes(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    @classmethod
    def base64(cls, image: Image.Image, file_format: str = "PNG", **options: Any) -> str:
        return base64.b64encode(cls.bytes(image, file_format, **options)).decode()

    @staticmethod
    def photo(width: int = 96, height: int = 80) -> Image.Image:
        """A picture with structure: two gradients and a disc."""
        across = Image.linear_gradient("L").rotate(90).resize((width, height))
        down = Image.linear_gradient("L").resize((width, height))
        disc = Image.radial_gradient("L").resize((width, height))
        return Image.merge("RGB", (across, down, disc))

    @staticmethod
    def mask(width: int = 96, height: int = 80, box: tuple[int, int, int, int] = (20, 20, 44, 40)) -> Image.Image:
        mask = Image.new("L", (width, height))
        mask.paste(255, box)
        return mask

    def close(self) -> None:
        self.http.close()


class Gate:
    """An engine that makes a plain picture when the test lets it.

    Attributes:
        works: everything it was asked to do.
        failing: raised instead of a picture, if set.
    """

    def __init__(self) -> None:
        self.works: list[engines.Work] = []
        self.failing: Exception | None = None
        self._open = threading.Event()
        self._open.set()

    def shut(self) -> None:
        """Let no job end until ``open``."""
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def run(self, work: engines.Work, progress: engines.Progress) -> Image.Image:
        self.works.append(work)
        progress(0.5)
        assert self._open.wait(PATIENCE)
        if self.failing is not None:
            raise self.failing
        return Image.new("RGB", work.size, (work.seed % 256, 0, 0))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Servers that ``serving`` starts in this test work with this engine instead of the classical one."""
    engine, load = Gate(), engines.load
    monkeypatch.setitem(engines.ENGINES, "gate", engines.ENGINES["classical"])
    monkeypatch.setattr(engines, "load", lambda name: engine if name == "gate" else load(name))
    yield engine
    engine.open()


@pytest.fixture
def serving() -> Iterator[Callable[..., Any]]:
    """Starts servers with the options given, and stops them after the test."""
    started: list[Api] = []

    def start(**options: Any) -> Api:
        options.setdefault("engine", "gate" if "gate" in engines.ENGINES else "classical")
        started.append(Api(LocalServer(**options).start()))
        return started[-1]

    yield start
    for api in started:
        api.close()
        api.server.stop()


@pytest.fixture(scope="session")
def shared() -> Iterator[Any]:
    """One server with the classical engine, for tests that leave nothing behind on it that another would see."""
    with LocalServer(credits=1e9) as server:
        api = Api(server)
        yield api
        api.close()
