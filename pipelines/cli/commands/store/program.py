"""The program of ``store``, and how its commands open a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flux_tasks.errors import StoreUnavailable
from pipelines.cli.common import OPTIONS, StoreFolder
from pipelines.cli.terminal import Program, print_error

if TYPE_CHECKING:
    from flux_tasks.settings import Settings
    from flux_tasks.store.records import Store

Place = Annotated[StoreFolder, Parameter(name="--store")]
Yes = Annotated[bool, Parameter(help="do it; without this, only say what would be done")]
store = Program(name="store", help="Look at what is stored, check it, and settle held jobs.", group_parameters=OPTIONS)


def opened(settings: Settings, *, is_to_be_made: bool = False) -> Store:
    """Return the store, after a line on standard error if nothing is in it, unless it is made if need be.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    from flux_tasks.store.records import Store

    store = Store(settings.store)
    try:
        is_new = store.is_new()
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    if is_new and not is_to_be_made:
        print_error(f"there is no store at {store.url} yet; --store or FLUX_STORE names another one")
    return store
