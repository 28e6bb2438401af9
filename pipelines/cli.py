"""The command line. Thin: it reads arguments, says what happens, and turns errors into lines and exit codes.

Exit codes: 0 all items fine, 1 some items ended otherwise, 2 the recipe or the arguments are wrong, 3 the run was
stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flux_tasks.errors import FluxError, InvalidRequest, RecipeError, RunStopped
from pipelines.terminal import LogHandler, complain, say

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from pipelines.recipe import Recipe
    from pipelines.run import Run, Summary

__all__ = ["main"]

OK, ITEMS, WRONG, STOPPED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parsed = _parser().parse_args(arguments)
    log = logging.getLogger("flux_tasks")
    handler = LogHandler(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        return int(parsed.run(parsed))
    except (RecipeError, InvalidRequest) as error:
        complain(str(error))
        return WRONG
    except RunStopped as error:
        complain(f"stopped: {error}")
        return STOPPED
    except FluxError as error:
        complain(str(error))
        return ITEMS
    except OSError as error:
        complain(f"stopped: {error}")
        return STOPPED
    except KeyboardInterrupt:
        complain("interrupted")
        return STOPPED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    finally:
        log.propagate = True
        log.removeHandler(handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flux-pipelines", description="Image pipelines over the FLUX tools: a job that was paid for is kept."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")

    run = commands.add_parser("run", help="run a recipe over its images")
    run.add_argument("recipe", help="YAML file")
    run.add_argument("--limit", type=_positive, metavar="N", help="at most N items")
    _add_run_options(run)
    run.set_defaults(run=_run)

    retry = commands.add_parser("retry", help="try items of an earlier run again")
    retry.add_argument("run_id", metavar="RUN", help="id of the run, its manifest, or `last`")
    retry.add_argument(
        "--only",
        type=_outcomes,
        default=("failed",),
        metavar="OUTCOMES",
        help="which items, by outcome: failed (default), moderated, held, invalid, with commas between. Held ones are "
        "submitted anew, though they may have been charged",
    )
    retry.add_argument("--seed", type=int, metavar="N", help="another seed for every tool that takes one")
    _add_run_options(retry)
    retry.set_defaults(run=_retry)

    store = commands.add_parser("store", help="look into the store")
    store_commands = store.add_subparsers(required=True, metavar="command")
    held = store_commands.add_parser("held", help="jobs that may be paid for and whose id is not known")
    held.add_argument("--store", help="a folder or an fsspec URL (default: FLUX_STORE)")
    held.add_argument("--json", action="store_true", help="as JSON")
    held.add_argument("--resubmit", nargs="+", metavar="KEY", help="let the next run submit these again; `all` for all")
    held.add_argument("--drop", nargs="+", metavar="KEY", help="leave these out for good; `all` for all")
    held.set_defaults(run=_held)

    validate = commands.add_parser("validate", help="check a recipe; spends nothing")
    validate.add_argument("recipe", help="YAML file")
    validate.set_defaults(run=_validate)

    tools = commands.add_parser("tools", help="list the tools with their prices")
    tools.add_argument("name", nargs="?", help="show one tool with all its parameters")
    tools.add_argument("--json", action="store_true", help="as JSON")
    tools.set_defaults(run=_tools)

    faults = commands.add_parser("faults", help="list the faults that the local server can be told to make")
    faults.add_argument("--measure", action="store_true", help="make each happen, and show what a caller sees of it")
    faults.set_defaults(run=_faults)

    local = commands.add_parser("local", help="serve the BFL API from this machine, no key, no network")
    local.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1 (default 8765; 0 takes a free one)")
    local.add_argument("--key", default=None, help="ask for this key")
    local.add_argument("--credits", type=float, default=1000.0, help="credits on the account (default 1000)")
    local.add_argument("--cap", type=_positive, default=24, help="active tasks at a time (default 24)")
    local.add_argument("--expiry", type=float, default=600.0, help="seconds a delivery URL is valid (default 600)")
    local.add_argument(
        "--latency",
        type=_latency,
        default=0.0,
        metavar="SECONDS",
        help="how long a job takes at least: 2, 2~0.5 (give or take), deblur-v1=3~1,*=2",
    )
    local.add_argument("--faults", metavar="FILE", help="what is to go wrong; `flux-pipelines faults` lists the kinds")
    local.add_argument("--book", metavar="FILE", help="write every charge there, too, a JSON line each")
    local.add_argument("--strict", action="store_true", help="keep to the newest specification alone")
    local.add_argument("--virtual-time", action="store_true", help="time stands still until POST /local/clock moves it")
    local.add_argument("--record", metavar="DIR", help="pass everything on to --upstream, and keep it; costs credits")
    local.add_argument("--upstream", help="what --record passes on to: bfl (default), eu, us, or an address")
    local.add_argument("--replay", metavar="DIR", help="answer from what --record kept there, offline")
    local.set_defaults(run=_local)
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", help="bfl, eu, us, local, or the address of a server that speaks the API")
    parser.add_argument("--store", help="where results are kept: a folder or an fsspec URL (default: FLUX_STORE)")
    parser.add_argument("--max-jobs", type=_positive, metavar="N", help="active jobs at a time (default 24)")
    parser.add_argument("--report", metavar="FILE", help="where to write the HTML report (default: in the store)")
    parser.add_argument("--manifest", metavar="FILE", help="where to write the manifest (default: in the store)")
    parser.add_argument("--no-report", action="store_true", help="write no report")
    parser.add_argument(
        "--grace", type=float, default=30.0, metavar="SECONDS", help="for jobs in flight after Ctrl-C (default 30)"
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("flux-pipelines")
    except PackageNotFoundError:  # a checkout that was never installed
        return "0"


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _outcomes(text: str) -> tuple[str, ...]:
    known = ("failed", "moderated", "held", "invalid")
    given = tuple(word.strip() for word in text.split(",") if word.strip())
    if not given or set(given) - set(known):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {', '.join(known)}")
    return given


def _latency(text: str) -> Any:
    from flux_tasks.local.latency import parse

    try:
        return parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not seconds, nor tool=seconds~jitter,…") from None


def _run(arguments: argparse.Namespace) -> int:
    from pipelines.recipe import Recipe

    return _carry_out(Recipe.load(arguments.recipe), _settings(arguments), arguments, limit=arguments.limit)


def _retry(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from pipelines.earlier import EarlierRun

    settings = _settings(arguments)
    earlier = EarlierRun.find(arguments.run_id, settings.store)
    if not arguments.endpoint and not os.environ.get("FLUX_ENDPOINT"):
        settings = replace(settings, endpoint=earlier.endpoint)
    items = earlier.items(arguments.only)
    if not items:
        say(f"{earlier.run_id}: no item ended {' or '.join(arguments.only)}")
        return OK
    settings = replace(
        settings,
        retry_moderated="moderated" in arguments.only,
        on_uncertain="resubmit" if "held" in arguments.only else settings.on_uncertain,
    )
    settings.require_key()
    return _carry_out(earlier.recipe, settings, arguments, only=lambda item: item.path in items, seed=arguments.seed)


def _held(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipelines.held import decide, held, table

    store = _settings(arguments, needs_key=False).store
    for line in decide(store, arguments.resubmit or (), "resubmit"):
        say(line)
    for line in decide(store, arguments.drop or (), "drop"):
        say(line)
    entries = held(store)
    if arguments.json:
        say(json.dumps([asdict(entry) | {"age": entry.age} for entry in entries], indent=2))
    else:
        say(table(entries))
    return OK


def _carry_out(recipe: Recipe, settings: Settings, arguments: argparse.Namespace, **options: Any) -> int:
    """Run ``recipe``, write its report, and say how it went."""
    from pipelines.interrupt import Interruption
    from pipelines.progress import Display
    from pipelines.run import Event, Run

    with Display(recipe) as display:

        def seen(event: Event) -> None:
            interruption.install()  # a flow takes SIGTERM for itself when it begins
            display.show(event)

        run = Run(recipe, settings, on_event=seen, manifest=arguments.manifest or "", **options)
        interruption = Interruption(run, grace=arguments.grace)
        interruption.install()
        with run:
            display.begin(len(run.items))
            asyncio.run(_perform(run, display))
    summary = run.summary
    trouble = "" if arguments.no_report else _report(run, arguments.report or f"{run.folder}/report.html")
    _say(summary, run)
    if trouble:
        complain(trouble)
        return STOPPED
    return STOPPED if summary.stopped else OK if summary.is_fine else ITEMS


def _report(run: Run, location: str) -> str:
    """Write the report; a word on what went wrong, if anything did: the run's work is done and told all the same."""
    from pipelines.report import RunSummary, write_report

    try:
        run.summary.report = write_report(location, RunSummary.of(run.summary, run.recipe.text), run.rows())
    except OSError as error:
        return f"the report could not be written: {error}"
    return ""


