"""Who is told when a run ends: a command, or a server."""

import os
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from flux_tasks.errors import cut
from pipelines.language import templates
from pipelines.language.document.fields import AnyText, Part, Text, Wording, as_several, as_tuple

WHEN = ("always", "failed", "held", "budget")
"""When somebody is told: at each end; if not all went well; if items are held; if the budget was reached."""


def _is_address(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password)
        _ = parts.port  # raises for one above 65,535
    except ValueError:
        is_good = False
    if not is_good or templates.is_template(text) or any(sign.isspace() or not sign.isprintable() for sign in text):
        raise ValueError
    return text


_When = Literal["always", "failed", "held", "budget"]


class OnEnd(Part):
    """Who is told when a run ends: a command, or a server. The JSON on its standard input, or in its body, says how."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["command"]}, {"required": ["webhook"]}]})

    wording: ClassVar[Wording | None] = Wording(
        "a call", "{command: [./told.sh], when: failed} or {webhook: 'https://…'}"
    )

    command: Annotated[
        tuple[AnyText, ...],
        Field(min_length=1),
        BeforeValidator(as_tuple, json_schema_input_type=list[Text]),
        Wording("a list of a program and its arguments", "one such as [python, told.py], which no shell reads"),
    ] = Field((), description="A program and its arguments; no shell reads them. It gets the JSON on standard input.")
    webhook: Annotated[
        AnyText,
        AfterValidator(_is_address),
        Wording("a web address", "one such as https://example.com/hook"),
    ] = Field("", description="An address that the JSON is sent to with POST; https, and in no private network.")
    when: Annotated[
        tuple[_When, ...],
        Field(min_length=1),
        BeforeValidator(as_several, json_schema_input_type=_When | list[_When]),
        Wording("when somebody is told", f"one of {', '.join(WHEN)}, or a list of these"),
    ] = Field(("always",), description="always, failed (not all went well), held, budget (it was reached), or a list.")

    @property
    def name(self) -> str:
        """What messages call it: the program, or the server's host alone, because the rest may be a secret."""
        return " ".join(self.command) if self.command else urlsplit(self.webhook).netloc

    @property
    def problem(self) -> str:
        """What is wrong with it as a whole; empty if nothing is."""
        if bool(self.command) == bool(self.webhook):
            return "needs a command or a webhook, and not both: write one of them"
        if self.command and not self.command[0]:
            return "names no program: write one first, such as [python, told.py]"
        try:
            is_usable = b"\0" not in b"".join(map(os.fsencode, self.command))
        except UnicodeEncodeError:
            is_usable = False
        return "" if is_usable else f"has a sign in its command that no program can get: {cut(self.name)}: take it out"

    def to_data(self) -> Any:
        """Return the part as plain data."""
        found = super().to_data()
        return {**found, "when": found["when"][0]} if len(found.get("when", ())) == 1 else found
