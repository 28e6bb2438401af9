"""``verify``: check a whole output against what is known of how it was written."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from cyclopts import Parameter

from pipelines.cli.common import Exit, Json, Location, Positive
from pipelines.cli.terminal import print_line


def verify(
    output: Annotated[Location, Parameter(metavar="OUT")],
    /,
    *,
    threads: Positive = 8,
    json: Json = False,
) -> Exit:
    """Check every picture of an output: a dataset, or files with provenance.

    A line names each file that is missing, changed, or unknown (extra).
    Nothing is written, and nothing is spent.

    For example:
      flux-pipelines verify out/clean
      flux-pipelines verify s3://bucket/clean --json

    Args:
        output: the folder: a path or an fsspec URL
        threads: how many files are read at a time (default 8)
    """
    from dataclasses import asdict
    from json import dumps

    from pipelines.data.writers.verify import Verdict, verify

    good, counts = 0, Counter[str]()
    found = []
    for finding in verify(str(output).rstrip("/"), threads):
        if finding is None:
            good += 1
            continue
        counts[finding.verdict] += 1
        if json:
            found.append(asdict(finding))
        else:
            print_line(f"{finding.verdict}: {finding.location}{f': {finding.what}' if finding.what else ''}")
    if json:
        print_line(dumps({"good": good, "findings": found}, indent=2))
    else:
        others = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in Verdict if counts[verdict])
        print_line(f"{good:,} pictures are as they were written{f'; {others}' if others else ''}")
    return Exit.ITEMS if counts else Exit.OK
