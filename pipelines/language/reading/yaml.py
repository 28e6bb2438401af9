"""YAML documents with the line of every value, so that a message can show where a mistake is."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from flux_tasks.errors import Problem

Path = tuple[str | int, ...]


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
    """Parse YAML safely: plain data, without tags for objects, without aliases, without a key twice."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        remedy = _remedy(what, line)
        return Document(None, {}, (Problem("", f"not valid YAML: {what}{remedy}", mark.line + 1 if mark else None),))
    except RecursionError:
        return Document(None, {}, (Problem("", "nested too deeply to be a recipe"),))
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return Document(None, {}, (Problem("", "the file is empty"),))
    lines: dict[Path, int] = {}
    problems: list[Problem] = []
    try:
        data = _plain(node, (), lines, problems, seen=set())
    except RecursionError:
        return Document(None, {}, (Problem("", "nested too deeply to be a recipe"),))
    return Document(data, lines, tuple(problems))


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


def _plain(node: yaml.Node, path: Path, lines: dict[Path, int], problems: list[Problem], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    lines[path] = line
    where = ".".join(map(str, path))
    if id(node) in seen:
        problems.append(Problem(where, "aliases (*name) are not supported: write the value again", line))
        return None
    if not isinstance(node, yaml.ScalarNode):
        seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        odd = next((key for key, _ in node.value if not isinstance(key, yaml.ScalarNode)), None)
        if odd is not None:  # what {{ stem }} without quotes is to YAML
            names = [key.value for key, _ in odd.value] if isinstance(odd, yaml.MappingNode) else []
            template = f"{{{{ {names[0] if names and isinstance(names[0], str) else 'stem'} }}}}"
            problems.append(Problem(where, f'put templates in quotes: "{template}"', line))
            return template
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(getattr(key_node, "value", ""))
            inner = (*path, key)
            if key in found:
                problems.append(
                    Problem(".".join(map(str, inner)), "is written twice: keep one", key_node.start_mark.line + 1)
                )
            found[key] = _plain(value_node, inner, lines, problems, seen)
            lines[inner] = key_node.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*path, index), lines, problems, seen) for index, child in enumerate(node.value)]
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        problems.append(Problem(where, f"the tag {node.tag} is not allowed: write plain text, numbers or lists", line))
        return None
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node)
        if isinstance(value, int) and abs(value) >= 10**100:
            problems.append(Problem(where, "a number of more than 100 digits: write a smaller one", line))
            return None
        return value
    except (yaml.YAMLError, ValueError) as error:
        problems.append(Problem(where, f"cannot be read: {error}", line))
        return None
    finally:
        loader.dispose()
