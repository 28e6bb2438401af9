"""The store: result records and blobs, the journal of unsettled jobs, and the spool."""

from flux_tasks.store.records import Store

__all__ = ["Store"]
