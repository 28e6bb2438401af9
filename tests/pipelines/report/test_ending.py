"""``on_end``: who is told when a run ends, and that the run does not depend on it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli, Here
from fake_bfl import FakeBfl
from prefect.settings import PREFECT_API_URL, temporary_settings
from scripted import Answer, ScriptedServer
from waiting import wait_until

from flux_tasks import background
from flux_tasks.api import notices
from flux_tasks.errors import RecipeError
from pipelines import Recipe
from pipelines.flows import deployed_recipe
from pipelines.flows.served.travel import check_travels
from pipelines.language.document.on_end import OnEnd
from pipelines.language.reading import loader
from pipelines.report import ending
from pipelines.report.ending import Ending

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes !!!").decode()
FREE = "source: {folder}/photos/*\nsteps: [resize: {{width: 20}}]\noutput: '{folder}/out/{{{{ stem }}}}.png'\n"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that is told; the settings name it."""
    monkeypatch.setattr(notices, "_PAUSES", (0.0, 0.0, 0.0))
    with ScriptedServer() as server:
        server.on("POST /told", Answer(204))
        yield server


@pytest.fixture
def told(hook: ScriptedServer, here_cli: Here, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    monkeypatch.setenv("FLUX_ON_END", f"{hook.url}/told")
    return hook


@pytest.fixture
def bfl() -> Iterator[FakeBfl]:
    with FakeBfl(key="right-key") as server:
        yield server


def perform(here_cli: Here, bfl: FakeBfl, folder: Path, *arguments: str) -> Any:
    given = ("run", str(folder / "recipe.yaml"), "--endpoint", bfl.url, "--no-report", *arguments)
    return here_cli(*given, key="right-key")


def add(folder: Path, text: str) -> None:
    """Let the recipe say so."""
    place = folder / "recipe.yaml"
    place.write_text(f"{place.read_text()}on_end: {text}\n")


def bodies(hook: ScriptedServer) -> list[dict[str, Any]]:
    return [request.json() for request in hook.seen("POST /told")]


def test_a_webhook_gets_the_sums_of_the_run_signed_as_standard_webhooks_are(
    here_cli: Here, bfl: FakeBfl, folder: Path, told: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_ON_END_SECRET", SECRET)
    assert perform(here_cli, bfl, folder).returncode == 0
    [request] = told.seen("POST /told")
    body = request.json()
    assert {name: body[name] for name in ("version", "event", "recipe", "state", "counts", "credits", "failures")} == {
        "version": 1,
        "event": "run.ended",
        "recipe": "clean",
        "state": "fine",
        "counts": {"done": 2},
        "credits": 12.0,
        "failures": [],
    }
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    digest = hmac.new(b"a secret of 24 bytes !!!", signed, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert "right-key" not in request.body.decode()


def test_a_server_that_fails_is_told_again_as_the_same_message_and_one_that_refuses_is_not(
    here_cli: Here, bfl: FakeBfl, folder: Path, told: ScriptedServer
) -> None:
    told.on("POST /told", Answer(503), Answer(429), Answer(200))
    assert perform(here_cli, bfl, folder).returncode == 0
    assert len({request.headers["webhook-id"] for request in told.seen("POST /told")}) == 1
    assert len(bodies(told)) == 3
    told.on("POST /told", Answer(404))
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, len(bodies(told))) == (0, 4)
    assert f"127.0.0.1:{told.port} was not told of the end of the run: 127.0.0.1:{told.port} refuses it (404)" in (
        done.stderr
    )


def test_a_redirect_of_a_webhook_is_not_followed(
    here_cli: Here, bfl: FakeBfl, folder: Path, told: ScriptedServer
) -> None:
    told.on("POST /told", Answer(307, headers={"location": f"{told.url}/other"}))
    assert "refuses it (307)" in perform(here_cli, bfl, folder).stderr
    assert [request.path for request in told.requests] == ["/told"]


COMMAND = (
    "[{python}, -c, 'import os, sys; open(sys.argv[1], \"w\").write(sys.stdin.read() + str(dict(os.environ)))', {to}]"
)


def test_a_command_gets_the_json_on_its_standard_input_and_no_key(here_cli: Here, bfl: FakeBfl, folder: Path) -> None:
    command = COMMAND.format(python=sys.executable, to=folder / "told")
    add(folder, f"{{command: {command}, when: always}}")
    assert perform(here_cli, bfl, folder).returncode == 0
    said, _, environment = (folder / "told").read_text().partition("}{")
    assert json.loads(said + "}")["counts"] == {"done": 2}
    assert "'FLUX_RUN_STATE': 'fine'" in environment
    assert "'FLUX_RUN_ID': '" in environment
    assert "right-key" not in environment


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("[no-such-program-here]", "No such file"),
        (f"[{sys.executable}, -c, 'raise SystemExit(7)']", "its exit code is 7"),
    ],
)
def test_a_command_that_does_not_work_is_a_warning_and_the_exit_code_stays(
    here_cli: Here, bfl: FakeBfl, folder: Path, command: str, why: str
) -> None:
    add(folder, f"{{command: {command}}}")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, why in done.stderr) == (0, True), done.stderr
    assert "was not told of the end of the run" in done.stderr


