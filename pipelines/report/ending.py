"""Tell people how a run ended, by the commands and webhooks of the settings and of its recipe.

It changes nothing about the run: what does not work within a minute is given up with a warning.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import ValidationError

from flux_tasks import background
from flux_tasks.api.notices import NotDelivered, post
from flux_tasks.errors import BudgetReached, Problem, RecipeError, cut
from flux_tasks.settings import is_secret
from flux_tasks.store.owner import this_process
from flux_tasks.units import escape_controls
from pipelines.data.manifest import errors_of
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.on_end import OnEnd
from pipelines.run.run import Run
from pipelines.run.state import RunState, state_of

VARIABLE = "FLUX_ON_END"
"""An address, or calls as JSON: those of the recipe are in the same words."""

SECRET = "FLUX_ON_END_SECRET"  # noqa: S105 - the name of a variable
"""A secret for the webhooks of ``VARIABLE``; or JSON, a secret for each origin such as ``https://example.com``."""

PATIENCE = 60.0
"""Seconds after which a call is given up."""

_LONGEST = 2_000  # characters of a variable: systems limit it, and the document has all of it
_log = logging.getLogger("flux_tasks.flows")


@dataclass(frozen=True)
class _Call:
    """Something that is called at the end; ``is_trusted`` if the settings name it."""

    what: OnEnd
    is_trusted: bool


