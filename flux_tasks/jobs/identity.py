"""What identifies a call, and so its result: the tool's revision, the engine, the pictures, and what is not a default.

The job key is made of this and of nothing else. So a key changes only when the result may differ: neither a new date of
the contract nor a new optional parameter changes one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from flux_tasks.catalog import TOOLS, Tool, contract_0919

_VARIANTS = range(100)  # tried for a record that does not hold its own


@dataclass(frozen=True)
class Identity:
    """What identifies one call.

    Attributes:
        engine: what answers: ``bfl``, ``local:classical@1``, ``custom:<host>``.
        parameters: as the caller set them, without pictures and call-backs.
        images: the identity of each picture by its request field; see ``flux_tasks.jobs.call.Input``.
        variant: another result for the same request.
    """

    tool: Tool
    engine: str
    parameters: Mapping[str, Any]
    images: Mapping[str, str]
    variant: int = 0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Self | None:
        """Return what a result record says of its call; None if it does not say enough, or its tool is not known.

        A record of September 2026 holds neither the revision, which was the first one, nor the variant; see
        ``with_variant_of``.
        """
        tool = TOOLS.get(str(record.get("tool")))
        number = record.get("revision", 1)
        parameters, images = record.get("parameters"), record.get("inputs")
        is_whole = isinstance(parameters, dict) and isinstance(images, dict) and isinstance(record.get("engine"), str)
        if tool is None or not is_whole or not isinstance(number, int) or not 1 <= number <= tool.revision.number:
            return None
        tool = tool if number == tool.revision.number else replace(tool, revisions=tool.revisions[:number])
        return cls(tool, record["engine"], record["parameters"], record["inputs"], record.get("variant", 0))

    def to_record(self) -> dict[str, Any]:
        """Return it as a result record holds it."""
        return {
            "tool": self.tool.name,
            "revision": self.tool.revision.number,
            "engine": self.engine,
            "parameters": dict(self.parameters),
            "inputs": dict(self.images),
            "variant": self.variant,
        }

    @cached_property
    def chosen(self) -> dict[str, Any]:
        """The parameters that differ from the defaults of the tool's revision, whether written out or left out."""
        begun = {**self.tool.defaults({}), **self.tool.revision.defaults}
        used = _normalized(self.tool.defaults(self.parameters))
        return {n: v for n, v in used.items() if n not in begun or _canonical(v) != _canonical(_normalized(begun[n]))}

    @cached_property
    def key(self) -> str:
        """The job key: SHA-256 of canonical JSON."""
        document = {
            "tool": self.tool.name,
            "revision": self.tool.revision.number,
            "engine": self.engine,
            "parameters": self.chosen,
            "images": self.images,
        }
        return _digest(document if not self.variant else {**document, "variant": self.variant})

    @cached_property
    def former_key(self) -> str | None:
        """The key of this call up to September 2026, with a date and every default; None where there was none."""
        defaults = contract_0919.DEFAULTS.get(self.tool.name)
        if defaults is None or self.tool.revision.number > 1:
            return None
        used = {**self.tool.defaults({}), **self.parameters}  # a None that was written out is no default here
        document = {
            "tool": self.tool.name,
            "contract": contract_0919.DATE,
            "engine": self.engine,
            "parameters": {**defaults, **{n: v for n, v in used.items() if n in defaults or n in self.chosen}},
            "images": self.images,
            "variant": self.variant,
        }
        return _digest({**document, "parameters": _normalized(document["parameters"])})

    def with_variant_of(self, key: str) -> Self | None:
        """Return the identity with the variant that has ``key`` among its keys; None if no variant below 100 has."""
        variants = (replace(self, variant=variant) for variant in (self.variant, *_VARIANTS))
        return next((identity for identity in variants if key in identity.keys), None)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that the result may have in a store, the present one first."""
        return (self.key,) if self.former_key is None else (self.key, self.former_key)


def _normalized(value: Any) -> Any:
    """Write numbers that are equal in the same way: 60 and 60.0 make one key."""
    if isinstance(value, Mapping):
        return {name: _normalized(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normalized(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(document).encode()).hexdigest()
