"""How the slots of an account are divided among processes, without a lock: the rules alone, no clock and no store.

Each process writes what it claims, and uses no more. A larger claim is written first, and then those of the others are
read: of two that take the last slots at one moment, at least one sees the other, and goes back to what it had. A claim
is made smaller only when the jobs that are active fit into it. So the claims never add up to more than the account has.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

__all__ = ["Claim", "Limit", "Party", "Read", "Round", "Write", "fair_shares"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What one process says about one class of slots.

    Attributes:
        claimed: slots that nobody else may use.
        active: of these, the ones that jobs hold.
        wanted: slots that it could use at this moment: those of active jobs, and of jobs that wait for one.
        most: slots that it would take at most, if it were alone.
        waited: for how long it has had none, in turns of a few seconds; below zero, for how long it has had some.
            Where there are fewer slots than processes, who has waited longest comes first.
    """

    claimed: int = 0
    active: int = 0
    wanted: int = 0
    most: int = 0
    waited: int = 0


Claims: TypeAlias = Mapping[str, Claim]
"""Those of one process, by class."""


@dataclass(frozen=True, slots=True)
class Read:
    """Read the claims of all other processes; the answer is a list of ``Claims``."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write the claims of this process."""

    claims: Claims


@dataclass(frozen=True, slots=True)
class Limit:
    """Let no more than so many slots be held, by class; the answer is how many are held by then."""

    usable: Mapping[str, int]


Round: TypeAlias = Generator[Read | Write | Limit, object, bool]
"""What is to be done, one thing after another; it is sent the answers, and returns whether all have their share."""


def fair_shares(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """Divide ``total`` slots: nobody gets more than it wants while another one lacks any; what is left, equally.

    What cannot be divided goes to the first of ``wanted``.
    """
    shares = dict.fromkeys(wanted, 0)
    left = total
    while left and (short := [name for name in shares if shares[name] < wanted[name]]):
        each = max(1, left // len(short))
        for name in short:
            shares[name] += (more := min(each, wanted[name] - shares[name], left))
            left -= more
    for number, name in enumerate(shares):
        shares[name] += left // len(shares) + (number < left % len(shares))
    return shares


@dataclass
class Party:
    """One of the processes that share the slots.

    Attributes:
        name: that of its record; it decides who gets what cannot be divided.
        most: slots of each class that it would take at most.
        claims: what is certainly written of it.
        usable: slots of each class that it may hold.
    """

    name: str
    most: Mapping[str, int]
    claims: dict[str, Claim] = field(default_factory=dict)
    usable: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Count on nothing that was written: others may have taken this process for dead."""
        self.claims = {kind: Claim(most=most) for kind, most in self.most.items()}
        self.usable = dict.fromkeys(self.most, 0)

    def round(self, wanted: Mapping[str, int], waited: int = 0, *, is_due: bool) -> Round:
        """Claim what is fair, and give back what others lack.

        Args:
            wanted: slots that could be used at this moment.
            waited: see ``Claim``; of all classes.
            is_due: write the claims even if nothing has changed.
        """
        others: Mapping[str, Claims] = yield Read()  # type: ignore[assignment] # see Read
        targets = {kind: self._target(kind, wanted[kind], waited, others) for kind in self.most}
        lowered = {kind: min(self.usable[kind], targets[kind]) for kind in self.most}
        self.usable = lowered
        held: Mapping[str, int] = yield Limit(lowered)  # type: ignore[assignment] # see Limit
        before, claims = self.claims, {}
        for kind, claim in before.items():
            room = _total(kind, self.most[kind], others) - _sum(kind, others)
            least = max(lowered[kind], min(held[kind], claim.claimed))  # more are held only of jobs that may have ended
            claimed = max(least, min(targets[kind], room))
            claims[kind] = Claim(claimed, held[kind], wanted[kind], claim.most, waited)
        is_other = any(claims[kind].claimed != before[kind].claimed for kind in claims)
        if is_other or is_due:
            yield from self._write(claims)
        raised = {kind for kind in claims if claims[kind].claimed > before[kind].claimed}
        if raised:
            others = yield Read()  # type: ignore[assignment] # as above
            for kind in raised:
                room = _total(kind, self.most[kind], others) - _sum(kind, others)
                if claims[kind].claimed > room:
                    claims[kind] = replace(claims[kind], claimed=max(before[kind].claimed, room))
            if claims != self.claims:
                yield from self._write(claims)
        self.usable = {kind: min(claims[kind].claimed, targets[kind]) for kind in claims}
        yield Limit(self.usable)
        return all(claims[kind].claimed == targets[kind] for kind in claims)

    def _target(self, kind: str, wanted: int, waited: int, others: Mapping[str, Claims]) -> int:
        """Return the slots that are this process's share. Where nobody lacks any, it keeps what it has."""
        claims = {name: claims[kind] for name, claims in others.items() if kind in claims}
        claims[self.name] = replace(self.claims[kind], wanted=wanted, waited=waited)
        total = _total(kind, self.most[kind], others)
        is_scarce = len(claims) > total
        first = sorted(claims, key=lambda name: (-claims[name].waited if is_scarce else 0, name))
        wants = {name: min(claims[name].wanted, claims[name].most) for name in first}
        is_enough = all(wants[name] <= claim.claimed for name, claim in claims.items())
        share = total - _sum(kind, others) if is_enough else fair_shares(wants, total)[self.name]
        return max(0, min(self.most[kind], share))

    def _write(self, claims: Claims) -> Generator[Write, object, None]:
        """Write ``claims``. Until that is certain, only the smaller ones of old and new count."""
        old = self.claims
        self.claims = {k: replace(c, claimed=min(c.claimed, old[k].claimed)) for k, c in claims.items()}
        yield Write(dict(claims))
        self.claims = dict(claims)


def _total(kind: str, own: int, others: Mapping[str, Claims]) -> int:
    """Return the slots of one class: the most that any process would take."""
    return max([own, *(claims[kind].most for claims in others.values() if kind in claims)])


def _sum(kind: str, others: Mapping[str, Claims]) -> int:
    return sum(claims[kind].claimed for claims in others.values() if kind in claims)
