"""Key, endpoint, store and limits, from the environment or from arguments.

======================  =====================================================================================
``BFL_API_KEY``         the key (surrounding white space is dropped)
``FLUX_ENDPOINT``       ``bfl`` (default), ``eu``, ``us``, ``local``, or the address of a server that speaks the API;
                        ``BFL_BASE_URL``, which the official SDK reads, is used if this one is not set
``FLUX_STORE``          where results and the journal are: a folder or any fsspec URL (``~/.flux-pipelines``)
``FLUX_MAX_JOBS``       active jobs at a time, at most, of all processes with this key and store (24, as at BFL)
``FLUX_OVERBOOK``       jobs above that number that may be submitted when others have probably ended (3, 0 for none)
``FLUX_POLL_INTERVAL``  seconds between polls of a job; if it is not set, polls come when jobs of its kind usually end
``FLUX_ON_UNCERTAIN``   ``hold`` (default) or ``resubmit`` a job whose POST may have been charged
``FLUX_DEADLINE``       seconds a job may take; if it is not set, each tool's own in the catalogue
``FLUX_TIMEOUT``        seconds to wait for one answer of the service (60)
``FLUX_REGION``         ``strict`` polls and fetches in the endpoint's own region only; ``any`` (default)
``FLUX_ALONE``          ``true`` uses a store that cannot keep several processes apart, because only this one uses it
``FLUX_PREFECT``        who records runs: the Prefect server that is configured, if any (``auto``, default), one that is
                        started for them (``embedded``), nobody (``off``)
``FLUX_STORAGE_OPTIONS``  accounts, endpoints of buckets by URL prefix, as JSON or the path of a JSON or YAML file:
                        ``{"s3://archive/": {"profile": "readonly"}, "s3://public/": {"anon": true}}``
``FLUX_TRANSPORT``      how pictures are sent: ``bytes`` (default), ``auto``, as an address where the service can
                        fetch it, or ``url``, as an address wherever there is one
``FLUX_WEBHOOK_URL``    the public address where the service calls back when a job has ended; see ``api.receiver``
``FLUX_WEBHOOK_SECRET``  what its call-backs have to know: a random text, the same for runs and receiver
``FLUX_POLLING``        ``off`` polls only when called back, and once at the deadline; ``auto`` (default)
``FLUX_SEND_URLS``      ``true`` sends an input given as an http(s) address as that address, not as base64
======================  =====================================================================================

``use(endpoint="local")`` sets any of them for a block of code and for every task started in it.
"""

import difflib
import ipaddress
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypedDict, Unpack
from urllib.parse import SplitResult, urlsplit

from flux_tasks.errors import KeyRefused, Problem, RecipeError, cut, nearest, quote, shown
from flux_tasks.files.remote import options as storage
from flux_tasks.files.remote.options import StorageOptions
from flux_tasks.files.remote.rules import option_problems

__all__ = [
    "ENDPOINTS",
    "SettingChanges",
    "Settings",
    "StorageOptions",
    "current",
    "is_bfl",
    "is_in_region",
    "is_loopback",
    "region_of",
    "use",
    "with_own_secrets",
    "without_key",
    "without_secrets",
]

ENDPOINTS = {"bfl": "https://api.bfl.ai", "eu": "https://api.eu.bfl.ai", "us": "https://api.us.bfl.ai"}
"""Named endpoints: global with failover, and the regional ones (SEED-2)."""


SHORTEST_KEY = 8
"""Characters of the shortest key that is looked for in a text; a shorter one would be found in half of all words."""

