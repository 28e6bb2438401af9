"""A local server with eyes: it notes every submission, and can strike at a chosen moment of a job's way.

What it notes is the evidence of the verdict. The moments lie on both sides of everything that matters: before and after
a charge, before and after its answer, between poll and fetch, and while the client writes what was fetched.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from disguise import SENDER
from PIL import Image, ImageOps

from flux_tasks.local import LocalServer, engines
from flux_tasks.local.faults.kinds import Rule
from flux_tasks.local.faults.schedule import Faults

__all__ = ["ENGINE", "MOMENTS", "Client", "Post", "Trap", "WatchedServer"]

MOMENTS = ("arriving", "post", "charge", "answer", "answered", "poll", "ready", "fetch", "fetched")
"""A POST's head is here; its body, too; it was charged; its answer goes out; has gone out; a poll is here; one was
answered with Ready; a fetch is here; the file has gone out."""

ENGINE = "plain"


class PlainEngine:
    """Pictures that are made in no time, another one for each request."""

    def run(self, work: engines.Work, progress: engines.Progress) -> Image.Image:
        progress(0.5)
        first = next(iter(work.pictures.values()), None)
        if first is None:
            return Image.new("RGB", work.size, "teal")
        image = ImageOps.invert(Image.open(io.BytesIO(first)).convert("RGB")).transpose(Image.Transpose.ROTATE_180)
        image = image.resize(work.size)
        image.putpixel((0, 0), (work.seed % 256, work.seed // 256 % 256, work.seed // 65536 % 256))
        return image


@dataclass
class Post:
    """One submission as the server saw it.

    Attributes:
        arrived: seconds since 1970.
        sent: when it left its process; ``arrived`` if that does not say.
        key: of the request body, as in the charge log; empty until the body was read.
        rule: the fault that was its lot.
        job: id of the job that was made of it, and charged.
        answered: when the last byte of an answer went out; None if none did.
        over: when it was answered, or given up by who had sent it.
        pid: the process that sent it; 0 if it does not say.
        polled: when the job was first asked for: from then on its id is in the journal, whoever dies.
    """

    path: str
    port: int
    arrived: float
    sent: float
    key: str = ""
    rule: Rule | None = None
    job: str = ""
    status: int | None = None
    answered: float | None = None
    over: float | None = None
    pid: int = 0
    polled: float | None = None


@dataclass(frozen=True)
class Client:
    """Who sent a request: a port, and the process if it says so."""

    port: int
    pid: int = 0


@dataclass
class Trap:
    """Strikes at the ``nth`` moment of one kind from now on, ``delay`` seconds after it; told whose moment it was."""

    moment: str
    nth: int
    delay: float
    strike: Callable[[Client], None]


_post: ContextVar[Post | None] = ContextVar("post", default=None)


class _Noting(Faults):
    def submission(self, tool: str, key: str) -> Rule | None:
        rule = super().submission(tool, key)
        if (post := _post.get()) is not None:
            post.key, post.rule = key, rule
        return rule


class WatchedServer(LocalServer):
    """See the module."""

    def __init__(self, *, faults: Any = (), **options: Any) -> None:
        engines.ENGINES.setdefault(ENGINE, engines.Entry("1", f"{__name__}:PlainEngine"))
        super().__init__(engine=ENGINE, **options)
        self.faults = _Noting(faults)
        self.posts: list[Post] = []
        self.trap: Trap | None = None
        self._charge = self.charges.charge
        self.charges.charge = self._charging  # type: ignore[method-assign]
        self.late = 0.0
        self.lags: list[tuple[float, float]] = []
        """From when to when, in seconds since 1970, this machine had no time for this program."""

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        engines.ENGINES.pop(ENGINE, None)

    def _make(self) -> Any:
        api = super()._make()
        api.app = self._watching(api.app)  # type: ignore[assignment]
        return api

    def _charging(self, job_id: str, tool: str, key: str, cost: float) -> bool:
        charged = self._charge(job_id, tool, key, cost)
        if charged and (post := _post.get()) is not None:
            post.job = job_id
            self._moment("charge", Client(post.port, post.pid))
        return charged

    def _moment(self, name: str, client: Client) -> None:
        trap = self.trap
        if trap is None or trap.moment != name:
            return
        trap.nth -= 1
        if trap.nth > 0:
            return
        self.trap = None
        if trap.delay:
            asyncio.get_running_loop().call_later(trap.delay, trap.strike, client)
        else:
            trap.strike(client)

    def _watching(self, app: Any) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            path, arrived = scope["path"], time.time()
            told = dict(scope["headers"]).get(SENDER.encode(), b"").decode().split()
            client = Client((scope.get("client") or ("", 0))[1], int(told[0]) if told else 0)
            if scope["method"] == "POST" and path.startswith("/v1/"):
                sent = float(told[1]) if told else arrived
                post = Post(path, client.port, arrived, sent, pid=client.pid)
                await self._submission(app, scope, receive, send, post, client)
            elif path == "/v1/get_result":
                self._note_poll(parse_qs(scope["query_string"].decode()).get("id", [""])[0], arrived)
                self._moment("poll", client)
                await app(scope, receive, self._then(send, _is_ready, "ready", client))
            elif path.startswith("/delivery/"):
                self._moment("fetch", client)
                await app(scope, receive, self._then(send, bool, "fetched", client))
            else:
                await app(scope, receive, send)

        return watched

    def _note_poll(self, job: str, at: float) -> None:
        post = next((post for post in reversed(self.posts) if post.job == job), None) if job else None
        if post is not None and post.polled is None:
            post.polled = at

    async def _submission(self, app: Any, scope: Any, receive: Any, send: Any, post: Post, client: Client) -> None:
        self.posts.append(post)
        self._moment("arriving", client)

        async def hear() -> Any:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body"):
                self._moment("post", client)
            return message

        async def say(message: Any) -> None:
            if message["type"] == "http.response.start":
                post.status = message["status"]
                self._moment("answer", client)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                post.answered = time.time()
                self._moment("answered", client)

        token = _post.set(post)
        try:
            await app(scope, hear, say)
        finally:
            post.over = post.answered or time.time()
            _post.reset(token)

    def _then(self, send: Any, matters: Callable[[Any], bool], name: str, client: Client) -> Any:
        async def say(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body") and matters(message):
                self._moment(name, client)

        return say

    def start(self) -> WatchedServer:
        super().start()
        threading.Thread(target=self._feel, name="chaos-pulse", daemon=True).start()
        return self

    def _feel(self) -> None:
        """How late this machine is at times: what a time-out without a fault can be laid to."""
        while self._thread is not None:
            before = time.monotonic()
            time.sleep(0.05)
            late = time.monotonic() - before - 0.05
            self.late = max(self.late, late)
            if late > 0.1:
                self.lags.append((time.time() - late, time.time()))


def _is_ready(message: Any) -> bool:
    return b'"Ready"' in message.get("body", b"")
