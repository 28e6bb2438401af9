"""The command line: finds the command, and turns errors into lines of text and exit codes (``common.Exit``)."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
)

from flux_tasks.errors import FluxError, InvalidRequest, RecipeError, RunStopped, cut, listed, reason_of
from pipelines.cli.commands.deploy import deploy, serve
from pipelines.cli.commands.faults import faults
from pipelines.cli.commands.local import local
from pipelines.cli.commands.one_tool import COMMANDS
from pipelines.cli.commands.plan import plan
from pipelines.cli.commands.receive import receive
from pipelines.cli.commands.recipe.graph import graph
from pipelines.cli.commands.recipe.init import init
from pipelines.cli.commands.recipe.schema import schema
from pipelines.cli.commands.recipe.validate import validate
from pipelines.cli.commands.run import retry, run
from pipelines.cli.commands.store import store
from pipelines.cli.commands.tools import tools
from pipelines.cli.commands.verify import verify
from pipelines.cli.commands.watching.doctor import doctor
from pipelines.cli.commands.watching.jobs import collect, jobs
from pipelines.cli.commands.watching.runs import history, status
from pipelines.cli.commands.watching.spend import spend
from pipelines.cli.common import OPTIONS, Exit
from pipelines.cli.terminal import LogHandler, Program, print_error, print_line

PROGRAM = "flux-pipelines"

_Shell = Literal["bash", "zsh", "fish", "powershell"]
_SECTIONS: dict[str, Sequence[Callable[..., Exit] | App]] = {
    "Write a recipe": (init, validate, graph, schema),
    "Run a recipe": (plan, run, retry),
    "Use one tool, without a recipe": COMMANDS,
    "See how it goes": (status, jobs, history, spend, collect, doctor),
    "Look up": (tools, store, verify),
    "Let it run by itself": (serve, deploy, receive),
    "Serve the API": (local, faults),
}
"""The commands, in the order of the help."""


@functools.cache
def command_line() -> App:
    """Return the program with all its commands, which takes 20 ms to put together."""
    app = Program(
        name=PROGRAM,
        help="Image pipelines over FLUX: what was paid for is never paid for again.",
        help_epilogue="Exit codes: 0 all items are fine, 1 some items are not fine,\n"
        "2 the recipe or the arguments are wrong, 3 the run was stopped.",
        help_format="plaintext",
        version=_version,
        default_parameter=Parameter(negative=(), allow_repeating=True, show_default=False),
        group_parameters=OPTIONS,
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    place = count()
    for section, commands in _SECTIONS.items():
        group = Group(section, sort_key=next(place))
        for command in commands:
            if isinstance(command, App):
                command.group, command.sort_key = group, next(place)
                app.command(command)
            else:
                app.command(command, group=group, sort_key=next(place))
    others = Group("Help", sort_key=next(place))

    @app.command(name="--install-completion", group=others)
    def install_completion(
        *, shell: _Shell | None = None, output: Annotated[Path | None, Parameter(alias="-o")] = None
    ) -> None:
        """Install completion for your shell.

        Args:
            shell: the name of the shell (default: the one that runs)
            output: where to write the script
        """
        from cyclopts.completion.install import create_install_completion_command

        create_install_completion_command(app.install_completion, True)(shell=shell, output=output)

    @app.command(name="--show-completion", group=others)
    def show_completion(shell: _Shell, /) -> Exit:
        """Print the completion script of a shell.

        Args:
            shell: the name of the shell
        """
        print_line(app.generate_completion(shell=shell))
        return Exit.OK

    for flag, text in (("--help", "Show this help."), ("--version", "Show the version.")):
        app[flag].group, app[flag].help = others, text
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        SystemExit: help or the version was asked for, and is printed.
    """
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    with _printed_warnings():
        try:
            code = command_line()(tokens)
        except CycloptsError as error:
            print_error(_usage(error, tokens))
            return Exit.WRONG
        except (RecipeError, InvalidRequest) as error:
            print_error(_with_notes(error))
            return Exit.WRONG
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.OK
        except (RunStopped, OSError) as error:
            print_error(f"stopped: {_with_notes(error)}")
            return Exit.STOPPED
        except FluxError as error:
            print_error(str(error))
            return Exit.ITEMS
        except KeyboardInterrupt:
            print_error("interrupted")
            return Exit.STOPPED
    if code is not None:
        return int(code)
    if not any(token.startswith(("-", "_")) for token in tokens):  # the help was printed, but not asked for
        print_error("a command is missing: write one of those above")
        return Exit.WRONG
    raise SystemExit(Exit.OK)


@contextmanager
def _printed_warnings() -> Iterator[None]:
    """Print what the library logs as a warning, as errors are printed; the items of a run are in its summary."""
    log = logging.getLogger("flux_tasks")
    logging.getLogger("pipelines").addHandler(logging.NullHandler())
    handler = LogHandler(logging.WARNING)
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = True
        log.removeHandler(handler)


def _with_notes(error: BaseException) -> str:
    """Return the message of an error, and on further lines what was added to it on its way."""
    text = str(error)
    if isinstance(error, OSError) and isinstance(error.filename, str | os.PathLike):
        from flux_tasks import files

        text = f"{files.quoted(error.filename)}: {reason_of(error)}"
    return "\n".join((text, *getattr(error, "__notes__", ())))


def _usage(error: CycloptsError, tokens: Sequence[str]) -> str:
    """Return what is wrong with the arguments, and where help is."""
    what = str(error)
    for text in sorted((part for token in tokens for part in (token, *token.split("="))), key=len, reverse=True):
        if text != cut(text):
            what = what.replace(text, cut(text))
    if isinstance(error, UnusedCliTokensError):
        what = f"one argument too many: {listed(error.unused_tokens or ())}"
    elif isinstance(error, MissingArgumentError) and error.argument:
        name = error.keyword or error.argument.name
        is_given = any(token.partition("=")[0] == name for token in tokens)
        what = f"{name} needs a value" if is_given else f"{name} is missing"
    chain = error.command_chain or ()
    if isinstance(error, UnknownOptionError) and {*chain} & {tool.__name__ for tool in COMMANDS}:
        name = cut((error.token.keyword or error.token.value).lstrip("-").replace("-", "_"))
        what += f" A parameter of the tool is written --with {name}=…"
    command = " ".join((PROGRAM, *chain))
    return f"{what}\nhelp: {command} --help"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{PROGRAM} {version('flux-pipelines')}"
    except PackageNotFoundError:  # a checkout that was never installed
        return f"{PROGRAM} 0"
