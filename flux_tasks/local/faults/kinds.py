"""Every kind of fault that the local server can produce, as data: its phase, its options, and what it does."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from PIL import ImageColor
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["KINDS", "Phase", "Rule"]

Phase = Literal["submit", "job", "poll", "delivery", "webhook"]


def _tools(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Rule(BaseModel):
    """One fault and the submissions that have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    phase: ClassVar[Phase]
    summary: ClassVar[str]

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Derive the phase from the fault's name."""
        if "fault" in cls.model_fields:
            cls.phase = cls.model_fields["fault"].default.partition(".")[0]

    @property
    def name(self) -> str:
        """``phase.what``, as a schedule names it."""
        return str(type(self).model_fields["fault"].default)

    tool: Annotated[list[str], BeforeValidator(_tools)] = []
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


class SubmitAnswer(Rule):
    summary = "HTTP `status` instead of an answer; with `charged` the job is created nevertheless"
    fault: Literal["submit.answer"] = "submit.answer"
    status: Annotated[int, Field(ge=300, le=599)] = 500
    detail: str | list[dict[str, Any]] = "injected"
    retry_after: RetryAfter = None
    charged: bool = False


class SubmitCut(Rule):
    summary = "the connection is cut instead of an answer; with `charged` the job is created nevertheless"
    fault: Literal["submit.cut"] = "submit.cut"
    charged: bool = True
    sent: Annotated[int, Field(ge=0)] = 0
    """Bytes of the answer that are sent before."""


class SubmitSlow(_Waiting):
    summary = "the job is created, its answer comes after `seconds`"
    fault: Literal["submit.slow"] = "submit.slow"


class SubmitDrip(_Waiting):
    summary = "the job is created, its answer comes byte by byte over `seconds`"
    fault: Literal["submit.drip"] = "submit.drip"


class SubmitNoId(Rule):
    summary = "accepted and charged, but the answer names no job"
    fault: Literal["submit.no_id"] = "submit.no_id"


class SubmitNoPollingUrl(Rule):
    summary = "the answer has an id and no polling_url"
    fault: Literal["submit.no_polling_url"] = "submit.no_polling_url"


class SubmitForeignPollingUrl(Rule):
    summary = "polling_url points at another host, `host`"
    fault: Literal["submit.foreign_polling_url"] = "submit.foreign_polling_url"
    host: str = "elsewhere.invalid"


class JobModerated(Rule):
    summary = "refused (`stage: request`) or withheld (`content`) with `reasons`; not charged"
    fault: Literal["job.moderated"] = "job.moderated"
    stage: Literal["request", "content"] = "content"
    reasons: list[str] = ["Derivative Works Filter"]


class JobError(Rule):
    summary = "the job ends with status `says`; `error` is a text beside it (SEED-2); refunded unless `refund: false`"
    fault: Literal["job.error"] = "job.error"
    says: Literal["Error", "Failed"] = "Error"
    details: dict[str, Any] = {"error": "injected"}
    error: str | None = None
    """Answered as ``{status, error}``, without ``details``, as SEED-2 shows it."""
    refund: bool = True


class JobNeverEnds(Rule):
    summary = "the job stays Pending for ever and keeps its slot"
    fault: Literal["job.never_ends"] = "job.never_ends"


class JobWrongSize(Rule):
    summary = "the picture comes back `scale` times as large"
    fault: Literal["job.wrong_size"] = "job.wrong_size"
    scale: Annotated[float, Field(gt=0, le=4)] = 0.5


class JobSolid(Rule):
    summary = "the picture is one solid `colour` (GRIDBUG)"
    fault: Literal["job.solid"] = "job.solid"
    colour: Annotated[str, AfterValidator(_colour)] = "#00b140"


class PollUnknown(Rule):
    summary = "404 `Task not found`, though the job exists"
    fault: Literal["poll.unknown"] = "poll.unknown"


class PollAnswer(Rule):
    summary = "HTTP `status` without a job status in the body"
    fault: Literal["poll.answer"] = "poll.answer"
    status: Annotated[int, Field(ge=300, le=599)] = 500
    detail: str = "injected"
    retry_after: RetryAfter = None


