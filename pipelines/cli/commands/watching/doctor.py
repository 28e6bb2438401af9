"""``doctor``: whether all that a run needs is there and works. It spends nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from flux_tasks.errors import EndpointUnreachable, FluxError, KeyRefused, RecipeError
from flux_tasks.units import credits, dollars, duration
from pipelines.cli.common import Exit, Json, Places
from pipelines.cli.terminal import print_line

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from flux_tasks.store.records import Store

_FREE = 1_000_000_000
"""Bytes that a disk should have left."""

_SKEW = 30.0
"""Seconds by which two clocks may differ."""

_SILENT = 900.0
"""Seconds without a word after which a run of another machine may have died; jobs take a few minutes."""

_LOCAL = ("numpy", "scipy", "cv2", "starlette", "uvicorn")
"""What the local engine needs."""

_LIBRARIES = ("prefect", "fsspec", "s3fs", "gcsfs", "adlfs", "pillow", "httpx")


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: which part it is about.
        is_ok: whether it works.
        text: what was found.
        remedy: what to do; empty where nothing has to be done.
    """

    what: str
    is_ok: bool
    text: str
    remedy: str = ""


def doctor(*, places: Places = Places(), json: Json = False) -> Exit:
    """Check all that a run needs: key, endpoint, credits, store, clocks, Prefect, disk, versions.

    Nothing is spent, no server is started, and the key is not shown. The
    exit code is 0 if all is well, else 1. What has a remedy names it.

    For example:
      flux-pipelines doctor
      flux-pipelines doctor --endpoint eu --store s3://bucket/store --json
    """
    from json import dumps

    settings = places.settings(needs_key=False)
    found: list[Finding] = []
    for check in (_endpoint, _store, _journal, _slots, _disks, _prefect, _told, _webhook, _versions):
        for finding in _findings(check, settings):
            found.append(finding)
            if not json:
                print_line(f"{'ok     ' if finding.is_ok else 'PROBLEM'}  {finding.what}: {finding.text}")
                if finding.remedy:
                    print_line(f"         -> {finding.remedy}")
    problems = sum(not finding.is_ok for finding in found)
    if json:
        print_line(dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    else:
        print_line(f"\n{problems} of {len(found)} checks found a problem" if problems else "\nall is well")
    return Exit.ITEMS if problems else Exit.OK


def _findings(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except (FluxError, OSError) as error:
        yield Finding(check.__name__.strip("_"), False, str(error), "correct that, then ask again")


def _endpoint(settings: Settings) -> Iterator[Finding]:
    """The key, the endpoint, the credits, the service's clock."""
    from importlib.util import find_spec

    from flux_tasks import background
    from flux_tasks.jobs.endpoint import endpoint_for

    if settings.endpoint == "local":
        missing = [name for name in _LOCAL if find_spec(name) is None]
        text = (
            f"local: needs {', '.join(missing)}" if missing else "local: jobs are made on this machine, without a key"
        )
        yield Finding("endpoint", not missing, text, "pip install 'flux-pipelines[local]'" if missing else "")
        return

    async def ask() -> tuple[float | None, float | None]:
        async with endpoint_for(settings).connected() as client:
            return await client.account()

    name = f"{settings.endpoint} ({settings.base_url})" if settings.endpoint != settings.base_url else settings.base_url
    began = time.monotonic()
    try:
        left, ahead = background.run(ask())
    except EndpointUnreachable as error:
        remedy = "check the network, the proxy, and the address (--endpoint, FLUX_ENDPOINT)"
        yield Finding("endpoint", False, str(error), remedy)
        if settings.is_bfl and not settings.key:
            yield _no_key()
        return
    except KeyRefused as error:
        yield Finding("endpoint", True, f"{name} answers")
        refused = Finding("key", False, str(error), "make a new key at BFL, and set BFL_API_KEY to it")
        yield refused if settings.key else _no_key()
        return
    yield Finding("endpoint", True, f"{name} answers in {time.monotonic() - began:.2f} s")
    yield Finding("key", True, "accepted" if settings.key else "none is set, and the endpoint asks for none")
    if left is None:
        yield Finding("credits", True, "the endpoint does not say how many are left")
    else:
        text = f"{credits(left)} left ({dollars(left)})"
        yield Finding("credits", left > 0, text, "" if left > 0 else "top up the account at BFL")
    if ahead is not None:
        yield _clock("the service's clock", ahead)


def _no_key() -> Finding:
    return Finding("key", False, "none is set", "set BFL_API_KEY, or choose --endpoint local for a preview")


def _clock(whose: str, ahead: float) -> Finding:
    """Compare a clock with this machine's."""
    side = "ahead of" if ahead > 0 else "behind"
    is_ok = abs(ahead) <= _SKEW
    text = f"{duration(abs(ahead))} {side} this machine's" if abs(ahead) >= 2 else "as this machine's"
    return Finding(whose, is_ok, text, "" if is_ok else "let a time service (NTP) set the clock of this machine")


def _store(settings: Settings) -> Iterator[Finding]:
    """Whether results can be written, by one of several processes, and the clock of the store."""
    from flux_tasks import files
    from flux_tasks.store.records import Store

    store = Store(settings.store)
    remedy = "check its name, your permissions and credentials; --store or FLUX_STORE names another one"
    try:
        is_new = store.is_new()
        files.try_writing(store.location("probe", "x"))
        is_apart = settings.alone or _keeps_apart(store, is_new=is_new)
        skew = None if is_new else _clock_of(store)
    except OSError as error:
        yield Finding("store", False, f"{store.url} cannot be used: {error}", remedy)
        return
    yield Finding("store", True, f"{store.url} can be written{'; nothing is in it yet' if is_new else ''}")
    if is_apart:
        text = "only this process uses it (--alone)" if settings.alone else "creates exclusively"
        yield Finding("processes on the store", True, text)
    else:
        text = "the store does not create exclusively, so that two could pay for one job"
        yield Finding("processes on the store", False, text, "let one process at a time use it, with --alone")
    if skew is not None:
        yield _clock("the store's clock", skew)


def _keeps_apart(store: Store, *, is_new: bool) -> bool:
    from flux_tasks import files
    from flux_tasks.store.exclusion import keeps_apart

    return True if is_new and files.is_local(store.url) else keeps_apart(store)


def _clock_of(store: Store) -> float | None:
    """Return by how many seconds the clock that dates the store's files is ahead; None where it dates none."""
    from flux_tasks.files.search.trees import tree
    from flux_tasks.store.owner import this_process

    name = f"clock-{this_process().rpartition(' ')[2]}"
    before = time.time()
    store.put_record("probe", name, {"purpose": "its date tells the clock of the store"})
    now = (before + time.time()) / 2
    try:
        written = [found.modified for found in tree(store.location("probe")) if found.name == f"{name}.json"]
    finally:
        store.remove_record("probe", name)
    return written[0] - now if written and written[0] is not None else None


def _journal(settings: Settings) -> Iterator[Finding]:
    """Jobs that a person has to decide about, and those that wait on this machine for the store."""
    from flux_tasks.store.journal import Journal
    from flux_tasks.store.records import Store
    from flux_tasks.store.spool import Spool

    store = Store(settings.store)
    entries = Journal(store).unsettled()
    held = sum(entry.seems_held for entry in entries)
    text = f"{len(entries) - held:,} in flight, {held:,} held"
    remedy = "look at your BFL account, then decide: flux-pipelines store held" if held else ""
    yield Finding("jobs", not held, text, remedy)
    if spooled := len(Spool(store).keys()):
        text = f"{spooled:,} paid jobs wait on this machine, because the store could not be written"
        yield Finding("spool", False, text, "run any recipe on this store again: it writes them first")
    yield from _reservations(store)


def _reservations(store: Store) -> Iterator[Finding]:
    """Credits that runs of other machines have reserved which say nothing any more."""
    from flux_tasks.store.account.periods import reserved
    from flux_tasks.store.owner import is_of_this_machine, readable

    for one in reserved(store):
        silent = time.time() - one.since
        if silent > _SILENT and not is_of_this_machine(one.owner):
            whose = f"{credits(one.credits)} credits by {one.run} on {readable(one.owner)}"
            text = f"{whose}, of which nothing was heard for {duration(silent)}"
            remedy = f"if it died: flux-pipelines store budget --release {one.run}, or wait: they count for six hours"
            yield Finding("reserved", False, text, remedy)


def _slots(settings: Settings) -> Iterator[Finding]:
    """Who holds slots of the account, over all processes on the store."""
    from flux_tasks.store.account.slots import account_of, holders
    from flux_tasks.store.records import Store

    own = account_of(settings)
    told = []
    for holder in holders(Store(settings.store)):
        if holder.account == own and not holder.is_over:
            of_kinds = (
                f"{claim.claimed} of {kind} ({claim.active} by jobs)" for kind, claim in sorted(holder.claims.items())
            )
            told.append(f"{holder.name} has {', '.join(of_kinds)}")
    yield Finding("slots", True, "; ".join(told) or "no process holds any of this account")


def _disks(settings: Settings) -> Iterator[Finding]:
    """The room that is left where results and temporary files go."""
    import os
    import shutil
    import tempfile
    from pathlib import Path

    from flux_tasks import files
    from flux_tasks.store.spool import DEFAULT

    named = {"the spool": os.environ.get("FLUX_SPOOL") or DEFAULT, "temporary files": tempfile.gettempdir()}
    if files.is_local(settings.store):
        named = {"the store": settings.store, **named}
    seen: set[int] = set()
    for what, location in named.items():
        path = files.local_path(location).absolute()
        place = next(one for one in (path, *path.parents) if one.exists())
        if (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        remedy = "" if free > _FREE else f"make room on the disk of {Path(place)}"
        yield Finding(f"disk of {what}", free > _FREE, f"{free / 1e9:,.1f} GB free", remedy)


def _prefect(settings: Settings) -> Iterator[Finding]:
    """Whether the Prefect server answers that is configured, if any."""
    from flux_tasks.tasks import recording

    if settings.prefect == "off" or not recording.may_be_configured() or not recording.is_server_configured():
        why = "switched off (FLUX_PREFECT)" if settings.prefect == "off" else "no server is configured; none is needed"
        yield Finding("Prefect", True, why)
        return
    from asyncio import run

    from pipelines.flows.served.deployment import check_server

    try:
        run(check_server())
    except FluxError as error:
        yield Finding("Prefect", False, str(error), "or run with --prefect off, which records nothing")
    else:
        yield Finding("Prefect", True, "its server answers")


def _told(_: Settings) -> Iterator[Finding]:
    """Who is told when a run ends, by the environment."""
    from pipelines.report.ending import VARIABLE, Ending

    try:
        calls = [f"{call.name} ({', '.join(call.when)})" for call in Ending("").of_settings]
    except RecipeError as error:
        yield Finding("told at the end", False, str(error), f"correct {VARIABLE}: see docs/watching.md")
    else:
        yield Finding("told at the end", True, ", ".join(calls) or f"nobody by {VARIABLE}")


def _webhook(settings: Settings) -> Iterator[Finding]:
    """Whether call-backs can arrive, if an address for them is set."""
    from flux_tasks import background
    from flux_tasks.api.receiver import try_receiver
    from flux_tasks.images.redirects import host_of

    if not settings.webhook_url:
        return
    yield Finding("secret of call-backs", True, "set (FLUX_WEBHOOK_SECRET)")
    yield _address_of_callbacks(settings)
    problem, remedy = background.run(try_receiver(settings.webhook_url, settings.webhook_secret))
    text = problem or f"{host_of(settings.webhook_url)} answers, with the same secret"
    yield Finding("receiver of call-backs", not problem, text, remedy)


def _address_of_callbacks(settings: Settings) -> Finding:
    """Say whether the service can reach the address, as far as that is known here."""
    from flux_tasks import background
    from flux_tasks.images.redirects import host_of, is_public
    from flux_tasks.settings import is_loopback

    url, host = settings.webhook_url, host_of(settings.webhook_url)
    is_ok = not settings.is_bfl or background.run(is_public(url))
    if is_ok:
        where = "this machine, for a local server" if is_loopback(url) else host
        return Finding("address of call-backs", True, where)
    where = "is this machine" if is_loopback(url) else "has no public address, as seen from here"
    remedy = "set FLUX_WEBHOOK_URL to a public https address; a proxy or tunnel passes it on to the receiver"
    return Finding("address of call-backs", False, f"{host} {where}: BFL cannot reach it", remedy)


def _versions(_: Settings) -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {sys.version.split()[0]}"]
    for name in ("flux-pipelines", *_LIBRARIES):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    yield Finding("versions", True, ", ".join(found))
    yield Finding("extras", True, ", ".join(_extras()) or "none is installed")


def _extras() -> list[str]:
    """Return the extras of this package whose packages are all installed."""
    import re
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        own = distribution("flux-pipelines")
    except PackageNotFoundError:  # a checkout that was never installed
        return []
    wanted: dict[str, list[str]] = {}
    for line in own.requires or ():
        if (match := re.fullmatch(r"([\w.-]+).*;.*extra == ['\"]([\w.-]+)['\"].*", line)) and match[1] != own.name:
            wanted.setdefault(match[2], []).append(match[1])

    def is_there(name: str) -> bool:
        try:
            return bool(distribution(name))
        except PackageNotFoundError:
            return False

    return sorted(extra for extra, names in wanted.items() if all(map(is_there, names)))
