"""``serve`` and ``deploy``: let recipes run by themselves, from this process or on the workers of a pool."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token

from flux_tasks.errors import Problem, RecipeError, listed, quote
from flux_tasks.settings import Settings, from_environment
from pipelines.cli.commands.receive import Webhook
from pipelines.cli.common import Budget, Exit, Limit, Location, Places, StoreFolder, Variables, load_recipe, value
from pipelines.cli.sharding import InShards, Shards
from pipelines.cli.terminal import print_line

if TYPE_CHECKING:
    from pipelines.flows.served.deployment import Deployment
    from pipelines.language.compiled import CompiledRecipe

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|s|m|min|h|d)", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds < 1e11:  # what a schedule can hold, some 3,000 years
        raise ValueError
    return seconds


def _seconds_or_none(text: str) -> float:
    return _seconds(text) if text else 0.0


def _each(parse: Callable[[str], Any], what: str, metavar: str) -> Parameter:
    """Declare a value for each recipe, or one for all; a hyphen is none."""

    def convert(_type: Any, tokens: Sequence[Token]) -> Any:
        found = []
        for token in tokens:
            try:
                found.append(parse("") if token.value.strip() == "-" else parse(token.value))
            except ValueError:
                raise ValueError(f"{quote(token.value)} is not {what}") from None
        return found

    return Parameter(converter=convert, metavar=metavar, n_tokens=1, allow_leading_hyphen=True)


_Recipes = Annotated[Location, Parameter(name="RECIPE", help="the recipes: YAML files, or URLs of them")]


@Parameter(name="*")
@dataclass(frozen=True)
class Timing:
    """The options that say when recipes run.

    Attributes:
        cron: at these times: minute, hour, day, month, weekday, as '0 3 * * *' for each night at 3; once for all
            recipes, or once for each in their order, with - for none; so are the next three
        interval: again and again after so long: seconds, or as 15m, 2h, 1d
        rrule: at the times of a rule of RFC 5545, as 'FREQ=WEEKLY;BYDAY=MO;BYHOUR=3'
        timezone: where these times hold, as Europe/Berlin (default UTC)
    """

    cron: Annotated[Sequence[str], _each(str, "", "CRON")] = ()
    interval: Annotated[
        Sequence[float], _each(_seconds_or_none, "a duration such as 900, 15m, 2h or 1d", "DURATION")
    ] = ()
    rrule: Annotated[Sequence[str], _each(str, "", "RRULE")] = ()
    timezone: Annotated[Sequence[str], _each(str, "", "ZONE")] = ()

    def schedules(self, count: int) -> list[Any]:
        """Return the schedule of each of ``count`` recipes.

        Raises:
            RecipeError: one cannot be used, or never comes.
        """
        from pipelines.flows.served.schedule import schedules_of

        return schedules_of(count, self.cron, self.interval, self.rrule, self.timezone)


@Parameter(name="*")
@dataclass(frozen=True)
class Parameters:
    """The options that each run starts with; the environment of the process that runs the recipe has the defaults.

    Attributes:
        name: what the deployment is called (default: as its recipe); once for each recipe, in their order
        endpoint: who makes the jobs: bfl, eu, us, local, or the address of a server that speaks the API
        store: where results are stored: a folder or an fsspec URL (default: FLUX_STORE of the process that runs it)
        key_block: the Prefect Secret block with the key, where BFL_API_KEY is not set (default bfl-api-key)
        shards: work on the items of a run in N parts, each in a process of its own
        on: where these run: processes of the worker's machine (default), prefect:POOL, dask, dask:ADDRESS, ray, or
            ray:ADDRESS
    """

    name: Annotated[Sequence[str], Parameter(metavar="NAME", n_tokens=1)] = ()
    limit: Limit = None
    budget: Budget = None
    endpoint: Annotated[str | None, Parameter(metavar="NAME|URL")] = None
    store: StoreFolder = None
    key_block: Annotated[str | None, Parameter(metavar="NAME")] = None
    shards: Shards = None
    on: Annotated[str, Parameter(metavar="ENGINE")] = ""

    def options(self) -> dict[str, Any]:
        """Return the parameters of the flow, checked."""
        if self.endpoint is not None:
            Settings(endpoint=self.endpoint)
        if self.shards is not None or self.on:
            from pipelines.shards.engines.choice import PROCESSES, check_name

            InShards(self.shards, self.on).checked()
            check_name(self.on or PROCESSES)
        store = None if self.store is None else str(self.store)
        given = {"endpoint": self.endpoint, "store": store, "key_block": self.key_block}
        return {"limit": self.limit, "budget": self.budget, **given, "shards": self.shards, "on": self.on}


_TIMING, _PARAMETERS, _WEBHOOK = Timing(), Parameters(), Webhook()


def serve(
    *recipes: _Recipes,
    watch: Annotated[Sequence[Location], Parameter(metavar="FOLDER|URL", n_tokens=1)] = (),
    every: Annotated[float, value(_seconds, "a duration such as 30, 15m, 2h or 1d", "DURATION")] = 30.0,
    prefect: Literal["auto", "off"] = "auto",
    variables: Variables = (),
    timing: Timing = _TIMING,
    parameters: Parameters = _PARAMETERS,
    webhook: Webhook = _WEBHOOK,
) -> Exit:
    """Run recipes by themselves, from this process: on a schedule, or when there are new pictures.

    A Prefect server (PREFECT_API_URL) holds the schedule and shows the runs.
    Each run is a process of its own, started in the current folder, with
    the environment of this one. Ctrl-C ends it and its runs; the next run
    collects what they had submitted.

    For example:
      flux-pipelines serve nightly.yaml --cron "0 3 * * *" --timezone Europe/Berlin
      flux-pipelines serve a.yaml b.yaml --interval 1h --budget 50
      flux-pipelines serve recipe.yaml --watch s3://bucket/incoming/

    Args:
        watch: start a run when this folder or prefix has new pictures, once they are all there; may be repeated
        every: how often --watch looks (default 30 s)
        prefect: off runs without a Prefect server, with --watch only
    """
    from asyncio import run

    places = [str(place) for place in watch]
    with webhook.in_force():
        store = str(parameters.store or from_environment().store)
        if prefect == "off":
            watching = _watch_alone(recipes, variables, timing, parameters, places, every)
        else:
            made = _deployments(recipes, variables, timing, parameters, places)
            from pipelines.flows.served import serving

            watching = serving.serve(made, print_line, places, pause=every)
        try:
            with webhook.received(store):
                run(watching)
        finally:
            watching.close()  # it may not have begun
    return Exit.OK


def deploy(
    *recipes: _Recipes,
    pool: Annotated[str, Parameter(metavar="NAME")],
    folder: Annotated[Location | None, Parameter(metavar="FOLDER")] = None,
    yaml: bool = False,
    variables: Variables = (),
    timing: Timing = _TIMING,
    parameters: Parameters = _PARAMETERS,
) -> Exit:
    """Register recipes on a Prefect server, for the workers of a pool.

    The recipe travels as text, so that workers need this package and no
    file of yours; one at a URL is read there at each run. Relative paths in
    it are refused unless --folder says where they start on the workers.

    For example:
      flux-pipelines deploy s3.yaml --pool gpu --cron "0 3 * * *"
      flux-pipelines deploy recipe.yaml --pool local --folder .
      flux-pipelines deploy recipe.yaml --pool local --yaml > prefect.yaml

    Args:
        pool: the work pool; `prefect work-pool create NAME --type process` makes one
        folder: the folder on the workers where relative paths start; `.` is the current one
        yaml: print a prefect.yaml for `prefect deploy --all`, and register nothing
    """
    from asyncio import run

    where = "" if folder is None else str(Path(folder).absolute())
    made = _deployments(recipes, variables, timing, parameters, folder=where, is_here=False)
    if yaml:
        print_line(_yaml_of({"deployments": [one.to_entry(pool) for one in made]}).rstrip())
        return Exit.OK
    from pipelines.flows.served import serving

    run(serving.register(made, pool, print_line))
    return Exit.OK


def _watch_alone(
    recipes: Sequence[Location],
    variables: Sequence[tuple[str, str]],
    timing: Timing,
    parameters: Parameters,
    places: Sequence[str],
    every: float,
) -> Coroutine[Any, Any, None]:
    """Return what runs recipes without a Prefect server when there are new pictures."""
    from pipelines.flows.served.watch import check_place, start_processes

    problems = []
    if timing != _TIMING:
        what = "is given with a schedule, which a Prefect server holds: set PREFECT_API_URL and leave --prefect off out"
        problems.append(Problem("--prefect off", f"{what}, or let cron or a systemd timer call flux-pipelines run"))
    if not places:
        problems.append(Problem("--watch", "is missing: without a Prefect server only new pictures can start a run"))
    if parameters.key_block:
        problems.append(Problem("--key-block", "is a block of a Prefect server: set BFL_API_KEY instead"))
    with _problems_at_once() as noted:
        with noted():
            if problems:
                raise RecipeError(problems)
        for place in places:
            with noted():
                check_place(place)
        named = _named(recipes, variables, parameters, noted)
    settings = Places(endpoint=parameters.endpoint, store=parameters.store).settings()
    given = {"--limit": parameters.limit, "--budget": parameters.budget, "--endpoint": settings.endpoint}
    given |= {"--store": settings.store, "--shards": parameters.shards, "--on": parameters.on or None}
    options = [f"{name}={one}" for name, one in given.items() if one is not None]
    for name, _ in named:
        print_line(f"watching for {name}: {', '.join(places)}; Ctrl-C ends it")
    return start_processes(named, places, options, settings.store, print_line, pause=every)


def _yaml_of(data: Any) -> str:
    """Return data as YAML in which a text of several lines stands as it is."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, represent)
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))


