"""Recorded pairs of request and answers: one JSON file a job, with the delivered file beside it.

``0001-deblur-v1-<12 digits of the request's key>.json`` has the request, the answer to the submission, and every poll;
``….png`` of the same name is the result. A GET that is no poll of a known job is a pair, too (kind ``get``).
"""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from starlette.requests import Request
from starlette.responses import Response

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError
from flux_tasks.images.encoding import EXTENSIONS
from flux_tasks.local.recording.scrub import Scrubber, decoded, each_text
from flux_tasks.local.service.checks import Refused

SERVER = "<server>"
"""Written in place of the address of the server that answers."""

HEADERS = ("content-type", "retry-after")
"""The headers of an answer that matter to a client."""

_APART = (".md", ".txt")  # notes beside the recordings are allowed

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Printable = Annotated[str, Field(pattern=r"^[ -~]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reply(_Strict):
    """One recorded answer, or a connection that was cut.

    Attributes:
        status: of HTTP; None for a connection that was cut.
        headers: the few that matter to a client.
        body: a JSON object or list; ``text`` or ``base64`` hold a body that is neither.
    """

    status: Annotated[int, Field(ge=200, le=999)] | None = None
    cut: Literal[True] | None = None
    headers: dict[Literal["content-type", "retry-after"], Printable] = {}
    body: dict[str, Any] | list[Any] | None = None
    text: str | None = None
    base64: str | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.status is None) == (self.cut is None):
            raise ValueError("needs either 'status' or 'cut'")
        if sum(content is not None for content in (self.body, self.text, self.base64)) > 1:
            raise ValueError("has more than one of 'body', 'text' and 'base64'")
        self.content(SERVER)  # raises a ValueError for what is not base64
        return self

    @classmethod
    def of(cls, response: httpx.Response, value: Any, scrub: Scrubber) -> Self:
        """Return an answer that may be recorded; ``value`` is its JSON, None if it has none."""
        headers, raw = response.headers, response.content
        clean = {name: re.sub(r"[^ -~]", "?", scrub.text(headers[name])) for name in HEADERS if name in headers}
        parts: dict[str, Any] = {"status": response.status_code, "headers": clean}
        if value is not None:
            return cls(**parts, body=scrub.answer(value))
        try:
            return cls(**parts, text=scrub.text(raw.decode()))
        except UnicodeDecodeError:
            return cls(**parts, base64=base64.b64encode(scrub.data(raw)).decode())

    def content(self, server: str) -> bytes:
        """Return the body, with addresses that point to ``server``."""
        if self.body is not None:
            return json.dumps(addressed(self.body, server), separators=(",", ":")).encode()
        return base64.b64decode(self.base64, validate=True) if self.base64 else (self.text or "").encode()


class Poll(Reply):
    """An answer that came ``count`` times in a row."""

    count: Annotated[int, Field(ge=1)] = 1


class Delivery(_Strict):
    """A delivered file beside its pair; the server serves it under its hash."""

    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.-]*$")]
    media_type: Annotated[str, Field(pattern=r"^[\w.+-]+/[\w.+-]+$")]
    sha256: Sha256

    @property
    def path(self) -> str:
        """Where the server has it."""
        return f"/delivery/{self.sha256[:32]}/{self.file.rpartition('-')[2]}"


async def serve_delivery(deliveries: Mapping[str, Delivery], folder: Path, request: Request) -> Response:
    """Return the recorded file that ``request`` asks for, or refuse with 404."""
    delivery = deliveries.get(request.url.path)
    if delivery is None:
        raise Refused(404, "Not Found")
    return Response(await asyncio.to_thread(files.read, folder / delivery.file), media_type=delivery.media_type)


