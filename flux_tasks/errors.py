"""The error tree. Each class tells the caller what to do.

::

    FluxError
    ├── RunStopped            nothing further can succeed; collect what is in flight and stop
    │   ├── KeyRefused            401/403: the key is missing, wrong, or has no access
    │   ├── OutOfCredits          402: the account is empty
    │   ├── BudgetReached         a budget is used up: of the run, or of a day or a month
    │   ├── EndpointUnreachable   no server answers at the endpoint: wrong address or no network
    │   ├── StoreUnavailable      the store cannot be read or written, so that nothing can be paid for safely
    │   │   └── DatasetBusy           another process writes the dataset of the run; run it again later
    │   └── Interrupted           Ctrl-C, SIGTERM, or a request of the program to end
    ├── ItemsFailed           some items of a run did not end well, and the caller asked to hear of it (``raise_on``)
    ├── ItemError             this item cannot succeed as it is; the others can
    │   ├── InvalidImage          not an image, too large, wrong mask, decompression bomb
    │   ├── InvalidRequest        400/422 with the server's reasons, or refused before it was sent
    │   ├── Moderated             refused by the safety filter (request or content); mostly not charged
    │   ├── JobFailed             the service ended the job with an error
    │   └── CheckFailed           the result is paid for and in the store, but not what the recipe expects
    ├── Transient             worth repeating
    │   ├── RateLimited           429: too many active jobs; the job was not created
    │   ├── ServerUnavailable     the request never reached the server
    │   │   └── StillRunning          the job did not end by its deadline; a later call collects it
    │   ├── DeliveryFailed        the result exists, but its bytes did not arrive whole
    │   └── JobLost               the service no longer knows the job
    ├── SubmissionUncertain   the POST may have been charged; never repeated automatically
    └── RecipeError           the recipe is wrong: where, what, and what to write instead
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, Self

__all__ = [
    "BudgetReached",
    "CheckFailed",
    "DatasetBusy",
    "DeliveryFailed",
    "EndpointUnreachable",
    "FluxError",
    "Interrupted",
    "InvalidImage",
    "InvalidRequest",
    "ItemError",
    "ItemsFailed",
    "JobFailed",
    "JobLost",
    "KeyRefused",
    "Moderated",
    "OutOfCredits",
    "Problem",
    "RateLimited",
    "RecipeError",
    "RunStopped",
    "ServerUnavailable",
    "StillRunning",
    "StoreUnavailable",
    "SubmissionUncertain",
    "Transient",
    "cut",
    "explain",
    "listed",
    "nearest",
    "quote",
    "reason_of",
    "shown",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in what the caller wrote.

    ``where`` is a path such as ``erase.dilate_pixels`` or ``steps.2.erase.mask``; ``what`` is one sentence: what was
    found and what to write instead.
    """

    where: str
    what: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{cut(self.where)}: {self.what}" if self.where else self.what


class FluxError(Exception):
    """Base of every error that this library raises on purpose."""


class RunStopped(FluxError):
    """Nothing further can succeed until a person changes something."""


class KeyRefused(RunStopped):
    """The service refused the key (401 or 403), or there is none to send."""


class OutOfCredits(RunStopped):
    """The account has no credits left (402)."""


class BudgetReached(RunStopped):
    """A budget is used up: that of the run, or one for a day or a month."""


class EndpointUnreachable(RunStopped):
    """No server answers at the endpoint."""


class StoreUnavailable(RunStopped):
    """The store cannot be read or written: nobody knows what is paid for, and no new result can be stored."""

    @classmethod
    def of(cls, what: str, error: Exception) -> Self:
        """Say that the store cannot be ``what`` (read, written, used), why, and how to name another one."""
        return cls(f"the store cannot be {what}: {error}; --store or FLUX_STORE names another one")


class DatasetBusy(StoreUnavailable):
    """Another process writes the dataset at this moment: the run can be started again when that has ended."""


class Interrupted(RunStopped):
    """A person or the program wants the run to end."""


class ItemsFailed(FluxError):
    """Items of a run did not end well; ``result`` is what the run would have returned."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        self.result = result
        super().__init__(message, result)

    def __str__(self) -> str:
        return str(self.args[0])


class ItemError(FluxError):
    """This item cannot succeed as it is."""


class InvalidImage(ItemError):
    """Not an image, too large, truncated, a decompression bomb, or a mask that does not fit."""


class InvalidRequest(ItemError):
    """The request is wrong: refused before it was sent, or by the server (400/422).

    ``problems`` lists all of them at once.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(message)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Make one error of several problems; the message lists each on its own line."""
        return cls("\n".join(str(p) for p in problems), problems)


class Moderated(ItemError):
    """The safety filter refused the request or withheld the content.

    ``stage`` is ``"request"`` or ``"content"``; ``reasons`` are the service's own words (may be empty). ``remembered``
    says that an earlier attempt was refused, and that this one was not sent; ``charged``, whether it is charged.
    """

    def __init__(
        self,
        stage: str,
        reasons: Iterable[str] = (),
        *,
        job_id: str = "",
        remembered: bool = False,
        charged: Literal["yes", "no", "unknown"] = "no",
    ) -> None:
        self.stage, self.reasons, self.job_id = stage, tuple(reasons), job_id
        self.remembered, self.charged = remembered, charged
        super().__init__(stage, self.reasons)  # what pickle calls the class with; it restores the rest by itself

    def __str__(self) -> str:
        what = "the request was refused" if self.stage == "request" else "the result was withheld"
        why = f" ({', '.join(self.reasons)})" if self.reasons else ""
        if self.remembered:
            return f"{what} by moderation{why} earlier; it is not tried again unless asked for (flux-pipelines retry)"
        then = {"yes": "it is charged all the same", "no": "it is not charged", "unknown": "it may be charged"}
        return f"{what} by moderation{why}; {then[self.charged]}"


class JobFailed(ItemError):
    """The service ended the job with an error of its own."""


class CheckFailed(ItemError):
    """The result is in the store, but is not what the recipe expects."""


class Transient(FluxError):
    """Worth repeating after a pause; ``retry_after`` is how many seconds the server asks to wait, or None."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class RateLimited(Transient):
    """429: too many active jobs. The job was not created and not charged."""


