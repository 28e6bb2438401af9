"""``local``: serve the BFL API from this machine."""

import os
from typing import Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError
from flux_tasks.settings import Settings
from pipelines.cli.common import Exit, Location, Number, Positive, Whole, value

_File = Annotated[Location | None, Parameter(metavar="FILE")]
_Folder = Annotated[Location | None, Parameter(metavar="DIR")]
_Seconds = Annotated[float, value(float, "a number", "SECONDS")]


def _latency(text: str) -> Any:
    from flux_tasks.local.service.latency import parse

    return parse(text)


def local(
    *,
    port: Whole = 8765,
    key: Annotated[str | None, Parameter(metavar="KEY")] = None,
    credits: Number = 1000.0,
    cap: Positive = 24,
    expiry: _Seconds | None = None,
    latency: Annotated[Any, value(_latency, "seconds, nor tool=seconds~jitter,…", "SECONDS")] = 0.0,
    faults: _File = None,
    charges: Annotated[_File, Parameter(alias="--book")] = None,
    strict: bool = False,
    virtual_time: bool = False,
    record: _Folder = None,
    upstream: Annotated[str | None, Parameter(metavar="NAME|URL")] = None,
    replay: _Folder = None,
) -> Exit:
    """Serve the BFL API from this machine: no key, no network.

    The pictures are previews by a classical engine, not made by FLUX.
    Ctrl-C stops the server.

    For example:
      flux-pipelines local --port 8765
      flux-pipelines run recipe.yaml --endpoint http://127.0.0.1:8765

    Args:
        port: port on 127.0.0.1 (default 8765; 0 takes a free one)
        key: require this key as x-key of every request
        credits: credits on the account (default 1000)
        cap: how many jobs may be active at a time (default 24)
        expiry: how long a delivery URL is valid (default: 600, and 3600 for FLUX 3, as at BFL)
        latency: how long a job takes at least: 2, or 2~0.5 (give or take), or deblur-v1=3~1,*=2
        faults: a file with the faults to cause; `flux-pipelines faults` lists the kinds
        charges: write every charge to this file, too: one JSON line each
        strict: refuse what the newest specification does not allow
        virtual_time: stop the clock: only POST /local/clock moves it
        record: pass every request on to --upstream and store the answers here; costs credits
        upstream: where --record passes requests on to: bfl (default), eu, us, or an address
        replay: answer from what --record stored here, offline
    """
    from flux_tasks.local.server import serve

    if upstream and not record:
        raise RecipeError([Problem("--upstream", "belongs to --record DIR")])
    if record and replay:
        raise RecipeError(
            [Problem("--record", "cannot be used together with --replay: a server does one or the other")]
        )
    serve(
        port=port,
        key=key,
        credits=credits,
        cap=cap,
        expiry=expiry,
        latency=latency,
        faults=faults or (),
        charges=charges,
        strict=strict,
        virtual_time=virtual_time,
        record=record,
        upstream=upstream or "bfl",
        upstream_key=_key_for(upstream or "bfl") if record else "",
        replay=replay,
    )
    return Exit.OK


def _key_for(upstream: str) -> str:
    settings = Settings(endpoint=upstream, key=os.environ.get("BFL_API_KEY", ""))
    settings.require_key()
    return settings.key
