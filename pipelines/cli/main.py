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
from pipelines.cli.parser import parser_for
from pipelines.cli.terminal import LogHandler, print_error, say

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from pipelines.language.compiled import CompiledRecipe
    from pipelines.run.run import Run

__all__ = ["main"]

OK, ITEMS, WRONG, STOPPED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parsed = parser_for(_ACTIONS).parse_args(arguments)
    log = logging.getLogger("flux_tasks")
    handler = LogHandler(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        return int(parsed.run(parsed))
    except (RecipeError, InvalidRequest) as error:
        print_error(str(error))
        return WRONG
    except RunStopped as error:
        print_error(f"stopped: {error}")
        return STOPPED
    except FluxError as error:
        print_error(str(error))
        return ITEMS
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        print_error(f"stopped: {error}")
        return STOPPED
    except KeyboardInterrupt:
        print_error("interrupted")
        return STOPPED
    finally:
        log.propagate = True
        log.removeHandler(handler)


def _recipe(arguments: argparse.Namespace) -> CompiledRecipe:
    """The recipe that the arguments name, with the variables that they set."""
    from pipelines.language.reading import loader

    return loader.load(arguments.recipe, dict(arguments.set))


def _run(arguments: argparse.Namespace) -> int:
    return _carry_out(_recipe(arguments), _settings(arguments), arguments, limit=arguments.limit)


def _retry(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from pipelines.data.history import PastRun

    settings = _settings(arguments)
    earlier = PastRun.find(arguments.run_id, settings.store)
    if not arguments.endpoint and not os.environ.get("FLUX_ENDPOINT"):
        settings = replace(settings, endpoint=earlier.endpoint)
    items = earlier.items(arguments.only)
    if not items:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(earlier.counts().items()))
        ended = f"its items ended so: {counts}" if counts else "it was cut off: run its recipe again to go on"
        say(f"{earlier.run_id}: no item ended {' or '.join(arguments.only)}; {ended}")
        return OK
    settings = replace(
        settings,
        retry_moderated="moderated" in arguments.only,
        on_uncertain="resubmit" if "held" in arguments.only else settings.on_uncertain,
    )
    settings.require_key()
    return _carry_out(
        earlier.recipe, settings, arguments, only=lambda item: (item.path or item.stem) in items, seed=arguments.seed
    )


def _held(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pipelines.cli.commands.store import decide, held, table

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


def _carry_out(recipe: CompiledRecipe, settings: Settings, arguments: argparse.Namespace, **options: Any) -> int:
    """Run ``recipe``, write its report, and say how it went."""
    from pipelines.cli.commands.summary import tell
    from pipelines.cli.progress import Display
    from pipelines.cli.signals import SignalHandler
    from pipelines.run.context import Event
    from pipelines.run.run import Run

    with Display(recipe) as display:

        def seen(event: Event) -> None:
            interruption.install()  # a flow takes SIGTERM for itself when it begins
            display.show(event)

        options |= {"manifest": arguments.manifest or "", "budget": arguments.budget}
        run = Run(recipe, settings, on_event=seen, **options)
        interruption = SignalHandler(run, grace=arguments.grace)
        interruption.install()
        with run:
            display.begin(run.summary.total)
            asyncio.run(_perform(run, display))
    summary = run.summary
    trouble = "" if arguments.no_report else _report(run, arguments.report or f"{run.folder}/report.html")
    tell(run)
    if trouble:
        print_error(trouble)
        return STOPPED
    return STOPPED if summary.stopped else OK if summary.is_fine else ITEMS


def _report(run: Run, location: str) -> str:
    """Write the report; a word on what went wrong, if anything did: the run's work is done and told all the same."""
    from pipelines.report.drawing.svg import svg
    from pipelines.report.page import RunSummary, write_report

    recipe = run.recipe
    try:
        summary = RunSummary.of(run.summary, recipe.text, svg(recipe))
        run.summary.report = write_report(location, summary, run.rows())
    except OSError as error:
        return f"the report could not be written: {error}"
    return ""


async def _perform(run: Run, display: Any) -> None:
    if await run.answer_from_store():
        return
    if run.stopped is not None:
        await run.run_remaining(_nothing_more)
        return
    from flux_tasks import background
    from flux_tasks.jobs import job

    await background.arun(
        job.open_account(run.settings)
    )  # wrong key, no credits, nobody there: known before Prefect starts
    display.note("starting Prefect …")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # failures are told below, and in manifest and report
    from pipelines.flows.recipe_flow import advance

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


def _validate(arguments: argparse.Namespace) -> int:
    from pipelines.execution.precheck import check_items

    recipe = _recipe(arguments)
    count = check_items(recipe)
    chain = " → ".join(step.id for step in recipe.steps)
    say(f"{arguments.recipe}: fine: {recipe.name}, {count} items, {chain}")
    return OK


def _plan(arguments: argparse.Namespace) -> int:
    from pipelines.plan.planner import plan
    from pipelines.plan.result import table

    settings = _settings(arguments, needs_key=False)
    made = plan(_recipe(arguments), limit=arguments.limit, budget=arguments.budget, settings=settings)
    say(json.dumps(made.to_dict(), indent=2) if arguments.json else table(made))
    return ITEMS if made.problems else OK


def _graph(arguments: argparse.Namespace) -> int:
    from flux_tasks import files
    from pipelines.report.drawing.mermaid import mermaid
    from pipelines.report.drawing.svg import svg

    recipe = _recipe(arguments)
    if not arguments.svg:
        say(mermaid(recipe))
        return OK
    files.write(arguments.svg, svg(recipe).encode())
    say(f"graph: {arguments.svg}")
    return OK


def _schema(arguments: argparse.Namespace) -> int:
    from pipelines.language.schema.recipe import text

    say(text().rstrip())
    return OK


def _init(arguments: argparse.Namespace) -> int:
    from flux_tasks import files
    from flux_tasks.errors import Problem
    from pipelines.cli.commands.starter import SCHEMA, STARTER
    from pipelines.language.schema.recipe import text

    if not files.create(arguments.recipe, STARTER.replace("recipe.yaml", arguments.recipe).encode()):
        raise RecipeError([Problem(arguments.recipe, "is there already, and is left as it is: name another file")])
    folder, sign, _ = arguments.recipe.rpartition("/")
    files.write(f"{folder}{sign}{SCHEMA}", text().encode())
    say(f"{arguments.recipe}: written, and {SCHEMA} beside it, by which editors complete it")
    say(f"look through it, then: flux-pipelines plan {arguments.recipe} --endpoint local")
    return OK


def _tools(arguments: argparse.Namespace) -> int:
    from flux_tasks import catalog
    from pipelines.cli.commands.tools import describe, table

    if arguments.name:
        found = catalog.tool(arguments.name)
        say(json.dumps(describe(found), indent=2) if arguments.json else table([found], parameters=True))
    else:
        tools = list(catalog.TOOLS.values())
        say(json.dumps([describe(t) for t in tools], indent=2) if arguments.json else table(tools))
    return OK


def _faults(arguments: argparse.Namespace) -> int:
    from pipelines.cli.commands.faults import listing, table

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


_ACTIONS = {
    "run": _run,
    "retry": _retry,
    "held": _held,
    "validate": _validate,
    "plan": _plan,
    "graph": _graph,
    "schema": _schema,
    "init": _init,
    "tools": _tools,
    "faults": _faults,
    "local": _local,
}