def test_a_command_that_hangs_is_ended_with_its_children_after_a_while(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "PATIENCE", 1.0)
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, file=open(sys.argv[1], 'w'), flush=True); p.wait()"  # noqa: E501
    add(folder, f'{{command: [{sys.executable}, -c, "{script}", {folder}/pid]}}')
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, "did not end within 1 s" in done.stderr) == (0, True)
    if (folder / "pid").exists() and (pid := (folder / "pid").read_text().strip()):
        status = Path(f"/proc/{pid}/stat")
        wait_until(lambda: not status.exists() or " Z " in status.read_text())


def has_ended(folder: Path) -> bool:
    status = Path(f"/proc/{(folder / 'pid').read_text().strip()}/stat")
    return not status.exists() or " Z " in status.read_text()


def test_what_a_command_leaves_is_ended_and_what_it_said_is_shown(
    here_cli: Here, bfl: FakeBfl, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    add(folder, f"{{command: [sh, -c, 'sleep 600 & echo $! > {folder}/pid; echo out; echo err >&2; exit 0']}}")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, "was not told" in done.stderr) == (0, False)
    assert {"out", "err"} <= set((capfd.readouterr().err + done.stderr).split())
    wait_until(lambda: has_ended(folder))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_its_children_and_the_run_keeps_its_exit_code(
    here_cli: Here, bfl: FakeBfl, folder: Path, number: signal.Signals
) -> None:
    add(folder, f"{{command: [sh, -c, 'sleep 600 & echo $! > {folder}/pid; kill -{number:d} {os.getpid()}; wait']}}")
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, "this process was told to end" in done.stderr) == (0, True)
    wait_until(lambda: has_ended(folder))


async def test_a_signal_ends_a_command_in_an_async_block_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"sleep 600 & echo $! > {folder}/pid; kill -15 {os.getpid()}; wait"
    monkeypatch.setenv("FLUX_ON_END", json.dumps({"command": ["sh", "-c", script]}))
    async with Ending("it"):
        pass
    wait_until(lambda: has_ended(folder))


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_a_signal_that_comes_before_a_command_has_begun_ends_it_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    start, others = background.start, []

    def start_and_signal(work: Any) -> Any:
        monkeypatch.setattr(background, "start", start)
        os.kill(os.getpid(), signal.SIGTERM)
        return start(work)

    async def block() -> None:
        async with Ending("it"):
            pass

    monkeypatch.setenv("FLUX_ON_END", json.dumps({"command": ["sh", "-c", f"echo $$ > {folder}/pid; exec sleep 600"]}))
    monkeypatch.setattr(background, "start", start_and_signal)
    before = signal.signal(signal.SIGTERM, lambda *_: others.append(1))
    try:
        asyncio.run(block()) if is_async else Ending("it").tell()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not others
    assert "this process was told to end" in caplog.text
    assert not (folder / "pid").exists() or has_ended(folder)


