"""The verdict: what the server's charge log says was charged, against what store, journal, spool and manifests hold.

The charge log is the truth. A charge is *kept* if it was not given back. Each kept charge must be the only one of its
request, and its result must be in the store, or on its way there: its id in the journal or the spool. What has neither
is lost, unless it is listed as held, and for each of those somebody must be to blame: a kill in the middle of the
submission, a fault that left it uncertain, or a store that failed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evidence import Evidence
from watched import Post

from flux_tasks import files
from flux_tasks.errors import FluxError
from flux_tasks.images.reference import ImageRef
from flux_tasks.local.faults.kinds import SubmitAnswer
from flux_tasks.local.service.charges import Entry
from flux_tasks.store.journal import Journal
from flux_tasks.store.owner import is_of_this_machine
from flux_tasks.store.records import Store
from pipelines.data.items import items_of
from pipelines.execution.arguments import arguments_of, call_of
from pipelines.recipe import Recipe

__all__ = ["Cell", "Verdict", "judge"]

BAD_WORDS = ("Traceback (most recent call last)", "was never awaited", "exception was never retrieved", "Fatal Python")
"""What no output of a program that is in good order contains."""

LOST_POLLS = 6
"""``Task not found`` so often in a row means that the service has lost the job: paying anew is by design."""

ENDED_WELL = ("done", "cached", "skipped")

FAULTS_BEHIND = {
    "StillRunning": ("job.never_ends", "poll."),
    "ServerUnavailable": ("job.never_ends", "poll."),
    "DeliveryFailed": ("delivery.",),
    "JobLost": ("poll.unknown",),
    "InvalidRequest": ("job.wrong_size", "refused"),
    "InvalidImage": ("job.wrong_size",),
    "RateLimited": ("refused",),
}
"""Faults that may end an item with an error of this class."""

STORE_TROUBLE = ("StoreUnavailable", "ServerUnavailable", "OSError", "RunStopped", "FileNotFoundError")
"""What a store that fails may end an item with."""

STOPPING = ("KeyRefused", "OutOfCredits", "RunStopped", "EndpointUnreachable")


@dataclass
class Cell:
    """One step of one item: the job that is due, under its own name and under the server's."""

    item: str
    step: str
    key: str
    body: str
    result: Mapping[str, Any] | None


@dataclass
class Verdict:
    """What was found: ``wrong`` must be empty."""

    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, words: str) -> None:
        self.counts[kind] += 1
        self.wrong.append(f"{kind}: {words}")


def judge(evidence: Evidence) -> Verdict:
    """All checks at once."""
    return _Judge(evidence).verdict


