"""``serve --watch``: new pictures start a run, once, also after a restart, and only when all of them are there."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import pytest
from command_line import Cli, Here
from fake_bfl import FakeBfl
from PIL import Image
from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.states import Cancelled, Completed, Crashed, Failed
from waiting import PATIENCE, children, wait_until

from flux_tasks.background import beside
from flux_tasks.store.owner import is_process_alive
from flux_tasks.store.records import Store
from pipelines.flows.served import serving
from pipelines.flows.served import watch as watching
from pipelines.flows.served.watch import End, pictures, start_processes, watch
from pipelines.language.reading import loader


class Watcher:
    """Watches ``photos`` for a recipe, and notes what it starts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.started: list[str] = []
        self.reasons: list[str] = []
        self.end = End.OVER
        self.told: list[str] = []
        self.looks = 0
        self.error: OSError | None = None

        def look(place: str) -> frozenset[str]:
            self.looks += 1
            if self.error is not None:
                raise self.error
            return pictures(place)

        monkeypatch.setattr(watching, "pictures", look)

    async def start(self, digest: str, why: str) -> End:
        self.reasons.append(why)
        self.started.append(why.partition(" in ")[0])
        return self.end

    def running(self) -> AbstractAsyncContextManager[None]:
        place, store = str(self.folder / "photos"), Store(str(self.folder / "store"))
        return beside(watch(place, "clean", store, self.start, self.told.append, pause=0.005))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.005)

    async def looked(self, times: int = 8) -> None:
        """Wait until the place has been looked at some more times."""
        until = self.looks + times
        await self.until(lambda: self.looks >= until)


@pytest.fixture
def watcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Watcher:
    return Watcher(folder, monkeypatch)


def add(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("RGB", (64, 64)).save(folder / "photos" / name)


async def test_new_pictures_start_one_run_also_after_a_restart(watcher: Watcher, folder: Path) -> None:
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        await watcher.looked()
        add(folder, "a.png", "b.png")
        await watcher.until(lambda: len(watcher.started) == 2)
        (folder / "photos" / "notes.txt").write_text("no picture")
        (folder / "photos" / "b.png").unlink()
        await watcher.looked()
    async with watcher.running():
        await watcher.looked()
    assert watcher.started == ["2 new pictures", "2 new pictures"]
    add(folder, "c.png")  # while nobody watches
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 3)
        await watcher.looked()
    assert watcher.started[2:] == ["1 new picture"]


async def test_a_picture_that_is_written_over_is_new(watcher: Watcher, folder: Path) -> None:
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        Image.new("RGB", (80, 64)).save(folder / "photos" / "p0.png")
        await watcher.until(lambda: len(watcher.started) == 2)
    assert watcher.started == ["2 new pictures", "1 new picture"]