SHORTEST_SECRET = 16
"""Characters of the shortest secret of a webhook; a shorter one could be guessed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a job needs to know besides its own parameters.

    Attributes:
        endpoint: ``bfl``, ``eu``, ``us``, ``local``, or an http(s) address.
        key: never shown, logged, stored or put into a Prefect parameter.
        store: folder or fsspec URL.
        max_jobs: active jobs at a time, of all processes with this key and store together; an account has 24 (BFL help
            article 7158018353).
        overbook: jobs above ``max_jobs`` that may be submitted when as many others have probably ended: the service
            refuses one too many with 429, which costs nothing there. None for 3, at a host that is neither BFL's nor
            this machine for 0. At most one for every eight of ``max_jobs``.
        poll_interval: seconds between polls, the first at once; None polls when jobs of its kind usually end.
        on_uncertain: what to do with a job whose POST may have been charged.
        engine: the local engine that serves ``endpoint="local"``.
        deadline: seconds a job may take; after that it stays in the journal. None for each tool's own.
        timeout: seconds to wait for one answer of the service; uploads get a second more per 100 kB.
        transport: how a picture that is not changed is sent where the tool takes addresses: as ``bytes``; as its own
            address, that of an object in a bucket, signed for an hour, or that of the service's own delivery
            (``url``); or so only where it is https and public (``auto``). In no job key. See ``jobs.addresses``.
        send_urls: send an input that was given as an http(s) address, and is not changed, as that address where the
            tool takes one. It is downloaded here too, for its digest, and must not change in the meantime.
        webhook_url: where the service calls back when a job has ended; the job is then polled at once, and else only
            every half minute. In no job key. Tools without webhooks are polled as ever.
        webhook_secret: what the call-backs have to know. Never shown, stored or put into a Prefect parameter.
        polling: ``off`` polls a job that is called back only then, and once at its deadline.
        retry_moderated: submit again what moderation refused earlier.
        prefect: who records runs, and calls outside a flow: the Prefect server that is configured, if any (``auto``),
            one that is started for them (``embedded``), or nobody (``off``). In a flow Prefect records every call.
        alone: no other process uses the store, so that one is taken that cannot keep several apart.
        storage_options: accounts, endpoints and other options of buckets, by URL prefix; the longest prefix holds.
            Never shown, stored or put into a Prefect parameter; in no job key.
        region: ``strict`` neither polls nor fetches outside the region of the endpoint, whatever address it names; of
            a server that is not BFL's, outside its own host.
    """

    endpoint: str = "bfl"
    key: str = field(default="", repr=False)
    store: str = "~/.flux-pipelines"
    max_jobs: int = 24
    overbook: int | None = None
    poll_interval: float | None = None
    on_uncertain: Literal["hold", "resubmit"] = "hold"
    engine: str = "classical"
    deadline: float | None = None
    timeout: float = 60.0
    transport: Literal["bytes", "auto", "url"] = "bytes"
    send_urls: bool = False
    retry_moderated: bool = False
    region: Literal["any", "strict"] = "any"
    alone: bool = False
    prefect: Literal["auto", "embedded", "off"] = "auto"
    webhook_url: str = ""
    webhook_secret: str = field(default="", repr=False)
    polling: Literal["auto", "off"] = "auto"
    storage_options: StorageOptions = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        endpoint = self.endpoint.strip().rstrip("/").removesuffix("/v1")  # the SDK's variable may end with the version
        object.__setattr__(self, "endpoint", endpoint)
        object.__setattr__(self, "key", self.key.strip())
        if endpoint not in (*ENDPOINTS, "local"):
            parts, what = _parts(endpoint), ""
            if any(sign.isspace() or not sign.isprintable() for sign in endpoint):  # some parsers skip them
                what = f"{shown(endpoint)} holds a space or a character that no address has: copy it again"
            elif parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
                what = f"{quote(endpoint)} is not an endpoint{nearest(endpoint, [*ENDPOINTS, 'local'])}: "
                what += "write bfl, eu, us, local, or an address such as http://127.0.0.1:8000"
            elif parts.username or parts.password:
                what = "holds a user name or password: write the address without them"
            elif self.key and parts.scheme == "http" and not is_loopback(endpoint):
                what = f"the key is not sent over plain http to {cut(parts.hostname)}: write https"
            problems += [Problem("endpoint", what)] if what else []
        if not self.key.isascii() or not self.key.isprintable() or " " in self.key:  # never shown, not even in parts
            problems.append(Problem("key", "holds a character that no key has: copy it again"))
        if isinstance(self.max_jobs, bool) or not isinstance(self.max_jobs, int):
            problems.append(Problem("max_jobs", f"{shown(self.max_jobs)} is not a whole number"))
        elif self.max_jobs < 1:
            problems.append(Problem("max_jobs", f"{shown(self.max_jobs)} is below 1: write 1 or more"))
        if self.overbook is not None and (isinstance(self.overbook, bool) or self.overbook not in range(4)):
            problems.append(Problem("overbook", f"{shown(self.overbook)} is not a whole number from 0 to 3"))
        for name, seconds in (("deadline", self.deadline), ("timeout", self.timeout)):
            if seconds is None and name == "deadline":
                continue
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
                problems.append(Problem(name, f"{shown(seconds)} is not a number of seconds above 0"))
        if self.on_uncertain not in ("hold", "resubmit"):
            problems.append(Problem("on_uncertain", f"{quote(self.on_uncertain)} is not one of hold, resubmit"))
        if self.prefect not in ("auto", "embedded", "off"):
            problems.append(Problem("prefect", f"{shown(self.prefect)} is not one of auto, embedded, off"))
        if self.transport not in ("bytes", "auto", "url"):
            problems.append(Problem("transport", f"{shown(self.transport)} is not one of bytes, auto, url"))
        if self.region not in ("any", "strict"):
            problems.append(Problem("region", f"{quote(self.region)} is not one of any, strict"))
        elif self.region == "strict" and self.is_bfl and not region_of(self.base_url):
            problems.append(
                Problem("region", f"{shown(endpoint)} has no region to keep to: set the endpoint to eu or us")
            )
        problems += _webhook_problems(self)
        for place, what in option_problems(self.storage_options, is_recipe=False):
            problems.append(Problem(".".join(("storage_options", *place)), what))
        if problems:
            raise RecipeError(problems)

    @property
    def base_url(self) -> str:
        """The endpoint's address without a trailing slash; empty for ``local``, whose port is not known yet."""
        return "" if self.endpoint == "local" else ENDPOINTS.get(self.endpoint, self.endpoint)

    @property
    def is_bfl(self) -> bool:
        """Whether the endpoint is BFL itself."""
        return is_bfl(self.base_url)

    def require_key(self) -> None:
        """Check that there is a key if the endpoint is BFL, and that it can call back if it is to.

        Raises:
            KeyRefused: there is none; the message names both remedies.
            RecipeError: it is to call back at an address of this machine.
        """
        if self.is_bfl and is_loopback(self.webhook_url):
            what = f"{quote(self.webhook_url)} is this machine, which BFL cannot reach: write a public address"
            raise RecipeError([Problem("webhook_url", what)])
        if self.is_bfl and not self.key:
            raise KeyRefused(
                "no key for BFL: set BFL_API_KEY, or choose --endpoint local (FLUX_ENDPOINT=local) for a preview made "
                "on this machine"
            )


