"""The help of every command: it costs little to print, explains every option, and obeys NO_COLOR."""

from __future__ import annotations

import functools
import itertools
import os
import pty
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cases import Cases
from cyclopts import App

from pipelines.cli.main import command_line, main


def commands(app: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All commands with the words that call them, groups of commands included."""
    yield words
    for name in app:
        if name not in ("--help", "-h", "--version"):
            yield from commands(app[name], (*words, name))


COMMANDS = list(commands(command_line()))


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the program writes to a terminal."""
    ours, theirs = pty.openpty()
    given = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    done = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        stdout=theirs,
        stderr=theirs,
        env={**given, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            break
        written += part
    os.close(ours)
    assert done.wait() == 0
    return written.decode()


def test_the_list_of_commands_is_complete() -> None:
    assert {"run", "retry", "plan", "store held", "--show-completion"} <= {" ".join(words) for words in COMMANDS}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str], cases: Cases) -> None:
    for words, flag in itertools.product(COMMANDS, ("--help", "-h")):
        with cases.case(" ".join((*words, flag))):
            with pytest.raises(SystemExit) as stop:
                main([*words, flag])
            printed = capsys.readouterr()
            assert (stop.value.code, printed.err) == (0, "")
            assert printed.out.startswith(" ".join(("Usage: flux-pipelines", *words)))


def test_every_command_and_option_is_explained_in_letters_that_any_terminal_has(cases: Cases) -> None:
    for words in COMMANDS:
        app = functools.reduce(lambda app, word: app[word], words, command_line())
        with cases.case(" ".join(words)):
            assert app.help
            assert app.help.isascii()
            for argument in app.assemble_argument_collection(parse_docstring=True) if app.default_command else ():
                if argument.show:
                    assert argument.parameter.help, argument.name
                    assert argument.parameter.help.isascii(), argument.name


EXAMPLES = [
    line.strip()
    for words in COMMANDS
    for line in (functools.reduce(lambda app, word: app[word], words, command_line()).help or "").splitlines()
    if line.strip().startswith(("flux-pipelines ", "BFL_API_KEY=... flux-pipelines "))
]


def test_the_help_of_the_main_commands_has_examples() -> None:
    shown = {line.partition("flux-pipelines ")[2].split()[0] for line in EXAMPLES}
    assert {"init", "validate", "graph", "schema", "plan", "run", "retry", "tools", "store", "local"} <= shown


def test_every_example_in_the_help_can_be_written_so(cases: Cases) -> None:
    for example in EXAMPLES:
        words = example.partition("flux-pipelines ")[2].partition(" >")[0].split()
        with cases.case(example):
            command, bound, _ = command_line().parse_args(words, print_error=False, exit_on_error=False)
            assert command.__name__ in words
            assert bound is not None


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("Usage: flux-pipelines COMMAND")


def test_help_imports_neither_prefect_nor_a_cloud_library() -> None:
    program = (
        "import sys; from pipelines.cli import main\n"
        f"for words in {COMMANDS!r}:\n"
        "    try: main([*words, '--help'])\n    except SystemExit: pass\n"
        "heavy = ('prefect', 'httpx', 'PIL', 'pydantic', 's3fs', 'gcsfs', 'fsspec', 'numpy', 'cv2', 'asyncio')\n"
        "print(sorted(m for m in heavy if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_can_be_printed_where_only_ascii_can() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", "--help"], capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Run a recipe" in done.stdout


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("flux-pipelines ")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["tools"]])
def test_where_no_color_is_set_nothing_is_styled(arguments: list[str]) -> None:
    assert "\x1b" not in on_a_terminal(*arguments, NO_COLOR="1")


def test_a_terminal_that_has_colours_gets_them() -> None:
    assert "\x1b[" in on_a_terminal("--help")


def test_a_table_is_folded_into_a_narrow_terminal_and_nothing_of_it_is_lost() -> None:
    lines = on_a_terminal("tools", "erase", COLUMNS="100").splitlines()
    parameters = lines[lines.index("") :]
    assert max(map(len, parameters)) <= 100
    [grow] = [line for line in parameters if "Grow the mask" in line]
    assert grow.startswith("dilate_pixels ")
    assert "15–20 for hair or smoke." not in grow
    assert "smoke." in " ".join(parameters)


def test_a_reader_that_has_seen_enough_is_no_trouble() -> None:
    for arguments in ("tools --json", "--help"):
        command = f"{sys.executable} -m pipelines.cli {arguments} | head -c 10"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