async def test_nothing_starts_while_pictures_still_arrive(
    watcher: Watcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = watching.pictures

    def look_and_add(place: str) -> frozenset[str]:
        found = look(place)
        if watcher.looks <= 20:  # before the next look there is one more
            add(folder, f"more{watcher.looks}.png")
        return found

    monkeypatch.setattr(watching, "pictures", look_and_add)
    async with watcher.running():
        await watcher.until(lambda: bool(watcher.started))
    assert watcher.started == ["22 new pictures"]


async def test_a_place_that_is_away_for_a_while_is_told_once_and_watched_again(watcher: Watcher, folder: Path) -> None:
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        watcher.error = OSError("the bucket is away")
        await watcher.looked()
        watcher.error = None
        add(folder, "a.png")
        await watcher.until(lambda: len(watcher.started) == 2)
    assert [line.partition("photos")[2] for line in watcher.told] == [
        " is not watched at the moment: the bucket is away",
        " is watched again",
    ]


async def test_a_folder_that_is_removed_is_told_once_and_watched_again_when_it_is_back(
    watcher: Watcher, folder: Path
) -> None:
    photos = folder / "photos"
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        await asyncio.to_thread(photos.rename, folder / "away")
        await watcher.until(lambda: bool(watcher.told))
        await watcher.looked()
        assert [line.partition("photos")[2] for line in watcher.told] == [
            " is not watched at the moment: it is not there any more"
        ]
        await asyncio.to_thread((folder / "away").rename, photos)
        await watcher.until(lambda: len(watcher.told) == 2)
        await watcher.looked()
    assert watcher.told[1].endswith("photos is watched again")
    assert watcher.started == ["2 new pictures"], "nothing is started twice"


async def test_with_a_server_a_watch_waits_for_the_end_of_the_run_and_knows_how_it_ended(
    here_cli: Here, folder: Path, prefect_server: str
) -> None:
    name = f"watched-{uuid.uuid4().hex[:8]}"
    told: list[str] = []
    async with get_client() as client:
        pool = f"pool-{name}"
        await client.request("POST", "/work_pools/", json={"name": pool, "type": "process"})
        done = await asyncio.to_thread(here_cli, "deploy", str(folder / "recipe.yaml"), "--pool", pool, "--name", name)
        assert done.returncode == 0, done.stderr
        number = (await client.read_deployment_by_name(f"run-recipe/{name}")).id
        only = DeploymentFilter(id=DeploymentFilterId(any_=[number]))
        start = serving._starter(number, told.append)
        failed = Failed(message="2 of 7 items did not end well: 2 failed. Manifest: m.jsonl")
        stopped = Failed(message="stopped: no credits are left. Manifest: m.jsonl")
        for digest, state, end in (
            ("a", Completed(), End.OVER),
            ("b", failed, End.OVER),
            ("c", stopped, End.BROKEN_OFF),
            ("c", Crashed(), End.BROKEN_OFF),  # the same again is another run
            ("c", Failed(message="the store cannot be written"), End.BROKEN_OFF),
            ("c", Cancelled(), End.CANCELLED),
        ):
            waiting = [asyncio.create_task(start(digest, "2 new pictures")) for _ in range(2)]
            while not (
                runs := [run for run in await client.read_flow_runs(deployment_filter=only) if not run.state.is_final()]
            ):  # type: ignore[union-attr]
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)
            assert not any(one.done() for one in waiting)
            [run] = runs  # asked twice for one listing, the server has started one
            await client.set_flow_run_state(run.id, state, force=True)
            assert await asyncio.gather(*waiting) == [end, end]
    assert len(told) == 6, "once for each run"


async def test_a_run_that_did_not_come_to_its_end_is_started_again_after_a_restart(watcher: Watcher) -> None:
    watcher.end = End.BROKEN_OFF
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        await watcher.looked()
    assert watcher.started == ["2 new pictures"], "not again and again while nothing changes"
    watcher.end = End.OVER
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 2)
        await watcher.looked()
    async with watcher.running():
        await watcher.looked()
    assert len(watcher.started) == 2


async def test_a_run_that_was_broken_off_is_started_again_after_a_while_and_then_ever_more_rarely(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AGAIN", 0.02)
    watcher.end = End.BROKEN_OFF
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 3)
        watcher.end = End.OVER
        await watcher.until(lambda: len(watcher.started) == 4)
        await watcher.looked()
    again = [line.rpartition("photos")[2] for line in watcher.reasons]
    assert again == ["", *[" was broken off"] * 3]
    assert len(watcher.started) == 4, "it has come to its end"


async def test_a_run_that_a_person_has_cancelled_is_not_started_again_before_a_restart(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "AGAIN", 0.0)
    watcher.end = End.CANCELLED
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 1)
        await watcher.looked()
    assert len(watcher.started) == 1
    async with watcher.running():
        await watcher.until(lambda: len(watcher.started) == 2)


