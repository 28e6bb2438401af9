"""What Prefect's API says of a storage block: its place and its options. The packages of the blocks are not needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flux_tasks.files.blocks import Block, BlockProblem
from flux_tasks.tasks.recording import is_in_flow, is_server_configured

__all__ = ["load"]


def load(slug: str, name: str) -> Block:
    """Return the block of a type and a name, as the Prefect API has it.

    Raises:
        BlockProblem: no API is configured or answers, or it has no such block.
    """
    place = f"block://{slug}/{name}"
    if not (is_in_flow() or is_server_configured()):
        what = "needs a Prefect API, and none is configured: set PREFECT_API_URL, or write the URL itself"
        raise BlockProblem(f"{place}: {what}")
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(name, slug, include_secrets=True)
    except ObjectNotFound:
        remedy = "`prefect block ls` lists those there are"
        raise BlockProblem(f"{place}: the Prefect API has no such block: {remedy}") from None
    except Exception as error:  # httpx has several, and Prefect its own
        raise BlockProblem(f"{place}: the Prefect API cannot be asked: {type(error).__name__}") from None
    try:
        return _KINDS[slug](document.data)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise BlockProblem(f"{place}: the block is not one as its type has them: save it again in Prefect") from None


def _local(data: Mapping[str, Any]) -> Block:
    return Block(str(Path(data.get("basepath") or ".").expanduser().absolute()), {})


def _remote(data: Mapping[str, Any]) -> Block:
    root = str(data["basepath"])
    if "://" not in root or root.startswith(("file://", "local://")):
        raise ValueError(root)
    return Block(root.rstrip("/"), dict(data.get("settings") or {}))


def _s3(data: Mapping[str, Any]) -> Block:
    account = data.get("credentials") or {}
    client = account.get("aws_client_parameters") or {}
    found = {
        "key": account.get("aws_access_key_id") or account.get("minio_root_user"),
        "secret": account.get("aws_secret_access_key") or account.get("minio_root_password"),
        "token": account.get("aws_session_token"),
        "profile": account.get("profile_name"),
        "region": account.get("region_name"),
        "endpoint_url": client.get("endpoint_url"),
    }
    options: dict[str, Any] = {name: value for name, value in found.items() if value}
    if client.get("verify") is False:
        options["client_kwargs"] = {"verify": False}
    return Block(_joined("s3", data["bucket_name"], data.get("bucket_folder")), options)


def _gcs(data: Mapping[str, Any]) -> Block:
    account = data.get("gcp_credentials") or {}
    token = account.get("service_account_info") or account.get("service_account_file")
    found = {"token": token, "project": account.get("project")}
    return Block(
        _joined("gs", data["bucket"], data.get("bucket_folder")), {name: one for name, one in found.items() if one}
    )


def _joined(protocol: str, bucket: str, folder: str | None) -> str:
    return "/".join([f"{protocol}://{bucket}", *filter(None, (folder or "").split("/"))])


_KINDS: dict[str, Callable[[Mapping[str, Any]], Block]] = {
    "local-file-system": _local,
    "remote-file-system": _remote,
    "s3-bucket": _s3,
    "gcs-bucket": _gcs,
}