def _deployments(
    recipes: Sequence[Location],
    variables: Sequence[tuple[str, str]],
    timing: Timing,
    parameters: Parameters,
    places: Sequence[str] = (),
    *,
    folder: str = "",
    is_here: bool = True,
) -> list[Deployment]:
    """Check everything that can be known before anything is registered.

    Args:
        is_here: whether the runs start in the current folder; their shards may be worked on elsewhere.

    Raises:
        RecipeError: a recipe or an option is wrong, or a recipe would mean something else where it runs.
    """
    from pipelines.flows.served.deployment import Deployment
    from pipelines.flows.served.travel import check_travels
    from pipelines.flows.served.watch import check_place
    from pipelines.shards.engines.choice import is_elsewhere

    where = str(Path.cwd()) if is_here and not is_elsewhere(parameters.on) else folder
    schedules: list[Any] = []
    options: dict[str, Any] = {}
    with _problems_at_once() as noted:
        with noted():
            schedules = timing.schedules(len(recipes))
        with noted():
            options = parameters.options()
        for place in places:
            with noted():
                check_place(place)
        named = _named(recipes, variables, parameters, noted)
        for _, recipe in named:
            with noted():
                check_travels(recipe, where, store=str(parameters.store or ""))
    return [Deployment(*both, schedule, options, folder) for both, schedule in zip(named, schedules, strict=True)]