class _Judge:
    def __init__(self, evidence: Evidence) -> None:
        self.seen = evidence
        self.verdict = Verdict()
        self.store = Store(evidence.store)
        self.cells = list(_cells(evidence.recipe, self.store, evidence.engine))
        self.by_body = {cell.body: cell for cell in self.cells}
        self.by_key = {cell.key: cell for cell in self.cells}
        self.unsettled = {entry.key: entry for entry in Journal(self.store).entries()}
        self.posts: dict[str, list[Post]] = defaultdict(list)
        for post in evidence.posts:
            self.posts[post.key].append(post)
        self.charges: dict[str, list[Entry]] = defaultdict(list)
        for entry in evidence.charges:
            self.charges[entry.key].append(entry)
        self.results = _results(evidence.store)
        self.traces = _bytes(files.join(evidence.store, "journal"))
        self.traces += b"\n".join(path.read_bytes() for path in sorted(evidence.spool.rglob("*.json")))
        self._count()
        self._duplicates()
        self._lost()
        self._held()
        self._outcomes()
        self._output()

    def _count(self) -> None:
        counts = self.verdict.counts
        counts["charges"] = len(self.seen.charges)
        counts["posts"] = len(self.seen.posts)
        counts["uncertain by faults"] = sum(self.seen.is_uncertain(post) for post in self.seen.posts)
        counts["results"] = len(self.results)
        stale = [key for key in self.unsettled if key in self.results]
        counts["stale entries"] = len(stale)
        if self.seen.is_over:
            # A dead process of another machine is known to be dead only once its lease is over.
            known = [key for key in stale if not (owner := self.unsettled[key].owner) or is_of_this_machine(owner)]
            for key in known:
                self.verdict.add("stale", f"{self._name(key)} is still in the journal, though its result is recorded")

    # -- (1) --

    def _duplicates(self) -> None:
        for body, charges in self.charges.items():
            kept = [e for e in charges if _is_kept(e)]
            lost = [e for e in kept if e.faults.count("poll.unknown") >= LOST_POLLS]
            extra = len(kept) - 1
            allowed = min(extra, len(lost)) if extra > 0 else 0
            self.verdict.counts["resubmitted: lost by the service"] += allowed
            if self.seen.policy == "resubmit":
                uncertain = min(max(extra - allowed, 0), sum(self.seen.is_unknowable(e) for e in kept))
                self.verdict.counts["resubmitted: uncertain"] += uncertain
                allowed += uncertain
            for entry in kept[1 : 1 + max(extra - allowed, 0)]:
                self.verdict.add(
                    "duplicate", f"{self._title(body)} was paid for again: {self._story(body)} ({entry.id})"
                )

    # -- (2) --

    def _lost(self) -> None:
        recorded = {record.get("job_id") for record in self.results.values()}
        for entry in self.seen.charges:
            if not _is_kept(entry) or entry.status != "Ready" or entry.id in recorded:
                continue
            if entry.faults.count("poll.unknown") >= LOST_POLLS:
                self.verdict.counts["kept by a service that lost the job"] += 1
                continue
            if entry.id.encode() in self.traces and not self.seen.is_over:
                self.verdict.counts["on the way"] += 1
                continue
            if self.seen.policy == "resubmit" and self.seen.is_unknowable(entry):
                self.verdict.counts["given up, and paid for again"] += 1
                continue
            cell = self.by_body.get(entry.key)
            waiting = self.unsettled.get(cell.key) if cell else None
            if waiting is not None and waiting.phase == "intent":
                self.verdict.counts["charged and held"] += 1
                continue
            where = ", though its id is known" if entry.id.encode() in self.traces else ""
            self.verdict.add(
                "lost",
                f"{self._title(entry.key)}: {entry.id} was paid for and has no result{where}: {self._story(entry.key)}",
            )
        for key, record in self.results.items():
            image = self.store.result(key)
            try:
                if image is None or not self.store.read_image(image["image"]):
                    raise FluxError("its picture is not there")
            except FluxError as error:
                self.verdict.add("lost", f"{self._name(key)}, job {record.get('job_id')}: {error}")

    # -- (3) --

    def _held(self) -> None:
        # What has its result is stale, and is judged when all is over.
        unanswered = {key: entry for key, entry in self.unsettled.items() if key not in self.results}
        held = {key: entry for key, entry in unanswered.items() if entry.phase == "intent"}
        self.verdict.counts["held"] = len(held)
        for key, entry in held.items():
            cause = self.seen.cause_of_hold(entry, self.posts.get(self._body(key), []))
            if cause:
                self.verdict.counts[f"held: {cause}"] += 1
            else:
                self.verdict.add("held without a cause", f"{self._name(key)}: {entry}: {self._story(self._body(key))}")

    # -- (4) --

    def _outcomes(self) -> None:
        expected = [item.stem for item in items_of(self.seen.recipe.source)]
        for number, (code, rows) in self.seen.manifests.items():
            if code not in (0, 1, 3):
                self.verdict.add("exit code", f"process {number} ended with {code}")
            ended = Counter(str(row["item"]) for row in rows)
            if code in (0, 1) and (missing := set(expected) - set(ended)):
                self.verdict.add("outcome", f"process {number} says nothing of {', '.join(sorted(missing))}")
            if code == 0 and any(row["outcome"] not in ENDED_WELL for row in rows):
                self.verdict.add("exit code", f"process {number} ended with 0, and not all is well")
            for row in rows:
                self.verdict.counts[f"rows: {row['outcome']}"] += 1
                if problem := self._implied(number, row):
                    told = (row["error"] or {}).get("message", "")
                    story = " | ".join(self._story(c.body) for c in self.cells if c.item == row["item"])
                    words = f"process {number}: {row['item']} ended {row['outcome']}: {problem}: {told} ({story})"
                    self.verdict.add("outcome", words)

    def _implied(self, number: int, row: Mapping[str, Any]) -> str:
        """What is wrong with a row; empty if the schedule implies it."""
        cells = [cell for cell in self.cells if cell.item == row["item"]]
        outcome, error = row["outcome"], row["error"] or {}
        kind = str(error.get("kind", ""))
        if outcome in ENDED_WELL:
            if len(cells) < len(self.seen.recipe.steps) or any(cell.result is None for cell in cells):
                return "not every step has a result"
            output = Path(row["output_path"])
            digest = cells[-1].result["image"].digest if cells[-1].result else ""
            if not output.is_file() or hashlib.sha256(output.read_bytes()).hexdigest() != digest:
                return "its output is not the result"
            return ""
        cell = next((c for c in cells if c.step == error.get("step")), None)
        happened = self._happened(cells)
        if kind == "SubmissionUncertain":
            if outcome != "held":
                return "not told as held"
            entry = self.unsettled.get(cell.key) if cell else None
            listed = entry is not None and entry.phase == "intent"
            # An owner that was stopped for long is taken for dead, and settles its job when it goes on.
            is_free = bool(self.seen.store_failures or self.seen.stops) or self.seen.policy == "resubmit"
            return "" if listed or is_free else "the journal does not list it"
        if kind == "Moderated":
            return "" if outcome == "moderated" and "job.moderated" in happened else "nothing was moderated"
        if kind == "JobFailed":
            return "" if "job.error" in happened else "no job failed"
        if self.seen.store_failures and kind in STORE_TROUBLE:
            return ""
        if kind in STOPPING:
            stopping = {"submit.answer 401", "submit.answer 402", "submit.answer 403", "poll.answer"}
            return "" if stopping & self._happened(self.cells) else "nothing has stopped the run"
        if kind == "StillRunning" and self.seen.is_held_up(number):
            return ""
        causes = FAULTS_BEHIND.get(kind, ("nothing",))
        if any(name.startswith(cause) for name in happened for cause in causes):
            return ""
        return f"{kind} has no cause (there were {', '.join(sorted(happened)) or 'no faults'})"

    def _happened(self, cells: Iterable[Cell]) -> set[str]:
        """Faults that were the lot of these jobs; ``refused`` for an answer that says what is wrong with a request."""
        found: set[str] = set()
        for cell in cells:
            for entry in self.charges.get(cell.body, []):
                found |= set(entry.faults)
            for post in self.posts.get(cell.body, []):
                if post.rule is not None:
                    found.add(post.rule.name)
                if isinstance(post.rule, SubmitAnswer):
                    found.add(f"submit.answer {post.rule.status}")
                    if post.rule.status < 500 and post.rule.status not in (401, 402, 403):
                        found.add("refused")
        return found

    # -- (5) --

    def _output(self) -> None:
        for log in self.seen.logs:
            text = log.read_text(errors="replace")
            for words in BAD_WORDS:
                if words in text:
                    place = text.index(words)
                    self.verdict.add("output", f"{log.name}: {text[max(place - 200, 0) : place + 2500]}")
                    break
        secret = self.seen.secret.encode()
        for path in self.seen.written:
            if secret in path.read_bytes() or self.seen.secret in path.name:
                self.verdict.add("key", f"{path} holds the API key")

    # -- words --

    def _body(self, key: str) -> str:
        cell = self.by_key.get(key)
        return cell.body if cell else ""

    def _name(self, key: str) -> str:
        cell = self.by_key.get(key)
        return f"{cell.item}/{cell.step}" if cell else f"an unknown job {key[:12]}"

    def _title(self, body: str) -> str:
        cell = self.by_body.get(body)
        return (
            f"{cell.item}/{cell.step} ({cell.key[:12]})" if cell else f"a request that nobody makes now ({body[:12]})"
        )

    def _story(self, body: str) -> str:
        """Everything that the server saw of a request."""
        if not body:
            return "no request is known"
        start = self.seen.posts[0].arrived if self.seen.posts else 0.0
        told = [
            f"POST at {post.arrived - start:.3f} from {post.port}, "
            + (f"answered {post.status} at {post.answered - start:.3f}" if post.answered else f"{post.status}, cut")
            + (f", {post.rule.name} {post.rule.model_dump(exclude_defaults=True)}" if post.rule else "")
            + (f", job {post.job[:8]}" if post.job else "")
            for post in self.posts.get(body, [])
        ]
        booked = [
            f"{e.id[:8]} {e.status} kept {e.settled} delivered {e.deliveries} {' '.join(e.faults)}".strip()
            for e in self.charges.get(body, [])
        ]
        return "; ".join((*told, *booked)) or "the server saw nothing of it"


