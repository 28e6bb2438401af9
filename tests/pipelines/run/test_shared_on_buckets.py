"""Slots, budgets and jobs that machines share: over a store in a bucket, and with one of them stopped for a while."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli
from forked import MODULES, Forked, Nursery
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

pytestmark = pytest.mark.early

KEY = "k" * 20

MACHINE = """
import os, sys
from flux_tasks.store import owner
from flux_tasks.store.account import slots
owner._machine = lambda pid: os.environ["MACHINE"]  # its process ids mean nothing to the others
slots.LAPSE = float(os.environ.get("LAPSE", slots.LAPSE))
if "LEASE" in os.environ:
    from flux_tasks.jobs import submission
    from flux_tasks.store import journal
    journal.LEASE = submission.LEASE = float(os.environ["LEASE"])
    submission._LATE = journal.LEASE / 12
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


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """It has imported what reaches the buckets, too, as the product does: that takes two seconds of CPU."""
    environment = {**os.environ, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    found = Nursery([*MODULES, "warm_s3", "gcsfs"], environment)
    yield found
    found.close()


class Machines:
    """Runs on one store, each on a machine of its own."""

    def __init__(self, folder: Path, nursery: Nursery, store: str, account: dict[str, Any]) -> None:
        self._nursery = nursery
        self.store = Store(store)
        self._folder = folder
        self._cli = Cli(folder)
        options = json.dumps({f"{store.rpartition('/')[0]}/": account} if account else {})
        self._cli.environment |= {"FLUX_STORE": store, "FLUX_STORAGE_OPTIONS": options, "BFL_API_KEY": KEY}
        self._cli.environment["FLUX_POLL_INTERVAL"] = "0.3"

    def begin(self, name: str, server: Account, jobs: int, **environment: str) -> subprocess.Popen[str]:
        """Begin a run of a recipe of its own of so many jobs, on the machine of this name."""
        recipe = self._folder / f"{name}.yaml"
        recipe.write_text(RECIPE.format(name=name, folder=self._folder))
        (self._folder / name).mkdir()
        for number in range(jobs):
            (self._folder / name / f"p{number}.png").write_bytes((self._folder / "photos" / "p0.png").read_bytes())
        return self.begin_again(name, name, server, **environment)

    def begin_again(self, recipe: str, name: str, server: Account, **environment: str) -> subprocess.Popen[str]:
        """Begin a run of the recipe of a machine, on the machine of this name."""
        arguments = ("run", f"{self._folder}/{recipe}.yaml", "--endpoint", server.url, "--no-report")
        return Forked(
            [sys.executable, "-c", MACHINE, *arguments],
            nursery=self._nursery,
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


@pytest.fixture(params=["s3", "gs"])
def on_bucket(request: pytest.FixtureRequest, folder: Path, nursery: Nursery) -> Iterator[Machines]:
    import fsspec

    with ExitStack() as stack:
        protocol, bucket = request.param, new_bucket_name()
        if protocol == "s3":
            endpoint = stack.enter_context(moto_s3())
            stack.enter_context(reach_s3(endpoint))
            account = {"endpoint_url": endpoint, "key": "throw-away", "secret": "throw-away", "region": "us-east-1"}
        else:
            endpoint = stack.enter_context(fake_gcs(folder))
            stack.enter_context(reach_gcs(endpoint))
            account = {"endpoint_url": endpoint, "token": "anon", "project": "p"}
        files.exists(f"{protocol}://{bucket}/any")  # imports its library the way the product does
        fsspec.filesystem(protocol).mkdir(bucket)
        yield Machines(folder, nursery, f"{protocol}://{bucket}/store", account)


@pytest.fixture
def server() -> Iterator[Account]:
    with Account() as account:
        yield account


def test_two_machines_stay_within_the_24_slots_of_an_account_by_the_servers_count(
    on_bucket: Machines, server: Account
) -> None:
    server.hold = True  # until each has had its chance to take too many
    with ExitStack() as running:
        runs = [running.enter_context(on_bucket.begin(name, server, 13)) for name in ("a", "b")]

        def claims() -> list[Claim]:
            return [holder.claims.get("account", Claim()) for holder in holders(on_bucket.store)]

        try:
            wait_until(lambda: server.jobs >= 24 and len(claims()) == 2, pause=0.3)
            shown = claims()
        finally:
            server.hold = False
        assert [ended(run)[0] for run in runs] == [0, 0]
    assert sum(claim.claimed for claim in shown) <= 24
    assert all(claim.claimed for claim in shown), "each has its part"
    assert (server.jobs, server.most, server.refused) == (26, 24, 0)


def test_the_slots_of_a_killed_machine_are_free_again_after_its_lease(on_bucket: Machines, server: Account) -> None:
    server.hold = True
    with on_bucket.begin("a", server, 1) as killed:
        wait_until(lambda: server.jobs == 1, pause=0.1)
        killed.kill()
    records = SlotRecords(on_bucket.store, account_of(Settings(endpoint=server.url, key=KEY)))
    assert [claims["account"].claimed for claims in records.read().values()] == [24], "nobody knows that it has ended"
    server.hold = False
    with on_bucket.begin("b", server, 1, LAPSE="2") as other:
        code, said = ended(other)
    assert (code, server.jobs) == (0, 2), said


def test_the_budget_of_a_store_stops_the_runs_of_two_machines_at_its_cap(on_bucket: Machines, server: Account) -> None:
    write_limits(on_bucket.store, 15.0, None, "UTC")
    with ExitStack() as running:
        runs = [running.enter_context(on_bucket.begin(name, server, 2)) for name in ("a", "b")]
        ends = [ended(run) for run in runs]
    assert server.spent == 13.5, "3 jobs of 4.5 credits, and no fourth"
    assert 3 in [code for code, _ in ends]
    assert any("the budget of the store of 15 credits a day is reached" in said for _, said in ends), ends


def test_a_machine_that_was_stopped_for_longer_than_its_leases_goes_on_and_nothing_is_paid_twice(
    folder: Path, nursery: Nursery, server: Account
) -> None:
    machines = Machines(folder, nursery, str(folder / "shared" / "store"), {})
    journal = folder / "shared" / "store" / "journal"
    leases = {"LEASE": "3", "LAPSE": "3"}
    server.hold = True
    with machines.begin("a", server, 6, FLUX_MAX_JOBS="3", **leases) as stopped:
        wait_until(lambda: sum('"phase": "submitted"' in entry.read_text() for entry in journal.glob("*.json")) == 3)
        os.kill(stopped.pid, signal.SIGSTOP)
        server.hold = False
        with machines.begin_again("a", "b", server, **leases) as other:
            assert ended(other)[0] == 0
        assert server.jobs == 6
        os.kill(stopped.pid, signal.SIGCONT)
        code, said = ended(stopped)
    assert (code, server.jobs, server.spent) == (0, 6, 27)
    assert "6 of 6 items" in said
    assert not list(journal.glob("*.json"))
