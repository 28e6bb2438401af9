"""How a dataset lies in its folder: its format, its files, and the split of each, by the rules of ``datasets``.

A split is what ``configs`` in the header of ``README.md`` say; or the name of a folder (``train``, ``test``,
``validation``, and other words for these); or the name of a file (``train-00000-of-00002.parquet``, ``my_test.tar``).
Where none of these names any, all files belong to ``train``.
"""

from __future__ import annotations

import glob as glob_module
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import yaml

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, listed, nearest, quote, reason_of
from flux_tasks.images.encoding import FILE_TYPES
from pipelines.language.document.recipe import DATASET_FORMATS, Source

__all__ = ["METADATA", "Find", "Layout", "Shard", "inside", "is_inside", "layout_of", "split_of_folder"]

Find = Callable[[str], list[str]]
"""Returns the files that match a pattern, sorted."""

_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_BY_WORD = {word: split for split, words in _SPLITS.items() for word in words}
_SHARDED = re.compile(r"(\w+(?:\.\w+)*)-[0-9]{5,}-of-[0-9]{5,}")
_WORDS = re.compile(r"[-._ 0-9]+")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Files of an imagefolder that say more of its pictures."""

_FORMATS = {"parquet": "parquet", "tar": "webdataset", "arrow": "arrow", **dict.fromkeys(FILE_TYPES, "imagefolder")}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_MOST = 1_000_000  # names that braces may stand for
_HEADER = re.compile(r"---\s*\n(.*?)\n---", re.DOTALL)
_LONGEST_CARD = 1 << 20


@dataclass(frozen=True)
class Shard:
    """A file of a dataset, and the split that it belongs to."""

    location: str
    split: str


@dataclass(frozen=True)
class Layout:
    """How a dataset lies.

    Attributes:
        kind: one of ``DATASET_FORMATS``.
        root: its folder.
        shards: its files, or of an imagefolder its metadata, else its pictures.
        metadata: of an imagefolder, where its metadata are.
        splits: of the pictures of an imagefolder with metadata.
        left: files that belong to no split, where others do.
    """

    kind: str
    root: str
    shards: Sequence[Shard]
    metadata: Sequence[str] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    left: Sequence[str] = ()

    def split_of(self, location: str) -> str:
        """Return the split of a picture, or an empty text."""
        return self.splits.get(location, "")


def is_inside(path: str) -> bool:
    """Check whether a path that a dataset holds stays in its folder."""
    parts = re.split(r"[/\\]", path)
    return bool(path.strip()) and not path.startswith(("/", "\\", "~")) and ".." not in parts and ":" not in parts[0]


def inside(folder: str, path: str) -> str:
    """Return the location of a file that a dataset names, in its folder.

    Raises:
        InvalidRequest: it leads out of that folder.
    """
    if not is_inside(path):
        remedy = "write a path below it; for pictures elsewhere, write the file as a table: {table: …, image: …}"
        raise InvalidRequest(f"{quote(path)} leads out of the folder of the dataset: {remedy}")
    return files.join(folder, path) if folder not in ("", ".") else path


def split_of_folder(name: str) -> str:
    """Return the split that a folder of this name holds, or an empty text."""
    return _BY_WORD.get(name.lower(), "")


def layout_of(source: Source, find: Find) -> Layout:
    """Return how the dataset of a source lies, with the split that the source names or with all of them.

    Raises:
        RecipeError: there is no such dataset, split or config; or its format is not known.
    """
    found = [_of_place(place, source, find) for pattern in source.dataset for place in _without_braces(pattern)]
    kinds = sorted({one.kind for one in found})
    if len(kinds) > 1:
        raise _broken(
            "dataset", f"has files of several formats ({listed(kinds)}): write which, such as format: {kinds[0]}"
        )
    first = found[0]
    shards = [shard for one in found for shard in one.shards]
    splits = {location: split for one in found for location, split in one.splits.items()}
    metadata = [location for one in found for location in one.metadata]
    if source.split:
        known = sorted({shard.split for shard in shards} | set(splits.values()))
        if source.split not in known:
            hint = nearest(source.split, known) or f"; it has {listed(known)}"
            raise _broken("split", f"{quote(source.split)} is no split of the dataset{hint}")
        shards = [shard for shard in shards if shard.split == source.split or shard.location in metadata]
    left = [location for one in found for location in one.left]
    return Layout(first.kind, first.root, shards, metadata, splits, left)


def _broken(field: str, what: str) -> RecipeError:
    return RecipeError([Problem(f"source.{field}", what)])


def _without_braces(pattern: str) -> Iterator[str]:
    """Yield the patterns that braces stand for, as in a shell: {000000..000004}, {a,b}."""
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    if span := _RANGE.fullmatch(braces[1]):
        first, last = int(span[1]), int(span[2])
        if abs(last - first) >= _MOST:
            raise _broken("dataset", f"{quote(pattern)} stands for more than {_MOST:,} files: write a glob")
        step = 1 if last >= first else -1
        each: Sequence[str] = [f"{n:0{len(span[1])}}" for n in range(first, last + step, step)]
    else:
        each = braces[1].split(",")
    for one in each:
        yield from _without_braces(f"{before}{one}{after}")


def _of_place(place: str, source: Source, find: Find) -> Layout:
    is_folder = place.endswith("/") or (files.is_local(place) and files.local_path(place).is_dir())
    is_file = not is_folder and "." in files.name(place) and files.extension(place) in ("parquet", "tar", "arrow")
    found = find(place) if is_file or (files.has_wildcards(place) and not is_folder) else []
    if found:
        return _of_files(found, found[0].rpartition("/")[0], source, place, is_by_folder=False)
    if is_file or (files.has_wildcards(place) and not is_folder):
        hint = files.near_misses(place, kinds=_FORMATS) or "write another path"
        raise _broken("dataset", f"no file matches {files.quoted(place)}: {hint}")
    root = place.rstrip("/")
    below = find(f"{glob_module.escape(root)}/**/*")
    if not below:
        what = "is a file, and no dataset" if files.exists(root) else "does not exist, or has no files"
        raise _broken("dataset", f"{files.quoted(place)} {what}: write a folder, or *.parquet or *.tar files")
    return _of_saved(root, below, find) or _of_files(below, root, source, place, is_by_folder=True)


def _of_files(found: Sequence[str], root: str, source: Source, place: str, *, is_by_folder: bool) -> Layout:
    """Return the layout of files by their extensions, the most frequent of which is the format's."""
    metadata = [one for one in found if files.name(one).lower() in METADATA]
    rest = [one for one in found if one not in metadata] if metadata else found
    kinds = Counter(_FORMATS.get(files.extension(one), "") for one in rest)
    kind: str = source.format or next((kind for kind, _ in kinds.most_common() if kind), "")
    if not kind and len(metadata) == len(found):
        kind = "parquet"
    if not kind or not (chosen := [one for one in found if _FORMATS.get(files.extension(one)) == kind]):
        known = ", ".join(DATASET_FORMATS)
        raise _broken(
            "dataset", f"{files.quoted(place)} has no file of {kind or 'a format that is read here'}: {known}"
        )
    card = _card(root, source, found) if is_by_folder else None
    if source.config and card is None:
        raise _broken(
            "config", f"{files.quoted(place)} has no configs: write the folder of a README.md that lists some"
        )
    splits = card if card is not None else _splits(chosen, root, kind)
    left = [] if card is not None else [one for one in chosen if one not in splits]
    if not is_by_folder:
        splits |= dict.fromkeys(left, "train")
    shards = [Shard(one, splits[one]) for one in chosen if one in splits]
    if kind != "imagefolder" or not metadata:
        return Layout(kind, root, shards, left=left if is_by_folder else ())
    by_metadata = _splits(metadata, root, kind)
    return Layout(kind, root, [Shard(one, by_metadata.get(one, "train")) for one in metadata], metadata, splits)


