"""A run that is to be killed: the true command line in disguise. A nursery imports this module and forks the runs.

Starting Python anew for a thousand kills would take an hour. Only Prefect is left out, as ``--prefect off`` does.
"""

# ruff: noqa: E402, F401 - the clock comes first, then all that a run will need, so that each has it at once
from __future__ import annotations

import disguise

disguise.wear_clock()

import faulthandler
import json
import os
import signal
from collections.abc import Sequence

import flaky
import s3fs

import pipelines.cli.progress
import pipelines.recipe
import pipelines.run
from flux_tasks.tasks import direct
from pipelines.cli.main import main

os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # as the product does, before the import
import gcsfs

direct.DELAYS = (0.05, 0.1, 0.2, 0.4)  # type: ignore[assignment] # sooner than people want it


def run(arguments: Sequence[str]) -> int:
    """Be the command line, in the surroundings that the environment describes; return its exit code."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # a run that hangs is asked where
    disguise.wear(os.environ)
    if trouble := os.environ.get("CHAOS_FLAKY"):
        flaky.configure(**json.loads(trouble))
    return main(arguments)