async def _perform(run: Run, display: Any) -> None:
    if await run.settle():
        return
    if run.stopped is not None:
        await run.advance(_nothing_more)
        return
    from flux_tasks import job, portal

    await portal.arun(
        job.open_account(run.settings)
    )  # wrong key, no credits, nobody there: known before Prefect starts
    display.note("starting Prefect …")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # failures are told below, and in manifest and report
    from pipelines.flows import advance

    await advance(run)


async def _nothing_more(task: str, arguments: dict[str, Any]) -> Any:
    raise AssertionError(f"{task} was begun after the run was stopped")


def _settings(arguments: argparse.Namespace, *, needs_key: bool = True) -> Settings:
    """Settings from the environment and the arguments; a run needs a key or an endpoint that asks for none."""
    from dataclasses import replace

    from flux_tasks.settings import from_environment

    given = {name: getattr(arguments, name, None) for name in ("endpoint", "store", "max_jobs")}
    settings = replace(from_environment(), **{name: value for name, value in given.items() if value})
    if needs_key:
        settings.require_key()
    return settings


def _say(summary: Summary, run: Run) -> None:
    from pipelines.manifest import FINE

    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(summary.counts.items()))
    say(f"{summary.name}: {summary.items} of {len(run.items)} items in {summary.seconds:.1f} s: {counts}")
    collected = f", {summary.collected} collected from an earlier run" if summary.collected else ""
    unpriced = f" and {summary.unpriced} of unknown cost" if summary.unpriced else ""
    credits = f"{summary.cost:.2f} credits (${summary.cost / 100:.2f}){unpriced}"
    preview = summary.engine.startswith("local:")
    loose_ends = summary.uncertain or summary.uncollected
    if not (summary.jobs or summary.collected or summary.stopped or loose_ends):
        say(f"no job was made and nothing was paid: {summary.cached} results came from the store")
    elif preview:
        say(f"jobs: {summary.jobs} made here, nothing was paid; by the price table they are {credits}{collected}")
    else:
        say(f"jobs: {summary.jobs} paid, {credits}{collected}; {summary.cached} results from the store")
    if summary.uncollected:
        say(f"not collected yet: {summary.uncollected} jobs that are paid for; run again to collect them")
    if summary.uncertain:
        say(f"may be paid for: {summary.uncertain} submissions without an answer; see flux-pipelines store held")
    if preview and (summary.jobs or summary.cached):
        say(f"local preview: made on this machine by {summary.engine}, not by FLUX")
    for row in run.rows():
        if row["error"]:
            line = f"{row['outcome']}: {row['item']}: {row['error']['step']}: {row['error']['message']}"
            say("  " + line.replace("\n", "\n    "))
    if summary.stopped:
        complain(f"stopped: {summary.stopped}")
    if set(summary.counts) & FINE:
        say(f"results:  {run.recipe.output.root}")
    say(f"manifest: {summary.manifest}")
    if summary.report:
        say(f"report:   {summary.report}")