class Ending:
    """Tells how what happens in the block ended. An async block does not block its event loop meanwhile.

    Attributes:
        name: what the run is called while its recipe is not known.
        recipe: set it as soon as it is known; its calls are made, too.
        run: set it as soon as there is one.
        of_settings: the calls that the environment names.

    Raises:
        RecipeError: what the settings say cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.recipe: CompiledRecipe | None = None
        self.run: Run | None = None
        self.of_settings = _of_settings()
        self._secret, self._secrets = _secrets()
        self._begun: list[asyncio.Task[None]] = []
        self._is_given_up = False

    def __enter__(self) -> Ending:
        return self

    async def __aenter__(self) -> Ending:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.tell(_words(error))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if (due := self._due(_words(error))) is not None:
            with background.cut_short(self._give_up):  # before a command begins, which a signal would leave behind
                await asyncio.wrap_future(background.start(self._tell(*due, PATIENCE)))

    def tell(self, problem: str = "", *, patience: float | None = None) -> None:
        """Make the calls that are due, and wait for them.

        Args:
            problem: what broke off the run, or kept it from beginning.
            patience: seconds after which they are given up; ``PATIENCE`` if left out.
        """
        if (due := self._due(problem)) is not None:
            with background.cut_short(self._give_up):  # as above
                work = background.start(self._tell(*due, patience or PATIENCE))
                while not wait([work], timeout=1).done:
                    pass  # a signal just before a wait is only noticed after it
            work.result()

    def _give_up(self) -> None:
        """Let no call go on: the next signal finds nothing to wait for."""
        self._is_given_up = True
        background.start(self._cancel())

    async def _cancel(self) -> None:
        for call in self._begun:
            call.cancel()

    def _due(self, problem: str) -> tuple[Sequence[_Call], dict[str, Any]] | None:
        """Return the calls to make, and what they are told; None if there are none."""
        own = self.recipe.on_end if self.recipe is not None else ()
        calls = [
            *(_Call(what, is_trusted=True) for what in self.of_settings),
            *(_Call(what, is_trusted=False) for what in own),
        ]
        if not calls:
            return None
        state = self._state(problem)
        is_budget = self.run is not None and isinstance(self.run.stopped, BudgetReached)
        happened = {"always": True, "failed": state.state != "fine", "held": state.held > 0, "budget": is_budget}
        due = [call for call in calls if any(happened[when] for when in call.what.when)]
        return (due, self._document(state)) if due else None

    def _state(self, problem: str) -> RunState:
        if self.run is not None:
            return state_of(self.run.context, self.run.summary, problem=problem)
        now = datetime.now(UTC)
        name, digest = self.name, ""
        if self.recipe is not None:
            name, digest = self.recipe.name, self.recipe.digest
        known: Any = {"recipe": name, "digest": digest, "owner": this_process(), "started": now, "updated": now}
        return RunState(state="stopped" if problem else "fine", problem=problem, **known)

    def _document(self, state: RunState) -> dict[str, Any]:
        summary = self.run.summary if self.run is not None else None
        failures = [
            {
                "item": row["item"],
                "source": row["source"],
                "outcome": row["outcome"],
                "message": "; ".join(error["message"] for error in errors_of(row)),
            }
            for row in (summary.failed if summary else ())
        ]
        return {
            "event": "run.ended",
            **state.to_dict(),
            "uncertain": summary.uncertain if summary else 0,
            "uncollected": summary.uncollected if summary else 0,
            "failures": failures,
        }

    async def _tell(self, calls: Sequence[_Call], document: dict[str, Any], patience: float) -> None:
        body = json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(self._call(call, document, body, patience))

    async def _call(self, call: _Call, document: dict[str, Any], body: bytes, patience: float) -> None:
        what = call.what
        self._begun.append(cast("asyncio.Task[None]", asyncio.current_task()))
        try:
            if self._is_given_up:
                raise asyncio.CancelledError
            async with asyncio.timeout(patience):
                if what.command:
                    await _run(what.command, document, body)
                else:
                    await self._post(call, body)
        except TimeoutError:
            problem = f"did not end within {patience:g} s"
        except asyncio.CancelledError:
            problem = "this process was told to end"
        except (NotDelivered, OSError, ValueError) as error:
            problem = str(error)
        else:
            return
        _log.warning("%s was not told of the end of the run: %s", escape_controls(what.name), escape_controls(problem))

    async def _post(self, call: _Call, body: bytes) -> None:
        parts = urlsplit(call.what.webhook)
        own = self._secrets.get(f"{parts.scheme}://{parts.netloc}".lower(), "")
        secret = own or (self._secret if call.is_trusted else "")
        message_id = f"msg_{uuid.uuid4().hex}"
        is_trusted = call.is_trusted or bool(own)
        await post(call.what.webhook, body, message_id=message_id, secret=secret, is_trusted=is_trusted)


def _words(error: BaseException | None) -> str:
    return "" if error is None else str(error) or type(error).__name__


async def _run(command: Sequence[str], document: dict[str, Any], body: bytes) -> None:
    """Run a command with ``body`` on its standard input; what it prints goes to standard error.

    Raises:
        OSError, ValueError: it cannot be started, or its exit code is not 0.
    """
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE and not is_secret(name)}
    told = {"FLUX_RUN_ID": "run_id", "FLUX_RUN_STATE": "state", "FLUX_RUN_PROBLEM": "problem"}
    environment |= {variable: cut(str(document[name]), _LONGEST) for variable, name in told.items()}
    with _to_standard_error() as printed:
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                env=environment,
                start_new_session=True,
            )
        )
        try:
            await (await asyncio.shield(starting)).communicate(body)
        finally:
            process = await starting  # it may run already when its start is cancelled
            with suppress(ProcessLookupError, PermissionError):  # macOS: nothing but ended ones is left
                os.killpg(process.pid, signal.SIGKILL)  # a session of its own: its children as well
            await process.wait()
    if process.returncode:
        raise OSError(f"its exit code is {process.returncode}")


@contextmanager
def _to_standard_error() -> Iterator[int]:
    """Give a file descriptor whose text goes to standard error; a daemon would keep that itself open."""
    reading, writing = os.pipe()

    def pass_on() -> None:
        with open(reading, "rb", buffering=0) as source:
            while text := source.read(65_536):
                with suppress(OSError):
                    os.write(2, text)

    passing = threading.Thread(target=pass_on, daemon=True)
    passing.start()
    try:
        yield writing
    finally:
        os.close(writing)
        passing.join(1)  # a daemon of the command may still have it


def _of_settings() -> list[OnEnd]:
    """Return the calls that the environment names.

    Raises:
        RecipeError: it holds no address, and no JSON of calls.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return []
    remedy = """write an address, or JSON such as [{"webhook": "https://…", "when": "failed"}]"""
    try:
        data = {"webhook": text} if text.startswith(("http://", "https://")) else json.loads(text)
        found = [OnEnd.model_validate(one) for one in (data if isinstance(data, list) else [data])]
        problem = next((one.problem for one in found if one.problem), "")
    except (ValueError, ValidationError):
        problem = f"cannot be read: {remedy}"
    if problem:
        raise RecipeError([Problem(VARIABLE, problem)])
    return found


def _secrets() -> tuple[str, dict[str, str]]:
    """Return the secret of the settings' own webhooks, and those by origin.

    Raises:
        RecipeError: it begins as JSON, and is none. It is not quoted.
    """
    text = os.environ.get(SECRET, "").strip()
    if not text.startswith("{"):
        return text, {}
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
            return "", {origin.rstrip("/").lower(): value for origin, value in found.items()}
    what = """is no JSON of origins: write a secret, or {"https://example.com": "whsec_…"}"""
    raise RecipeError([Problem(SECRET, what)])