def _is_kept(entry: Entry) -> bool:
    """Paid for and not given back. A job that an error ended has no result, whoever paid for it."""
    return entry.settled != 0 and entry.status in ("Ready", "Pending")


def _cells(recipe: Recipe, store: Store, engine: str) -> Iterable[Cell]:
    """Every job that is due, item by item up to the first that has no result."""
    for item in items_of(recipe.source):
        image = ImageRef.of(item.path)
        for node in recipe.graph.nodes:
            try:
                call = call_of(node, arguments_of(node, item.context), image)
            except FluxError:  # the picture before has a size that this step does not take
                break
            canonical = json.dumps(call.body(), sort_keys=True, separators=(",", ":"))
            key = call.key(engine)
            found = store.result(key)
            yield Cell(item.stem, node.id, key, hashlib.sha256(canonical.encode()).hexdigest(), found)
            if found is None:
                break
            image = found["image"]


def _results(store: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    folder = files.join(store, "results")
    for name in files.listing(folder):
        if name.endswith(".json"):
            try:
                found[name.removesuffix(".json")] = json.loads(files.read(files.join(folder, name)))
            except ValueError:
                found[name.removesuffix(".json")] = {}
    return found


def _bytes(folder: str) -> bytes:
    return b"\n".join(files.read(files.join(folder, name)) for name in files.listing(folder))
