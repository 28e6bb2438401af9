"""Items: one for each picture that globs find, or for each row of a table or a dataset, with its columns; streamed.

A source is applied in this order: items are read, ``columns`` are filled in, ``filter`` leaves some out, ``sample``
takes some of the rest, ``limit`` takes the first of those. Neither rows nor items stay in memory: a table of a million
rows takes as much of it as one of ten. Only the locations that globs found stay, and the numbers of a ``sample`` of so
many items, for which the source is read once more beforehand.

A template of an item may name the following; where a name occurs twice, the later one counts:

* what the caller gives as ``extra`` (``vars``, ``env``);
* columns of its table that are plain words and not reserved (``RESERVED``); and ``row``, which has all of them:
  ``{{ row["file name"] }}``;
* ``labels`` and ``count`` where the source has annotations: the class of each label, and how many are called so;
* ``stem``, ``name``, ``path`` and ``index``. A row without a picture has no path; its stem and name are
  ``row-000012``, from its number in the table, from 0. In a ``filter``, ``index`` is how many items it has let through;
* the source's own ``columns``, those further up first. The template of a picture, ``image``, comes before all of these
  and knows only the columns of its table, ``row`` and ``index``.

Where a row cannot be used, or a template fails for one item, the item comes with an ``error`` and the others go on. No
filter leaves it out, so that nobody overlooks it.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, cut, listed, nearest, quote, shown
from flux_tasks.images.encoding import FILE_TYPES
from pipelines.data.annotations import LazyLabels, read_annotations
from pipelines.data.formats import dataset, folders, tables
from pipelines.data.formats.listing import Listed, finder_in, matched
from pipelines.data.formats.names import is_plain
from pipelines.data.formats.number import Number
from pipelines.data.formats.tables import Row
from pipelines.language import templates
from pipelines.language.document.recipe import Source

__all__ = [
    "Item",
    "Listed",
    "draw",
    "finder",
    "items_of",
    "source_warnings",
]

_SAYS_NO = ("false", "no", "n", "f", "off", "none", "null", "0")


class NoItems(RecipeError):
    """The source can be read, and there is nothing in it."""


@dataclass(frozen=True)
class Item:
    """One picture, or row, and what is known of it before it is opened.

    Attributes:
        index: its number among the items, from 0.
        path: where its picture is, or an empty string.
        columns: the columns of its table that are names of their own, and those of the source.
        row: all columns of its table.
        number: of its row in the table, from 0.
        error: why it cannot be used, or an empty string.
        labels: what the annotations of the source say of its picture; None without annotations.
        duplicate_of: the source of the item that is kept in its place; empty if it is worked on itself.
        hides_labels: no template asks for them, so that they are not among the names that templates know.
    """

    index: int
    path: str
    columns: dict[str, Any] = field(default_factory=dict)
    row: Mapping[str, Any] = field(default_factory=dict)
    number: int = 0
    error: str = ""
    labels: LazyLabels | None = None
    duplicate_of: str = ""
    hides_labels: bool = False

    @cached_property
    def stem(self) -> str:
        """The file name without folder and extension; ``row-000012`` where its picture has no location."""
        return files.stem(self.path) if self._has_location else f"row-{self.number:06d}"

    @property
    def source(self) -> str:
        """What tells it from the other items of its source: where its picture is, or its stem."""
        return self.path if self._has_location else self.stem

    @cached_property
    def _has_location(self) -> bool:
        """Whether its picture has a name: a row may have a data URI, a text that is none, or bytes without one."""
        is_named = not self.row or files.is_location(self.path)
        return bool(self.path) and is_named and bool(files.name(self.path))

    @property
    def context(self) -> dict[str, Any]:
        """The names that its templates know: its own, and its columns."""
        own = {"stem": self.stem, "name": self._name, "path": self.path, "index": self.index}
        labelled = self.labels.read().context if self.labels is not None and not self.hides_labels else {}
        return {**own, **({"row": self.row} if self.row else {}), **labelled, **self.columns}

    @cached_property
    def _name(self) -> str:
        return files.name(self.path) if self._has_location else self.stem


def items_of(
    source: Source,
    extra: Mapping[str, Any] | None = None,
    listed: Listed | None = None,
    *,
    hides_labels: bool = False,
) -> Iterator[Item]:
    """Return the items of ``source``, in the order of its globs (each sorted) or of its rows; the same each time.

    A picture that two globs find comes once; of rows every one comes. A sample is chosen by a hash of ``seed`` and the
    picture's location, or the row's number: what is added to a source hardly changes what is in a sample, and a larger
    sample contains the smaller one.

    Args:
        extra: further names for templates; an item's own names come first.
        listed: what globs have found already; a glob that is not in it is put there.
        hides_labels: no template asks for labels.

    Raises:
        RecipeError: there are no items, or the source cannot be read. A file may turn out to be damaged only after
            some of its items were returned.
    """
    maker = _Maker(source, dict(extra or {}), listed, hides_labels=hides_labels)
    chosen = _chosen(source, maker)
    count = read = 0
    for number, (entry, item) in enumerate(maker.filtered()):
        read += 1
        if chosen is not None and number not in chosen:
            continue
        if isinstance(source.sample, float) and draw(source.seed, entry.identity) >= source.sample:
            continue
        yield item if item.index == count else maker.renumbered(entry, item, count)
        count += 1
        if count == source.limit:
            return
    if not count:
        what = f"{source.sample} leaves none of {read} items: write a larger share, or a whole number of items"
        raise RecipeError([Problem("source.sample", what)])


@dataclass(frozen=True)
class _Entry:
    """The location of a picture, or a row, before any template is filled in."""

    path: str = ""
    row: Row | None = None

    @property
    def where(self) -> str:
        return self.row.where if self.row else self.path

    @property
    def identity(self) -> str:
        return self.path or (str(self.row.number) if self.row else "")


def _entries(source: Source, listed: Listed | None) -> Iterator[_Entry]:
    if source.has_rows:
        known = listed.tars if listed is not None else None
        found = dataset.rows(source, finder_in(listed), known) if source.dataset else tables.rows(source.table)
        for row in found:
            yield _Entry(row.picture, row)
        return
    seen: set[str] = set()
    for pattern in source.images:
        for path in matched(pattern, listed):
            if path not in seen:
                seen.add(path)
                yield _Entry(path)


class _Maker:
    """Makes items of entries."""

    def __init__(
        self, source: Source, extra: Mapping[str, Any], listed: Listed | None = None, *, hides_labels: bool = False
    ) -> None:
        self._source = source
        self._hides_labels = hides_labels
        self._listed = listed
        self._extra = extra
        texts = (source.image, *source.columns.values())
        self._counts = any("index" in _names(text) for text in texts)
        given = source.annotations
        self._annotations = read_annotations(given.path, given.format) if given is not None else None

    def entries(self) -> Iterator[_Entry]:
        """Return the locations of pictures, or the rows."""
        return _entries(self._source, self._listed)

    def filtered(self) -> Iterator[tuple[_Entry, Item]]:
        """Return the items that the filter lets through, numbered, each with its entry.

        Raises:
            RecipeError: there are none, or the source cannot be read.
        """
        read = passed = 0
        for entry in self.entries():
            read += 1
            item = self.made_of(entry, passed)
            if item is not None:
                passed += 1
                yield entry, item
        if not read and self._source.has_rows:
            field = "table" if self._source.table else "dataset"
            place = self._source.table or ", ".join(self._source.dataset)
            raise NoItems([Problem(f"source.{field}", f"{place} has no rows")])
        if not read:
            raise NoItems([Problem("source.images", _without_match(self._source.images))])
        if not passed:
            what = "row" if self._source.has_rows else "picture"
            count = f"the one {what}" if read == 1 else f"any of the {read} {what}s"
            raise RecipeError([Problem("source.filter", f"{quote(self._source.filter)} is not true of {count}")])

    def made_of(self, entry: _Entry, index: int) -> Item | None:
        """Return the item of ``entry``; None if the filter leaves it out."""
        return self._filtered(entry, *self._item(entry, index))

    def renumbered(self, entry: _Entry, item: Item, index: int) -> Item:
        """Return ``item`` with another index, its templates filled in anew if they use it."""
        return self._item(entry, index)[0] if self._counts and not item.error else replace(item, index=index)

    def _item(self, entry: _Entry, index: int) -> tuple[Item, dict[str, Any]]:
        """Return the item, and the names that its templates know."""
        row = entry.row
        if row is None:
            return self._with_columns(entry, Item(index, entry.path))
        if row.error:
            return Item(index, "", {}, {}, row.number, f"{row.where}: {row.error}"), {}
        visible = {name: value for name, value in row.values.items() if is_plain(name)}
        path, error = self._picture(entry, {**self._extra, **visible, "row": row.values, "index": index})
        if error:
            return Item(index, "", visible, row.values, row.number, error), {}
        return self._with_columns(entry, Item(index, path, visible, row.values, row.number))

    def _picture(self, entry: _Entry, context: Mapping[str, Any]) -> tuple[str, str]:
        """Return the location of a row's picture, and what is wrong with it, or an empty string."""
        template = self._source.image
        if not template:
            return entry.path, ""
        try:
            value = templates.render(template, context, "source.image")
        except InvalidRequest as error:
            return "", _explain(entry, "source.image", template, context, error)
        wrong = f"{entry.where}: source.image: {quote(template)} is"
        if isinstance(value, (Mapping, list)):
            fields = [] if isinstance(value, list) else sorted(value, key=lambda name: name != "path")
            field = f".{cut(str(fields[0]))}" if fields else "[0]"
            example = f"'{{{{ {cut(_inside(template))}{field} }}}}'"
            remedy = f"write the field that says where the picture is, such as {example}"
            return "", f"{wrong} a structure here ({shown(value)}): {remedy}"
        path = "" if value is None else str(value)
        return path, "" if path.strip() else f"{wrong} empty here: write where the picture is"

    def _with_columns(self, entry: _Entry, item: Item) -> tuple[Item, dict[str, Any]]:
        if self._annotations is not None:
            try:
                labels = self._annotations.at(item.path)
                item = replace(item, labels=labels, hides_labels=self._hides_labels)
            except InvalidRequest as error:
                return replace(item, error=str(error)), {}
        if not self._source.columns and not self._source.filter:
            return item, {}
        context = {**self._extra, **item.context}
        columns = dict(item.columns)
        problems: list[str] = []
        failed: set[str] = set()
        for name, template in self._source.columns.items():
            if failed and failed & _names(template):
                failed.add(name)  # for the same reason
                continue
            where = f"source.columns.{name}"
            try:
                columns[name] = context[name] = templates.render(template, context, where)
            except InvalidRequest as error:
                failed.add(name)
                problems.append(_explain(entry, where, template, context, error))
        return replace(item, columns=columns, error="\n".join(problems)), context

    def _filtered(self, entry: _Entry, item: Item, context: Mapping[str, Any]) -> Item | None:
        condition = self._source.filter
        if not condition or item.error:
            return item
        try:
            value = templates.evaluate(condition, context, "source.filter")
        except InvalidRequest as error:
            return replace(item, error=_explain(entry, "source.filter", condition, context, error))
        if isinstance(value, str) and not isinstance(value, Number) and value.strip().lower() in _SAYS_NO:
            remedy = f"write {cut(condition)} == {quote(value)}, or !="
            what = f"{quote(condition)} is the text {quote(value)}, which counts as true: {remedy}"
            return replace(item, error=f"{entry.where}: source.filter: {what}")
        return item if value else None


