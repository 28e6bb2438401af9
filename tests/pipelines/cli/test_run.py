"""The command line as people use it: a process, its output, its exit code. Nothing is spent on wrong input."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, Here
from fake_bfl import FakeBfl
from PIL import Image, ImageFile

from flux_tasks.local.server import LocalServer
from pipelines.report import of_run


def test_a_run_against_any_server_that_speaks_the_api_needs_its_address_and_a_key_only(
    prefect_cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    done = prefect_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 items" in done.stdout
    assert "4 paid, 12.00 credits ($0.12)" in done.stdout
    assert (folder / "out" / "p0.png").exists()
    report = Path(next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("report:")))
    assert "clean" in report.read_text()
    manifest = Path(next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("manifest:")))
    assert [json.loads(line)["outcome"] for line in manifest.read_text().splitlines()] == ["done", "done"]
    everything = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    assert not any(b"right-key" in content for content in everything)

    second = prefect_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert second.returncode == 0
    assert "no job was made and nothing was paid: 4 results came from the store" in second.stdout
    assert bfl.jobs == 4


def test_a_run_that_is_killed_and_started_again_collects_what_it_had_submitted(
    prefect_cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    bfl.hold = True
    program = prefect_cli.start("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    journal = folder / "store" / "journal"
    try:
        while not (journal.is_dir() and sum('"submitted"' in p.read_text() for p in journal.glob("*.json")) == 2):
            assert program.poll() is None, "the run ended by itself"
            time.sleep(0.01)
    finally:
        program.kill()
        program.communicate()
    bfl.hold = False
    done = prefect_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 0, done.stderr
    assert "2 collected from an earlier run" in done.stdout
    assert bfl.jobs == 4


def test_a_run_that_only_collects_says_that_its_results_are_local_previews(
    folder: Path,
) -> None:
    cli = Cli(folder)  # a process a run: what this one has submitted counts as made by it
    recipe = folder / "one.yaml"
    recipe.write_text(
        f"source: {{images: '{folder}/photos/p0.png'}}\nsteps: [deblur: {{}}]\noutput: '{folder}/{{{{ stem }}}}.png'\n"
    )
    with LocalServer(faults=[{"fault": "poll.answer", "status": 500, "times": 0}]) as server:
        cli.environment["FLUX_DEADLINE"] = "0.3"
        assert cli("run", str(recipe), "--endpoint", server.url, key="k").returncode == 1
        server.faults.clear()
        del cli.environment["FLUX_DEADLINE"]
        done = cli("run", str(recipe), "--endpoint", server.url, key="k")
    assert done.returncode == 0, done.stderr
    assert "jobs: 0 made here" in done.stdout
    assert "1 collected from an earlier run" in done.stdout
    assert "local preview: made on this machine by local:classical@1, not by FLUX" in done.stdout


def test_a_free_recipe_pays_nothing_and_speaks_of_no_results_of_jobs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Here(folder, monkeypatch)
    recipe = folder / "free.yaml"
    recipe.write_text(
        f"source: {{images: '{folder}/photos/p0.png'}}\nsteps: [resize: {{width: 8, height: 8}}]\n"
        f"output: '{folder}/{{{{ stem }}}}.png'\n"
    )
    for outcome in ("done", "cached"):
        done = program("run", str(recipe), "--endpoint", "local")
        assert done.returncode == 0, done.stderr
        assert f": 1 {outcome}\nno job was made and nothing was paid\n" in done.stdout


def test_a_prefect_server_that_is_not_there_is_a_clear_line_and_exit_3(folder: Path, bfl: FakeBfl) -> None:
    nobody = Cli(folder, "http://127.0.0.1:9/api")
    done = nobody("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 3
    assert "Prefect failed" in done.stderr
    assert "Check that a Prefect server answers at http://127.0.0.1:9/api" in done.stderr
    assert bfl.jobs == 0


def test_an_embedded_server_that_does_not_start_in_time_is_named_with_the_remedy(
    folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(folder / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "0")
    recipe = str(folder / "recipe.yaml")
    done = Cli(folder)("run", recipe, "--endpoint", bfl.url, "--prefect", "embedded", key="right-key")
    assert done.returncode == 3
    assert "waiting for Prefect's embedded server to start, 0 s at most" in done.stderr
    assert "Give it more time with PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in done.stderr
    assert bfl.jobs == 0


@pytest.mark.parametrize(
    ("module", "given", "expected"), [("flux_tasks.tasks", None, "180"), ("pipelines.flows", "33", "33")]
)
def test_the_embedded_server_has_three_minutes_unless_the_user_says_otherwise(
    module: str, given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    program = f"import {module}; from prefect.settings import {name}; print({name}.value())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_store_that_cannot_be_written_is_a_clear_line_and_nothing_is_spent(
    cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    (folder / "afile").write_text("")
    done = cli(
        "run",
        str(folder / "recipe.yaml"),
        "--endpoint",
        bfl.url,
        "--store",
        str(folder / "afile" / "x"),
        key="right-key",
    )
    assert done.returncode == 3
    assert "stopped: " in done.stderr
    assert bfl.jobs == 0


def test_a_report_that_cannot_be_written_does_not_hide_the_runs_summary(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(of_run, "write_report", fill_the_disk)
    done = here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 3
    assert "2 of 2 items" in done.stdout
    assert "the report could not be written" in done.stderr
    [run] = json.loads(here_cli("history", "--json").stdout)
    assert (run["state"], run["counts"], run["report"]) == ("stopped", {"done": 2}, "")
    assert run["problem"].startswith("the report could not be written: ")


def test_no_record_of_a_run_names_a_report_that_is_not_written_yet(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def look(location: str, *_: object) -> str:
        told.append(here_cli("history", "--json").stdout)
        return write_report(location, *_)  # type: ignore[arg-type]

    write_report = of_run.write_report
    monkeypatch.setattr(of_run, "write_report", look)
    here_cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    [before], [after] = json.loads(told[0]), json.loads(here_cli("history", "--json").stdout)
    assert (before["state"], before["report"]) == (after["state"], "") == ("fine", "")
    assert Path(after["report"]).is_file()


def test_the_report_of_a_second_run_decodes_no_picture(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bool] = []
    load, report, counts, texts = ImageFile.ImageFile.load, folder / "report.html", [], []

    def count(image: ImageFile.ImageFile) -> Any:
        decoded.append(bool(image.tile))  # what is not decoded yet
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    for _ in range(2):
        decoded.clear()
        run = ("run", str(folder / "recipe.yaml"), "--report", str(report))
        done = here_cli(*run, "--endpoint", bfl.url, key="right-key")
        assert done.returncode == 0, done.stderr
        counts.append(sum(decoded))
        texts.append(report.read_text("utf-8"))
    assert counts[0] > 0
    assert counts[1] == 0
    assert texts[1].count("<img") == texts[0].count("<img") > 4


def test_a_wrong_key_is_one_clear_line_and_exit_3(cli: Cli, bfl: FakeBfl, folder: Path) -> None:
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="wrong-key")
    assert done.returncode == 3
    [line] = [line for line in done.stderr.splitlines() if "stopped" in line]
    assert "refused the key (403: Not authenticated)" in line
    assert "wrong-key" not in done.stdout + done.stderr
    assert bfl.jobs == 0


def test_no_key_for_bfl_names_both_ways_out_and_exits_3(cli: Cli, folder: Path) -> None:
    done = cli("run", str(folder / "recipe.yaml"))
    assert done.returncode == 3
    assert "BFL_API_KEY" in done.stderr
    assert "--endpoint local" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_recipe_of_free_steps_needs_no_key(here_cli: Here, folder: Path) -> None:
    recipe = (
        f"source: {folder}/photos/\nsteps: [{{resize: {{max_side: 64}}}}]\noutput: '{folder}/out/{{{{ stem }}}}.png'\n"
    )
    (folder / "free.yaml").write_text(recipe)
    done = here_cli("run", str(folder / "free.yaml"), "--no-report")
    assert (done.returncode, done.stderr) == (0, "")
    assert len([*(folder / "out").iterdir()]) == 2


def test_a_key_that_is_missing_where_a_server_wants_one_is_said_so(cli: Cli, bfl: FakeBfl, folder: Path) -> None:
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url)
    assert done.returncode == 3
    assert "no key was sent, set BFL_API_KEY" in done.stderr


def test_an_unreachable_host_is_one_clear_line_and_exit_3(cli: Cli, folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        done = cli("run", str(folder / "recipe.yaml"), "--endpoint", address, key="k")
    assert done.returncode == 3
    assert f"{address} cannot be reached" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("endpoint", ["blf", "ftp://x", "http://api.example.com", "https://"])
def test_an_endpoint_that_cannot_be_used_is_exit_2(cli: Cli, folder: Path, endpoint: str) -> None:
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", endpoint, key="k")
    assert done.returncode == 2
    assert "endpoint" in done.stderr


def test_a_broken_image_and_a_mask_of_another_size_end_as_invalid_and_exit_1(
    cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    (folder / "photos" / "p0.png").write_bytes(b"not an image")
    Image.new("L", (20, 20), 255).save(folder / "masks" / "p1.png")
    Image.linear_gradient("L").resize((96, 80)).convert("RGB").save(folder / "photos" / "p2.png")
    done = cli("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, key="right-key")
    assert done.returncode == 1
    assert "invalid: p0: deblur: " not in done.stdout
    assert "not an image this library reads" in done.stdout
    assert "the mask is 20×20 px but the image is 96×80 px" in done.stdout
    assert "p2" in done.stdout
    assert "no such file" in done.stdout
    assert bfl.jobs == 0  # a picture is not sharpened whose erase is certain to fail


def test_an_unknown_parameter_and_a_wrong_type_are_listed_together_and_exit_2(
    cli: Cli, bfl: FakeBfl, folder: Path
) -> None:
    text = (folder / "recipe.yaml").read_text().replace("dilate_pixels: 12", "dilate_pixles: 12, seed: x")
    (folder / "recipe.yaml").write_text(text)
    for command in (("run", "--endpoint", bfl.url), ("validate",)):
        done = cli(command[0], str(folder / "recipe.yaml"), *command[1:], key="right-key")
        assert done.returncode == 2
        assert "recipe.yaml:5: steps.1.erase.dilate_pixles: erase has no such parameter" in done.stderr
        assert "recipe.yaml:5: steps.1.erase.seed: 'x' is not a whole number" in done.stderr
    assert bfl.requests == []


def test_a_recipe_that_is_not_there_is_exit_2(cli: Cli) -> None:
    done = cli("run", "none.yaml", key="k")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