class Pair(_Strict):
    """One recorded exchange.

    Attributes:
        kind: ``job`` for a POST with its polls, ``get`` for any other request.
        path: below the server's address; of a GET with its query.
        tool: the last part of the path.
        key: SHA-256 of the request; a replay finds the pair by it.
        request: the body, with hash, size and media type in place of pictures; None for a GET.
        submit: the answer to the POST; None for a GET.
        polled_at: scheme and host to poll, if not those of the upstream.
        polls: the later answers, in their order.
    """

    format: Literal[1] = 1
    kind: Literal["job", "get"] = "job"
    path: Annotated[str, Field(pattern=r"^/v1/")]
    tool: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    key: Sha256
    request: Any = None
    submit: Reply | None = None
    polled_at: str | None = None
    polls: list[Poll] = []
    delivery: Delivery | None = None
    _file: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_answers(self) -> Self:
        if self.kind == "job" and self.submit is None:
            raise ValueError("'submit' is missing")
        return self

    @property
    def file(self) -> Path | None:
        """The pair's file; None before it is saved."""
        return self._file

    @property
    def id(self) -> str | None:
        """The service's id of the job, if one was created."""
        body = self.submit.body if self.submit is not None else None
        found = body.get("id") if isinstance(body, dict) else None
        return found if isinstance(found, str) and found else None

    @property
    def is_finished(self) -> bool:
        """Whether the recording includes the end of the job, so that a replay of it ends."""
        body = self.polls[-1].body if self.polls else None
        status = body.get("status") if isinstance(body, dict) else None
        return self.id is None or status not in (None, "Pending", "Reasoning", "Generating", "Processing")

    def observe(self, reply: Poll) -> None:
        """Add an answer; one like the last is only counted."""
        if self.polls and self.polls[-1].model_copy(update={"count": reply.count}) == reply:
            self.polls[-1].count += 1
        else:
            self.polls.append(reply)

    def deliver(self, data: bytes, media_type: str) -> None:
        """Write the delivered bytes beside the saved pair; its next save names them."""
        if self._file is None:
            raise RuntimeError("a pair is saved before its delivery is")
        file = self._file.with_suffix(f".{EXTENSIONS.get(media_type, 'bin')}")
        files.write(file, data)
        self.delivery = Delivery(file=file.name, media_type=media_type, sha256=hashlib.sha256(data).hexdigest())

    def encode(self) -> bytes:
        """Return the text of the file."""
        document = self.model_dump(exclude_none=True)
        try:
            return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode()
        except UnicodeEncodeError:  # JSON may hold half a surrogate pair
            return f"{json.dumps(document, indent=2)}\n".encode()


def addressed(value: Any, server: str) -> Any:
    """Return ``value`` with every ``<server>/…`` in it as an address on ``server``."""
    return each_text(value, lambda text: text.replace(SERVER, server, 1) if text.startswith(f"{SERVER}/") else text)


def save(pair: Pair, folder: Path) -> None:
    """Write ``pair``, whole or not at all: the first time under the next free number, then in its place."""
    data = pair.encode()
    if pair.file is not None:
        files.write(pair.file, data)
        return
    number = max((_number(name) for name in files.listing(str(folder))), default=0)
    while True:  # another recorder may write to this folder at the same time
        number += 1
        file = folder / f"{number:04d}-{pair.tool}-{pair.key[:12]}.json"
        if files.create(file, data):
            pair._file = file
            return


def _number(name: str) -> int:
    head = name.partition("-")[0]
    return int(head) if head.isascii() and head.isdecimal() else 0


def load(folder: Path) -> list[Pair]:
    """Return every pair in ``folder``, in the order of their numbers; none if there is no such folder.

    Raises:
        RecipeError: with every file that is damaged, missing, or no part of a recording.
    """
    found: list[Pair] = []
    problems: list[Problem] = []

    def attempt(name: str, work: Callable[[Path], None]) -> None:
        try:
            work(folder / name)
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
            problems.append(Problem(name, f"is not a recorded pair: {reasons}"))
        except (ValueError, RecursionError) as error:
            problems.append(Problem(name, f"is damaged: {error}"))
        except OSError as error:
            problems.append(Problem(name, f"cannot be read: {error.strerror or error}"))

    def read(file: Path) -> None:
        value = decoded(data := files.read(file))
        if value is None:
            raise ValueError("it holds no JSON object" if data.strip() else "it is empty")
        pair = Pair.model_validate(value)
        pair._file = file
        found.append(pair)

    def check(file: Path) -> None:
        wanted = {pair.delivery.sha256 for pair in found if pair.delivery and pair.delivery.file == file.name}
        if wanted and {hashlib.sha256(files.read(file)).hexdigest()} != wanted:
            raise ValueError("its bytes are not those that were delivered")

    names = [name for name in files.listing(str(folder)) if not name.startswith(".") and not name.endswith(_APART)]
    for name in sorted(names, key=lambda name: (_number(name), name)):
        if name.endswith(".json"):
            attempt(name, read)
    stems = {Path(name).stem for name in names if name.endswith(".json")}
    delivered = {pair.delivery.file for pair in found if pair.delivery}
    for name in sorted(delivered | set(names)):
        if name in delivered:
            attempt(name, check)
        elif not name.endswith(".json") and Path(name).stem not in stems:
            problems.append(Problem(name, "belongs to no recorded pair: move it elsewhere"))
    if problems:
        raise RecipeError(problems, file=str(folder))
    return found
