"""Pictures to run a recipe over, by the command line as people use it or in Python against a server that paints."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli, Here
from PIL import Image
from recipes import Painter, Place, place

RECIPE = """\
name: clean
source: {{images: "{folder}/photos/*", columns: {{mask: "{folder}/masks/{{{{ stem }}}}.png"}}}}
steps:
  - deblur: {{}}
  - erase: {{mask: "{{{{ mask }}}}", dilate_pixels: 12}}
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    mask = Image.new("L", (96, 80))
    mask.paste(255, (10, 10, 30, 30))
    for number in range(2):
        image = Image.linear_gradient("L").resize((96, 80)).rotate(number * 9)
        image.convert("RGB").save(tmp_path / "photos" / f"p{number}.png")
        mask.save(tmp_path / "masks" / f"p{number}.png")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


@pytest.fixture
def cli(folder: Path) -> Cli:
    """The program where no Prefect server is configured."""
    return Cli(folder)


@pytest.fixture
def prefect_cli(folder: Path, prefect_server: str) -> Cli:
    """The program whose runs a Prefect server records: each takes 2 s of CPU more."""
    return Cli(folder, prefect_server)


@pytest.fixture
def here_cli(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """``cli`` in this process: quicker, for tests that kill nothing."""
    return Here(folder, monkeypatch)


@pytest.fixture
def painter() -> Iterator[Painter]:
    with Painter() as server:
        yield server


@pytest.fixture(scope="module")
def shared_painter() -> Iterator[Painter]:
    """One for all examples of property tests."""
    with Painter() as server:
        yield server


@pytest.fixture
def here(request: pytest.FixtureRequest, painter: Painter) -> Iterator[Place]:
    """As many pictures as the module's ``PICTURES`` says, or two; the last of several has no mask."""
    with place(painter, getattr(request.module, "PICTURES", 2)) as found:
        yield found
