"""Random schedules of runs that share a budget: begun at any moment, several at a time, some of them killed.

python -m schedules 50    # in tests/support; stops at the first that spends too much
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import Cli
from PIL import Image

from flux_tasks.local import LocalServer

__all__ = ["Played", "play"]

RECIPE = """\
name: {name}
source: {folder}/photos/*
steps:
  - edit: {{model: flux-2-pro, prompt: "{name} {{{{ stem }}}}"}}
  - outpaint: {{expand: {{left: 16}}}}
output: '{folder}/out/{name}/{{{{ stem }}}}.png'
{budget}
"""
"""4.5 and 10 credits for each picture."""

PICTURES = 6
KEY = "k" * 20


@dataclass(frozen=True)
class Played:
    """How a schedule went.

    Attributes:
        charged: by the server's book.
        cap: the most that may be spent.
        kills: runs that were killed.
        noted: what ``spend`` adds up to, at the end.
        uncertain: what of it is not certain.
        refused: runs that a budget has stopped.
    """

    charged: float
    cap: float
    kills: int
    noted: float
    uncertain: float
    refused: int


def play(folder: Path, seed: int, runs: int = 8) -> Played:
    """Play one schedule of ``runs`` runs, three at a time at most; then let each recipe run once more, to its end."""
    draw = random.Random(seed)
    cap = draw.choice([20.0, 60.0, 100.0, 150.0])
    is_of_store = draw.random() < 0.5
    (folder / "photos").mkdir(parents=True)
    for number in range(PICTURES):
        Image.new("RGB", (64, 64), (number * 40, 90, 120)).save(folder / "photos" / f"p{number}.png")
    names = ["a", "b", "c"] if is_of_store else ["a"]
    budget = "" if is_of_store else f"budget: {{{draw.choice(['day', 'month'])}: {cap:g}}}"
    for name in names:
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name, folder=folder, budget=budget))
    cli = Cli(folder)
    kills = refused = 0
    with LocalServer(cap=24, latency=(0.5, 0.3), key=KEY) as server:
        if is_of_store:
            assert cli("store", "budget", f"--{draw.choice(['day', 'month'])}", f"{cap:g}").returncode == 0
        options = ("--endpoint", server.url, "--no-report")
        going: list[tuple[subprocess.Popen[str], float]] = []
        for _ in range(runs):
            while len(going) >= 3:
                kills += _advance(going)
            run = cli.start("run", f"{folder}/{draw.choice(names)}.yaml", *options, key=KEY)
            dies = time.monotonic() + draw.uniform(0.4, 3.0) if draw.random() < 0.6 else float("inf")
            going.append((run, dies))
            time.sleep(draw.uniform(0.0, 0.5))
        while going:
            kills += _advance(going)
        for name in names:  # what was paid for is collected
            done = cli("run", f"{folder}/{name}.yaml", *options, key=KEY)
            refused += "is reached" in done.stderr
        shown = json.loads(cli("spend", "--json").stdout)["preview"]
        return Played(server.charges.charged, cap, kills, shown["credits"], shown["uncertain"], refused)


def _advance(going: list[tuple[subprocess.Popen[str], float]]) -> int:
    """Kill what is to die by now, and forget what has ended; return how many were killed."""
    killed = 0
    time.sleep(0.02)
    for run, dies in [*going]:
        if run.poll() is None and time.monotonic() >= dies:
            run.kill()
            killed += 1
        if run.poll() is not None or time.monotonic() >= dies:
            run.communicate()
            going.remove((run, dies))
    return killed


def main() -> None:
    """Play so many schedules, and tell how each went."""
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            played = play(Path(folder) / "here", seed)
        print(f"schedule {seed}: {played}", flush=True)
        if played.charged > played.cap + 1e-6 or played.noted < played.charged - 1e-6:
            sys.exit(f"schedule {seed} has spent too much, or has forgotten what it spent")


if __name__ == "__main__":
    main()
