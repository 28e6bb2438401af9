"""``run`` and ``retry``: carry out a recipe, write its report, and print how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError
from flux_tasks.settings import Settings
from pipelines.cli.commands.receive import Webhook
from pipelines.cli.common import (
    NO_CODE,
    Budget,
    Exit,
    Limit,
    Location,
    NoCode,
    Places,
    RecipeFile,
    Sample,
    Variables,
    Whole,
    load_recipe,
    value,
)
from pipelines.cli.pruning import Pruning
from pipelines.cli.sharding import InShards
from pipelines.cli.terminal import print_error, print_line

if TYPE_CHECKING:
    from pipelines.flows.recipe_run import Finish
    from pipelines.language.compiled import CompiledRecipe
    from pipelines.report.ending import Ending
    from pipelines.run.context import Event
    from pipelines.run.summary import Summary

_OUTCOMES = ("failed", "moderated", "held", "invalid")
_File = Annotated[Location, Parameter(metavar="FILE")]


def _outcomes(text: str) -> Sequence[str]:
    given = tuple(word.strip() for word in text.split(",") if word.strip())
    if not given or set(given) - set(_OUTCOMES):
        raise ValueError
    return given


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise ValueError
    return int(text)


@Parameter(name="*")
@dataclass(frozen=True)
class Outputs:
    """The options that say what a run writes besides its results, and how it ends.

    Attributes:
        report: where to write the HTML report (default: in the store)
        manifest: where to write the manifest (default: in the store)
        no_report: write no report
        grace: after Ctrl-C, wait this long for jobs in flight (default 30)
        metrics_port: serve metrics for Prometheus at this port of this machine while it runs; 0: any free one
            (default: FLUX_METRICS_PORT)
        prefect: who records the run: auto, the Prefect server that is configured, if any; embedded, one started for
            this run; off, nobody (default: FLUX_PREFECT)
    """

    report: _File = ""
    manifest: _File = ""
    no_report: bool = False
    grace: Annotated[float, value(float, "a number", "SECONDS")] = 30.0
    metrics_port: Annotated[int | None, value(_port, "a port from 0 to 65535", "PORT")] = None
    prefect: Literal["auto", "embedded", "off"] | None = None

    def on(self, settings: Settings) -> Settings:
        """Return the settings of a run that ends so."""
        return replace(settings, prefect=self.prefect or settings.prefect)


def run(
    recipe: RecipeFile,
    /,
    *,
    variables: Variables = (),
    limit: Limit = None,
    sample: Sample = None,
    then_ask: bool = False,
    budget: Budget = None,
    places: Places = Places(),
    outputs: Outputs = Outputs(),
    pruning: Pruning = Pruning(),
    in_shards: InShards = InShards(),
    shard: Annotated[str, Parameter(metavar="I/N")] = "",
    webhook: Webhook = Webhook(),
    verify: bool = False,
    no_code: NoCode = False,
) -> Exit:
    """Run a recipe over its images.

    Results that are in the store already are taken from there: a second run
    pays for new images only. After an interruption, give the same command
    again: it collects the jobs that were paid for, and continues.

    For example:
      flux-pipelines run recipe.yaml --endpoint local
      BFL_API_KEY=... flux-pipelines run recipe.yaml --budget 50
      flux-pipelines run recipe.yaml --limit 5 --set style=oak
      flux-pipelines run recipe.yaml --sample 20 --then-ask
      flux-pipelines run recipe.yaml --prune --yes
      flux-pipelines run recipe.yaml --shards 8

    Args:
        then_ask: after the sample, ask whether to run all items; what it has paid for is not paid again
        verify: look at every picture and result, also where size and times say that nothing has changed
        shard: work on one part only, such as 2/4, in this process; for machines that you start yourself
    """
    from pipelines.data.items import NoItems
    from pipelines.language.places import in_places_of
    from pipelines.report.ending import Ending

    if then_ask and (sample is None or not sys.stdin.isatty()):
        why = "needs --sample" if sample is None else "needs a terminal: nobody can answer here"
        raise RecipeError([Problem("--then-ask", why)])
    sharding = in_shards.checked(shard)
    if shard and pruning.prune:
        raise RecipeError([Problem("--prune", "goes with a run over all items only: leave --shard out")])
    with ExitStack() as until_told:
        until_told.enter_context(webhook.in_force())
        ending = until_told.enter_context(Ending(str(recipe)))
        ending.recipe = loaded = load_recipe(recipe, variables, no_code=no_code)
        settings = outputs.on(places.settings(needs_key=False))
        finish = sharding.finish_for(loaded, settings)
        if any(step.is_paid for step in loaded.steps) and not sharding.is_elsewhere:
            settings.require_key()
        settings = until_told.enter_context(in_places_of(loaded, settings))
        until_told.enter_context(webhook.received(settings.store))
        begun = pruning.begin(loaded, settings.store, limit=limit, sample=sample)
        run_it = partial(_carry_out, loaded, settings, outputs, ending, finish, budget=budget, verify=verify)
        try:
            ended, summary = run_it(limit=limit, sample=sample, shard=sharding.part)
        except NoItems as error:
            if begun is None or not pruning.allow_empty:
                if begun is not None:
                    error.add_note(
                        "--prune has removed nothing: write --allow-empty if the source is meant to be empty"
                    )
                raise
            ended, summary = Exit.OK, None
        if then_ask and ended in (Exit.OK, Exit.ITEMS) and _agrees("Run all items now? [y/N] "):
            ended, _ = run_it()
        return ended if begun is None else max(ended, begun.end(summary))


def _agrees(question: str) -> bool:
    """Ask on the terminal; anything but yes is no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def retry(
    run_id: Annotated[str, Parameter(name="RUN")],
    /,
    *,
    only: Annotated[Sequence[str], value(_outcomes, f"a list of {', '.join(_OUTCOMES)}", "OUTCOMES")] = ("failed",),
    seed: Whole | None = None,
    budget: Budget = None,
    places: Places = Places(),
    outputs: Outputs = Outputs(),
    in_shards: InShards = InShards(),
    no_code: NoCode = False,
) -> Exit:
    """Run items of an earlier run again.

    The recipe, its variables and the endpoint are those of the earlier run;
    --endpoint names another one, and has to be given if the earlier run's
    was an address. Functions of Python are called only if the recipe's file
    still has the same text. Held items are submitted again, though they may
    have been charged.

    For example:
      flux-pipelines retry last
      flux-pipelines retry last --only moderated,held --seed 7
      flux-pipelines retry last --shards 8

    Args:
        run_id: the run: its id, its manifest, or `last`
        only: which items, by outcome, with commas between: failed (default), moderated, held, invalid
        seed: use another seed for every tool that takes one
    """
    from pipelines.data.history import PastRun
    from pipelines.language.places import in_places_of
    from pipelines.report.ending import Ending

    sharding = in_shards.checked()
    settings = outputs.on(places.settings(needs_key=False))
    earlier = PastRun.find(run_id, settings.store, no_code=NO_CODE if no_code else "")
    if not places.endpoint and not os.environ.get("FLUX_ENDPOINT"):
        settings = replace(settings, endpoint=earlier.endpoint_for(settings))
    with in_places_of(earlier.recipe, settings):
        items = earlier.items(only)
        found = sorted(earlier.counts().items()) if not items else []
    if not items:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in found)
        ended = f"its items ended as: {counts}" if counts else "it did not finish: run its recipe again to continue"
        print_line(f"{earlier.run_id}: no item ended {' or '.join(only)}; {ended}")
        return Exit.OK
    settings = replace(
        settings,
        retry_moderated="moderated" in only,
        on_uncertain="resubmit" if "held" in only else settings.on_uncertain,
    )
    finish = sharding.finish_for(earlier.recipe, settings)
    if not sharding.is_elsewhere:
        settings.require_key()
    count = "1 item" if len(items) == 1 else f"{len(items):,} items"
    print_line(f"{earlier.run_id}: {earlier.recipe.name}: runs {count} again")
    with Ending(earlier.recipe.name) as ending:
        ending.recipe = earlier.recipe
        options: dict[str, Any] = {"only": lambda item: item.source in items, "seed": seed, "budget": budget}
        return _carry_out(earlier.recipe, settings, outputs, ending, finish, **options)[0]