_Noted = Callable[[], AbstractContextManager[None]]


@contextmanager
def _problems_at_once() -> Iterator[_Noted]:
    """Give a block in which errors are noted; what was noted is raised as one error at the end.

    Raises:
        RecipeError: something was wrong; with all of it.
    """
    errors: list[RecipeError] = []

    @contextmanager
    def noted() -> Iterator[None]:
        try:
            yield
        except RecipeError as error:
            errors.append(error)

    yield noted
    if errors:
        first, *others = errors
        for other in others:
            first.add_note(str(other))
        raise first


def _named(
    recipes: Sequence[Location], variables: Sequence[tuple[str, str]], parameters: Parameters, noted: _Noted
) -> list[tuple[str, CompiledRecipe]]:
    """Return the recipes that can be used with what each is called here; what is wrong is noted."""
    loaded: list[CompiledRecipe] = []
    for location in recipes:
        with noted():
            loaded.append(load_recipe(location, variables))
    if len(loaded) < len(recipes):
        return [(recipe.name, recipe) for recipe in loaded]
    names = list(parameters.name) or [re.sub(r"[/%&<>]+", "-", recipe.name) for recipe in loaded]
    problems = []
    if not recipes:
        problems.append(Problem("RECIPE", "is missing: name at least one recipe"))
    if len(names) != len(loaded):
        problems.append(Problem("--name", f"is given {len(names)} times for {len(loaded)} recipes: once for each"))
    elif len(set(names)) < len(names):
        problems.append(Problem("--name", f"two recipes are called the same ({listed(names)}): give each its own"))
    problems += [
        Problem("--name", f"{quote(name)} holds one of / % & < >, which Prefect does not allow: leave it out")
        for name in names
        if not name.strip() or re.search("[/%&<>]", name)
    ]
    with noted():
        if problems:
            raise RecipeError(problems)
    return list(zip(names, loaded, strict=False))
