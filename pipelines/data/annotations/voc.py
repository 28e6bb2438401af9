"""Pascal VOC: an XML file for each picture, with boxes.

Boxes are in pixels that are counted from 1, both ends included (VOC development kit): a box of the whole picture of
640×480 is 1, 1, 640, 480.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from flux_tasks import files
from flux_tasks.errors import InvalidRequest, Problem, RecipeError, shown
from pipelines.data.annotations.base import AT, AnnotationSet, damaged, number, read_text
from pipelines.data.annotations.model import Label, Labels

__all__ = ["read_voc", "written"]

_DECLARATION = re.compile(r"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_DEEPEST = 20
_TAG = re.compile(r"[A-Za-z_][\w.-]*")


def read_voc(path: str) -> AnnotationSet:
    """Read a folder of XML files, or one of them.

    Raises:
        RecipeError: there are none.
    """
    folder = path.rstrip("/")
    found = [path] if path.endswith(".xml") else files.glob(files.join(folder, "**/*.xml"))
    if not found:
        raise RecipeError([Problem(AT, f"{files.quoted(path)} has no .xml files")])
    prefix = f"{path.rpartition('/')[0]}/" if path.endswith(".xml") else f"{folder}/"
    files_of = {file.removeprefix(prefix).removeprefix("./").removesuffix(".xml"): file for file in found}
    return AnnotationSet(path, "voc", {}, [*files_of], lambda picture: _read(files_of[picture]), [path])


def _read(file: str) -> Labels:
    root = _parsed(read_text(file), file)
    if root.tag != "annotation":
        raise damaged(file, f"it begins with <{root.tag}>, and a Pascal VOC file with <annotation>")
    size = None
    if (given := root.find("size")) is not None:
        sides = [_number(given, side, file) for side in ("width", "height")]
        size = (int(sides[0]), int(sides[1])) if all(sides) else None  # 0: it is not known
    labels = tuple(_label(one, f"{file}: object {count}") for count, one in enumerate(root.findall("object"), 1))
    own = ("filename", "size", "object", "path", "folder")
    return Labels(size, labels, {one.tag: _data(one) for one in root if one.tag not in own}, file)


def _parsed(text: str, file: str) -> ElementTree.Element:
    """Return the document; one with a document type is refused, because entities may grow without end.

    Raises:
        InvalidRequest: it is damaged, or has a document type.
    """
    if _DECLARATION.search(text):
        raise damaged(file, "it has a document type (<!DOCTYPE …>), which is not read: take it out")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))  # noqa: S314 - no entity is left
    except (ElementTree.ParseError, ValueError) as error:
        raise damaged(file, f"it is no XML: {error}") from None
    level = [root]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in one]
    if level:
        raise damaged(file, f"its elements are nested more than {_DEEPEST} deep")
    return root


def _number(parent: ElementTree.Element, tag: str, where: str) -> float:
    text = parent.findtext(tag)
    try:
        return number(float(text or ""), where)
    except ValueError:
        raise damaged(where, f"<{tag}> is {shown(text)} and no number") from None


def _label(element: ElementTree.Element, where: str) -> Label:
    name, box = (element.findtext("name") or "").strip(), element.find("bndbox")
    if not name:
        raise damaged(where, "it has no <name>")
    if box is None:
        raise damaged(where, "it has no <bndbox>")
    left, top, right, bottom = (_number(box, side, where) for side in ("xmin", "ymin", "xmax", "ymax"))
    if right < left or bottom < top:
        raise damaged(where, "its box is reversed: xmin is at most xmax, and ymin at most ymax")
    extra = {one.tag: _data(one) for one in element if one.tag not in ("name", "bndbox")}
    return Label(name, (left - 1, top - 1, right, bottom), extra=extra)


def _data(element: ElementTree.Element) -> Any:
    """Return the text of an element, or what is in it: a list, since a tag may come twice."""
    return [[one.tag, _data(one)] for one in element] if len(element) else (element.text or "").strip()


def written(labels: Labels, file_name: str) -> bytes:
    """Return the file of one picture."""
    assert labels.size is not None  # noqa: S101 - of a result
    root = ElementTree.Element("annotation")
    sides = [["width", str(labels.size[0])], ["height", str(labels.size[1])], ["depth", "3"]]
    _add(root, "filename", file_name)
    _add(root, "size", sides)
    for tag, value in {"segmented": "0", **labels.extra}.items():
        _add(root, tag, value)
    for label in labels.labels:
        left, top, right, bottom = map(round, label.box)
        edges = [["xmin", left + 1], ["ymin", top + 1], ["xmax", max(right, left + 1)], ["ymax", max(bottom, top + 1)]]
        usual: Mapping[str, Any] = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}
        said = {**usual, **label.extra}
        if label.visible < 1:
            said["truncated"] = "1"
        parts = [["name", label.name], *([tag, value] for tag, value in said.items()), ["bndbox", edges]]
        _add(root, "object", parts)
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f"{text}\n".encode()


def _add(parent: ElementTree.Element, tag: str, value: Any) -> None:
    if not _TAG.fullmatch(tag):
        raise InvalidRequest(f"{shown(tag)} is no name of an XML element")
    element = ElementTree.SubElement(parent, tag)
    if isinstance(value, list):
        for inner, one in value:
            _add(element, inner, one)
    else:
        element.text = str(value)
