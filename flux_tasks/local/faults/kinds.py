"""Every kind of fault that the local server can produce, as data: its phase, its options, and what it does."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from PIL import ImageColor
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Phase = Literal["submit", "job", "poll", "delivery", "webhook"]


KINDS: dict[str, type[Rule]] = {}
"""Every kind of fault by its name."""


class Rule(BaseModel):
    """One fault and the submissions that have it; ``fault=`` of a kind is its name in a schedule, ``phase.what``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: ClassVar[str]
    phase: ClassVar[Phase]
    summary: ClassVar[str]

    def __init_subclass__(cls, *, fault: str = "") -> None:
        """Enter the kind in ``KINDS``."""
        if fault:
            KINDS[fault] = cls
            cls.name, cls.phase = fault, cast(Phase, fault.partition(".")[0])

    tool: Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)] = []
    """Tools that have it, by any of their names; empty for all."""
    after: Annotated[int, Field(ge=0)] = 0
    every: Annotated[int, Field(ge=1)] = 1
    count: Annotated[int, Field(ge=1)] | None = None
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    times: Annotated[int, Field(ge=0)] = 1


RetryAfter = Annotated[float, Field(ge=0, allow_inf_nan=False)] | Annotated[str, Field(pattern=r"^[ -~]*$")] | None


def _colour(value: Any) -> Any:
    ImageColor.getrgb(value)  # raises a ValueError for anything else
    return value


class _Waiting(Rule):
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 5.0


Elsewhere = Literal["same", "foreign", "http", "private", "link-local", "mapped", "decimal"]
"""Where a redirect leads: the same server, by its own name or by another (``foreign``); out of https; or into a private
network, as an IPv4 address, as a link-local one, mapped into IPv6, or as one decimal number."""


class SubmitAnswer(Rule, fault="submit.answer"):
    summary = "HTTP `status` instead of an answer; with `charged` the job is created nevertheless"
    status: Annotated[int, Field(ge=300, le=599)] = 500
    detail: str | list[dict[str, Any]] = "injected"
    retry_after: RetryAfter = None
    charged: bool = False


class SubmitCut(Rule, fault="submit.cut"):
    summary = "the connection is cut instead of an answer; with `charged` the job is created nevertheless"
    charged: bool = True
    sent: Annotated[int, Field(ge=0)] = 0
    """Bytes of the answer that are sent before."""


class SubmitSlow(_Waiting, fault="submit.slow"):
    summary = "the job is created, its answer comes after `seconds`"


class SubmitDrip(_Waiting, fault="submit.drip"):
    summary = "the job is created, its answer comes byte by byte over `seconds`"


class SubmitNoId(Rule, fault="submit.no_id"):
    summary = "accepted and charged, but the answer names no job"


class SubmitNoPollingUrl(Rule, fault="submit.no_polling_url"):
    summary = "the answer has an id and no polling_url"


class SubmitForeignPollingUrl(Rule, fault="submit.foreign_polling_url"):
    summary = "polling_url points at another host, `host`"
    host: str = "elsewhere.invalid"


class JobModerated(Rule, fault="job.moderated"):
    summary = "refused (`stage: request`) or withheld (`content`) with `reasons`; not charged"
    stage: Literal["request", "content"] = "content"
    reasons: list[str] = ["Derivative Works Filter"]


class JobError(Rule, fault="job.error"):
    summary = "the job ends with status `says`; `error` is a text beside it (SEED-2); refunded unless `refund: false`"
    says: Literal["Error", "Failed"] = "Error"
    details: dict[str, Any] = {"error": "injected"}
    error: str | None = None
    """Answered as ``{status, error}``, without ``details``, as SEED-2 shows it."""
    refund: bool = True


class JobNeverEnds(Rule, fault="job.never_ends"):
    summary = "the job stays Pending for ever and keeps its slot"


class JobWrongSize(Rule, fault="job.wrong_size"):
    summary = "the picture comes back `scale` times as large"
    scale: Annotated[float, Field(gt=0, le=4)] = 0.5


class JobSolid(Rule, fault="job.solid"):
    summary = "the picture is one solid `colour` (GRIDBUG)"
    colour: Annotated[str, AfterValidator(_colour)] = "#00b140"


class PollUnknown(Rule, fault="poll.unknown"):
    summary = "404 `Task not found`, though the job exists"


class PollAnswer(Rule, fault="poll.answer"):
    summary = "HTTP `status` without a job status in the body"
    status: Annotated[int, Field(ge=300, le=599)] = 500
    detail: str = "injected"
    retry_after: RetryAfter = None


class PollCode(Rule, fault="poll.code"):
    summary = "the true answer, under HTTP `status` (422, 500 and 503 were seen)"
    status: Annotated[int, Field(ge=400, le=599)] = 503


class PollStatus(Rule, fault="poll.status"):
    summary = "job status `says` instead of the true one, such as Processing"
    says: str = "Processing"


class PollNoSample(Rule, fault="poll.no_sample"):
    summary = "Ready, but without a result"


class PollRedirect(Rule, fault="poll.redirect"):
    summary = "a redirect `to` the same address (with `times: 0` a loop), a foreign host, or one that is not public"
    to: Elsewhere = "foreign"


class PollCut(Rule, fault="poll.cut"):
    summary = "the connection is cut instead of an answer"
    sent: Annotated[int, Field(ge=0)] = 0


class PollSlow(_Waiting, fault="poll.slow"):
    summary = "the answer comes after `seconds`"


class PollDrip(_Waiting, fault="poll.drip"):
    summary = "the answer comes byte by byte over `seconds`"


class DeliveryAnswer(Rule, fault="delivery.answer"):
    summary = "HTTP `status` instead of the picture"
    status: Annotated[int, Field(ge=400, le=599)] = 500


class DeliveryExpired(Rule, fault="delivery.expired"):
    summary = "403, as an address that has expired; the next poll gives a fresh one"


class DeliveryCut(Rule, fault="delivery.cut"):
    summary = "the connection is cut after `share` of the bytes"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DeliveryTruncated(Rule, fault="delivery.truncated"):
    summary = "only `share` of the picture, as if that were all"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DeliveryGarbage(Rule, fault="delivery.garbage"):
    summary = "bytes that are no picture"


class DeliveryOversized(Rule, fault="delivery.oversized"):
    summary = "`megabytes` and more, without saying so first"
    megabytes: Annotated[int, Field(ge=1, le=10_000)] = 80


class DeliveryRedirect(Rule, fault="delivery.redirect"):
    summary = "a redirect `to` a foreign host, the same address (with `times: 0` a loop), or one that is not public"
    to: Elsewhere = "foreign"


class DeliverySlow(_Waiting, fault="delivery.slow"):
    summary = "the picture comes after `seconds`"


class DeliveryDrip(_Waiting, fault="delivery.drip"):
    summary = "the picture comes in small pieces over `seconds`"


class WebhookDuplicate(Rule, fault="webhook.duplicate"):
    summary = "the same call-back comes twice"


class WebhookForged(Rule, fault="webhook.forged"):
    summary = "a call-back with a wrong secret comes before the true one"


class WebhookLost(Rule, fault="webhook.lost"):
    summary = "the call-back never comes"
