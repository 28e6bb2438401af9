"""Which storage options may be written, and by whom: what is wrong is found before anything is read or spent.

A recipe may come from elsewhere, so it holds no secret, names only options that are known to be harmless, and chooses
no endpoint that credentials of this machine would go to: only the settings do, and the user's own configuration.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from flux_tasks.errors import Problem, listed, nearest, quote, shown
from flux_tasks.files.locations import canonical, is_local, is_web
from flux_tasks.files.remote.accounts import ACCOUNT
from flux_tasks.files.remote.options import VARIABLE, StorageOptions, is_secret_option, variable_of

__all__ = ["combined", "option_problems", "untrusted_endpoints"]

_BUFFERS = ("default_block_size", "default_cache_type", "default_fill_cache", "version_aware", "max_concurrency")
_HARMLESS = {
    "s3": ("anon", "profile", "endpoint_url", "region", "requester_pays", "key", "secret", "token"),
    "gs": ("anon", "project", "endpoint_url", "requester_pays", "token"),
    "az": (
        *("anon", "account_name", "endpoint_url", "account_key", "sas_token", "connection_string"),
        *("tenant_id", "client_id", "client_secret"),
    ),
}
"""By protocol, what a recipe may say; settings may say the following, too."""

_FURTHER = {
    "s3": (*_BUFFERS, "use_ssl", "client_kwargs", "config_kwargs", "s3_additional_kwargs", "cache_regions"),
    "gs": (*_BUFFERS, "access", "consistency", "default_location", "timeout", "requests_timeout", "session_kwargs"),
    "az": (*_BUFFERS, "account_host", "credential", "location_mode", "timeout", "connection_timeout", "read_timeout"),
}
_OTHER_WORDS = {"anonymous": "anon", "endpoint": "endpoint_url", "region_name": "region", "account": "account_name"}
_FLAGS = ("anon", "requester_pays")
_WORDS = {"gs": ("anon", "cloud", "google_default")}  # values of token that are no secret
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST")

_FORM = "{profile: name, endpoint_url: 'https://…'}"


def option_problems(options: Any, *, is_recipe: bool) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what is wrong with storage options: where, below them, and what to write instead. No value is quoted."""
    if not isinstance(options, Mapping):
        yield (), f"is not a mapping of URL prefixes: write {{'s3://bucket/': {_FORM}}}"
        return
    for prefix, given in options.items():
        if not isinstance(prefix, str) or (problem := _prefix_problem(prefix, is_recipe=is_recipe)):
            yield (str(prefix),), problem if isinstance(prefix, str) else "is not a URL prefix: write s3://bucket/"
        elif not isinstance(given, Mapping):
            yield (prefix,), f"has no options: write {_FORM}"
        else:
            kind = canonical(prefix)[0]
            for name, value in given.items():
                if problem := _option_problem(kind, str(name), value, is_recipe=is_recipe):
                    yield (prefix, str(name)), problem


def _prefix_problem(prefix: str, *, is_recipe: bool) -> str:
    if is_web(prefix):
        return "is a web address, which has no options: name a bucket, such as s3://bucket/"
    if is_local(prefix) or "::" in prefix.partition("://")[0]:
        return "is no place on a remote filesystem: write the beginning of its URL, such as s3://bucket/folder/"
    kind, path = canonical(prefix)
    if any(sign in path for sign in "{}*?"):
        return "is a pattern or a template: write the beginning that all its locations share, such as s3://bucket/"
    if "@" in path.partition("/")[0] and kind != "az":
        return "holds a user name or a password: write the URL without it"
    if is_recipe and kind not in _HARMLESS:
        return f"only options of {listed(_HARMLESS)} may stand in a recipe: put these into {VARIABLE}"
    return ""


def _option_problem(kind: str, name: str, value: Any, *, is_recipe: bool) -> str:
    harmless, further = _HARMLESS.get(kind, ()), _FURTHER.get(kind, ())
    if harmless and name not in (*harmless, *further):
        word = _OTHER_WORDS.get(name, "")
        hint = f": write {word}" if word in harmless else nearest(name, (*harmless, *further))
        return f"is not an option of {kind}://{hint or '; known: ' + ', '.join(harmless)}"
    if is_recipe and name not in harmless:
        return f"may not stand in a recipe: put it into {VARIABLE}"
    if isinstance(value, Mapping) and "env" in value:
        return _reference_problem(name, value, is_recipe=is_recipe)
    if is_recipe and is_secret_option(name):
        if name == "token" and value in _WORDS.get(kind, ()):
            return ""
        own = "a profile, " if kind == "s3" else ""
        return f"holds a secret itself: write {{env: NAME}}, {own}or put it into {VARIABLE}, and change that secret"
    return _value_problem(kind, name, value, is_recipe=is_recipe) if harmless else ""


