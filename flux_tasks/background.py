"""One background event loop a process, where all network and store work happens.

So sync tasks on Prefect's thread pool, async tasks in any loop and repeated ``asyncio.run`` calls share the same
connections, the same 24 slots and the same table of running jobs, and no client outlives its loop. Passing a coroutine
to it costs about 0.1 ms.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

__all__ = ["Pool", "arun", "beside", "cut_short", "run", "start"]

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _ensure_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _return_freed_memory()
            loop = asyncio.new_event_loop()
            # Store traffic waits for disks and networks, not for cores: more threads than asyncio's cores + 4.
            loop.set_default_executor(ThreadPoolExecutor(max_workers=32, thread_name_prefix="flux-io"))
            started = threading.Event()

            def serve() -> None:
                asyncio.set_event_loop(loop)
                loop.call_soon(started.set)
                loop.run_forever()

            threading.Thread(target=serve, name="flux-background", daemon=True).start()
            started.wait()
            _loop = loop
        return _loop


_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def _return_freed_memory() -> None:
    """Let glibc give buffers of a megabyte or more back when they are freed, as it does only until the first of them.

    Otherwise each of some forty threads keeps the memory of the largest pictures that it had.
    """
    with suppress(OSError, AttributeError):  # another system has another allocator
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)


def _forget_parent() -> None:
    """Begin without a loop in a forked child: it has no loop thread, and its copy of the lock may never be released."""
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_parent)


class Pool(ThreadPoolExecutor):
    """Threads that work in the context of whoever gives them work: its settings, accounts, watchers."""

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """See ``ThreadPoolExecutor``."""
        return super().submit(copy_context().run, function, *args, **kwargs)


def start(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Start ``coroutine`` on the background loop; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(coroutine, _ensure_loop())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` on the background loop and wait for it from a thread.

    Raises:
        RuntimeError: when called on the background loop itself, or while Python ends: waiting would never end.
    """
    loop = _ensure_loop()
    if _is_current(loop):
        coroutine.close()
        raise RuntimeError("background.run() would wait for itself; await the coroutine instead")
    task: asyncio.Task[Any] | None = None
    is_stopped = False

    async def work() -> T:
        nonlocal task
        if is_stopped:
            coroutine.close()
            raise asyncio.CancelledError
        task = asyncio.current_task()
        return await coroutine

    def stop() -> None:
        nonlocal is_stopped
        is_stopped = True
        if task is not None:
            task.cancel()

    try:
        future = start(work())
        while not wait([future], timeout=1).done:  # a Ctrl-C just before the wait begins is only noticed after it
            if sys.is_finalizing():
                raise RuntimeError("Python is ending, and with it the loop's thread: nothing would end this wait")
        return future.result()
    except BaseException:
        # A Ctrl-C must not leave the work running, nor one that comes before there is a future to cancel.
        loop.call_soon_threadsafe(stop)
        raise


async def arun(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await ``coroutine`` from any event loop while it runs on the background loop; a cancellation cancels it there."""
    if _is_current(_ensure_loop()):
        return await coroutine
    return await asyncio.wrap_future(start(coroutine))


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do ``work`` beside the block; what is not done of it at the block's end is cancelled."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def cut_short(by: Callable[[], object]) -> Iterator[None]:
    """Call ``by`` at Ctrl-C and SIGTERM in the block, which end nothing else: for a wait that nothing depends on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: by()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _is_current(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