class SettingChanges(TypedDict, total=False):
    """The fields of ``Settings`` as keyword arguments, for type checkers and editors."""

    endpoint: str
    key: str
    store: str
    max_jobs: int
    overbook: int | None
    poll_interval: float | None
    on_uncertain: Literal["hold", "resubmit"]
    engine: str
    deadline: float | None
    timeout: float
    transport: Literal["bytes", "auto", "url"]
    send_urls: bool
    retry_moderated: bool
    region: Literal["any", "strict"]
    alone: bool
    prefect: Literal["auto", "embedded", "off"]
    webhook_url: str
    webhook_secret: str
    polling: Literal["auto", "off"]
    storage_options: StorageOptions


def _webhook_problems(settings: Settings) -> list[Problem]:
    url, secret, parts = settings.webhook_url, settings.webhook_secret, _parts(settings.webhook_url)
    problems = []
    if settings.polling not in ("auto", "off"):
        problems.append(Problem("polling", f"{shown(settings.polling)} is not one of auto, off"))
    elif settings.polling == "off" and not url:
        problems.append(Problem("polling", "is off, and nobody calls back: set webhook_url, or leave it out"))
    if not secret.isascii() or not secret.isprintable() or " " in secret:  # it travels as a header
        problems.append(Problem("webhook_secret", "holds a character that no header has: write letters and digits"))
    elif secret and len(secret) < SHORTEST_SECRET:
        problems.append(Problem("webhook_secret", f"has less than {SHORTEST_SECRET} characters: write a longer one"))
    if not url:
        return problems
    is_here = is_loopback(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url) > 2083 or not url.isprintable():
        what = "is not an address: write one such as https://flux.example.org/callbacks"
        problems.append(Problem("webhook_url", f"{quote(url)} {what}"))
    elif parts.username or parts.password:
        problems.append(Problem("webhook_url", "holds a user name or password: write the address without them"))
    elif parts.scheme == "http" and not is_here:
        problems.append(
            Problem("webhook_url", f"the secret is not sent over plain http to {cut(parts.hostname)}: write https")
        )
    if not secret:
        what = "is missing: set FLUX_WEBHOOK_SECRET to a random text, the same for runs and receiver"
        problems.append(Problem("webhook_secret", what))
    return problems


