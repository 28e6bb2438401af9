"""The arguments of the command line: what can be written, and what each means."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["parser_for"]


def parser_for(actions: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser; what a command does is in ``run`` of what it parses."""
    parser = argparse.ArgumentParser(
        prog="flux-pipelines", description="Image pipelines over the FLUX tools: a job that was paid for is kept."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")

    run = commands.add_parser("run", help="run a recipe over its images")
    run.add_argument("recipe", help="YAML file")
    _add_recipe_options(run)
    _add_run_options(run)
    run.set_defaults(run=actions["run"])

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
    _add_budget(retry)
    _add_run_options(retry)
    retry.set_defaults(run=actions["retry"])

    store = commands.add_parser("store", help="look into the store")
    store_commands = store.add_subparsers(required=True, metavar="command")
    held = store_commands.add_parser("held", help="jobs that may be paid for and whose id is not known")
    held.add_argument("--store", help="a folder or an fsspec URL (default: FLUX_STORE)")
    held.add_argument("--json", action="store_true", help="as JSON")
    held.add_argument("--resubmit", nargs="+", metavar="KEY", help="let the next run submit these again; `all` for all")
    held.add_argument("--drop", nargs="+", metavar="KEY", help="leave these out for good; `all` for all")
    held.set_defaults(run=actions["held"])

    validate = commands.add_parser("validate", help="check a recipe; spends nothing")
    validate.add_argument("recipe", help="YAML file")
    _add_variables(validate)
    validate.set_defaults(run=actions["validate"])

    plan = commands.add_parser("plan", help="what a run would do and cost; spends nothing and writes nothing")
    plan.add_argument("recipe", help="YAML file")
    _add_recipe_options(plan)
    _add_places(plan)
    plan.add_argument("--json", action="store_true", help="as JSON")
    plan.set_defaults(run=actions["plan"])

    graph = commands.add_parser("graph", help="draw the steps of a recipe")
    graph.add_argument("recipe", help="YAML file")
    graph.add_argument("--svg", metavar="FILE", help="write a picture there; without it Mermaid text is printed")
    _add_variables(graph)
    graph.set_defaults(run=actions["graph"])

    schema = commands.add_parser("schema", help="print the JSON Schema of recipes, for editors")
    schema.set_defaults(run=actions["schema"])

    init = commands.add_parser("init", help="write a commented recipe to begin with")
    init.add_argument("recipe", nargs="?", default="recipe.yaml", help="file to write (default recipe.yaml)")
    init.set_defaults(run=actions["init"])

    tools = commands.add_parser("tools", help="list the tools with their prices")
    tools.add_argument("name", nargs="?", help="show one tool with all its parameters")
    tools.add_argument("--json", action="store_true", help="as JSON")
    tools.set_defaults(run=actions["tools"])

    faults = commands.add_parser("faults", help="list the faults that the local server can be told to make")
    faults.add_argument("--measure", action="store_true", help="make each happen, and show what a caller sees of it")
    faults.set_defaults(run=actions["faults"])

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
    local.set_defaults(run=actions["local"])
    return parser


def _add_variables(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", type=_setting, default=[], metavar="NAME=VALUE", help="a value for one of its vars"
    )


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_positive, metavar="N", help="at most N items")
    _add_variables(parser)
    _add_budget(parser)


def _add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--budget", type=_credits, metavar="CREDITS", help="spend no more; instead of the recipe's own")


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint", help="bfl, eu, us, local, or the address of a server that speaks the API")
    parser.add_argument("--store", help="where results are kept: a folder or an fsspec URL (default: FLUX_STORE)")
    parser.add_argument("--max-jobs", type=_positive, metavar="N", help="active jobs at a time (default 24)")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    _add_places(parser)
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


def _credits(text: str) -> float:
    try:
        credits = float(text)
    except ValueError:
        credits = -1.0
    if not 0 <= credits < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of credits")
    return credits


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    return name.strip(), value


def _outcomes(text: str) -> tuple[str, ...]:
    known = ("failed", "moderated", "held", "invalid")
    given = tuple(word.strip() for word in text.split(",") if word.strip())
    if not given or set(given) - set(known):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of {', '.join(known)}")
    return given


def _latency(text: str) -> Any:
    from flux_tasks.local.service.latency import parse

    try:
        return parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not seconds, nor tool=seconds~jitter,…") from None
