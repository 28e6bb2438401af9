"""Files on any location: a path, an fsspec URL, or a place in another file. Names, bytes, and patterns of locations."""

from __future__ import annotations

from flux_tasks.files import access
from flux_tasks.files.access import (
    create,
    folders,
    listing,
    patiently,
    remove,
    stream,
    write,
    write_from,
)
from flux_tasks.files.failures import Unusable, may_pass
from flux_tasks.files.fingerprints import MISSING, Fingerprints
from flux_tasks.files.inside.contents import exists, know_members, known_members, read, size, tar_members
from flux_tasks.files.locations import (
    canonical,
    cell,
    embedded,
    extension,
    is_data,
    is_local,
    is_location,
    is_web,
    join,
    local_name,
    local_path,
    name,
    quoted,
    stem,
    tar_member,
)
from flux_tasks.files.real_paths import RealPaths
from flux_tasks.files.remote.filesystems import filesystem_of
from flux_tasks.files.remote.presigned import presigned
from flux_tasks.files.remote.turns import wait_for_turn
from flux_tasks.files.search.near_misses import of_pattern as near_misses
from flux_tasks.files.search.near_misses import similar
from flux_tasks.files.search.patterns import glob, has_wildcards, links_of, matcher, matches
from flux_tasks.files.staging import Staging, remove_leftovers
from flux_tasks.files.targets import creates_exclusively, missing_bucket, try_writing, unwritable, unwritable_folder
from flux_tasks.files.watching import notice, watching

__all__ = [
    "MISSING",
    "Fingerprints",
    "RealPaths",
    "Staging",
    "Unusable",
    "access",
    "canonical",
    "cell",
    "create",
    "creates_exclusively",
    "embedded",
    "exists",
    "extension",
    "filesystem_of",
    "folders",
    "glob",
    "has_wildcards",
    "is_data",
    "is_local",
    "is_location",
    "is_web",
    "join",
    "know_members",
    "known_members",
    "links_of",
    "listing",
    "local_name",
    "local_path",
    "matcher",
    "matches",
    "may_pass",
    "missing_bucket",
    "name",
    "near_misses",
    "notice",
    "patiently",
    "presigned",
    "quoted",
    "read",
    "remove",
    "remove_leftovers",
    "similar",
    "size",
    "stem",
    "stream",
    "tar_member",
    "tar_members",
    "try_writing",
    "unwritable",
    "unwritable_folder",
    "wait_for_turn",
    "watching",
    "write",
    "write_from",
]