def carry_out(recipe: CompiledRecipe, settings: Settings, outputs: Outputs, **options: Any) -> Exit:
    """Run ``recipe`` with the ``options`` of ``Run``, write its report, and print how it went."""
    from pipelines.flows.recipe_run import finish
    from pipelines.report.ending import Ending

    with Ending(recipe.name) as ending:
        return _carry_out(recipe, outputs.on(settings), outputs, ending, finish, **options)[0]


def _carry_out(
    recipe: CompiledRecipe,
    settings: Settings,
    outputs: Outputs,
    ending: Ending,
    finish: Finish,
    **options: Any,
) -> tuple[Exit, Summary | None]:
    """Do the same with ``finish``, and let ``ending`` know the run."""
    import asyncio

    from flux_tasks.api.telemetry.exporters import exporting
    from pipelines.cli.progress import Display
    from pipelines.cli.signals import SignalHandler
    from pipelines.cli.summary import print_summary
    from pipelines.flows.stopping import end_with_parent
    from pipelines.language.places import in_places_of
    from pipelines.report.early import EarlyPreviews
    from pipelines.report.of_run import write_run_report
    from pipelines.report.previews import Previews
    from pipelines.run.run import Run

    def show(event: Event) -> None:
        display.show(event)
        if event.row is not None:
            early.add(event.row)

    with ExitStack() as until_told:
        if address := until_told.enter_context(exporting(outputs.metrics_port)):
            print_error(f"metrics: {address}")
        early = EarlyPreviews(lambda: Previews(run.context.store, recipe.name))
        with Display(recipe, lambda: run.summary.is_preview) as display, early:
            settings = until_told.enter_context(in_places_of(recipe, settings))
            run = Run(recipe, settings, on_event=show, manifest=str(outputs.manifest), **options)
            ending.run = run
            run.summary.report = "" if outputs.no_report else str(outputs.report) or f"{run.folder}/report.html"
            until_told.enter_context(SignalHandler(run, ending, grace=outputs.grace))
            end_with_parent()
            with run:
                display.begin(run.summary.total)
                early.begin(run.summary.total if run.summary.report else 0)
                # Summary, manifest and report name each failure; a Prefect server still gets its log.
                os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
                places = [str(outputs.report)] if outputs.report else []
                asyncio.run(finish(run, *places))
        problem = write_run_report(run, early.previews) if run.summary.report else ""
        print_summary(run)
        if problem:
            print_error(problem)
    ended = Exit.STOPPED if problem or run.summary.stopped else Exit.OK if run.summary.is_fine else Exit.ITEMS
    return ended, run.summary
