"""Say in plain words what identifies a result, and what keeps it from answering another call."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import indent
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, StoreUnavailable
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import makes_previews
from flux_tasks.jobs.identity import Identity
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each
from flux_tasks.units import credits, px_size, table_text

_KINDS = ("results", "refusals", "journal")
_LONGEST = 60  # characters shown of a value


@dataclass(frozen=True)
class KeyRecord:
    """What a store holds under one key.

    Attributes:
        kind: ``results``, ``refusals`` or ``journal``.
        identity: what identifies the call; None if the record does not say it, or its key does not follow from it.
    """

    key: str
    kind: str
    record: Mapping[str, Any]
    identity: Identity | None

    def describe(self) -> str:
        """Return what the record is, and what its key is made of."""
        lines = [f"{self.key}: {self._what()}"]
        if self.identity is not None:
            lines += ["It is identified by", _indented(_identifying(self.identity)), _beside(self.identity)]
            if self.key != self.identity.key:
                lines.append(
                    f"Its key is of September 2026; calls have {self.identity.key} now, and find it at the second look "
                    "(flux-pipelines store migrate)."
                )
        elif "operation" in self.record:
            rows = [(name, _shown(value)) for name, value in self.record.get("parameters", {}).items()]
            operation = [(name, str(value)) for name, value in self.record["operation"].items() if name != "source"]
            lines += ["It is identified by its pictures, and by", _indented([*operation, *rows])]
        elif "preserve" in self.record:
            rows = [(name, _shown(self.record.get(name))) for name in ("grown", "feather")]
            mask = str(self.record.get("mask"))
            lines.append(
                "Outside the mask, it is the picture that the step got; inside, what the tool made (preserve)."
            )
            lines += ["It is identified by these two, and by", _indented([("mask", _image_words(mask)), *rows])]
        elif self.kind == "results":
            lines.append("Its key does not follow from what it holds: another version wrote it, or it was changed.")
        else:
            lines.append("It does not hold what was asked for; the call finds it by its key.")
        return "\n".join(lines)

    def _what(self) -> str:
        record = self.record
        if self.kind == "refusals":
            reasons = ", ".join(map(str, record.get("reasons") or ["no reason given"]))
            return f"moderation refused {record.get('tool')} for {record.get('name', 'a picture')} ({reasons})"
        if self.kind == "journal":
            job = f"job {record['id']}, not settled" if record.get("id") else "an unsettled job whose id is not known"
            return f"{job}: {record.get('tool')} for {record.get('name')}"
        if "operation" in record or "preserve" in record:
            return f"a result made on this machine, free; {_picture_of(record)}"
        cost = None if makes_previews(str(record.get("engine"))) else record.get("cost")
        paid = "" if cost is None else f", {credits(cost)} credits"
        made = f"{record.get('created', 'at an unknown time')} by job {record.get('job_id')}{paid}"
        return f"the result of {record.get('tool')}, made {made}; {_picture_of(record)}"


def _picture_of(record: Mapping[str, Any]) -> str:
    image = record.get("image")
    if not isinstance(image, dict):
        return "no picture"
    return f"{px_size((image.get('width', 0), image.get('height', 0)))}, {image.get('media_type')}"


def _indented(rows: Sequence[tuple[str, str]]) -> str:
    return indent(table_text(rows), "  ")


def _identifying(identity: Identity) -> list[tuple[str, str]]:
    """The parts of a key, each with its name."""
    revision = identity.tool.revision
    rows = [
        ("tool", f"{identity.tool.name}, revision {revision.number} ({revision.date}: {revision.reason})"),
        ("engine", identity.engine),
        *((name, _image_words(image)) for name, image in identity.images.items()),
        *((name, _shown(value)) for name, value in identity.chosen.items()),
    ]
    return rows if not identity.variant else [*rows, ("variant", str(identity.variant))]


def _beside(identity: Identity) -> str:
    defaults = {n: v for n, v in identity.tool.defaults({}).items() if n not in identity.chosen and v is not None}
    rest = ", ".join(f"{name} {_shown(value)}" for name, value in defaults.items())
    return (
        f"and by nothing else. Defaults hold for the rest{f' ({rest})' if rest else ''}; names and places of files, "
        "dates, region, credentials and webhooks are no part of it."
    )


def differences(stored: Identity, given: Identity) -> list[str]:
    """Return what is different about a call and a stored result, such as ``seed: 7 → 8``; nothing for the same call.

    Each sentence has the stored value first, then what the call has instead.
    """
    if stored.tool.name != given.tool.name:
        return [f"tool: {stored.tool.name} → {given.tool.name}"]
    found = []
    revision, present = stored.tool.revision, given.tool.revision
    if revision.number != present.number:
        found.append(f"revision: {revision.number} → {present.number} ({present.date}: {present.reason})")
    if stored.engine != given.engine:
        found.append(f"engine: {stored.engine} → {given.engine}")
    for name in dict.fromkeys((*stored.chosen, *given.chosen)):
        before, now = stored.chosen.get(name), given.chosen.get(name)
        if before != now:
            found.append(f"{name}: {_value(stored, name, now)} → {_value(given, name, before)}")
    for name in dict.fromkeys((*stored.images, *given.images)):
        found += _image_differences(name, stored.images.get(name), given.images.get(name))
    if stored.variant != given.variant:
        found.append(f"variant: {stored.variant} → {given.variant}")
    return found


def _value(identity: Identity, name: str, other: Any) -> str:
    """The value of a parameter in words; of a long text the part that differs from ``other``."""
    if name in identity.chosen:
        return _shown(identity.chosen[name], other)
    default = identity.tool.defaults({}).get(name)
    return "not set" if default is None else f"{_shown(default)} (the default)"


def _shown(value: Any, other: Any = None) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and isinstance(other, str) and len(text) > _LONGEST:
        same = next((i for i, (a, b) in enumerate(zip(value, other, strict=False)) if a != b), 0)
        start = max(0, same - _LONGEST // 3)
        text = f"…{text[start:]}" if start else text
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"'{text}'" if isinstance(value, str) else text


def _parts(image: str) -> dict[str, Any]:
    """What an image's identity says, by name: ``picture`` or ``file``, and what is done to it."""
    if image.startswith("mask:"):
        described: dict[str, Any] = json.loads(image.removeprefix("mask:"))
        return described
    digest, _, sent = image.partition(":")
    return {"picture": digest, **({"sent as": sent.replace(":", " of ")} if sent else {})}


