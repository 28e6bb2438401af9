"""``local``: serve the BFL API from this machine."""

from __future__ import annotations

import os
from typing import Annotated, Any

from flux_tasks.errors import Problem, RecipeError
from pipelines.cli.common import Exit, Location, number, option, positive, whole_number

__all__ = ["local"]


def _latency(text: str) -> Any:
    from flux_tasks.local.service.latency import parse

    try:
        return parse(text)
    except ValueError:
        raise ValueError(f"'{text}' is not seconds, nor tool=seconds~jitter,…") from None


def local(
    *,
    port: Annotated[
        int, option("port on 127.0.0.1 (default 8765; 0 takes a free one)", "N", parse=whole_number)
    ] = 8765,
    key: Annotated[str | None, option("ask callers for this key", "KEY")] = None,
    credits: Annotated[float, option("credits on the account (default 1000)", "N", parse=number)] = 1000.0,
    cap: Annotated[int, option("how many jobs may be active at a time (default 24)", "N", parse=positive)] = 24,
    expiry: Annotated[float, option("how long a delivery URL is valid (default 600)", "SECONDS", parse=number)] = 600.0,
    latency: Annotated[
        Any,
        option(
            "how long a job takes at least: 2, or 2~0.5 (give or take), or deblur-v1=3~1,*=2",
            "SECONDS",
            parse=_latency,
        ),
    ] = 0.0,
    faults: Annotated[
        Location | None, option("a file with the faults to make; `flux-pipelines faults` lists the kinds", "FILE")
    ] = None,
    charges: Annotated[Location | None, option("write every charge to this file too, a JSON line each", "FILE")] = None,
    strict: Annotated[bool, option("refuse what the newest specification does not allow")] = False,
    virtual_time: Annotated[bool, option("stop the clock: only POST /local/clock moves it")] = False,
    record: Annotated[
        Location | None, option("pass every request on to --upstream and store the answers here; costs credits", "DIR")
    ] = None,
    upstream: Annotated[
        str | None, option("where --record passes requests on to: bfl (default), eu, us, or an address", "NAME|URL")
    ] = None,
    replay: Annotated[Location | None, option("answer from what --record stored here, offline", "DIR")] = None,
) -> Exit:
    """Serve the BFL API from this machine: no key, no network.

    The pictures are previews by a classical engine, not made by FLUX.
    Ctrl-C stops the server.
    """
    from flux_tasks.local.server import serve

    if upstream and not record:
        raise RecipeError([Problem("--upstream", "belongs to --record DIR")])
    if record and replay:
        raise RecipeError([Problem("--record", "excludes --replay: a server does one or the other")])
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
    from flux_tasks.settings import Settings

    settings = Settings(endpoint=upstream, key=os.environ.get("BFL_API_KEY", ""))
    settings.require_key()
    return settings.key