class PollCode(Rule):
    summary = "the true answer, under HTTP `status` (422, 500 and 503 were seen)"
    fault: Literal["poll.code"] = "poll.code"
    status: Annotated[int, Field(ge=400, le=599)] = 503


class PollStatus(Rule):
    summary = "job status `says` instead of the true one, such as Processing"
    fault: Literal["poll.status"] = "poll.status"
    says: str = "Processing"


class PollNoSample(Rule):
    summary = "Ready, but without a result"
    fault: Literal["poll.no_sample"] = "poll.no_sample"


class PollRedirect(Rule):
    summary = "a redirect `to` the same address (with `times: 0` a loop), a foreign host, or one that is not public"
    fault: Literal["poll.redirect"] = "poll.redirect"
    to: Elsewhere = "foreign"


class PollCut(Rule):
    summary = "the connection is cut instead of an answer"
    fault: Literal["poll.cut"] = "poll.cut"
    sent: Annotated[int, Field(ge=0)] = 0


class PollSlow(_Waiting):
    summary = "the answer comes after `seconds`"
    fault: Literal["poll.slow"] = "poll.slow"


class PollDrip(_Waiting):
    summary = "the answer comes byte by byte over `seconds`"
    fault: Literal["poll.drip"] = "poll.drip"


class DeliveryAnswer(Rule):
    summary = "HTTP `status` instead of the picture"
    fault: Literal["delivery.answer"] = "delivery.answer"
    status: Annotated[int, Field(ge=400, le=599)] = 500


class DeliveryExpired(Rule):
    summary = "403, as an address that has expired; the next poll gives a fresh one"
    fault: Literal["delivery.expired"] = "delivery.expired"


class DeliveryCut(Rule):
    summary = "the connection is cut after `share` of the bytes"
    fault: Literal["delivery.cut"] = "delivery.cut"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DeliveryTruncated(Rule):
    summary = "only `share` of the picture, as if that were all"
    fault: Literal["delivery.truncated"] = "delivery.truncated"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DeliveryGarbage(Rule):
    summary = "bytes that are no picture"
    fault: Literal["delivery.garbage"] = "delivery.garbage"


class DeliveryOversized(Rule):
    summary = "`megabytes` and more, without saying so first"
    fault: Literal["delivery.oversized"] = "delivery.oversized"
    megabytes: Annotated[int, Field(ge=1, le=10_000)] = 80


class DeliveryRedirect(Rule):
    summary = "a redirect `to` a foreign host, the same address (with `times: 0` a loop), or one that is not public"
    fault: Literal["delivery.redirect"] = "delivery.redirect"
    to: Elsewhere = "foreign"


class DeliverySlow(_Waiting):
    summary = "the picture comes after `seconds`"
    fault: Literal["delivery.slow"] = "delivery.slow"


class DeliveryDrip(_Waiting):
    summary = "the picture comes in small pieces over `seconds`"
    fault: Literal["delivery.drip"] = "delivery.drip"


class WebhookDuplicate(Rule):
    summary = "the same call-back comes twice"
    fault: Literal["webhook.duplicate"] = "webhook.duplicate"


class WebhookForged(Rule):
    summary = "a call-back with a wrong secret comes before the true one"
    fault: Literal["webhook.forged"] = "webhook.forged"


class WebhookLost(Rule):
    summary = "the call-back never comes"
    fault: Literal["webhook.lost"] = "webhook.lost"


KINDS: dict[str, type[Rule]] = {
    kind.model_fields["fault"].default: kind
    for kind in (
        *(SubmitAnswer, SubmitCut, SubmitSlow, SubmitDrip, SubmitNoId, SubmitNoPollingUrl, SubmitForeignPollingUrl),
        *(JobModerated, JobError, JobNeverEnds, JobWrongSize, JobSolid),
        *(PollUnknown, PollAnswer, PollCode, PollStatus, PollNoSample, PollRedirect, PollCut, PollSlow, PollDrip),
        *(DeliveryAnswer, DeliveryExpired, DeliveryCut, DeliveryTruncated, DeliveryGarbage, DeliveryOversized),
        *(DeliveryRedirect, DeliverySlow, DeliveryDrip),
        *(WebhookDuplicate, WebhookForged, WebhookLost),
    )
}
"""Every kind of fault by its name."""
