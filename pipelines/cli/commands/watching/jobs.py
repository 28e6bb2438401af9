"""``jobs`` and ``collect``: what is in flight, and a job that was paid for elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable, cut, quote
from flux_tasks.units import credits, duration, table_text
from pipelines.cli.commands.store.program import Place, opened
from pipelines.cli.common import Exit, Json, Location, Places
from pipelines.cli.terminal import print_error, print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.images.reference import ImageRef
    from flux_tasks.store.journal import Entry
    from flux_tasks.store.records import Store

_MEANINGS = {
    "running": "submitted, and a run waits for its result",
    "submitting": "a run is sending it",
    "left": "paid for, and its run has ended: the next run collects it, or flux-pipelines collect ID",
    "held": "its submission has no answer, and may have been charged: flux-pipelines store held",
}


def jobs(*, place: Place = None, json: Json = False) -> Exit:
    """List the jobs in flight of all runs on this store: id, tool, item, age, expected cost, owner.

    A job is listed from its submission until its result is in the store.
    """
    from json import dumps

    store = opened(Places(store=place).settings(needs_key=False))
    found = [_data(entry) for entry in _unsettled(store)]
    if json:
        print_line(dumps(found, indent=2, ensure_ascii=False))
        return Exit.OK
    if not found:
        print_line("no job is in flight")
        return Exit.OK
    rows = [("id", "key", "tool", "item", "state", "age", "credits", "owner")]
    for job in found:
        cost = "unknown" if job["credits"] is None else credits(job["credits"])
        owner = f"{job['host']}:{job['pid']}" if job["host"] else ""
        key = job["key"][:12]
        rows.append((job["id"], key, job["tool"], job["item"], job["state"], duration(job["age"]), cost, owner))
    print_line(table_text(rows, right=[5, 6], width=terminal_width()))
    states = {job["state"] for job in found}
    print_line("\n" + "\n".join(f"{state}: {what}" for state, what in _MEANINGS.items() if state in states))
    return Exit.OK


def _unsettled(store: Store) -> list[Entry]:
    """Return the unsettled jobs of a store, oldest first, without those whose result is there already."""
    from flux_tasks.store.journal import Journal

    try:
        entries = Journal(store).unsettled()
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    return sorted(entries, key=lambda entry: entry.begun)


def _data(entry: Entry) -> dict[str, Any]:
    """Return a job as JSON has it. ``credits``: what it costs, or is expected to cost where the service named none."""
    from flux_tasks.store.journal import LEASE
    from flux_tasks.store.owner import has_ended, is_of_this_machine, readable

    if entry.phase == "submitted":
        is_old = entry.age is None or entry.age > 3 * LEASE  # who is at work writes thrice a lease
        is_silent = is_old and not is_of_this_machine(entry.owner)
        state = "left" if has_ended(entry.owner) or is_silent else "running"
    else:
        state = "held" if entry.seems_held or has_ended(entry.owner) else "submitting"
    host, _, pid = readable(entry.owner).rpartition(":")
    return {
        "id": entry.id,
        "key": entry.key,
        "tool": entry.tool,
        "item": entry.name,
        "state": state,
        "age": None if entry.whole_age is None else round(entry.whole_age, 1),
        "credits": entry.estimate if entry.cost is None else entry.cost,
        "host": host,
        "pid": int(pid) if pid.isdecimal() else None,
    }


def collect(
    job: Annotated[str, Parameter(name="ID")],
    /,
    *,
    polling_url: Annotated[str, Parameter(metavar="URL")] = "",
    key: Annotated[str, Parameter(metavar="KEY")] = "",
    output: Annotated[Location | None, Parameter(alias="-o", metavar="FILE")] = None,
    places: Places = Places(),
) -> Exit:
    """Fetch the result of a job that was paid for elsewhere, by its id; this costs nothing.

    Where the journal of the store knows the job, its result is put into the
    store, and the run that needs it finds it there. A held job, whose id
    nobody knew, is named by --key once you have found its id at BFL.

    For example:
      flux-pipelines collect 0c1f6d2e-7a41-4c9b-9a51-d6f0a8f1d0f3 -o hens.png
      flux-pipelines collect 0c1f6d2e-7a41-4c9b-9a51-d6f0a8f1d0f3 --key 4fb0c2

    Args:
        job: the id that the service gave the job
        polling_url: where to ask for it, as the answer to its submission said (default: the endpoint's own address)
        key: the held job that it is, by the beginning of its key; `flux-pipelines store held` lists them
        output: write the picture, as it came, to this new file; it may be an fsspec URL
    """
    from flux_tasks import background, files
    from flux_tasks.jobs.collection import collect_by_id
    from flux_tasks.store.commit import drain_spool
    from flux_tasks.store.owner import readable

    if not job.strip():
        raise RecipeError([Problem("ID", "is empty: write the id that the service gave the job")])
    settings = places.settings(needs_key=False)
    if output is not None and (
        str(output).endswith("/") or (files.is_local(output) and Path(files.local_name(output)).is_dir())
    ):
        raise RecipeError([Problem("--output", f"{quote(output)} is a folder: write a file in it, such as hens.png")])
    store = opened(settings)
    background.run(drain_spool(settings))  # its id may be there
    entry, image = _entry_of(store, job, key), _stored(store, job)
    if key and image is not None:
        raise RecipeError([Problem("--key", f"{quote(job)} is the job of another call, whose result is in the store")])
    owner = readable(entry.owner) if entry is not None and _data(entry)["state"] == "running" else ""
    if output is None and (owner or not (entry or image)):
        what = f"{owner} waits for this job, and stores its result" if owner else f"{store.url} has no job with this id"
        raise RecipeError([Problem(job, f"{what}: write --output FILE to get its picture")])
    if image is not None and entry is None:
        data = store.read_image(image)
    else:
        settings.require_key()
        wanted = None if owner else entry
        found = collect_by_id(job, settings, entry=wanted, polling_url=polling_url, on_wait=print_error)
        image, data = background.run(found)
    if image is not None:
        print_line(f"in the store: {image.uri}")
    if output is not None:
        _write(str(output), data)
    return Exit.OK


def _write(output: str, data: bytes) -> None:
    """Write a picture to a file that is not there yet, or that is the same.

    Raises:
        RecipeError: something else is there, or its extension is of another type.
    """
    from flux_tasks import files
    from flux_tasks.images.encoding import EXTENSIONS, inspect

    kind = inspect(data).media_type
    found, fitting = files.extension(output), EXTENSIONS.get(kind, "")
    if "." in files.name(output) and fitting and found.replace("jpeg", "jpg") != fitting:
        better = (
            f"{output.removesuffix(found)}{fitting}" if output.endswith(found) else f"a name that ends with .{fitting}"
        )
        raise RecipeError([Problem("--output", f"{quote(output)} does not fit {kind}: write {cut(better)}")])
    if files.exists(output):
        if files.read(output) != data:
            what = f"{quote(output)} is there already, and is not this picture: write another name, or remove it"
            raise RecipeError([Problem("--output", what)])
    else:
        files.write(output, data)
    print_line(f"written: {output} ({len(data):,} bytes)")


def _stored(store: Store, job: str) -> ImageRef | None:
    """Return the picture that a job gave, if the store has it."""
    from flux_tasks.store.inventory import Inventory

    try:
        record = next((one for one in Inventory(store).results() if one.get("job_id") == job), None)
        found = store.result(record["key"]) if record else None
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    return found["image"] if found else None


def _entry_of(store: Store, job: str, key: str) -> Entry | None:
    """Return what the journal has of a job: by its id, or by the beginning of the key of a held one."""
    entries = _unsettled(store)
    own = next((entry for entry in entries if entry.id == job), None)
    if not key:
        return own
    if own is not None:
        raise RecipeError([Problem("--key", f"{quote(job)} is the job of {own.key[:12]} already: leave --key out")])
    found = [entry for entry in entries if entry.key.startswith(key) and _data(entry)["state"] == "held"]
    if len(found) != 1:
        what = f"{quote(key)} begins the keys of {len(found):,} held jobs: write more of it"
        if not found:
            what = f"no held job has a key that begins with {quote(key)}: flux-pipelines store held lists them"
        raise RecipeError([Problem("--key", what)])
    return found[0]