def is_secret(name: str) -> bool:
    """Check whether a variable of the environment has a name that sounds like a secret's."""
    return _SECRET.search(name) is not None


def is_bfl(url: str) -> bool:
    """Check whether ``url`` is an https address of bfl.ai or below it."""
    parts = _parts(url)
    host = (parts.hostname or "").lower()
    name = r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*bfl\.ai"  # nothing that another parser may take for the end of a name
    is_name = re.fullmatch(name, host) is not None
    return parts.scheme == "https" and is_name and not (parts.username or parts.password)


def region_of(url: str) -> str:
    """Return the region that a host of BFL names (``api.eu2.bfl.ai``, ``delivery-us.bfl.ai``), or an empty string."""
    found = re.search(r"[.-]([a-z]+)\d*\.bfl\.ai$", (_parts(url).hostname or "").lower()) if is_bfl(url) else None
    return found[1] if found else ""


def is_in_region(endpoint: str, url: str) -> bool:
    """Check whether ``url`` lies on the host of ``endpoint``, or on one of BFL's in the same region."""
    own = region_of(endpoint)
    return _parts(url).hostname == _parts(endpoint).hostname or (bool(own) and region_of(url) == own)


def is_loopback(url: str) -> bool:
    """Check whether ``url`` points at this machine."""
    host = (_parts(url).hostname or "").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parts(url: str) -> SplitResult:
    """Split ``url``; one that cannot be split has no scheme and no host."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one above 65,535
        return parts
    except ValueError:
        return urlsplit("")


def without_key(text: str) -> str:
    """Return ``text`` without key and secret, those in force and the environment's; somebody's code may repeat them."""
    chosen = _current.get()
    own = {os.environ.get(name, "").strip() for name in ("BFL_API_KEY", "FLUX_WEBHOOK_SECRET")}
    for key in own | ({chosen.key, chosen.webhook_secret} if chosen else set()):
        if len(key) >= SHORTEST_KEY:
            text = text.replace(key, "<key>")
    return text


_current: ContextVar[Settings | None] = ContextVar("flux_settings", default=None)
_of_main_thread: list[Settings] = []  # for threads that do not inherit the context of their starter


def from_environment() -> Settings:
    """Return the settings in the environment variables; an empty variable counts as not set.

    Raises:
        RecipeError: variables have values that cannot be used, or nearly the name of a setting; all of them at once.
    """
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    problems: list[Problem] = []
    for variable, (name, parse) in _VARIABLES.items():
        text = os.environ.get(variable, "")
        try:
            if text.strip() and name not in given:
                given[name], names[name] = parse(text), variable
        except ValueError as error:
            problems.append(Problem(variable, str(error)))
    known = [*_VARIABLES, *_OTHERS]
    for variable in sorted(name for name in os.environ if name.startswith("FLUX_") and name not in known):
        if os.environ[variable].strip() and (meant := difflib.get_close_matches(variable, known, n=1, cutoff=0.8)):
            problems.append(Problem(variable, f"is not a setting: write {meant[0]}, or unset it"))
    try:
        if not problems:
            return Settings(**given)
    except RecipeError as error:
        problems = [Problem(names.get(one.where, one.where), one.what) for one in error.problems]
    given.clear()  # a traceback with variables must not show the key
    raise RecipeError(problems)


def without_secrets(settings: Settings) -> Settings:
    """Return what may travel to another process, as a pickle or in any other form: all but key and accounts."""
    return replace(settings, key="", storage_options={}, webhook_url="", webhook_secret="", polling="auto")


def with_own_secrets(settings: Settings) -> Settings:
    """Return settings that have come from another process, with the key and the accounts of this one's environment.

    Raises:
        RecipeError: the environment cannot be used.
    """
    own = from_environment()
    settings = replace(settings, key=own.key, storage_options=own.storage_options)
    return replace(settings, webhook_url=own.webhook_url, webhook_secret=own.webhook_secret, polling=own.polling)


def _whole(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{shown(text)} is not a whole number")
    return int(text)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise ValueError(f"{shown(text.strip())} is not a number of seconds above 0")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.strip() not in choices:
            raise ValueError(f"{shown(text.strip())} is not one of {', '.join(choices)}")
        return text.strip()

    return parse


def _flag(text: str) -> bool:
    value = text.strip().lower()
    return _one_of("true", "false")({"1": "true", "0": "false"}.get(value, value)) == "true"


_SECRET = re.compile(
    r"key|token|secret|passw|passphrase|credential|auth_string|connection_(string|url)|otlp_.*headers|storage_options",
    re.IGNORECASE,
)

_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "FLUX_ENDPOINT": ("endpoint", str),
    "BFL_BASE_URL": ("endpoint", str),
    "BFL_API_KEY": ("key", str),
    "FLUX_STORE": ("store", str),
    "FLUX_MAX_JOBS": ("max_jobs", _whole),
    "FLUX_OVERBOOK": ("overbook", _whole),
    "FLUX_POLL_INTERVAL": ("poll_interval", _seconds),
    "FLUX_ON_UNCERTAIN": ("on_uncertain", _one_of("hold", "resubmit")),
    "FLUX_DEADLINE": ("deadline", _seconds),
    "FLUX_TIMEOUT": ("timeout", _seconds),
    "FLUX_WEBHOOK_URL": ("webhook_url", str.strip),
    "FLUX_WEBHOOK_SECRET": ("webhook_secret", str.strip),
    "FLUX_POLLING": ("polling", _one_of("auto", "off")),
    "FLUX_TRANSPORT": ("transport", _one_of("bytes", "auto", "url")),
    "FLUX_SEND_URLS": ("send_urls", _flag),
    "FLUX_ALONE": ("alone", _flag),
    "FLUX_REGION": ("region", _one_of("any", "strict")),
    "FLUX_PREFECT": ("prefect", _one_of("auto", "embedded", "off")),
    storage.VARIABLE: ("storage_options", storage.parse),
}
"""The setting that each variable sets, and how its text is read; of two variables the first holds."""

_OTHERS = ("FLUX_METRICS_PORT", "FLUX_ON_END", "FLUX_ON_END_SECRET", "FLUX_SPOOL")
"""Variables of ours that are no settings."""


def current() -> Settings:
    """Return the settings in force: those of the innermost ``use``, else the environment's.

    A plain thread does not inherit the context of its starter: without a ``use`` of its own, the main thread's hold.
    """
    chosen = _current.get()
    if chosen is None and _of_main_thread and threading.current_thread() is not threading.main_thread():
        chosen = _of_main_thread[-1]
    return chosen or from_environment()


@contextmanager
def use(settings: Settings | None = None, **changes: Unpack[SettingChanges]) -> Iterator[Settings]:
    """Set some settings for the tasks that are called inside the block::

        with use(endpoint="local", store="out/store"):
            deblur("photo.jpg")

    They hold for tasks, threads and flows of this process. Other processes (process pools, Dask, Ray) read the
    environment, unless they are handed ``without_secrets(current())`` and use ``with_own_secrets`` of it.

    Raises:
        RecipeError: an unknown name or a value that cannot be used.
    """
    known = [f.name for f in fields(Settings)]
    unknown = [Problem(name, f"is not a setting{nearest(name, known)}") for name in changes if name not in known]
    if unknown:
        raise RecipeError(unknown)
    chosen = replace(settings or current(), **changes)
    token = _current.set(chosen)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        _of_main_thread.append(chosen)
    try:
        with storage.using(chosen.storage_options):
            yield chosen
    finally:
        if in_main_thread:
            _of_main_thread.remove(chosen)
        _current.reset(token)
