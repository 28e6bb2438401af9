"""Runs of several processes on one store share the slots of the account, by the server's own count."""

from __future__ import annotations

from pathlib import Path

from command_line import Cli
from waiting import PATIENCE, wait_until

from flux_tasks.local import LocalServer
from flux_tasks.store import Store
from flux_tasks.store.account.slots import holders
from flux_tasks.store.journal import Journal

RECIPE = """\
name: r{number}
source: {folder}/photos/*
steps:
  - edit: {{model: flux-2-pro, prompt: "{number} {{{{ stem }}}}"}}
    matrix: {{seed: [1, 2, 3, 4, 5, 6, 7, 8]}}
output: '{folder}/out/{number}/{{{{ stem }}}}-{{{{ variant }}}}.png'
"""


def test_three_processes_stay_within_the_slots_of_one_account_and_those_of_a_killed_one_come_back(
    cli: Cli, folder: Path
) -> None:
    store = Store(str(folder / "store"))
    with LocalServer(cap=6, latency=0.3) as server:
        runs = []
        for number in range(3):
            (folder / f"r{number}.yaml").write_text(RECIPE.format(folder=folder, number=number))
            given = (f"{folder}/r{number}.yaml", "--endpoint", server.url, "--max-jobs", "6", "--no-report")
            runs.append(cli.start("run", *given, key="k" * 20))
        wait_until(lambda: all(run.poll() is not None for run in runs) or len(server.charges) >= 9)
        refused = server.requests["submit"] - len(server.charges)
        shown = holders(store)
        runs[0].kill()
        ends = [run.communicate(timeout=PATIENCE) and run.returncode for run in runs]
        assert ends[1:] == [0, 0], "the others go on"
        assert refused == 0, "nobody has tried to have more jobs than the account may"
        assert sum(holder.claims["account"].claimed for holder in shown) <= 6
        done = cli("run", f"{folder}/r0.yaml", "--endpoint", server.url, "--max-jobs", "6", "--no-report", key="k" * 20)
        charges = [entry.key for entry in server.charges.entries]
        held = Journal(store).entries()  # POSTs that the kill has hit
        assert done.returncode == (1 if held else 0), done.stderr
        assert len(charges) == len({*charges}), "nothing is paid twice"
        assert 48 - len(held) <= len(charges) <= 48
    assert holders(store) == [], "who ends gives all back, and clears what a killed one has left"
