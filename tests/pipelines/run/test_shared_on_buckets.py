"""Slots and budgets that several machines share over a store in a bucket: S3, and Google Cloud Storage."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from forked import Forked
from object_stores import fake_gcs, moto_s3, new_bucket_name, reach_gcs, reach_s3
from recipes import Painter
from scripted import Answer, Request
from waiting import PATIENCE, wait_until

from flux_tasks import files
from flux_tasks.settings import Settings
from flux_tasks.store.account.periods import write_limits
from flux_tasks.store.account.shares import Claim
from flux_tasks.store.account.slots import SlotRecords, account_of, holders
from flux_tasks.store.records import Store

KEY = "k" * 20

MACHINE = """
import os, sys
from flux_tasks.store import owner
from flux_tasks.store.account import slots
owner._machine = lambda pid: os.environ["MACHINE"]  # its process ids mean nothing to the others
slots.LAPSE = float(os.environ.get("LAPSE", slots.LAPSE))
from pipelines.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

RECIPE = """\
name: r{name}
source: {folder}/{name}/*.png
steps:
  - edit: {{model: flux-2-pro, prompt: "{name} {{{{ stem }}}}"}}
output: '{folder}/out/{name}/{{{{ stem }}}}.png'
"""


class Account(Painter):
    """An account with 24 slots: a job has one until its result is delivered. ``most`` were in use at once."""

    def __init__(self) -> None:
        super().__init__()
        self._active: set[str] = set()
        self.refused = self.most = 0

    def _submit(self, path: str, request: Request) -> Answer:
        if len(self._active) >= 24:
            self.refused += 1
            return Answer(429, {"detail": "Too many active tasks"})
        answer = super()._submit(path, request)
        self._active.add(answer.body["id"])  # type: ignore[index]
        self.most = max(self.most, len(self._active))
        return answer

    def _poll(self, job_id: str) -> Answer:
        answer = super()._poll(job_id)
        if answer.body.get("status") == "Ready":  # type: ignore[union-attr]
            self._active.discard(job_id)
        return answer


class Machines:
    """Runs on one store, each on a machine of its own."""

    def __init__(self, folder: Path, store: str, account: dict[str, Any]) -> None:
        self.store = Store(store)
        self._folder = folder
        self._cli = Cli(folder)
        options = json.dumps({f"{store.rpartition('/')[0]}/": account})
        self._cli.environment |= {"FLUX_STORE": store, "FLUX_STORAGE_OPTIONS": options, "BFL_API_KEY": KEY}
        self._cli.environment["FLUX_POLL_INTERVAL"] = "0.3"

    def begin(self, name: str, server: Account, jobs: int, **environment: str) -> subprocess.Popen[str]:
        """Begin a run of so many jobs, on the machine of this name."""
        recipe = self._folder / f"{name}.yaml"
        recipe.write_text(RECIPE.format(name=name, folder=self._folder))
        (self._folder / name).mkdir()
        for number in range(jobs):
            (self._folder / name / f"p{number}.png").write_bytes((self._folder / "photos" / "p0.png").read_bytes())
        arguments = ("run", str(recipe), "--endpoint", server.url, "--no-report")
        return Forked(
            [sys.executable, "-c", MACHINE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._cli.environment | {"MACHINE": name} | environment,
            text=True,
        )


def ended(run: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a run, and what it has said of its end."""
    out, err = run.communicate(timeout=PATIENCE)
    assert "Traceback" not in err, err
    return run.returncode, out + err


@pytest.fixture
def on_s3(folder: Path) -> Iterator[Machines]:
    import fsspec

    with moto_s3() as endpoint, reach_s3(endpoint):
        bucket = new_bucket_name()
        files.exists(f"s3://{bucket}/any")
        fsspec.filesystem("s3").mkdir(bucket)
        account = {"endpoint_url": endpoint, "key": "throw-away", "secret": "throw-away", "region": "us-east-1"}
        yield Machines(folder, f"s3://{bucket}/store", account)


@pytest.fixture
def on_gcs(folder: Path) -> Iterator[Machines]:
    import fsspec

    with fake_gcs(folder) as endpoint, reach_gcs(endpoint):
        bucket = new_bucket_name()
        files.exists(f"gs://{bucket}/any")
        fsspec.filesystem("gs").mkdir(bucket)
        yield Machines(folder, f"gs://{bucket}/store", {"endpoint_url": endpoint, "anon": True, "project": "p"})


@pytest.fixture(params=["on_s3", "on_gcs"])
def machines(request: pytest.FixtureRequest) -> Machines:
    found: Machines = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def server() -> Iterator[Account]:
    with Account() as account:
        yield account


def test_two_machines_stay_within_the_24_slots_of_an_account_by_the_servers_count(
    on_s3: Machines, server: Account
) -> None:
    server.hold = True  # until each has had its chance to take too many
    with ExitStack() as running:
        runs = [running.enter_context(on_s3.begin(name, server, 14)) for name in ("a", "b")]

        def claims() -> list[Claim]:
            return [holder.claims.get("account", Claim()) for holder in holders(on_s3.store)]

        try:
            wait_until(lambda: server.jobs >= 24 and len(claims()) == 2, pause=0.3)
            shown = claims()
        finally:
            server.hold = False
        assert [ended(run)[0] for run in runs] == [0, 0]
    assert sum(claim.claimed for claim in shown) <= 24
    assert all(claim.claimed for claim in shown), "each has its part"
    assert (server.jobs, server.most, server.refused) == (28, 24, 0)


def test_the_slots_of_a_killed_machine_are_free_again_after_its_lease(machines: Machines, server: Account) -> None:
    server.hold = True
    with machines.begin("a", server, 2) as killed:
        wait_until(lambda: server.jobs == 2, pause=0.1)
        killed.kill()
    records = SlotRecords(machines.store, account_of(Settings(endpoint=server.url, key=KEY)))
    assert [claims["account"].claimed for claims in records.read().values()] == [24], "nobody knows that it has ended"
    server.hold = False
    with machines.begin("b", server, 2, LAPSE="2") as other:
        code, said = ended(other)
    assert (code, server.jobs) == (0, 4), said


def test_the_budget_of_a_store_stops_the_runs_of_two_machines_at_its_cap(machines: Machines, server: Account) -> None:
    write_limits(machines.store, 30.0, None, "UTC")
    with ExitStack() as running:
        runs = [running.enter_context(machines.begin(name, server, 4)) for name in ("a", "b")]
        ends = [ended(run) for run in runs]
    assert server.spent == 27, "6 jobs of 4.5 credits, and no seventh"
    assert 3 in [code for code, _ in ends]
    assert any("the budget of the store of 30 credits a day is reached" in said for _, said in ends), ends