def test_a_command_gets_no_secret_of_the_environment_and_what_else_it_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = (
        "FLUX_WEBHOOK_SECRET",
        "FLUX_STORAGE_OPTIONS",
        "FLUX_ON_END_SECRET",
        "PREFECT_API_KEY",
        "AWS_SESSION_TOKEN",
    )
    secrets += (
        "PREFECT_API_AUTH_STRING",
        "AZURE_STORAGE_CONNECTION_STRING",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "PGPASSWORD",
    )
    for name in (*secrets, "https_proxy", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "hush-hush-hush-hush")
    monkeypatch.setenv("FLUX_ON_END", json.dumps({"command": ["sh", "-c", f"env > {folder}/env"]}))
    Ending("it").tell()
    told = dict(line.partition("=")[::2] for line in (folder / "env").read_text().splitlines())
    assert [name for name, text in told.items() if "hush" in text] == [
        name for name in told if name in ("https_proxy", "SSH_AUTH_SOCK")
    ]
    assert {"https_proxy", "SSH_AUTH_SOCK", "PATH", "HOME"} <= set(told)


def test_a_problem_of_any_length_and_of_any_signs_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'cat > {folder}/told; printf %s "$FLUX_RUN_PROBLEM" > {folder}/problem'
    monkeypatch.setenv("FLUX_ON_END", json.dumps({"command": ["sh", "-c", script]}))
    problem = "\0\ud800" + "wrong " * 100_000
    Ending("it").tell(problem)
    assert len((folder / "problem").read_text()) == 2_000
    assert len(json.loads((folder / "told").read_text())["problem"]) == len(problem)


