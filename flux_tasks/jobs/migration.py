"""Give the results of a store the keys that their calls have today.

A result that was recorded up to September 2026 has a key over the contract's date and every default. It answers as it
is, at the second look into the store; under its present key it answers at the first. What a record of that time holds
identifies its call but for the variant, which is found by trying.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from flux_tasks import files
from flux_tasks.errors import StoreUnavailable
from flux_tasks.jobs.identity import Identity
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each

_Fate = Literal["moved", "present", "free", "left"]


@dataclass
class Migration:
    """What a store holds, and what becomes of it.

    Attributes:
        moved: results with a former key, by tool.
        present: results that have their present key.
        free: results of local operations, which keep their keys.
        left: results that keep their keys, each with the reason.
        refusals, unsettled: records of moderation, and journal entries. They keep their keys, because they do not hold
            what was asked for; a call finds them under either key.
    """

    moved: Counter[str] = field(default_factory=Counter)
    present: int = 0
    free: int = 0
    left: dict[str, str] = field(default_factory=dict)
    refusals: int = 0
    unsettled: int = 0


def migrate(store: Store, *, is_dry: bool = True) -> Migration:
    """Write each result with a former key under its present key, then remove the former record.

    It may be stopped at any moment and begun again: at no moment is a result without a record.

    Args:
        is_dry: only look.

    Raises:
        StoreUnavailable: the store cannot be read or written.
    """
    try:
        refusals = {name: store.record_or_empty("refusals", name) for name in store.records("refusals")}
        substitutes: dict[str, list[str]] = {}
        for name, refusal in refusals.items():
            substitutes.setdefault(str(refusal.get("instead", "")), []).append(name)
        former = sum("revision" not in refusal for refusal in refusals.values())
        found = Migration(refusals=former, unsettled=len(store.records("journal")))
        keys = store.records("results")
        one = partial(files.patiently, _migrate_one, store, is_dry=is_dry, substitutes=substitutes)
        for key, (fate, why) in zip(keys, each(one, keys), strict=True):
            if fate == "moved":
                found.moved[why] += 1
            elif fate == "left":
                found.left[key] = why
            else:
                found.present += fate == "present"
                found.free += fate == "free"
    except OSError as error:
        raise StoreUnavailable.of("used", error) from error
    return found


def _migrate_one(store: Store, key: str, *, is_dry: bool, substitutes: Mapping[str, list[str]]) -> tuple[_Fate, str]:
    """Give one result its present key; return what became of it, and its tool or the reason."""
    record = store.record_or_empty("results", key)
    if "operation" in record or "preserve" in record:
        return "free", ""
    identity = Identity.of_record(record)
    if identity is None:
        return "left", "it does not say which call of which tool it is the result of"
    verified = identity.with_variant_of(key)
    if verified is None:
        return "left", "its key does not follow from what it holds"
    if verified.key == key:
        return "present", ""
    return _move(store, record, verified, is_dry=is_dry, refusals=substitutes.get(key, []))


def _move(
    store: Store, record: Mapping[str, Any], identity: Identity, *, is_dry: bool, refusals: list[str]
) -> tuple[_Fate, str]:
    there = store.result(identity.key)
    if there is not None and there.get("job_id") != record.get("job_id"):
        return "left", f"a later result has its present key, {identity.key}"
    if not is_dry:
        if there is None:
            for kind in ("copies", "results"):
                store.put_record(kind, identity.key, {**record, **identity.to_record(), "key": identity.key})
        for name in refusals:  # of calls whose result this one stands for
            store.put_record("refusals", name, {**store.record_or_empty("refusals", name), "instead": identity.key})
        for kind in ("results", "copies"):
            store.remove_record(kind, str(identity.former_key))
    return "moved", identity.tool.name