async def test_a_run_that_could_not_be_started_is_started_at_the_next_look(watcher: Watcher, folder: Path) -> None:
    start, refused = watcher.start, []

    async def refuse_once(digest: str, why: str) -> End:
        if not refused:
            refused.append(digest)
            raise ConnectionError("no server")
        assert digest == refused[0]
        return await start(digest, why)

    watcher.start = refuse_once  # type: ignore[method-assign]
    async with watcher.running():
        await watcher.until(lambda: bool(watcher.started))
        await watcher.looked()
    assert watcher.started == ["2 new pictures"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--watch", "nowhere"], "--watch: 'nowhere' is no folder: create it, or correct its name"),
        (["--watch", "https://example.org/photos"], "is an address of the web, which cannot be listed"),
        (
            ["--watch", ".", "--cron", "0 3 * * *"],
            "--prefect off: is given with a schedule, which a Prefect server holds",
        ),
        ([], "--watch: is missing: without a Prefect server only new pictures can start a run"),
        (["--watch", ".", "--key-block", "k"], "--key-block: is a block of a Prefect server: set BFL_API_KEY instead"),
    ],
)
def test_what_cannot_be_watched_is_refused(options: list[str], told: str, here_cli: Here, folder: Path) -> None:
    done = here_cli("serve", str(folder / "recipe.yaml"), "--prefect", "off", "--endpoint", "local", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


async def test_without_a_prefect_server_each_run_is_a_process_of_its_own_and_a_signal_ends_both(
    cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    cli.environment |= {"FLUX_ENDPOINT": bfl.url}
    options = ["--watch", str(folder / "photos"), "--every", "0.1", "--limit", "1", "--prefect", "off"]
    bfl.hold = True
    with cli.start("serve", str(folder / "recipe.yaml"), *options, key="k") as served:
        while bfl.jobs < 1:
            assert served.poll() is None
            await asyncio.sleep(0.05)
        served.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        bfl.hold = False  # the job in work is collected before the end
        out, err = await asyncio.to_thread(served.communicate, timeout=PATIENCE)
    assert served.returncode == 0, err
    assert "clean: 2 new pictures in " in out
    assert out.endswith("ended\n")
    assert "jobs in flight are collected" in err
    charged = bfl.jobs
    done = await asyncio.to_thread(cli, "run", str(folder / "recipe.yaml"), "--limit", "1", key="k")
    assert (done.returncode, charged, bfl.jobs) == (0, 1, 2)


async def test_a_run_that_a_watch_has_started_ends_soon_when_that_is_killed(
    cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    cli.environment |= {"FLUX_ENDPOINT": bfl.url}
    recipe = str(folder / "recipe.yaml")
    bfl.hold = True
    options = ["--watch", str(folder / "photos"), "--every", "0.1", "--limit", "1", "--prefect", "off"]
    with cli.start("serve", recipe, *options, key="k") as served:
        await asyncio.to_thread(wait_until, lambda: bfl.jobs)
        [run] = children(served.pid)
        served.kill()
        bfl.hold = False  # the job in work is collected before the end
        await asyncio.to_thread(wait_until, lambda: not is_process_alive(run))
    done = await asyncio.to_thread(cli, "run", recipe, "--limit", "1", key="k")
    assert (done.returncode, bfl.jobs) == (0, 2), "the run paid for no other step after the end of its parent"


async def test_a_run_that_is_killed_while_its_watch_goes_on_is_started_again_and_pays_for_nothing_twice(
    bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (Cli(folder).environment | {"FLUX_ENDPOINT": bfl.url, "BFL_API_KEY": "k"}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(watching, "AGAIN", 0.1)
    told: list[str] = []
    recipe, places = str(folder / "recipe.yaml"), [str(folder / "photos")]
    named = [("clean", loader.load(recipe))]
    bfl.hold = True
    async with (
        beside(start_processes(named, places, [], str(folder / "store"), told.append, pause=0.05)),
        asyncio.timeout(PATIENCE),
    ):
        while bfl.jobs < 2:
            await asyncio.sleep(0.05)
        [run] = [one for one in psutil.Process().children() if recipe in one.cmdline()]
        run.kill()
        bfl.hold = False
        while len(told) < 4:
            await asyncio.sleep(0.05)
    assert told[1] == "clean: the run ended with exit code -9"
    assert told[2].endswith("was broken off: a run begins")
    assert told[3] == "clean: the run ended with exit code 0"
    assert bfl.jobs == 4