def _reference_problem(name: str, value: Mapping[str, Any], *, is_recipe: bool) -> str:
    variable = variable_of(value)
    if variable is None:
        return "names no environment variable: write {env: NAME}"
    if is_recipe and variable.upper().startswith(("BFL_", "FLUX_")):
        return f"{quote(variable)} is not for a bucket: name the variable of its credentials"
    if is_recipe and not is_secret_option(name) and is_secret_option(variable):
        return f"{quote(variable)} sounds like a secret, and this option is sent as it is: name another variable"
    if not (value_there := os.environ.get(variable)):
        return f"the environment has no {quote(variable)}: set it"
    return f"{quote(variable)} {what}" if name == "endpoint_url" and (what := _endpoint_problem(value_there)) else ""


def _value_problem(kind: str, name: str, value: Any, *, is_recipe: bool) -> str:
    if name in _FLAGS and not isinstance(value, bool):
        return f"{'this' if is_secret_option(name) else shown(value)} is not true or false"
    if name in _FLAGS or (name in _FURTHER[kind] and not is_recipe):
        return ""
    if is_secret_option(name):
        is_text = isinstance(value, str) and value
        return "" if is_text or (kind == "gs" and value) else "is not a text"
    if not isinstance(value, str) or not value or "{{" in value or not value.isprintable():
        return f"{shown(value)} is not a text without templates: write the value itself, or {{env: NAME}}"
    if name == "endpoint_url":
        return _endpoint_problem(value)
    if name == "account_name" and not ACCOUNT.fullmatch(value):
        return f"{shown(value)} is no storage account: its name has 3 to 24 small letters and digits"
    return ""


def _endpoint_problem(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address or any(sign in value for sign in ";?# "):
        return "is not an address: write one such as https://minio.example:9000"
    return "holds a user name or a password: write the address without it" if "@" in parts.netloc else ""


def combined(of_recipe: StorageOptions, of_settings: StorageOptions) -> StorageOptions:
    """Return the options of both; where both name a place, each option of the settings holds."""
    if not of_recipe:
        return of_settings
    own = {canonical(prefix): given for prefix, given in of_settings.items()}
    both = {prefix: {**given, **own.get(canonical(prefix), {})} for prefix, given in of_recipe.items()}
    named = {canonical(prefix) for prefix in both}
    return {**{prefix: given for prefix, given in of_settings.items() if canonical(prefix) not in named}, **both}


def untrusted_endpoints(of_recipe: StorageOptions, of_settings: StorageOptions) -> Iterator[Problem]:
    """Yield the endpoints of a recipe that would get credentials of this machine, and that nobody here has named."""
    known = {_address(given.get("endpoint_url")) for given in of_settings.values()}
    known |= {_address(os.environ.get(name)) for name in _ENDPOINTS} | set(_configured())
    for prefix, given in of_recipe.items():
        address = _address(given.get("endpoint_url"))
        is_anonymous = given.get("anon") is True and not any(is_secret_option(name) for name in given)
        if address and address not in known and not is_anonymous:
            what = f"{shown(address)} would get credentials of this machine, and only the recipe names it: write anon: "
            what += f'true, or trust it, {VARIABLE}=\'{{"{prefix}": {{"endpoint_url": "{address}"}}}}\''
            yield Problem(f"storage_options.{prefix}.endpoint_url", what)


def _address(value: Any) -> str:
    variable = variable_of(value)
    text = os.environ.get(variable, "") if variable is not None else value if isinstance(value, str) else ""
    parts = urlsplit(text.rstrip("/"))
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def _configured() -> Iterator[str]:
    """Yield the endpoints of fsspec's own configuration."""
    from flux_tasks.files.remote.filesystems import configured

    for kind in ("s3", "gs", "gcs", "az", "abfs"):
        yield _address(configured(kind).get("endpoint_url"))