def _validate(arguments: argparse.Namespace) -> int:
    from pipelines.recipe import Recipe
    from pipelines.sinks import check_outputs
    from pipelines.sources import items_of

    recipe = Recipe.load(arguments.recipe)
    items = list(items_of(recipe.source))
    check_outputs(recipe, items)
    count = len(items)
    chain = " → ".join(step.id for step in recipe.steps)
    say(f"{arguments.recipe}: fine: {recipe.name}, {count} items, {chain}")
    return OK


def _tools(arguments: argparse.Namespace) -> int:
    from flux_tasks import catalog
    from pipelines.tool_table import describe, table

    if arguments.name:
        found = catalog.tool(arguments.name)
        say(json.dumps(describe(found), indent=2) if arguments.json else table([found], parameters=True))
    else:
        tools = list(catalog.TOOLS.values())
        say(json.dumps([describe(t) for t in tools], indent=2) if arguments.json else table(tools))
    return OK


def _faults(arguments: argparse.Namespace) -> int:
    from flux_tasks.local.faults.table import listing, table

    for line in table() if arguments.measure else listing():
        say(line)
    return OK


def _key_for(upstream: str) -> str:
    from flux_tasks.settings import Settings

    settings = Settings(endpoint=upstream, key=os.environ.get("BFL_API_KEY", ""))
    settings.require_key()
    return settings.key


def _local(arguments: argparse.Namespace) -> int:
    from flux_tasks.errors import Problem
    from flux_tasks.local.server import serve

    if arguments.upstream and not arguments.record:
        raise RecipeError([Problem("--upstream", "belongs to --record DIR")])
    if arguments.record and arguments.replay:
        raise RecipeError([Problem("--record", "excludes --replay: a server does one or the other")])
    key = _key_for(arguments.upstream or "bfl") if arguments.record else ""
    serve(
        port=arguments.port,
        key=arguments.key,
        credits=arguments.credits,
        cap=arguments.cap,
        expiry=arguments.expiry,
        latency=arguments.latency,
        faults=arguments.faults or (),
        book=arguments.book,
        strict=arguments.strict,
        virtual_time=arguments.virtual_time,
        record=arguments.record,
        upstream=arguments.upstream or "bfl",
        upstream_key=key,
        replay=arguments.replay,
    )
    return OK


if __name__ == "__main__":
    sys.exit(main())
