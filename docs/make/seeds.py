"""Write ``docs/seeds.md``: what the five seed documents say, who honours it, and the test that shows it.

The statements stand in ``tests/seeds/*.toml``, beside the tests. ``make docs`` runs this; a test fails when the page is
out of date.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flux_tasks.catalog import SOURCES, TOOLS
from flux_tasks.catalog.rules import PIXELS_PER_MP

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "seeds.md"

_COMMON = ((1024, 1024), (1920, 1080), (1080, 1920), (1536, 1152), (2048, 1024), (2048, 2048))
_RATIOS = ((21, 9), (2, 1), (16, 9), (3, 2), (4, 3), (5, 4), (1, 1), (4, 5), (3, 4), (2, 3), (9, 16), (1, 2), (9, 21))

_HEAD = """\
<!-- Written by `make docs` from tests/seeds/*.toml; a test fails when it is out of date. -->

# The seed documents, statement by statement

Five documents on the API are the ground that this project was built on. This page lists each of their statements, who
honours it, and the tests that show it. Where documents contradict each other, the client sends what the newest official
specification says, and the local server also takes what a seed document shows.

*preflight* is the check of a call before anything is spent; *server* is the local server of
[`flux-pipelines local`](local-server.md); *tips* are what `flux-pipelines tools NAME` prints."""


def seeds() -> list[dict[str, Any]]:
    """Return the documents with their statements, in the order of their numbers."""
    read = [tomllib.loads(path.read_text("utf-8")) for path in ROOT.joinpath("tests", "seeds").glob("*.toml")]
    return sorted(read, key=lambda seed: seed["number"])


def page() -> str:
    """Return the text of the page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    rows = [(f"{seed['number']}.{number}", s) for seed in seeds() for number, s in enumerate(seed["statement"], 1)]
    others = [(number, s) for number, s in rows if "reason" in s]
    honoured = len(rows) - len(others)
    yield f"\n{len(rows)} statements, {honoured} of them honoured as they stand; the others come first.\n"
    yield "## Honoured in part, or not\n"
    yield from ("| | statement | why |", "|---|---|---|")
    yield from (_row(number, s["says"], s["reason"]) for number, s in others)
    for seed in seeds():
        yield f"\n## {seed['number']}. {seed['title']}\n\n{SOURCES[seed['source']]}.\n"
        yield from ("| | statement | honoured by | shown by |", "|---|---|---|---|")
        for number, s in enumerate(seed["statement"], 1):
            where = f"{s['where']} (see above)".strip() if "reason" in s else s["where"]
            yield _row(f"{seed['number']}.{number}", s["says"], where, "<br>".join(map(_shown, s["tests"])))
    yield from _sizes()


def _sizes() -> Iterator[str]:
    """Yield what becomes of common sizes: FLUX.2 cuts sides to multiples of 16, Kontext has sizes of its own."""
    tools = [
        tool
        for tool in TOOLS.values()
        if tool.name.startswith("flux-2-") and tool.name[-8:] != "-preview" and "finetune_id" not in tool.parameters
    ]
    yield "\n## What becomes of common sizes\n"
    yield "FLUX.2 cuts each side to a multiple of 16. Credits are for the result alone.\n"
    yield from (
        f"| asked for | result | MP | {' | '.join(tool.name for tool in tools)} |",
        "|---" * (len(tools) + 3) + "|",
    )
    for width, height in _COMMON:
        result = tools[0].output_size({"width": width, "height": height}, None) or (0, 0)
        megapixels = result[0] * result[1] / PIXELS_PER_MP
        prices = [f"{tool.price.estimate(megapixels):g}" for tool in tools]
        yield _row(f"{width}×{height}", f"{result[0]}×{result[1]}", f"{megapixels:.2f}", *prices)
    kontext = TOOLS["flux-kontext-pro"]
    known = {kontext.output_size({"aspect_ratio": f"{w}:{h}"}, None): f"{w}:{h}" for w, h in _RATIOS}
    yield "\nThe result of Kontext has one of seventeen sizes: that whose ratio is nearest to `aspect_ratio`, or else"
    yield "to the ratio of the first picture.\n"
    yield from ("| `aspect_ratio` | result |", "|---|---|")
    yield from (_row(ratio, f"{size[0]}×{size[1]}") for size, ratio in known.items() if size)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').strip() for cell in cells)} |"


def _shown(test: str) -> str:
    """Return the name of a test as a sentence that links to its file."""
    file, _, name = test.partition("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../tests/{file})"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
