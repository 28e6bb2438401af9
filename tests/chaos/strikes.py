"""When the processes of a round are struck, with which signals, and which: by the clock, or at a moment of a job."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from disguise import LEASE
from processes import Process, ports_of
from schedule import Leg
from watched import MOMENTS, Client, Trap, WatchedServer

__all__ = ["Plan", "Striker", "slowness"]

BLOWS = (
    ((signal.SIGKILL,), (signal.SIGTERM,), (signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)),
    (0.8, 0.07, 0.06, 0.07),
)
"""What a process is struck with, and how often: mostly it dies, sometimes it is asked to stop, once or twice."""


@dataclass
class Plan:
    """One kill to come: by the clock, or by a trap."""

    words: str
    at: float
    trap: Trap | None = None
    requests: int = 0
    """What the server had been asked when the plan was made."""
    signals: tuple[int, ...] = (signal.SIGKILL,)
    struck: bool = False


class Striker:
    """Plans the kills of a round and carries them out.

    Args:
        chance: the round's own, so that its name brings the same plans again.
        startup: seconds until a process has begun.
        living: the processes that may be struck.
        note: writes a line into the round's diary.
        stir: wakes the round.

    Attributes:
        kills: when each process was sent SIGKILL.
        kinds: at which moment that was.
        asked: processes that were asked to stop.
        stops: processes that were stopped and continued, and when.
        vain: plans in a row whose moment did not come because nothing but waiting went on.
        counts: what was done, for the table.
    """

    def __init__(
        self,
        leg: Leg,
        chance: random.Random,
        server: WatchedServer,
        startup: float,
        *,
        living: Callable[[], list[Process]],
        note: Callable[[str], None],
        stir: threading.Event,
    ) -> None:
        self._leg, self._random, self._server, self._startup = leg, chance, server, startup
        self._living, self._note, self._stir = living, note, stir
        self.kills: dict[int, float] = {}
        self.kinds: dict[int, str] = {}
        self.asked: set[int] = set()
        self.stops: list[tuple[int, float, float]] = []
        self.vain = 0
        self.counts: Counter[str] = Counter()

    def plan(self) -> Plan:
        """Return the next one, and lay its trap."""
        now, slow = time.monotonic(), slowness()
        if not self.kills:  # the first one comes however fast the run is: every item is submitted
            moment, nth = self._random.choice(("arriving", "post")), self._random.randint(1, min(6, self._leg.items))
            return self._lay(Plan(f"at {moment} no. {nth}", math.inf), moment, nth, 0.0)
        signals: tuple[int, ...] = self._random.choices(*BLOWS)[0]
        if self._random.random() < self._leg.stops:
            signals = (signal.SIGSTOP, signal.SIGCONT)
        if self._random.random() < 0.4:
            startup = self._startup * self._random.choice((0.5, 1.0, 1.0, 1.0))
            delay = (startup + self._random.uniform(0.0, self._leg.life)) * slow
            signals = tuple(signal.SIGTERM if number == signal.SIGINT else number for number in signals)
            return Plan(f"by the clock after {delay:.3f} s", now + delay, signals=signals)
        moment = self._random.choice((*MOMENTS, "ready", "fetched", "fetched", "poll"))
        nth = self._random.randint(1, 6)
        late = moment in ("answered", "ready", "fetched", "charge") and self._random.random() < 0.7
        delay = self._random.uniform(0.0, 0.03 if moment == "fetched" else 0.008) if late else 0.0
        words = f"at {moment} no. {nth} + {delay * 1000:.1f} ms"
        patience = (self._startup * 2 + max(1.0, 2 * self._leg.life)) * slow
        plan = Plan(words, now + patience, signals=signals)
        return self._lay(plan, moment, nth, delay)

    def _lay(self, plan: Plan, moment: str, nth: int, delay: float) -> Plan:
        """Set the trap of ``plan``."""

        def strike(client: Client) -> None:
            self._strike(plan, client)

        plan.requests = self._asked()
        plan.trap = self._server.trap = Trap(moment, nth, delay, strike)
        return plan

    def _asked(self) -> int:
        """Requests that are more than waiting."""
        requests = self._server.requests
        return requests.get("submit", 0) + requests.get("fetch", 0)

    def due(self, plan: Plan) -> None:
        """Strike, or give it up: the time of ``plan`` has come or is over."""
        if plan.struck:
            return
        if plan.trap is None or self._server.trap is not plan.trap:  # by the clock, or the trap is just closing
            self._strike(plan, Client(0))
            return
        self._server.trap = None
        self.vain = self.vain + 1 if self._asked() == plan.requests else 0
        self._note(f"{plan.words}: did not come")

    def _strike(self, plan: Plan, client: Client) -> None:
        """Kill this process, or any one. On the server's loop, or on this thread."""
        living = self._living()
        if not living or plan.struck:
            return
        chosen = next((p for p in living if p.pid == client.pid), None)
        if chosen is None and client.port and not client.pid and len(living) > 1:
            chosen = next((p for p in living if client.port in ports_of(p.pid)), None)
        chosen = chosen or self._random.choice(living)
        plan.struck = True
        if chosen.pid in self.asked and plan.signals[0] in (signal.SIGTERM, signal.SIGINT):
            plan.signals = (signal.SIGKILL,)  # a third signal does not wait for the answer to a POST either
        pause = self._random.uniform(0.0, 0.3)
        if plan.signals[0] == signal.SIGSTOP:
            pause = self._random.choice((0.3, 1.3, 1.3, 2.0)) * LEASE
            self.stops.append((chosen.pid, time.time(), time.time() + pause))
            self.counts["stopped and continued"] += 1
        elif plan.signals[0] == signal.SIGKILL:
            self.kills[chosen.pid] = time.time()
            self.kinds[chosen.pid] = plan.trap.moment if plan.trap else "the clock"
        else:
            self.asked.add(chosen.pid)
            self.counts["asked to stop"] += 1
        first, *further = plan.signals
        chosen.send(first)
        for number in further:
            timer = threading.Timer(pause, chosen.send, [number])
            timer.daemon = True
            timer.start()
        self._note(f"{' '.join(signal.Signals(n).name for n in plan.signals)} to {chosen.pid} {plan.words}")
        self._stir.set()


def slowness() -> float:
    """Return how many programs wait for each core: so many times slower is everything."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
