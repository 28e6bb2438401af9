"""Whether a store keeps several processes apart: of two that create one object, exactly one may win.

Local disks and memory do. An object store does if it honours conditional puts, which some servers ignore without a word
(``rclone serve s3``, emulators); so it is asked: one object of a fixed name is created twice. It stays, and so the
answer stays with the store: where one creation is refused, the next process needs no second one.
"""

from flux_tasks import files
from flux_tasks.store.records import Store

_KIND, _NAME = "probe", "create"
_RECORD = {"purpose": "creating this object a second time tells whether the store keeps several processes apart"}

_answers: dict[str, bool] = {}
"""By store, what was found out in this process."""


def keeps_apart(store: Store) -> bool:
    """Check whether of several processes that create one record in ``store`` exactly one wins.

    Raises:
        OSError: the store cannot be written.
    """
    if store.url not in _answers:
        known = files.creates_exclusively(store.url)
        _answers[store.url] = _is_refused(store) if known is None else known
    return _answers[store.url]


def _is_refused(store: Store) -> bool:
    return not (store.create_record(_KIND, _NAME, _RECORD) and store.create_record(_KIND, _NAME, _RECORD))
