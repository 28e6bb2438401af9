"""Deployments of recipes: what a Prefect server, or a ``prefect.yaml``, is told of a recipe that runs by itself.

A recipe travels with its deployment as text: a worker needs no file of it, and an edit of the file counts once it is
deployed again. One that was given by a URL is read from there at each run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Schedule
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema, parameter_schema

from flux_tasks import files
from flux_tasks.errors import Problem, RecipeError, RunStopped, cut, listed, quote
from flux_tasks.tasks.recording import is_server_configured
from flux_tasks.units import duration
from pipelines.flows.deployed import deployed_recipe
from pipelines.language.compiled import CompiledRecipe

ENTRYPOINT = "pipelines.shards.deployed.deployed_recipe"
"""Where a worker finds the flow: in the installed package, so that it clones nothing. Its parameters are those here."""

_JSON_TYPES = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class Deployment:
    """A recipe that a Prefect server runs by itself.

    Attributes:
        name: what the deployment is called.
        recipe: checked; as it is now.
        schedule: when it runs; None if it is started by hand, by an event or by new pictures only.
        options: parameters of the flow besides recipe and variables; those that were given.
        folder: where relative paths start on the worker; empty where that is the folder of the process.
    """

    name: str
    recipe: CompiledRecipe
    schedule: Schedule | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow is started with, unless somebody changes it for one run."""
        is_text = files.is_local(self.recipe.file)
        variables = self.recipe.vars if is_text else self.recipe.variables  # those at a URL may change
        found = {"recipe": self.recipe.text if is_text else self.recipe.file, "variables": dict(variables)}
        return {name: value for name, value in {**found, **self.options}.items() if value not in (None, "", {})}

    @property
    def schema(self) -> ParameterSchema:
        """The form in Prefect's pages: each variable of the recipe is a field; the recipe is fixed, and comes last."""
        schema = parameter_schema(deployed_recipe)
        fields = schema.properties
        del fields["part_of"]  # which nobody fills in
        fields["recipe"] |= {"readOnly": True, "enum": [self.parameters["recipe"]], "position": len(fields)}
        if files.is_local(self.recipe.file):
            own = {
                name: {"title": name, "default": value, "position": number}
                | ({"type": _JSON_TYPES[type(value)]} if type(value) in _JSON_TYPES else {})
                for number, (name, value) in enumerate(self.recipe.vars.items())
            }
            fields["variables"] |= {"properties": own, "additionalProperties": False}
        return schema

    @property
    def timing(self) -> str:
        """When it runs, for a person."""
        schedule = self.schedule
        if schedule is None:
            return "no schedule"
        if schedule.interval is not None:
            return f"every {duration(schedule.interval.total_seconds())}"
        return f"{quote(schedule.cron or schedule.rrule)}, {schedule.timezone}"

    def to_prefect(self) -> RunnerDeployment:
        """Return what registers it."""
        made: RunnerDeployment = RunnerDeployment.from_flow(
            deployed_recipe,
            self.name,
            schedule=self.schedule,
            parameters=self.parameters,
            description=f"The recipe {self.recipe.name}: {' → '.join(step.id for step in self.recipe.steps)}",
            tags=["flux-pipelines"],
            version=self.recipe.digest[:12],
            job_variables={"working_dir": self.folder} if self.folder else {},
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        made.entrypoint = ENTRYPOINT
        made._parameter_openapi_schema = self.schema
        return made

    def to_entry(self, pool: str) -> dict[str, Any]:
        """Return its entry in a ``prefect.yaml``.

        Prefect fills in what stands between double braces in that file, and empties what it does not know. So a recipe
        that travels as text is written as JSON there, in which the braces of its templates are escaped.
        """
        parameters = self.parameters
        if "{{" in json.dumps(parameters.get("variables"), default=str):
            what = "a value holds {{, which Prefect fills in where it reads this file: deploy without --yaml"
            raise RecipeError([Problem("--set", what)])
        if files.is_local(self.recipe.file):
            text = json.dumps(self.recipe.written, indent=1, ensure_ascii=False, default=str)
            parameters["recipe"] = text.replace("{{", "\\u007b\\u007b").replace("}}", "\\u007d\\u007d")
        schedule = {
            name: value
            for name in ("cron", "rrule", "interval", "timezone")
            if (value := getattr(self.schedule, name, None)) is not None
        }
        if "interval" in schedule:
            schedule["interval"] = schedule["interval"].total_seconds()
        job_variables = {"job_variables": {"working_dir": self.folder}} if self.folder else {}
        return {
            "name": self.name,
            "description": self.to_prefect().description,
            "tags": ["flux-pipelines"],
            "entrypoint": ENTRYPOINT,
            "pull": [],
            "parameters": parameters,
            "schedules": [schedule] if schedule else [],
            "work_pool": {"name": pool, **job_variables},
        }


async def check_server() -> None:
    """Check that a Prefect server is configured and answers.

    Raises:
        RunStopped: none is, or it does not.
    """
    if not is_server_configured():
        raise RunStopped(
            "no Prefect server is configured: start one with `prefect server start`, and set PREFECT_API_URL to its "
            "address, such as http://127.0.0.1:4200/api"
        )
    async with get_client() as client:
        error = await client.api_healthcheck()
    if error is not None:
        raise RunStopped(
            f"no Prefect server answers at {PREFECT_API_URL.value()}: start it with `prefect server start`, or correct "
            "PREFECT_API_URL"
        )


async def check_pool(client: PrefectClient, pool: str, folder: str, *, place: str = "--pool") -> None:
    """Check that a work pool exists, and can start in a folder if one is given.

    Args:
        place: where it was named.

    Raises:
        RecipeError: it does not, or cannot.
    """
    try:
        kind = (await client.read_work_pool(pool)).type
    except ObjectNotFound:
        names = sorted(found.name for found in await client.read_work_pools())
        what = f"there is no work pool {quote(pool)}; there is {listed(names) or 'none'}"
        remedy = f"create it with `prefect work-pool create {cut(pool)} --type process`"
        raise RecipeError([Problem(place, f"{what}: {remedy}")]) from None
    if folder and kind != "process":
        what = f"belongs to a work pool of the type process, and {quote(pool)} is of the type {kind}"
        raise RecipeError([Problem("--folder", f"{what}: write absolute paths or URLs in the recipe")])