def _without_match(patterns: Sequence[str]) -> str:
    hints = [hint for pattern in patterns if (hint := folders.left_out(pattern) or _near_misses(pattern))]
    remedy = "; ".join(hints) or "put pictures there, or write another glob"
    return f"no file matches {', '.join(map(files.quoted, patterns))}: {remedy}"


_near_misses = partial(files.near_misses, kinds=FILE_TYPES)


def source_warnings(source: Source, listed: Listed | None = None) -> list[Problem]:
    """Return what the globs of a source nearly match besides its pictures, and files in it that are not there.

    Folders are listed once more.

    Args:
        listed: as for ``items_of``.

    Raises:
        RecipeError: a folder cannot be listed.
    """
    found = dataset.warnings(source, finder_in(listed)) if source.dataset else []
    for index, pattern in enumerate(source.images):
        there = matched(pattern, listed)
        hint = folders.left_out(pattern) if folders.is_folder(pattern, there) else _near_misses(pattern, there)
        if hint or not (there or files.has_wildcards(pattern)):
            what = f"'{files.quoted(pattern)}' {'leaves files out' if there else 'matches no file'}"
            where = f"source.images.{index}" if len(source.images) > 1 else "source.images"
            found.append(Problem(where, f"{what}: {hint}" if hint else what))
    return found


