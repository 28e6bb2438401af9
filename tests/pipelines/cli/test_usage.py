"""What can be written on the command line, and what is printed when it is wrong: nothing runs, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Here

from pipelines.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("rnu recipe.yaml", ['Unknown command "rnu"', 'Did you mean "run"', "help: flux-pipelines --help"]),
        ("store hold", ['Unknown command "hold"', 'Did you mean "held"', "help: flux-pipelines store --help"]),
        ("run recipe.yaml --endpont local", ["Unknown option: --endpont", "Did you mean --endpoint?"]),
        ("run recipe.yaml --no-no-report", ["Unknown option: --no-no-report", "Did you mean --no-report?"]),
        ("plan recipe.yaml --bugdet=5", ["Unknown option: --bugdet", "Did you mean --budget?"]),
        ("run", ["RECIPE is missing", "help: flux-pipelines run --help"]),
        ("retry", ["RUN is missing"]),
        ("validate a.yaml b.yaml", ["one argument too many: b.yaml"]),
        ("plan a.yaml --limit", ["--limit needs a value"]),
        ("deploy a.yaml", ["--pool is missing"]),
        ("plan a.yaml --limit 0", ["--limit: '0' is not a whole number above 0"]),
        ("plan a.yaml --limit 1.5", ["--limit: '1.5' is not a whole number above 0"]),
        ("plan a.yaml --budget -1", ["--budget: '-1' is not a number of credits"]),
        ("plan a.yaml --set style", ["--set: 'style' is not NAME=VALUE"]),
        ("run a.yaml --grace soon", ["--grace: 'soon' is not a number"]),
        ("retry last --seed 1.7", ["--seed: '1.7' is not a whole number"]),
        ("store held --drop", ["--drop needs a value"]),
        ("local --cap many", ["--cap: 'many' is not a whole number above 0"]),
        ("local --replay a --book b", ["charges: means nothing with replay"]),
        ("local --latency soon", ["--latency: 'soon' is not seconds, nor tool=seconds~jitter"]),
        ("--show-completion tcsh", ['"tcsh"', "Choose from", '"bash"', '"zsh"', '"fish"', '"powershell"']),
        ("", ["a command is missing"]),
        ("store", ["a command is missing"]),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write_and_ends_with_2(
    arguments: str, says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    printed = capsys.readouterr().err
    for text in says:
        assert text in printed
    assert all(line.startswith("flux-pipelines: ") for line in printed.splitlines())


def test_a_wrong_argument_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "recipe.yaml", "--\x1b[2Jx"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_the_last_of_repeated_options_counts_and_variables_add_up(here_cli: Here, folder: Path) -> None:
    recipe = folder / "recipe.yaml"
    recipe.write_text("vars: {pixels: 10, where: out}\n" + recipe.read_text().replace(": 12", ': "{{ pixels }}"'))
    written = ["--limit", "2", "--limit=1", "--json", "--json", "--set", "pixels=1", "--set", "where=a=b"]
    done = here_cli("plan", str(recipe), "--endpoint", "local", *written)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"] == 1
