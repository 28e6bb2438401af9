"""How slots are divided among processes: whatever the order of their reads and writes, and whoever is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flux_tasks.store.account.shares import Claim, Claims, Limit, Party, Read, Write, fair_shares

KINDS = {"account": 24, "kontext-max": 6}


@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(0, 80), min_size=1, max_size=9), st.integers(0, 30))
def test_a_share_is_fair_and_nothing_is_left_over(wanted: dict[str, int], total: int) -> None:
    shares = fair_shares(wanted, total)
    assert sum(shares.values()) == total
    lacking = [shares[name] for name in wanted if shares[name] < wanted[name]]
    if lacking:
        assert max(shares.values()) <= min(lacking) + 1, "nobody has more while somebody lacks some"
        assert all(shares[name] <= wanted[name] for name in wanted)


class Process:
    """One process: what it wants, what jobs it has, and the step that it is at."""

    def __init__(self, name: str, records: dict[str, Claims], draw: random.Random) -> None:
        self.party = Party(name, KINDS)
        self.draw, self.records = draw, records
        self.limit = dict.fromkeys(KINDS, 0)
        self.active = dict.fromkeys(KINDS, 0)
        self.wish = dict.fromkeys(KINDS, 0)
        self.steps = self.life()

    def work(self) -> None:
        """Let jobs end and begin, within the limit of this moment."""
        for kind, limit in self.limit.items():
            if self.draw.random() < 0.1:
                self.active[kind] -= self.draw.randint(0, self.active[kind])
            self.active[kind] = max(self.active[kind], min(self.wish[kind], limit))

    def life(self) -> Iterator[None]:
        while True:
            wanted = {kind: max(self.wish[kind], self.active[kind]) for kind in KINDS}
            rounds = self.party.round(wanted, is_due=True)
            answer: Any = None
            while True:
                try:
                    step = rounds.send(answer)
                except StopIteration:
                    break
                if isinstance(step, Read):
                    answer = {}
                    for name in sorted(self.records):  # one after the other, as from a store
                        if name != self.party.name:
                            yield
                            answer |= {name: self.records[name]} if name in self.records else {}
                elif isinstance(step, Write):
                    yield
                    if self.draw.random() < 0.05:  # the store fails, before or after the write
                        if self.draw.random() < 0.5:
                            self.records[self.party.name] = step.claims
                        rounds.close()
                        break
                    self.records[self.party.name] = step.claims
                else:
                    assert isinstance(step, Limit)
                    self.limit = dict(step.usable)
                    answer = dict(self.active)
            yield


def sums(claims: Mapping[str, Claims]) -> dict[str, int]:
    return {kind: sum(one.get(kind, Claim()).claimed for one in claims.values()) for kind in KINDS}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 9))
def test_slots_in_use_never_exceed_the_account_and_all_are_used_in_the_end(seed: int, count: int) -> None:
    draw = random.Random(seed)
    records: dict[str, Claims] = {}
    processes = [Process(f"p{number}", records, draw) for number in range(count)]
    for _ in range(60 * count):
        process = draw.choice(processes)
        if draw.random() < 0.1:
            process.wish = {"account": draw.choice([0, 3, 30, 99]), "kontext-max": draw.choice([0, 2, 9])}
        if draw.random() < 0.02 and len(processes) > 1:  # it is killed, and known to have ended
            processes.remove(process)
            records.pop(process.party.name, None)
            continue
        next(process.steps)
        process.work()
        for kind, most in KINDS.items():
            assert sum(p.limit[kind] for p in processes) <= most
            assert sum(p.active[kind] for p in processes) <= most
    for process in processes:
        process.wish = {"account": 99, "kontext-max": 99}
    for turn in range(40 * count):  # in turn, so that each sees the others
        process = processes[turn // 20 % len(processes)]
        next(process.steps)
        process.work()
        process.active = {k: draw.randint(0, n) for k, n in process.active.items()}
    assert sums(records) == KINDS, "no slot is left unused while somebody wants one"
    for kind, most in KINDS.items():
        claims = [p.limit[kind] for p in processes]
        assert sum(claims) == most
        assert max(claims) - min(claims) <= 1, "who wants more than its share gets the same as the others"