def finder(source: Source, extra: Mapping[str, Any], listed: Listed | None = None) -> Callable[[str], bool]:
    """Return what checks whether a picture at a path would be an item of ``source``.

    It would if a glob matches it, also through links as they are now, and the filter holds.

    Raises:
        RecipeError: a folder cannot be listed.
    """
    patterns = [
        folders.pattern_below(one) if folders.is_folder(one, matched(one, listed)) else one for one in source.images
    ]
    patterns += dataset.patterns(source, finder_in(listed))
    matchers = [files.matcher(pattern, files.links_of(pattern)) for pattern in patterns]
    maker = _Maker(source, extra)

    def finds(path: str) -> bool:
        is_found = any(matches(path) for matches in matchers)
        return is_found and maker.made_of(_Entry(path), 0) is not None

    return finds


def _inside(template: str) -> str:
    """Return the expression of a template that is one expression."""
    return template.strip().removeprefix("{{").removesuffix("}}").strip()


def _explain(entry: _Entry, where: str, text: str, context: Mapping[str, Any], error: InvalidRequest) -> str:
    """Return what is wrong with a template for one item, and what to write instead."""
    missing = sorted(_names(text, expression=where == "source.filter") - context.keys())
    if not missing:
        return f"{entry.where}: {error}"
    name = missing[0]
    if entry.row is not None and name in entry.row.values:
        hint = f": write row[{quote(name)}]"
    else:
        hint = nearest(name, context) or f"; known here: {listed(sorted(context))}"
    return f"{entry.where}: {where}: {quote(text)}: nothing is called {quote(name)}{hint}"


@cache
def _names(text: str, *, expression: bool = False) -> frozenset[str]:
    """Return the names that a template or an expression uses; none if it is not understood."""
    if templates.syntax_problem(text, "", expression=expression) is not None:
        return frozenset()
    return templates.names_in_expression(text) if expression else templates.names_in(text)


def _chosen(source: Source, maker: _Maker) -> set[int] | None:
    """Return the numbers of the items in a sample of so many; None if the source has no such sample."""
    if source.sample is None or isinstance(source.sample, float):
        return None
    entries = (entry for entry, _ in maker.filtered()) if source.filter else maker.entries()
    drawn = ((draw(source.seed, entry.identity), number) for number, entry in enumerate(entries))
    return {number for _, number in heapq.nsmallest(source.sample, drawn)}


def draw(seed: int, identity: str) -> float:
    """Return a random number from 0 to below 1, the same each time for this entry."""
    text = f"{seed}:{identity}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big") / 2**56