def _splits(found: Sequence[str], root: str, kind: str) -> dict[str, str]:
    """Return the split of each file: by the first rule that names a split for any; those that it does not name are out.

    What a picture is called says nothing of its split.
    """
    for rule in (*((_of_shard,) if kind != "imagefolder" else ()), _of_folders, _of_words):
        named = {}
        for one in found:
            parts = one.removeprefix(f"{root}/").split("/")
            if split := rule(parts[:-1] if kind == "imagefolder" else parts):
                named[one] = split
        if named:
            return named
    return dict.fromkeys(found, "train")


def _of_shard(parts: Sequence[str]) -> str:
    sharded = _SHARDED.match(parts[-1])
    return _BY_WORD.get(sharded[1].lower(), sharded[1]) if sharded else ""


def _of_folders(parts: Sequence[str]) -> str:
    return next((split for part in parts if (split := split_of_folder(part))), "")


def _of_words(parts: Sequence[str]) -> str:
    words = (word for part in reversed(parts) for word in _WORDS.split(part.lower()))
    return next((_BY_WORD[word] for word in words if word in _BY_WORD), "")


def _card(root: str, source: Source, found: Sequence[str]) -> dict[str, str] | None:
    """Return the split of each file that the configs of ``README.md`` name; None if there are none."""
    place = f"{root}/README.md"
    if place not in found:
        return None
    try:
        header = _HEADER.match(files.read(place, limit=_LONGEST_CARD).decode(errors="replace"))
        data = yaml.safe_load(header[1]) if header else None
    except (OSError, yaml.YAMLError) as error:
        raise _broken("dataset", f"{place} is not understood: {reason_of(error)}") from None
    written = data.get("configs") if isinstance(data, dict) else None
    configs = {str(one.get("config_name", "default")): one for one in written or () if isinstance(one, dict)}
    if not configs:
        if source.config:
            raise _broken("config", f"{place} names no configs: leave it out")
        return None
    default = next((name for name, one in configs.items() if one.get("default")), "")
    name = source.config or default or (next(iter(configs)) if len(configs) == 1 else "default")
    if name not in configs:
        remedy = nearest(name, configs) or f"; it has {listed(sorted(configs))}"
        raise _broken(
            "config", f"{quote(name)} is no config of the dataset{remedy}: write config: {next(iter(configs))}"
        )
    config = configs[name]
    below = str(config.get("data_dir") or "")
    written = config.get("data_files")
    patterns = [(split, f"{below}/{path}" if below else path) for split, path in _data_files(written)]
    for pattern in [below or ".", *(pattern for _, pattern in patterns)]:
        if not is_inside(pattern):
            raise _broken("dataset", f"{place}: {quote(pattern)} leads out of its folder")
    if not written:
        return _splits(
            [one for one in found if one.startswith(f"{files.join(root, below) if below else root}/")], root, ""
        )
    splits: dict[str, str] = {}
    for split, pattern in patterns:
        matches = files.matcher(f"{glob_module.escape(root)}/{PurePosixPath(pattern)}")
        splits |= {one: split for one in found if matches(one)}
    return splits


