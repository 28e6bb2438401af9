"""Write the page of figures: tables in Markdown, and plots as SVG files in a folder of its name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from arena import TITLES, Result

Column = tuple[str, Callable[[Result, Result | None], str]]


@dataclass
class Section:
    """Some results under a heading; ratios are to the hand-written program at the same work."""

    title: str
    results: list[Result] = field(default_factory=list)
    is_chain: bool = True


def _per_job(seconds: float, result: Result) -> float:
    return 1000 * seconds / (result.book.get("jobs") or result.work.jobs)


def _ratio(value: float, other: float | None) -> str:
    return f"{value / other:.2f}" if other else "–"


COLUMNS: Sequence[Column] = (
    ("runs", lambda r, _: f"{r.runs}"),
    ("wall s", lambda r, _: f"{r.wall:.1f}"),
    ("÷ hand", lambda r, hand: _ratio(r.wall, hand and hand.wall)),
    ("slots in use", lambda r, _: f"{r.book['use']:.2f}"),
    ("client CPU a job, ms", lambda r, _: f"{_per_job(r.cpu, r):.0f}"),
    ("÷ hand", lambda r, hand: _ratio(_per_job(r.cpu, r), hand and _per_job(hand.cpu, hand))),
    ("Prefect server's, ms", lambda r, _: f"{_per_job(r.server_cpu, r):.0f}" if r.server_cpu else "–"),
    ("polls a job", lambda r, _: f"{r.book['polls'] / r.book['jobs']:.1f}"),
    ("429s", lambda r, _: f"{r.book['refused']:.0f}"),
    ("peak MB", lambda r, _: f"{r.peak:.0f}"),
    ("stand-in's CPU", lambda r, _: f"{r.book['server']:.0%}"),
)
SHORT_COLUMNS: Sequence[Column] = (
    COLUMNS[0],
    ("wall s", lambda r, _: f"{r.wall:.2f}"),
    ("− hand, s", lambda r, hand: f"{r.wall - hand.wall:+.2f}" if hand else "–"),
    ("client CPU, s", lambda r, _: f"{r.cpu:.2f}"),
    ("Prefect server's, s", lambda r, _: f"{r.server_cpu:.2f}" if r.server_cpu else "–"),
    ("peak MB", COLUMNS[9][1]),
    ("jobs", lambda r, _: f"{r.book['jobs']:.0f}"),
)


def table(section: Section) -> str:
    """Return a section's results as a Markdown table."""
    columns = COLUMNS if section.is_chain else SHORT_COLUMNS
    works = {result.work: None for result in section.results}
    if len(works) > 1:
        columns = (("work", lambda r, _: str(r.work)), *columns)
    lines = [f"{', '.join(map(str, works))}:", ""] if len(works) == 1 else []
    lines.append("| " + " | ".join(["contestant", *(name for name, _ in columns)]) + " |")
    lines.append("|---|" + "---:|" * len(columns))
    left_out = []
    for result in section.results:
        name = TITLES[result.contestant]
        if result.note:
            left_out.append(f"Left out: {name}, {result.work}: `{result.note}`")
            continue
        hand = next((r for r in section.results if r.contestant == "hand" and r.work == result.work), None)
        cells = [name, *(value(result, hand) for _, value in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"\n{line}" for line in left_out)])


def in_short(sections: Iterable[Section]) -> str:
    """Return the five figures for the README, of those contestants that have them."""
    by_title = {section.title: section.results for section in sections}
    seconds = next((result.work.seconds for result in by_title.get(BASE, ())), 1.0)
    rows: list[tuple[str, str, Callable[[Result], str]]] = [
        (f"share of the 24 slots in use, jobs of {seconds:g} s", BASE, lambda r: f"{r.book['use']:.2f}"),
        ("client CPU a job", BASE, lambda r: f"{_per_job(r.cpu, r):.0f} ms"),
        ("one item, one job of 0.2 s, from command to exit", START, lambda r: f"{r.wall:.1f} s"),
        ("the same run again, all settled, an item", SETTLED, lambda r: f"{1000 * r.wall / r.work.items:.1f} ms"),
        ("peak memory", BASE, lambda r: f"{r.peak:.0f} MB"),
    ]
    names = ("hand", "prefect-map", "recipe-bare", "recipe", "recipe-server")
    lines = ["| | " + " | ".join(TITLES[name] for name in names) + " |", "|---|" + "---:|" * len(names)]
    for words, title, value in rows:
        found = {r.contestant: value(r) for r in by_title.get(title, ()) if not r.note}
        lines.append(f"| {words} | " + " | ".join(found.get(name, "–") for name in names) + " |")
    return "\n".join(lines)


