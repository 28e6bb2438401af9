"""What the options of a place mean to the library of its protocol.

Three words mean the same everywhere: ``endpoint_url``, ``anon`` (send no credentials), and for S3 ``region``. All
others are the library's own. Options that name credentials stand alone: none of the environment is mixed in.
"""

from __future__ import annotations

import re
from typing import Any

from flux_tasks.files.failures import Unusable
from flux_tasks.files.locations import quoted

__all__ = ["ACCOUNT", "account_of"]

ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
"""The name of a storage account at Azure: part of the host that credentials go to, so nothing else may pass for one."""

_IN_URL = re.compile(r"[^/@]*@([^/]*?)\.(?:blob|dfs)\.core\.windows\.net(?=/|$)")
_S3_CREDENTIALS = {"anon": False, "profile": None, "key": None, "secret": None, "token": None}


def account_of(kind: str, location: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a filesystem that ``options`` and the location itself ask for."""
    if kind == "s3":
        return _s3(options)
    if kind == "gs" and "anon" in options:
        is_anonymous = options.pop("anon")
        return {**options, "token": "anon"} if is_anonymous else options
    return _azure(location, options) if kind == "az" else options


def _s3(options: dict[str, Any]) -> dict[str, Any]:
    region = options.pop("region", None)
    if region:
        options["client_kwargs"] = {**options.get("client_kwargs", {}), "region_name": region}
    return {**_S3_CREDENTIALS, **options} if _S3_CREDENTIALS.keys() & options.keys() else options


def _azure(location: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the same for Azure; one connection string, because adlfs prefers one of the environment to all else."""
    path = location.partition("://")[2]
    in_url = _IN_URL.match(path)
    if "@" in path.partition("/")[0] and (in_url is None or not ACCOUNT.fullmatch(in_url[1])):
        what = "names no storage account: write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/, or az://CONTAINER/"
        raise Unusable(f"{quoted(location)} {what}")
    account = options.get("account_name") or (in_url[1] if in_url else "")
    endpoint = options.pop("endpoint_url", None)
    if not account and not endpoint:
        return options
    address = f"BlobEndpoint={endpoint or f'https://{account}.blob.core.windows.net'}"
    if options.get("account_key"):
        return {**options, "connection_string": f"{address};AccountName={account};AccountKey={options['account_key']}"}
    if options.get("sas_token"):
        return {**options, "connection_string": f"{address};SharedAccessSignature={options['sas_token'].lstrip('?')}"}
    if options.get("anon"):
        return {**options, "connection_string": address}
    return {**options, "account_name": account} if account else options
