"""The chaos driver: runs that are killed at random moments, restarted until they end, and judged by the server's book.

    PYTHONPATH=. python tests/chaos/driver.py --kills 1000 --seed 7 --processes 1,2,4

A round is one recipe over a few small pictures, one store, one local server with a seeded fault schedule in this
process, and one, two or four processes that run the recipe at once. They are killed with SIGKILL, by the clock or at a
chosen moment of a job's way (see ``watched``), and started again until the round's kills are spent; then each may run
to its end. Everything is judged (see ``verdict``). Then the faults end, one more run goes through, and everything is
judged again, more strictly: now nothing may be left on its way.

Every round has a seed of its own, which stands in the table of what is wrong: ``--round kills:7:12`` plays it again.
Schedule, pictures and the plan of kills come from it; when exactly a process dies depends on the machine, too.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from processes import Commands, Launcher, Zygote, prefect_server
from rounds import SECRET, Leg, Outcome, play
from schedule import FAULTS, denser
from watched import MOMENTS

__all__ = ["main"]


def _legs(arguments: argparse.Namespace) -> Iterator[tuple[Leg, str]]:
    """Rounds without end: all numbers of processes in turn, each third one on a store that fails."""
    faults = FAULTS if arguments.faults == "all" else ()
    number = 0
    while True:
        processes = arguments.processes[number % len(arguments.processes)]
        leg = Leg("kills", processes=processes, items=20 + 4 * processes, kills=20 + 5 * processes, faults=faults)
        leg = replace(leg, policy=arguments.policy, report=number % 10 == 5)
        if arguments.flaky and (number // len(arguments.processes)) % 3 == 2:
            leg = replace(leg, flaky=arguments.flaky, life=2.0)
        yield leg, f"kills:{arguments.seed}:{number}"
        number += 1


def main(given: Sequence[str] | None = None) -> int:
    """The long form; returns 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Kill runs at random moments, and compare what is left with the book.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--faults", choices=("all", "none"), default="all")
    parser.add_argument("--flaky", type=float, default=0.02, help="share of the store's operations that fail")
    parser.add_argument("--policy", choices=("hold", "resubmit"), default="hold")
    parser.add_argument("--prefect-kills", type=int, default=20, help="kills of the true command line with Prefect")
    parser.add_argument("--injected", type=int, default=10_000, help="faults to inject without a kill")
    parser.add_argument("--round", metavar="SEED", help="play one round again, as the table names it")
    parser.add_argument("--keep", metavar="DIR", help="keep there what the rounds have left")
    arguments = parser.parse_args(given)
    table: dict[str, list[Outcome]] = {"kills": [], "prefect": [], "faults": []}
    with contextlib.ExitStack() as stack:
        if arguments.keep:
            folder = Path(arguments.keep).resolve()
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-chaos-")))
        keep = bool(arguments.keep)

        def run(leg: Leg, seed: str, launcher: Launcher) -> Outcome:
            outcome = play(leg, seed, folder, launcher, keep=keep)
            table[leg.name].append(outcome)
            counts = outcome.counts
            shown = f"{leg.processes} processes{', flaky store' if leg.flaky else ''}: {counts['kills']} kills"
            told = f"{counts['faults']} faults, {counts['charges']} charges, {counts['held']} held"
            print(f"{seed}: {shown}, {told}, {outcome.seconds:.1f} s", flush=True)
            for words in outcome.wrong[:3]:
                print(f"  WRONG {words[:2000]}", flush=True)
            return outcome

        zygote_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flux-zygote-")))
        zygote = stack.enter_context(Zygote(zygote_folder))
        if arguments.round:
            for leg, seed in _legs(arguments):
                if seed == arguments.round:
                    run(leg, seed, zygote)
                    break
        else:
            _all(arguments, run, zygote, table)
    print(_summary(table))
    return int(any(outcome.wrong for outcomes in table.values() for outcome in outcomes))


def _all(
    arguments: argparse.Namespace,
    run: Callable[[Leg, str, Launcher], Outcome],
    zygote: Zygote,
    table: Mapping[str, list[Outcome]],
) -> None:
    killed = 0
    for leg, seed in _legs(arguments):
        if killed >= arguments.kills:
            break
        killed += run(replace(leg, kills=min(leg.kills, arguments.kills - killed)), seed, zygote).counts["kills"]
    injected = number = 0
    while injected < arguments.injected:
        leg = Leg("faults", kills=0, items=80, faults=denser(FAULTS, 4), max_jobs=24, patience=300)
        injected += run(leg, f"faults:{arguments.seed}:{number}", zygote).counts["faults"]
        number += 1
    if arguments.prefect_kills:
        with prefect_server() as (url, database):
            killed = number = 0
            while killed < arguments.prefect_kills:
                processes = arguments.processes[number % len(arguments.processes)]
                leg = Leg("prefect", kills=5, processes=processes, items=8, patience=240, life=4.0)
                killed += run(leg, f"prefect:{arguments.seed}:{number}", Commands(url)).counts["kills"]
                number += 1
            for file in sorted(database.parent.rglob("*")):
                if file.is_file() and SECRET.encode() in file.read_bytes():
                    print(f"  WRONG key: {file} holds the API key")
                    table["prefect"][-1].wrong.append(f"key: {file} holds the API key")


def _summary(table: Mapping[str, list[Outcome]]) -> str:
    rows: list[tuple[str, list[Any]]] = []
    totals = {name: sum((o.counts for o in outcomes), Counter()) for name, outcomes in table.items()}
    names = (
        *("kills", "asked to stop", "runs", "faults", "posts", "results", "charges", "held"),
        *("held: kill before the POST", "held: kill in the POST", "held: kill after the answer"),
        *("held: kill while waiting after 429", "held: fault", "held: store", "charged and held"),
        *(
            "uncertain by faults",
            "resubmitted: lost by the service",
            "resubmitted: uncertain",
            "in the end: done",
            "in the end: cached",
        ),
    )
    rows += [(name, [total[name] for total in totals.values()]) for name in names]
    wrong = {
        name: Counter(words.partition(":")[0] for outcome in outcomes for words in outcome.wrong)
        for name, outcomes in table.items()
    }
    kinds = ("duplicate", "lost", "held without a cause", "held", "stale", "outcome", "exit code", "output", "key")
    rows += [(f"WRONG: {kind}", [found[kind] for found in wrong.values()]) for kind in (*kinds, "hang")]
    rows.append(("seconds", [round(sum(o.seconds for o in outcomes)) for outcomes in table.values()]))
    moments = ("the clock", *MOMENTS)
    rows += [(f"killed by {name}", [total[f"killed by {name}"] for total in totals.values()]) for name in moments]
    head = f"{'':36}" + "".join(f"{name:>12}" for name in table)
    return "\n".join([head, *(f"{name:36}" + "".join(f"{n:>12,}" for n in values) for name, values in rows)])


if __name__ == "__main__":
    sys.exit(main())
