"""Pictures that runs have read: which digest a file has as long as its fingerprint is the same.

::

    inputs/<run id>.jsonl     a line for each file: its location, its fingerprint, and what its picture is

A recipe that has changed, another seed, another engine: none of them needs to read an unchanged input again to know
which results it has. Whoever needs the bytes reads them, and they are checked against the digest.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, replace

from flux_tasks import catalog, files
from flux_tasks.images.encoding import Header
from flux_tasks.images.reference import ImageRef
from flux_tasks.store.records import Store
from flux_tasks.store.spool import DEFAULT
from pipelines.data.keyed_lines import RUN_ID, KeyedLines, digest_of, program_version

__all__ = ["KnownInputs", "ReadFiles"]

_KIND = "inputs"
_SUM = "[0-9a-f]{64}"
_TOOL = f"(?:{'|'.join(map(re.escape, catalog.TOOLS))})"
_OWN = re.compile(
    rf"blobs/[0-9a-f]{{2}}/{_SUM}\.[a-z]+"
    rf"|(?:results|copies|refusals|journal|decisions|failures|facts)/{_SUM}(?:~[0-9]+)?\.json"
    rf"|(?:budgets|begun)/{_SUM}(?:/(?:{RUN_ID}|[0-9a-f]{{16}}))?\.json"
    rf"|(?:slots/[0-9a-f]{{16}}|charges/[0-9-]{{10}}|reserves)/[^/]+\.json|budgets/store\.json"
    rf"|timings/{_TOOL}\.json|prices/{_TOOL}(?:-[^/]+)?\.json|probe/create\.json"
    rf"|(?:settled/[0-9a-f]{{40}}|inputs)/{RUN_ID}\.jsonl"
)
"""Files of the store that a walk reads; what they hold follows from the item's own files."""
_SPOOLED = re.compile(rf"[0-9a-f]{{16}}/{_SUM}\.[a-z]+")


class KnownInputs:
    """The pictures that runs on a store have read. Implements ``Memory``, and remembers nothing itself.

    Args:
        run_id: of the run that adds to it; empty for a plan, which writes nothing.
        is_trusted: False finds nothing.
    """

    def __init__(self, store: Store, prints: files.Fingerprints, run_id: str = "", *, is_trusted: bool) -> None:
        self.prints = prints
        self._version = program_version()
        self._lines = KeyedLines(store.location(_KIND), run_id, is_trusted=is_trusted)

    def recall(self, location: str) -> ImageRef | None:
        """Return the picture in a file that is as it was when a run read it."""
        return self.find(location, self.prints.of(location)) if self._lines else None

    def keep(self, location: str, image: ImageRef) -> None:
        """Do nothing: ``ReadFiles`` takes note of what a run reads."""

    def find(self, location: str, fingerprint: str | None) -> ImageRef | None:
        """Return the picture in a file with this fingerprint; None if no run has read it so."""
        known = self._lines.get(self._key(location)) if fingerprint else None
        try:
            if known is None or known["location"] != location or known["fingerprint"] != fingerprint:
                return None
            return replace(ImageRef.from_dict(known["image"]), known=Header(**known["header"]))
        except (TypeError, KeyError, ValueError):
            return None

    def add(self, location: str, fingerprint: str, image: ImageRef) -> None:
        """Take note of a picture that was read from a file with this fingerprint."""
        if image.known is not None:
            document = {"location": location, "fingerprint": fingerprint, "image": image.to_dict()}
            self._lines.add(self._key(location), {**document, "header": asdict(image.known)})

    def _key(self, location: str) -> str:
        return digest_of([self._version, location])

    def close(self) -> None:
        """Write what was added."""
        self._lines.close()


@dataclass
class ReadFiles:
    """The files that one item's walk reads or looks for, with the fingerprints that they have before that.

    Implements ``Memory``: pictures that are known are not read.
    """

    inputs: KnownInputs
    store: Store
    found: dict[str, str | None] = field(default_factory=dict)
    images: dict[str, ImageRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spool = os.environ.get("FLUX_SPOOL") or DEFAULT
        self._own = (self.store.location(""), _OWN), (files.join(spool, ""), _SPOOLED)

    def __call__(self, location: str) -> None:
        """Take the fingerprint of a file that the walk comes to, unless it is the store's or the spool's own."""
        if not any(location.startswith(root) and own.fullmatch(location, len(root)) for root, own in self._own):
            self.add(location)

    def add(self, location: str) -> None:
        """Take the fingerprint of a file, wherever it is."""
        if location not in self.found and not files.is_data(location):
            self.found[location] = self.inputs.prints.of(location)

    def recall(self, location: str) -> ImageRef | None:
        """Return the picture in a file that is as it was when a run read it."""
        self(location)
        return self.inputs.find(location, self.found.get(location))

    def keep(self, location: str, image: ImageRef) -> None:
        """Remember a picture that was read."""
        if self.found.get(location) is not None:
            self.images[location] = image

    def take_note(self, inputs: KnownInputs) -> bool:
        """Put the pictures that were read into ``inputs``; False if not every file is known, and as it was before."""
        steady = {
            location: fingerprint
            for location, fingerprint in self.found.items()
            if fingerprint is not None and inputs.prints.still_matches(location, fingerprint)
        }
        for location in self.images.keys() & steady.keys():
            inputs.add(location, steady[location], self.images[location])
        return len(steady) == len(self.found)
