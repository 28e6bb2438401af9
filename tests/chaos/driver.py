"""The chaos driver: kill runs at random moments, restart them until they end, and judge them by the charge log.

    PYTHONPATH=.:tests/support python tests/chaos/driver.py --kills 1000 --seed 7 --processes 1,2,4

A round is one recipe over a few small pictures, one store (a folder, S3 or Google Cloud Storage, see ``stores``), one
local server with a seeded fault schedule in this process, and one, two or four processes that run the recipe at once.
In two rounds of three they have clocks that are up to two hours apart, some believe to run on another machine of the
same name, and some are stopped for longer than their lease and continued (see ``disguise``). They are killed with
SIGKILL, by the clock or at a chosen moment of a job's way (see ``watched``), and started again until the round's kills
are spent; then each may run to its end. Everything is judged (see ``verdict``). Then the faults end, one more run goes
through, and everything is judged again, more strictly: now nothing may be left on its way.

Then come as many faults as are asked for without a kill, and kills of the true command line with a Prefect server.

Every round has a name, which is its seed: ``--round local:7:12`` plays it again, ``--keep DIR`` keeps what it leaves,
with a diary of the kills and of what the server saw. Schedule, pictures and the plan of kills come from the name; when
exactly a process dies depends on the machine, too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from processes import Commands, Launcher, Zygote, prefect_server
from rounds import SECRET, Leg, Outcome, play
from schedule import FAULTS, denser
from stores import KINDS, LOCAL, Shelf, shelf
from watched import MOMENTS

__all__ = ["main"]

COLUMNS = (*KINDS, "faults", "prefect")

ROWS = (
    *("kills", "asked to stop", "stopped and continued", "processes", "faults", "faults of the store"),
    *("posts", "results", "charges", "held"),
    *("held: kill before the POST", "held: kill in the POST", "held: kill after the answer"),
    *(
        "held: kill while waiting after 429",
        "held: stop in the POST",
        "held: fault",
        "held: store",
        "charged and held",
        "uncertain by faults",
    ),
    *("resubmitted: lost by the service", "resubmitted: uncertain", "given up, and paid for again"),
)

WRONG = ("duplicate", "lost", "held without a cause", "held", "stale", "outcome", "exit code", "output", "key", "hang")


class Chaos:
    """All rounds that are asked for, and what they came to."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, zygote: Zygote) -> None:
        self.asked = arguments
        self.over = time.monotonic() + 60 * arguments.minutes
        self.folder = folder
        self.zygote = zygote
        self.shelves: dict[str, Shelf] = {"local": LOCAL}
        self.outcomes: dict[str, list[Outcome]] = {name: [] for name in COLUMNS}

    def is_late(self) -> bool:
        """Check whether the time that was asked for is over."""
        return time.monotonic() > self.over

    def leg(self, kind: str, number: int) -> Leg:
        """What the ``number``-th round of a kind is like."""
        processes = self.asked.processes[number % len(self.asked.processes)]
        if kind == "faults":
            return Leg("faults", kills=0, items=80, faults=denser(FAULTS, 4), max_jobs=24)
        if kind == "prefect":
            return Leg("prefect", kills=5, processes=processes, items=8, life=4.0)
        faults = FAULTS if self.asked.faults == "all" else ()
        leg = Leg(kind, processes=processes, items=20 + 4 * processes, kills=20 + 5 * processes, faults=faults)
        turn = number // len(self.asked.processes)
        if kind != "local":  # a store over HTTP is slow
            share = self.asked.flaky if turn % 2 else 0.0
            leg = replace(leg, items=6 + 3 * processes, kills=12 + 4 * processes, life=1.2, flaky=share)
        elif self.asked.flaky and turn % 3 == 2:
            leg = replace(leg, flaky=self.asked.flaky, life=2.0)
        if turn % 3:
            leg = replace(leg, skew=7200.0, machines=2)
        if turn % 3 == 2:
            leg = replace(leg, stops=0.25)
        if self.asked.policy == "resubmit" or (self.asked.policy == "both" and turn % 5 == 3):
            leg = replace(leg, policy="resubmit")
        return replace(leg, report=number % 10 == 5)

    def play(self, kind: str, seed: int, number: int, launcher: Launcher, *, kills: int = 1_000_000) -> Outcome:
        """One round, with a line on what it came to."""
        leg = self.leg(kind, number)
        leg = replace(leg, kills=min(leg.kills, kills))
        place = self.shelves.get(kind, LOCAL)
        outcome = play(leg, f"{kind}:{seed}:{number}", self.folder, launcher, place, keep=bool(self.asked.keep))
        self.outcomes[kind].append(outcome)
        counts = outcome.counts
        store, policy = ", flaky store" if leg.flaky else "", ", resubmit" if leg.policy != "hold" else ""
        disguised = ", disguised" if leg.skew else ""
        shown = f"{leg.processes} processes{store}{policy}{disguised}: {counts['kills']} kills"
        told = f"{counts['faults']} faults, {counts['charges']} charges, {counts['held']} held"
        print(f"{outcome.name}: {shown}, {told}, {outcome.seconds:.1f} s", flush=True)
        for words in outcome.wrong[:3]:
            print(f"  WRONG {words[:2000]}", flush=True)
        return outcome

    def again(self, name: str) -> None:
        """One round by its name."""
        kind, seed, number = name.split(":")
        with contextlib.ExitStack() as stack:
            launcher = Commands(stack.enter_context(prefect_server())[0]) if kind == "prefect" else self.zygote
            if kind in KINDS:
                self.shelves[kind] = stack.enter_context(shelf(kind, self.folder / kind, name))
            self.play(kind, int(seed), int(number), launcher)

    def all(self) -> None:
        """Until so many processes were killed and so many faults injected as are asked for."""
        seed, done = self.asked.seed, 0
        with contextlib.ExitStack() as stack:
            for kind in self.asked.store:
                self.shelves[kind] = stack.enter_context(shelf(kind, self.folder / kind, f"{kind}:{seed}"))
            numbers = dict.fromkeys(self.asked.store, 0)
            while done < self.asked.kills and not self.is_late():
                for kind, number in numbers.items():
                    if done < self.asked.kills and not self.is_late():
                        left = self.asked.kills - done
                        done += self.play(kind, seed, number, self.zygote, kills=left).counts["kills"]
                        numbers[kind] += 1
        done = number = 0
        while done < self.asked.injected and not self.is_late():
            done += self.play("faults", seed, number, self.zygote).counts["faults"]
            number += 1
        if not self.asked.prefect_kills or self.is_late():
            return
        with prefect_server() as (url, database):
            done = number = 0
            while done < self.asked.prefect_kills and not self.is_late():
                left = self.asked.prefect_kills - done
                done += self.play("prefect", seed, number, Commands(url), kills=left).counts["kills"]
                number += 1
            for file in sorted(database.parent.rglob("*")):
                if file.is_file() and SECRET.encode() in file.read_bytes():
                    self.outcomes["prefect"][-1].wrong.append(f"key: {file} holds the API key")
                    print(f"  WRONG key: {file} holds the API key")

    def table(self) -> str:
        """What all of it came to."""
        totals = [sum((o.counts for o in outcomes), Counter()) for outcomes in self.outcomes.values()]
        wrong = [
            Counter(words.partition(":")[0] for outcome in outcomes for words in outcome.wrong)
            for outcomes in self.outcomes.values()
        ]
        seconds = [round(sum(o.seconds for o in outcomes)) for outcomes in self.outcomes.values()]
        killed = [f"killed by {name}" for name in ("the clock", *MOMENTS)]
        rows = [
            *((name, [total[name] for total in totals]) for name in ROWS),
            *((f"WRONG: {name}", [found[name] for found in wrong]) for name in WRONG),
            ("seconds", seconds),
            *((name, [total[name] for total in totals]) for name in killed),
        ]
        lines = [f"{name:36}" + "".join(f"{n:>12,}" for n in values) for name, values in rows]
        return "\n".join([f"{'':36}" + "".join(f"{name:>12}" for name in COLUMNS), *lines])