def _data_files(written: Any) -> Iterator[tuple[str, str]]:
    """Yield the patterns of a config, each with its split."""
    for one in written if isinstance(written, list) else [written] if written else []:
        split, paths = (str(one.get("split", "train")), one.get("path")) if isinstance(one, dict) else ("train", one)
        for path in paths if isinstance(paths, list) else [paths]:
            yield split, str(path)


def _of_saved(root: str, found: Sequence[str], find: Find) -> Layout | None:
    """Return the layout of what ``Dataset.save_to_disk`` has written, or ``DatasetDict.save_to_disk``."""
    folders = [one.rpartition("/")[0] for one in found if files.name(one) == "state.json"]
    if not folders or not {root, *folders} & {one.rpartition("/")[0] for one in found if one.endswith("_info.json")}:
        return None
    shards = []
    for folder in folders:
        try:
            state = json.loads(files.read(f"{folder}/state.json", limit=_LONGEST_CARD))
            names = [str(one["filename"]) for one in state["_data_files"]]
            split = str(state.get("_split") or "") or (files.name(folder) if folder != root else "train")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _broken("dataset", f"{folder}/state.json is not understood: {reason_of(error)}") from None
        if outside := [name for name in names if not is_inside(name)]:
            raise _broken("dataset", f"{folder}/state.json: {quote(outside[0])} leads out of its folder")
        shards += [Shard(f"{folder}/{name}", split) for name in names]
    return Layout("arrow", root, shards)
