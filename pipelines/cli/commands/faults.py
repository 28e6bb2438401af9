"""``faults``: the kinds of fault that the local server makes, and what each does to a caller."""

import json
from collections.abc import Iterator

from pipelines.cli.common import Exit
from pipelines.cli.terminal import print_line


def faults(*, measure: bool = False) -> Exit:
    """List the faults that the local server can cause.

    A file with some of them is for `flux-pipelines local --faults FILE`.

    Args:
        measure: make each fault happen, and show what a caller sees of it
    """
    from pipelines.cli import fault_table

    for line in fault_table.lines() if measure else kinds_text():
        print_line(line)
    return Exit.OK


def kinds_text() -> Iterator[str]:
    """Yield the lines of the list: each kind of fault with its own options and their defaults."""
    from flux_tasks.local.faults.kinds import KINDS, Rule

    common = list(Rule.model_fields)
    for name, kind in KINDS.items():
        yield f"{name:<27} {kind.summary}"
        options = {n: i.default for n, i in kind.model_fields.items() if n not in common}
        if options:
            yield f"{'':<27} {', '.join(f'{n}: {json.dumps(default)}' for n, default in options.items())}"
    yield ""
    yield f"each also takes {', '.join(common)}; a schedule is `seed:` and a list of them under `faults:`"
