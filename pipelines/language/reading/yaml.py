"""YAML documents with the line of every value, so that a message can show where a mistake is."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor

from flux_tasks.errors import Problem

Path = tuple[str | int, ...]


MAX_VALUES = 50_000
"""Values that a document may have."""
MAX_ENTRIES = 1_000
"""Entries of one mapping, such as ``vars``."""


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, the line of every path in it, and mistakes of the YAML itself."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int | None:
        """Return the line of ``path``, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def load(text: str) -> Document:
    """Parse YAML safely: plain data, without tags for objects, without aliases, without a key twice.

    libyaml, where PyYAML has it, takes a tenth of the time. A text with problems is parsed again in Python, whose words
    the remedies know; so is one with tabs, which libyaml takes in places where YAML does not.
    """
    if yaml.__with_libyaml__ and "\t" not in text:
        with suppress(UnicodeError):
            document = _parse(text, _QuickLoader)
            if not document.problems:
                return document
    return _parse(text, _Loader)


def _parse(text: str, loader: type[yaml.SafeLoader | yaml.CSafeLoader]) -> Document:
    reader = _Reader()
    try:
        node = yaml.compose(text, Loader=loader)
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return _broken("the file is empty")
        return Document(reader.plain(node, ()), reader.lines, tuple(reader.problems))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        return _broken(f"not valid YAML: {what}{_remedy(what, line)}", mark.line + 1 if mark else None)
    except _TooMuch as error:
        return _broken(*error.args)
    except RecursionError:
        return _broken("nested too deeply to be a recipe")


class _TooMuch(Exception):
    """What is too much, and the line."""


class _Limited(Composer):
    """A composer that ends where a document has more values than any recipe."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one value."""
        self.composed += 1
        if self.composed > MAX_VALUES:
            line = self.peek_event().start_mark.line + 1  # type: ignore[attr-defined] # of the parser beside it
            raise _TooMuch(f"has more than {MAX_VALUES:,} values: put them into a table", line)
        return super().compose_node(parent, index)


class _Loader(_Limited, yaml.SafeLoader):
    pass


if yaml.__with_libyaml__:

    class _QuickLoader(_Limited, yaml.CSafeLoader):
        def __init__(self, text: str) -> None:
            Composer.__init__(self)
            yaml.CSafeLoader.__init__(self, text)


def _broken(what: str, line: int | None = None) -> Document:
    return Document(None, problems=(Problem("", what, line),))


def _remedy(what: str, line: str) -> str:
    """Return what to write instead, for the most frequent mistakes."""
    if "\t" in line:
        return "; indent with spaces, not with tabs"
    if "{{" in line and not any(f"{quote}{{{{" in line for quote in "\"'"):
        return '; put templates in quotes: "{{ stem }}"'
    if "alphabetic or numeric" in what and "*" in line:
        return '; put globs in quotes: "photos/*.jpg"'
    if "block end" in what or "mapping values" in what or "block mapping" in what:
        return "; check the indentation of this line and the one above: things that belong together begin in one column"
    return ""


@dataclass
class _Reader:
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def add(self, path: Path, what: str, node: yaml.Node) -> None:
        self.problems.append(Problem(".".join(map(str, path)), what, node.start_mark.line + 1))

    def plain(self, node: yaml.Node, path: Path) -> Any:
        """Return ``node`` as plain data, and note the line of everything in it."""
        self.lines[path] = node.start_mark.line + 1
        if id(node) in self.seen:
            return self.add(path, "aliases (*name) are not supported: write the value again", node)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(child, (*path, index)) for index, child in enumerate(node.value)]
        odd = next((key for key, _ in node.value if not isinstance(key, yaml.ScalarNode)), None)
        if odd is not None:  # what {{ stem }} without quotes is to YAML
            names = [key.value for key, _ in odd.value] if isinstance(odd, yaml.MappingNode) else []
            template = f"{{{{ {names[0] if names and isinstance(names[0], str) else 'stem'} }}}}"
            self.add(path, f'put templates in quotes: "{template}"', node)
            return template
        if len(node.value) > MAX_ENTRIES:
            name = ".".join(map(str, path)) or "the recipe"
            what = (
                f"{name} has {len(node.value):,} entries, and a mapping at most {MAX_ENTRIES:,}: put them into a table"
            )
            raise _TooMuch(what, node.start_mark.line + 1)
        found: dict[str, Any] = {}
        for key, value in node.value:
            inner = (*path, str(key.value))
            if key.value in found:
                self.add(inner, "is written twice: keep one", key)
            found[key.value] = self.plain(value, inner)
            self.lines[inner] = key.start_mark.line + 1
        return found

    def scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
            return self.add(path, f"the tag {node.tag} is not allowed: write plain text, numbers or lists", node)
        try:
            value = SafeConstructor().construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            return self.add(path, f"cannot be read: {error}", node)
        if isinstance(value, int) and abs(value) >= 10**100:
            return self.add(path, "a number of more than 100 digits: write a smaller one", node)
        return value
