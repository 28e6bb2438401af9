"""The command ``flux-pipelines``: runs the packages beside this file, even where others of the same name come first."""

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

__all__ = ["main"]


def main() -> int:
    """Run the command line; see ``pipelines.cli.main``.

    A folder ``pipelines`` of the user's own, on ``PYTHONPATH``, would otherwise be imported in place of this package.
    """
    for name in ("flux_tasks", "pipelines"):
        spec = PathFinder.find_spec(name, [str(Path(__file__).parent)])
        if spec is not None and spec.loader is not None:  # None: installed in another way; then the name has to do
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
    code: int = importlib.import_module("pipelines.cli").main()
    return code