def test_a_command_is_told_why_a_run_was_stopped_in_words_that_stand_alone(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'printf %s "$FLUX_RUN_STATE $FLUX_RUN_PROBLEM" > {folder}/problem'
    monkeypatch.setenv("FLUX_ON_END", json.dumps({"command": ["sh", "-c", script]}))
    assert perform(here_cli, bfl, folder, "--budget", "0").returncode == 3
    assert (folder / "problem").read_text().startswith("stopped the budget of 0 credits is reached")


def refuse(bfl: FakeBfl) -> None:
    bfl.submit_answer = Answer(422, {"detail": "no"})


def cut(bfl: FakeBfl) -> None:
    bfl.submit_answer = Answer(200, cut=0)


@pytest.mark.parametrize(
    ("what", "arguments", "expected"),
    [
        (lambda bfl: None, (), {"always"}),
        (refuse, (), {"always", "failed"}),
        (cut, (), {"always", "failed", "held"}),
        (lambda bfl: None, ("--budget", "4"), {"always", "failed", "held", "budget"}),
    ],
    ids=["fine", "failed", "held", "budget"],
)
def test_only_those_are_told_whose_condition_holds(
    here_cli: Here,
    bfl: FakeBfl,
    folder: Path,
    hook: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    what: Any,
    arguments: tuple[str, ...],
    expected: set[str],
) -> None:
    whens = ("always", "failed", "held", "budget")
    for when in whens:
        hook.on(f"POST /{when}", Answer(200))
    monkeypatch.setenv("FLUX_ON_END", json.dumps([{"webhook": f"{hook.url}/{w}", "when": w} for w in whens]))
    what(bfl)
    perform(here_cli, bfl, folder, *arguments)
    assert {request.path.strip("/") for request in hook.requests} == expected


def test_what_fails_before_the_first_item_is_told_too(
    here_cli: Here, bfl: FakeBfl, folder: Path, told: ScriptedServer
) -> None:
    place = folder / "recipe.yaml"
    text = place.read_text()
    for wrong, problem, code in (
        (text.replace("deblur", "deblurr"), "deblurr", 2),
        (text.replace("photos/", "nowhere/"), "nowhere", 2),
    ):
        place.write_text(wrong)
        assert perform(here_cli, bfl, folder).returncode == code
        assert problem in bodies(told)[-1]["problem"]
        assert bodies(told)[-1]["state"] == "stopped"
    place.write_text(text)
    assert here_cli("run", str(place), "--endpoint", bfl.url, key="wrong").returncode == 3
    assert "refused the key" in bodies(told)[-1]["problem"]
    assert bodies(told)[-1]["total"] == 2
    assert len(bodies(told)) == 3


@pytest.mark.parametrize("grace", ["60", "0.1"], ids=["in time", "not in time"])
def test_a_run_that_sigterm_stops_is_told_be_its_jobs_collected_or_left(
    cli: Cli, bfl: FakeBfl, folder: Path, hook: ScriptedServer, grace: str
) -> None:
    cli.environment["FLUX_ON_END"] = f"{hook.url}/told"
    bfl.hold = True
    given = ("--endpoint", bfl.url, "--prefect", "off", "--no-report", "--grace", grace)
    run = cli.start("run", str(folder / "recipe.yaml"), *given, key="right-key")
    wait_until(lambda: bfl.jobs == 2)
    run.send_signal(signal.SIGTERM)
    if grace == "60":
        assert run.stderr is not None
        wait_until(lambda: "SIGTERM" in run.stderr.readline())
        bfl.hold = False
    run.communicate()
    assert run.returncode == 3
    [body] = bodies(hook)
    assert body["state"] == "stopped"
    assert "interrupted (SIGTERM)" in body["problem"]


def test_runs_from_python_and_of_deployments_are_told(
    told: ScriptedServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUX_ENDPOINT", "local")
    text = FREE.format(folder=folder)
    Recipe.parse(text).run(prefect="off")
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # another test may have configured a server
        asyncio.run(deployed_recipe.fn(text))
        assert [body["state"] for body in bodies(told)] == ["fine", "fine"]
        asyncio.run(deployed_recipe.fn("steps: ["))
    assert bodies(told)[-1]["state"] == "stopped"


# -- trust ------------------------------------------------------------------------------------------------------------


def call(webhook: str) -> Ending:
    """An ending whose recipe names an address that the reader of recipes would refuse."""
    made = Ending("x")
    recipe = loader.parse(FREE.format(folder="/nowhere"))
    made.recipe = replace(recipe, on_end=(OnEnd.model_validate({"webhook": webhook}),))
    return made


def test_a_recipe_reaches_no_private_network_and_gets_no_signature_for_an_address_that_only_it_names(
    hook: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FLUX_ON_END_SECRET", SECRET)
    call(f"{hook.url}/told").tell()
    call(f"https://127.0.0.1:{hook.port}/told").tell()
    assert hook.connections == 0
    assert caplog.text.count("is not https, or in a private network") == 2
    monkeypatch.setenv("FLUX_ON_END_SECRET", json.dumps({"https://elsewhere.example": SECRET}))
    call(f"{hook.url}/told").tell()
    assert hook.connections == 0
    monkeypatch.setenv("FLUX_ON_END_SECRET", json.dumps({hook.url: SECRET}))
    call(f"{hook.url}/told").tell()
    [request] = hook.seen("POST /told")
    assert request.headers["webhook-signature"].startswith("v1,")


def test_a_public_address_of_a_recipe_is_told_without_the_secret_of_the_settings(
    hook: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_public(url: str) -> bool:
        return True

    monkeypatch.setattr(notices, "is_public", is_public)
    monkeypatch.setenv("FLUX_ON_END_SECRET", SECRET)
    call(f"{hook.url}/told").tell()
    [request] = hook.seen("POST /told")
    assert "webhook-id" in request.headers
    assert "webhook-signature" not in request.headers


def refusal(text: str, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        loader.parse(text, **options)
    return str(caught.value)


def test_only_a_recipe_that_is_a_file_here_runs_a_command_and_not_with_no_code(here_cli: Here, folder: Path) -> None:
    text = FREE.format(folder=folder) + "on_end: {command: [./told.sh, now]}\n"
    for options in ({}, {"file": "https://example.com/r.yaml"}, {"file": "s3://bucket/r.yaml"}):
        assert "on_end.command: ./told.sh now is refused: only a run of a recipe file on this machine" in refusal(
            text, **options
        )
    (folder / "r.yaml").write_text(text)
    assert loader.load(folder / "r.yaml").on_end[0].command == ("./told.sh", "now")
    refused = here_cli("validate", str(folder / "r.yaml"), "--no-code")
    assert (refused.returncode, "--no-code is given" in refused.stderr) == (2, True)
    made = Recipe(
        source="p/*.png", steps=[{"resize": {"width": 20}}], output="o/{{ stem }}.png", on_end={"command": ["x"]}
    )
    assert made.check().to_data()["on_end"] == [{"command": ["x"]}]


def test_a_recipe_with_a_command_is_not_deployed_because_it_would_travel_as_text(folder: Path) -> None:
    (folder / "r.yaml").write_text(FREE.format(folder=folder) + "on_end: {command: [./told.sh]}\n")
    with pytest.raises(RecipeError) as caught:
        check_travels(loader.load(folder / "r.yaml"))
    assert str(caught.value).endswith("runs commands: take it out, and name it in FLUX_ON_END")


def test_a_recipe_that_only_the_store_has_runs_no_command_when_it_is_tried_again(
    here_cli: Here, bfl: FakeBfl, folder: Path
) -> None:
    add(folder, f"{{command: [touch, {folder}/touched], when: held}}")
    refuse(bfl)
    perform(here_cli, bfl, folder)
    (folder / "recipe.yaml").write_text("another text")
    done = here_cli("retry", "last", "--only", "invalid", "--endpoint", bfl.url, key="right-key")
    assert (done.returncode, "was read from the store" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("{command: x}", "on_end.command: 'x' is not a list of a program and its arguments"),
        ("{command: []}", "on_end.command"),
        ("{webhook: 'ftp://x.example'}", "is not a web address: write one such as https://example.com/hook"),
        ("{webhook: 'https://user:pass@x.example'}", "is not a web address"),
        ("{webhook: 'http://x.example'}", "on_end.webhook: is plain http: write https, or name it in FLUX_ON_END"),
        ("{webhook: 'https://x.example', when: never}", "is not when somebody is told: write one of always, failed"),
        ("{webhook: 'https://x.example', command: [x]}", "needs a command or a webhook, and not both"),
        ("{when: failed}", "needs a command or a webhook, and not both"),
        ("[]", "on_end"),
        ("nobody", "on_end: 'nobody' is not a call: write {command: [./told.sh], when: failed} or {webhook: "),
        ('{command: [./told.sh, "a\\0b"]}', "on_end: has a sign in its command that no program can get: ./told.sh a"),
        ('{command: ["", now]}', "on_end: names no program: write one first"),
    ],
)
def test_what_is_wrong_with_a_call_is_said_before_anything_is_spent(given: str, what: str) -> None:
    assert what in refusal(FREE.format(folder=".") + f"on_end: {given}\n", file="recipe.yaml")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FLUX_ON_END", "{"),
        ("FLUX_ON_END", "[1]"),
        ("FLUX_ON_END", '{"when": "failed"}'),
        ("FLUX_ON_END_SECRET", "{hush"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_spent(
    here_cli: Here, bfl: FakeBfl, folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = perform(here_cli, bfl, folder)
    assert (done.returncode, bfl.jobs, f"{variable}: " in done.stderr) == (2, 0, True)
    assert "hush" not in done.stderr


def test_plan_and_validate_name_who_is_told_without_the_path_of_an_address(here_cli: Here, folder: Path) -> None:
    add(folder, "[{command: [./told.sh, now]}, {webhook: 'https://hooks.example/hush', when: [held, budget]}]")
    for command in ("validate", "plan"):
        said = here_cli(command, str(folder / "recipe.yaml")).stdout
        assert "tells at the end: ./told.sh now (always)" in said
        assert "tells at the end: hooks.example (held, budget)" in said
        assert "hush" not in said
    assert "warning: on_end.command" in here_cli("validate", str(folder / "recipe.yaml")).stdout


def test_who_is_told_changes_nothing_about_what_a_recipe_does(folder: Path) -> None:
    before = loader.load(folder / "recipe.yaml")
    add(folder, "{webhook: 'https://hooks.example/x', when: failed}")
    after = loader.load(folder / "recipe.yaml")
    assert after.digest == before.digest
    assert loader.parse(after.to_yaml()).on_end == after.on_end