class ServerUnavailable(Transient):
    """The request provably never reached the server, or a request that costs nothing failed."""


class StillRunning(ServerUnavailable):
    """The job did not end by its deadline. It is paid for and in the journal; asking again later is free."""


class DeliveryFailed(Transient):
    """The job is done and paid, but its bytes did not arrive whole. Fetching again is free."""


class JobLost(Transient):
    """The service no longer knows the job's id."""


class SubmissionUncertain(FluxError):
    """The POST may have been received and charged, and no id came back. Never repeated automatically."""


class RecipeError(FluxError):
    """The recipe, or what was given with it, is wrong. ``problems`` lists everything at once."""

    def __init__(self, problems: Sequence[Problem], *, file: str = "") -> None:
        self.problems, self.file = tuple(problems), file
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return one line a problem: ``file:line: where: what``."""
        if not self.file:
            return [str(p) for p in self.problems]
        file = cut(self.file, 200)
        return [f"{file}:{p.line}: {p}" if p.line else f"{file}: {p}" for p in self.problems]


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the first of ``choices`` that begins with ``name``, else for the closest.

    An empty string if none is close.
    """
    known = list(choices)
    begun = [choice for choice in known if len(name) > 3 and choice.startswith(name)]
    close = begun or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {quote(close[0])}?)" if close else ""


def cut(text: str, most: int = 80) -> str:
    """Return ``text`` as a message repeats it: on one line, and without its middle if it is longer than ``most``."""
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[1 - most + most // 2 :]}"
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:most]


def quote(text: object) -> str:
    """Return a text in quotes, as a message repeats it; see ``cut``. Line ends become spaces."""
    line = str(text)
    return f"'{cut(' '.join(line.split()) if chr(10) in line else line)}'"


def shown(value: object) -> str:
    """Return a value of any type as Python writes it, as a message repeats it; see ``cut``."""
    try:
        return cut(repr(value))
    except Exception:  # a number of 5,000 digits, a list that is nested too deeply
        return f"this {type(value).__name__}"


def reason_of(error: BaseException) -> str:
    """Return why something failed, for a message that names the place itself."""
    return cut(getattr(error, "strerror", None) or str(error) or type(error).__name__, 200)


def listed(names: Iterable[object], most: int = 400) -> str:
    """Return names with commas between them, as a message lists them: about ``most`` characters, and how many more."""
    texts = [cut(str(name)) for name in names]
    lengths = accumulate(len(text) + 2 for text in texts)
    count = max(1, sum(length <= most for length in lengths))
    return ", ".join(texts[:count]) + (f" and {len(texts) - count:,} more" if len(texts) > count else "")


_EXPLAINED = {  # by pydantic's name of the error
    "less_than_equal": "is above {le}: write {le} or less",
    "less_than": "is not below {lt}: write less than that",
    "greater_than_equal": "is below {ge}: write {ge} or more",
    "greater_than": "is not above {gt}: write more than that",
    "multiple_of": "is not a multiple of {multiple_of}: write one",
    "literal_error": "is not one of {expected}",
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "is not a whole number: write one without quotes"),
    **dict.fromkeys(("float_type", "float_parsing"), "is not a number: write one without quotes"),
    "finite_number": "is not a finite number",
    **dict.fromkeys(("bool_type", "bool_parsing"), "is not true or false: write one of these, without quotes"),
    "string_type": "is not text: write it in quotes",
    "string_too_short": "is too short: write at least {min_length} character(s)",
    "string_too_long": "is too long: write at most {max_length} characters",
    "list_type": "is not a list: write one, such as [a, b]",
    **dict.fromkeys(("dict_type", "model_type", "mapping_type"), "is not a mapping: write name: value"),
    "too_short": "has {actual_length}: write at least {min_length}",
}


def explain(error: Mapping[str, Any]) -> str:
    """Say in our own words what pydantic found; ``error`` is one of ``ValidationError.errors()``."""
    kind, found, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "missing":
        return "is required: write a value for it"
    if kind == "extra_forbidden":
        return "unknown key"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        expected = "an http(s) address" if "http" in context["pattern"] else "a ratio such as 16:9"
        return f"{shown(found)} is not {expected}"
    what = _EXPLAINED.get(kind, f"is not as it has to be ({kind.replace('_', ' ')})").format(**context)
    hint = " (YAML takes 16:9 without quotes for a number)" if kind == "string_type" and isinstance(found, int) else ""
    return f"{shown(found)} {what}{hint}"
