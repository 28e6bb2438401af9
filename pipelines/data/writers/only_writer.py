"""One process at a time writes a dataset; which one is in ``.flux/writer.json``."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from flux_tasks import files
from flux_tasks.errors import DatasetBusy
from flux_tasks.store.owner import has_ended, is_of_this_machine, readable, this_process
from pipelines.data.writers.rows import HOME, document

__all__ = ["OnlyWriter"]

_SILENCE = 2 * 3_600
"""Seconds after which a writer on another machine that has finished no shard is taken for gone."""


class OnlyWriter:
    """The note in a dataset that says which process writes it at this moment."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._place = files.join(folder, HOME, "writer.json")

    def check(self) -> bool:
        """Check that no other process writes the dataset; returns whether one has that was killed.

        Raises:
            DatasetBusy: one does.
            OSError: the note cannot be read.
        """
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            known = document(files.read(self._place))
            owner, is_old = str(known["owner"]), time.time() - known["time"] > _SILENCE
            if not has_ended(owner) and not (is_old and not is_of_this_machine(owner)):
                where = f"{files.quoted(self._folder)} is being written by {readable(owner)}"
                raise DatasetBusy(f"{where}: wait, or remove {HOME}/writer.json if that process is gone")
            return True
        return False

    def begin(self) -> None:
        """Become the one that writes.

        Raises:
            DatasetBusy: another process writes.
            OSError: that cannot be noted.
        """
        self.check()
        if not files.create(self._place, _signature()):
            files.remove(self._place)  # of a process that has ended
            if not files.create(self._place, _signature()):
                self.check()

    def go_on(self) -> None:
        """Say that this process still writes."""
        files.write(self._place, _signature())

    def end(self) -> None:
        """Leave the dataset to the next one."""
        files.remove(self._place)


def _signature() -> bytes:
    return json.dumps({"owner": this_process(), "time": round(time.time())}).encode()
