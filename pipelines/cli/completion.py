"""Shell completion of commands, options and file names: printed, or installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from flux_tasks.errors import Problem, RecipeError
from pipelines.cli.common import Exit, option
from pipelines.cli.terminal import print_line

if TYPE_CHECKING:
    from cyclopts import App, Group

__all__ = ["add_completion"]

_Shell = Literal["bash", "zsh", "fish", "powershell"]
_ShellName = Annotated[_Shell | None, option("the shell (default: the one that runs this program)")]


def add_completion(app: App, group: Group) -> None:
    """Give ``app`` the options ``--install-completion`` and ``--show-completion``."""

    def install(shell: _ShellName = None, /) -> Exit:
        """Install completion for a shell.

        Writes a script, and a line into the startup file of the shell.
        """
        name = shell or _this_shell()
        print_line(f"completion for {name} is in {app.install_completion(shell=name)}: open a new shell to use it")
        return Exit.OK

    def show(shell: _ShellName = None, /) -> Exit:
        """Print the completion script of a shell."""
        print_line(app.generate_completion(shell=shell or _this_shell()))
        return Exit.OK

    app.command(install, name="--install-completion", group=group)
    app.command(show, name="--show-completion", group=group)


def _this_shell() -> _Shell:
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        return detect_shell()
    except ShellDetectionError:
        raise RecipeError(
            [Problem("completion", "the shell is not known: name bash, zsh, fish or powershell")]
        ) from None