BASE = "All contestants"
SHARED = "Several processes: a share of the pictures each"
SLOTS = "One process, three runs at once, eight processes on two recipes"
START = "One item, one job of 0.2 s, from command to exit"
SETTLED = "The same run again: every result is there"
ADDED = "New photos among settled ones"


def write(path: Path, sections: Sequence[Section], facts: Sequence[str]) -> str:
    """Write the page and its plots; return the text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plots = draw(path, sections)
    parts = ["# Speed", INTRODUCTION, "\n".join(f"- {fact}" for fact in facts), in_short(sections)]
    for section in sections:
        if section.results:
            parts += [f"## {section.title}", table(section)]
            parts += [f"![{words}]({name})" for title, words, name in plots if title == section.title]
    text = "\n\n".join(parts) + "\n"
    path.write_text(text)
    return text


INTRODUCTION = """\
Written by `make bench`, which runs all contestants side by side and asserts nothing: times depend on the machine,
ratios much less. What is measured, and how:

- **The work**: each picture goes through a chain of deblur jobs, and the last result is written to a file. A job takes
  the time that is named, with a standard deviation of 15 % (the same seeded durations for each contestant). Pictures
  are PNG files of 1.5 bytes a pixel, like photos.
- **The service** is a stand-in in a process of its own: real HTTP with connections kept alive, 24 slots, 429 above
  them, and each result is a new file, in four of five cases with other pixels than its input. It adds no distance: a
  round trip takes about 1 ms. Its own CPU while jobs ran, as a share of one core, is the last column: as long as that
  is small, it holds nobody up. Recipes poll it with the pauses that they have for every service.
- **A contestant** is a process of its own, measured from outside: *wall* from command to exit, imports included;
  *client CPU*, user and system, with its children but without a Prefect server, which has a column of its own; *peak*
  memory, by a look every 0.2 s.
- **Slots in use** = busy slot-seconds in the service's book ÷ (24 × time between the first submission and the end of
  the last job).
- **By hand** means asyncio and httpx, with a semaphore and a poll every 0.1 s (`tests/benchmarks/contestants`). It
  keeps no journal: what it had paid for is lost when it is killed. The recipes keep journal, checks, atomic writes and
  fsync in every figure; the report is made as well, with small copies of up to 300 pictures (60 items), unless a
  contestant's name says otherwise. Plain Prefect starts its own server, as it does where none is configured."""


def facts_of(machine_load: str, daft: str, repeats: str) -> list[str]:
    """Return what the figures depend on: machine, versions, load."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("prefect", "httpx", "pillow"))
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), {platform.system()}, "
        f"load average {machine_load}",
        f"Python {platform.python_version()}, {versions}{daft and f'; {daft}'}",
        f"Medians; {repeats}",
    ]


def draw(path: Path, sections: Sequence[Section]) -> list[tuple[str, str, str]]:
    """Draw what a table shows badly; return the section, a description and the file name of each plot."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}
    from matplotlib import pyplot

    plots = []
    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    path.with_suffix("").mkdir()
    for section in sections:
        shown = [r for r in section.results if not r.note]
        if not section.is_chain or not shown:
            continue
        figure, axes = pyplot.subplots(1, 3, figsize=(11, 0.6 + 0.32 * len(shown)), sharey=True)
        varied = len({r.work for r in shown}) > 1
        names = [TITLES[r.contestant].replace("`", "") + (f"\n{r.work}" if varied else "") for r in shown][::-1]
        colours = ["#4f46e5" if r.contestant.startswith("recipe") else "#9ca3af" for r in shown][::-1]
        for axis, (title, value) in zip(axes, PLOTTED, strict=True):
            bars = axis.barh(range(len(names)), [value(r) for r in shown][::-1], color=colours, height=0.65)
            axis.bar_label(bars, fmt="%.2f" if "slots" in title else "%.0f", padding=2, fontsize=8)
            axis.set_yticks(range(len(names)), names, fontsize=8)
            axis.set_title(title, fontsize=9)
            axis.margins(x=0.15)
            axis.set_xticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        name = f"{path.stem}/{'-'.join(re.findall(r'[a-z0-9]+', section.title.lower()))}.svg"
        figure.savefig(path.parent / name, bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
        plots.append((section.title, f"{section.title}: share of slots, CPU a job and peak memory as bars", name))
    return plots


PLOTTED: Sequence[tuple[str, Callable[[Result], float]]] = (
    ("share of the slots in use", lambda r: r.book["use"]),
    ("client CPU a job, ms", lambda r: _per_job(r.cpu, r)),
    ("peak memory, MB", lambda r: r.peak),
)
