"""``run --prune``: list outputs whose source is gone, or remove them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Parameter

from flux_tasks import files
from flux_tasks.errors import FluxError, Problem, RecipeError
from pipelines.cli.common import Exit
from pipelines.cli.terminal import print_error, print_line

if TYPE_CHECKING:
    from pipelines.data.past_outputs import PastOutput
    from pipelines.language.compiled import CompiledRecipe
    from pipelines.run.prune import Prune
    from pipelines.run.summary import Summary

_NONE = "prune: no output whose source is gone"
_REMOVES = ", which run --prune --yes removes:"


@Parameter(name="*")
@dataclass(frozen=True)
class Pruning:
    """The options that say what becomes of outputs whose source is gone.

    Attributes:
        prune: after the run, list outputs of earlier runs of this recipe whose source is gone
        yes: with --prune: remove them
        allow_empty: with --prune: also if the source, or one of its globs, finds nothing
    """

    prune: bool = False
    yes: bool = False
    allow_empty: bool = False

    def begin(
        self, recipe: CompiledRecipe, store: str, *, limit: int | None, sample: int | None
    ) -> BegunPruning | None:
        """Find out before a run what is stale; None if nobody asks for it.

        Raises:
            RecipeError: the options do not fit each other.
        """
        for name, is_given in (("--yes", self.yes), ("--allow-empty", self.allow_empty)):
            if is_given and not self.prune:
                raise RecipeError([Problem(name, "belongs to --prune: add that, or leave it out")])
        if not self.prune:
            return None
        from flux_tasks.store.records import Store
        from pipelines.run.prune import Prune, check_whole

        check_whole(limit, sample)
        begun = BegunPruning(self, Prune(recipe, Store(store), may_be_empty=self.allow_empty))
        begun.collect()
        return begun


class BegunPruning:
    """What is stale is known, or why that cannot be known."""

    def __init__(self, options: Pruning, prune: Prune) -> None:
        self._options, self._prune = options, prune
        self._problem = ""

    def collect(self) -> None:
        """See ``Prune.collect``; what is wrong is told after the run, which does not depend on it."""
        try:
            self._prune.collect()
        except (FluxError, OSError) as error:
            self._problem = str(error)

    def find(self) -> list[PastOutput] | None:
        """Print what is stale, and return it; None, with the reason on standard error, if that is not known."""
        try:
            stale = [] if self._problem else self._prune.stale()
        except (FluxError, OSError) as error:
            self._problem = str(error)
        if self._problem:
            _refuse(self._problem)
            return None
        ending = ":" if self._options.yes else _REMOVES
        print_line(f"prune: {_count(stale)} whose source is gone{ending}" if stale else _NONE)
        for output in stale:
            print_line(f"  {files.quoted(output.path)}: {files.quoted(output.source)} is gone")
        return stale

    def end(self, summary: Summary | None) -> Exit:
        """Print what is stale, and remove it if that was asked for.

        Args:
            summary: of the run; None if the source is empty.
        """
        if summary is not None and summary.stopped:
            _refuse("the run was stopped: run it again first")
            return Exit.ITEMS
        stale = self.find()
        if stale is None:
            return Exit.ITEMS
        if not self._options.yes:
            return Exit.OK
        problems = list(self._prune.remove(stale, 0 if summary is None else summary.bad))
        for problem in problems:
            print_error(f"--prune: {problem}")
        if stale:
            print_line(f"prune: {_count(stale)} removed")
        return Exit.ITEMS if problems else Exit.OK


def _count(stale: Sequence[PastOutput]) -> str:
    return f"{len(stale):,} {'output' if len(stale) == 1 else 'outputs'}"


def _refuse(why: str) -> None:
    for line in why.splitlines():
        print_error(line if line.startswith("--prune") else f"--prune: {line}")
    print_error("--prune: nothing was removed")