def _stores(text: str) -> list[str]:
    kinds = text.split(",")
    if unknown := set(kinds) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no such store: {', '.join(sorted(unknown))}")
    return kinds


def main(given: Sequence[str] | None = None) -> int:
    """The long form; returns 1 if anything is wrong."""
    parser = argparse.ArgumentParser(
        description="Kill runs at random moments, and compare the rest with the charge log."
    )
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--store", type=_stores, default=list(KINDS), help="local, s3, gcs (default: all, in turn)")
    parser.add_argument("--faults", choices=("all", "none"), default="all")
    parser.add_argument("--flaky", type=float, default=0.02, help="share of the store's operations that fail")
    parser.add_argument("--policy", choices=("hold", "resubmit", "both"), default="both")
    parser.add_argument("--prefect-kills", type=int, default=20, help="kills of the true command line with Prefect")
    parser.add_argument("--injected", type=int, default=10_000, help="faults to inject without a kill")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no round after so many minutes")
    parser.add_argument("--round", metavar="NAME", help="play one round again, as the lines above the table name it")
    parser.add_argument("--keep", metavar="DIR", help="keep there what the rounds leave")
    arguments = parser.parse_args(given)
    with contextlib.ExitStack() as stack:
        folder = Path(arguments.keep or stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-chaos-")))
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        nest = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-zygote-")))
        chaos = Chaos(arguments, folder, stack.enter_context(Zygote(nest)))
        if arguments.round:
            chaos.again(arguments.round)
        else:
            chaos.all()
    print(chaos.table())
    return int(any(outcome.wrong for outcomes in chaos.outcomes.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
