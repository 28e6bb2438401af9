"""A report taken apart, and what of one is on a screen."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Locator
from playwright.sync_api import Page as Tab

from flux_tasks.images.reference import ImageRef

Colour = tuple[int, int, int]


def described(
    folder: Path,
    picture: Image.Image | str = "red",
    size: tuple[int, int] = (320, 240),
    *,
    suffix: str = "png",
    **options: Any,
) -> dict[str, Any]:
    """Save a picture, or a plain one of a colour and size, and return its description as a manifest holds it."""
    image = Image.new("RGB", size, picture) if isinstance(picture, str) else picture
    path = folder / f"picture-{len(list(folder.iterdir()))}.{suffix}"
    image.save(path, **options)
    return ImageRef.of(path).to_dict()


class ReportPage(HTMLParser):
    """A report taken apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        """Attributes of the elements that have the wanted classes (``class_``) or attributes."""
        return [a for t, a in self.tags if t == tag and wanted.get("class_", "") in a.get("class", "")]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@contextmanager
def opened(tab: Tab, report: str) -> Iterator[Tab]:
    """Open a report. It must load nothing and complain of nothing, whatever a test does with it."""
    troubles: list[str] = []
    handlers: dict[str, Callable[[Any], None]] = {
        "console": lambda message: troubles.append(f"console: {message.text}"),
        "pageerror": lambda error: troubles.append(f"error: {error}"),
        "dialog": lambda dialog: (troubles.append("a dialog"), dialog.dismiss())[1],
        "request": lambda request: troubles.append(request.url),
    }
    for event, handler in handlers.items():
        tab.on(event, handler)  # type: ignore[call-overload]
    try:
        tab.goto(report)
        yield tab
    finally:
        for event, handler in handlers.items():
            tab.remove_listener(event, handler)
    assert [trouble for trouble in troubles if not trouble.startswith((report, "data:"))] == []


def stage_of(tab: Tab, item: str) -> Locator:
    """The place where the pictures of an item are compared, scrolled into view."""
    stage = tab.get_by_role("article", name=item).locator(".stage")
    stage.scroll_into_view_if_needed()
    return stage


def colour(stage: Locator, x: float, y: float = 0.8) -> Colour:
    """The screen's colour at a place given as shares of the stage."""
    screen = Image.open(io.BytesIO(stage.screenshot())).convert("RGB")
    found = screen.getpixel((min(int(x * screen.width), screen.width - 1), int(y * screen.height)))
    assert isinstance(found, tuple)
    return (int(found[0]), int(found[1]), int(found[2]))


def near(found: Colour, expected: Colour) -> bool:
    """Whether two colours look alike."""
    return all(abs(a - b) < 24 for a, b in zip(found, expected, strict=True))
