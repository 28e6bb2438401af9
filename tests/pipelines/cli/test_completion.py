"""Shell completion: it can be printed and installed, and it completes commands, options and files."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

import pytest

from pipelines.cli.main import main

_BASH = """
source {script}
COMP_WORDS=({words} "{last}"); COMP_CWORD={index}
_flux_pipelines
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def bash_script() -> str:
    """What ``--show-completion bash`` prints; making it takes half a second of CPU."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--show-completion", "bash"]) == 0
    return printed.getvalue()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_completion_script_of_each_shell_can_be_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show-completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("validate", "held", "endpoint", "resubmit"):
        assert word in script


@pytest.mark.parametrize(
    ("words", "last", "offered"),
    [
        ("flux-pipelines", "va", "validate"),
        ("flux-pipelines run x.yaml", "--bud", "--budget"),
        ("flux-pipelines store held", "--res", "--resubmit"),
        ("flux-pipelines plan", "pho", "photos.yaml"),
        ("flux-pipelines run x.yaml --report", "pho", "photos.yaml"),
    ],
)
def test_bash_completes_commands_options_and_files(
    words: str, last: str, offered: str, bash_script: str, tmp_path: Path
) -> None:
    (tmp_path / "script").write_text(bash_script)
    (tmp_path / "photos.yaml").touch()
    program = _BASH.format(script=tmp_path / "script", words=words, last=last, index=len(words.split()))
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.split(), done.stderr) == ([offered], "")


def test_it_is_installed_for_the_shell_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main(["--install-completion", "--shell", "bash"])
    assert stop.value.code == 0
    [script] = tmp_path.rglob("completions/flux-pipelines")
    assert str(script) in capsys.readouterr().out
    assert str(script) in (tmp_path / ".bashrc").read_text()