def _image_words(image: str) -> str:
    parts = sorted(_parts(image).items(), key=lambda part: part[0] not in ("picture", "file"))  # what it is comes first
    return ", ".join(f"{name} {_part(name, value)}" for name, value in parts)


def _part(name: str, value: Any) -> str:
    if name == "size":
        return px_size((value[0], value[1]))
    return value[:12] if name in ("of", "file", "picture") else str(value) if name == "sent as" else _shown(value)


def _image_differences(name: str, stored: str | None, given: str | None) -> Iterator[str]:
    if stored == given:
        return
    if stored is None or given is None:
        yield f"{name} is given" if stored is None else f"{name} is left out"
        return
    before, now = _parts(stored), _parts(given)
    defaults = {option: info.default for option, info in Mask.model_fields.items()}
    for part in dict.fromkeys((*before, *now)):
        if before.get(part) == now.get(part):
            continue
        if part in ("picture", "file", "of"):
            both = [_part(part, one[part]) for one in (before, now) if part in one]
            yield f"the {name} is another {'file' if part == 'file' else 'picture'} ({' → '.join(both)})"
            continue
        values = [_part(part, one.get(part, defaults.get(part, "as it is"))) for one in (before, now)]
        yield f"{name}: {part}: {values[0]} → {values[1]}"


# -- finding ----------------------------------------------------------------------------------------------------------


def find_records(store: Store, text: str) -> list[KeyRecord]:
    """Return what a store holds under a key, of a job, or about a picture.

    Args:
        text: a key or the beginning of one, the service's id of a job, or the location of a picture that a job gave.

    Raises:
        InvalidRequest: there is none, or the beginning is that of several keys.
        StoreUnavailable: the store cannot be read.
    """
    is_key = re.fullmatch(r"[0-9a-f]{4,64}", text) is not None
    try:
        found = list(_named(store, text)) if is_key else []
        if not found:
            digest = _digest_of(text)
            found = [one for one in _all(store) if _is_meant(one, text, digest, is_key=is_key)]
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    keys = {one.key for one in found}
    if not found and digest:
        what = f"is not a picture that the store {store.url} has: it was made elsewhere, or converted when written"
    elif not found:
        what = f"is no file, no job, and not the beginning of a key of the store {store.url}: write one of these"
    elif is_key and len(keys) > 1:
        what = f"begins {len(keys)} keys of this store: write more of it"
    else:
        return found
    raise InvalidRequest.of([Problem(text, what if found else f"{what}; --store or FLUX_STORE names another store")])


def _digest_of(location: str) -> str:
    """Return the digest of a file; empty if there is none."""
    try:
        return hashlib.sha256(files.read(location)).hexdigest()
    except OSError:
        return ""


def _is_meant(one: KeyRecord, text: str, digest: str, *, is_key: bool) -> bool:
    if digest:
        image = one.record.get("image")
        return isinstance(image, dict) and image.get("digest") == digest
    if is_key and one.identity is not None and one.identity.key.startswith(text):
        return True
    return one.record.get("job_id") == text


def _named(store: Store, beginning: str) -> Iterator[KeyRecord]:
    places = ((kind, name) for kind in _KINDS for name in store.records(kind) if name.startswith(beginning))
    return (_read(store, place) for place in places)


def _all(store: Store) -> Iterator[KeyRecord]:
    names = [(kind, name) for kind in ("results", "refusals") for name in store.records(kind)]
    yield from each(partial(files.patiently, _read, store), names)


def _read(store: Store, place: tuple[str, str]) -> KeyRecord:
    kind, name = place
    record = store.record_or_empty(kind, name)
    key = name.partition("~")[0]
    identity = Identity.of_record(record)
    return KeyRecord(key, kind, record, identity and identity.with_variant_of(key))
