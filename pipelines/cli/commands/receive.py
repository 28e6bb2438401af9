"""``receive``, and the same inside ``run`` and ``serve``: take the call-backs of the service."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError
from flux_tasks.settings import from_environment
from pipelines.cli.common import Exit, StoreFolder, Whole, value
from pipelines.cli.terminal import print_line

if TYPE_CHECKING:
    from flux_tasks.api.receiver import Receiver

_URL, _SECRET = "FLUX_WEBHOOK_URL", "FLUX_WEBHOOK_SECRET"


def _listening(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise ValueError
    return host.strip("[]") or "127.0.0.1", int(port)


@Parameter(name="*")
@dataclass(frozen=True)
class Webhook:
    """The options that let the service call back when a job has ended.

    Attributes:
        webhook_url: the public address where the service calls back, so that jobs need hardly be polled (default:
            FLUX_WEBHOOK_URL); a `receive` on the same store takes the call-backs, unless --webhook-listen does
        webhook_listen: take the call-backs in this process, on this port of 127.0.0.1, or on HOST:PORT; your proxy or
            tunnel passes them on
    """

    webhook_url: Annotated[str, Parameter(metavar="URL")] = ""
    webhook_listen: Annotated[tuple[str, int] | None, value(_listening, "a port, nor HOST:PORT", "PORT")] = None

    @contextmanager
    def in_force(self, url_option: str = "--webhook-url", port_option: str = "--webhook-listen") -> Iterator[None]:
        """Let the settings of this process and of those that it starts have these options.

        What is wrong with one of them in the block is told by the name under which it was given: ``url_option``,
        ``port_option``, or the variable.

        Raises:
            RecipeError: nobody knows where call-backs are sent to.
        """
        given = url_option if self.webhook_url else _URL
        names = {"webhook_url": given, _URL: given, "webhook_secret": _SECRET, "port": port_option}
        before = {name: os.environ.get(name) for name in (_URL, _SECRET)}
        url = self.webhook_url or os.environ.get(_URL, "").strip()
        if self.webhook_listen is not None and not url:
            what = "needs the public address under which the service reaches it: write --webhook-url"
            raise RecipeError([Problem("--webhook-listen", what)])
        os.environ |= {_URL: url} if url else {}
        if self.webhook_listen is not None and not os.environ.get(_SECRET, "").strip():
            os.environ[_SECRET] = secrets.token_urlsafe(32)  # nobody else has to know it
        try:
            yield
        except RecipeError as error:
            if not error.file:  # those of a recipe are about its own words
                error.problems = tuple(replace(one, where=names.get(one.where, one.where)) for one in error.problems)
            raise
        finally:
            for name, text in before.items():
                os.environ.pop(name, None)
                os.environ |= {} if text is None else {name: text}

    @contextmanager
    def received(self, store: str) -> Iterator[None]:
        """Take the call-backs for runs on a store, if they are taken in this process."""
        if self.webhook_listen is None:
            yield
            return
        host, port = self.webhook_listen
        with _receiver(store, host, port):
            yield


def _receiver(store: str, host: str, port: int) -> Receiver:
    from flux_tasks.api.receiver import Receiver
    from flux_tasks.store.records import Store

    return Receiver([Store(store)], from_environment().webhook_secret, host=host, port=port)


def receive(
    *,
    port: Whole = 8787,
    host: Annotated[str, Parameter(metavar="ADDRESS")] = "127.0.0.1",
    public_url: Annotated[str, Parameter(metavar="URL")] = "",
    store: StoreFolder = None,
) -> Exit:
    """Take call-backs of the service for runs on a store, until Ctrl-C.

    A call-back says that a job has ended. It is a small record in the
    store, by which the process that waits for the job looks at it at once,
    wherever it runs. Nothing in it is believed: the result is fetched from
    the service as ever. Each has to know FLUX_WEBHOOK_SECRET; the runs need
    the same, and FLUX_WEBHOOK_URL.

    For example:
      FLUX_WEBHOOK_SECRET=... flux-pipelines receive --public-url https://flux.example.org/
      flux-pipelines run recipe.yaml --webhook-url https://flux.example.org/ --webhook-listen 8787

    Args:
        port: port to listen on (default 8787; 0 takes a free one)
        host: address to listen on (default 127.0.0.1, where a proxy passes call-backs on; 0.0.0.0 in a container)
        public_url: the address under which the service reaches it (default: FLUX_WEBHOOK_URL)
    """
    import signal
    from threading import Event

    ended = Event()
    with Webhook(public_url).in_force("--public-url", "--port"):
        settings = from_environment()
        settings = replace(settings, store=str(store or settings.store))
        if not settings.webhook_secret:
            what = "is missing: set it to a random text of 16 characters or more, the same for the runs"
            raise RecipeError([Problem(_SECRET, what)])
        with _receiver(settings.store, host, port) as receiver:
            print_line(f"taking call-backs on {receiver.url} for runs on {settings.store}; Ctrl-C ends it")
            if not settings.webhook_url:
                print_line("the runs need FLUX_WEBHOOK_URL: the public address under which this one is reached")
            before: dict[int, Any] = {}
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda *_: ended.set())
            try:
                ended.wait()
            finally:
                for one, handler in before.items():
                    signal.signal(one, handler)
        refused = sum(count for status, count in receiver.counts.items() if status != 200)
        print_line(f"ended: {receiver.counts[200]:,} call-backs taken, {refused:,} refused")
    return Exit.OK
