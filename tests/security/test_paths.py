"""Names that bite: results stay in their folder, and what a name holds is text in files, report and terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_bfl import FakeBfl
from forked import Forked
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image
from scripted import Answer


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((96, 80)).convert("RGB").save(path, "PNG")
    return path


def recipe(output: str, columns: dict[str, str] | None = None) -> str:
    """A recipe as text; JSON is YAML, so that every character comes through as it is."""
    return json.dumps(
        {
            "source": {"images": ["photos/*", "photos/.*"], "columns": columns or {}},
            "steps": ["deblur"],
            "output": {"path": output},
        }
    )


def tree(folder: Path) -> set[str]:
    """Every file below ``folder``, links not followed, without what the run keeps for itself."""
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() or p.is_symlink()}
    return {name for name in found if not name.startswith("work/store/")}


@pytest.fixture
def work(tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the program runs, two levels below one that belongs to the test, and so does the home."""
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLUX_STORE", str(folder / "store"))
    monkeypatch.chdir(folder)
    return folder


# -- results stay in their folder -------------------------------------------------------------------------------------

COLUMNS = [
    ("out/{{ c }}.png", "../escaped"),
    ("out/{{ c }}.png", "../../escaped"),
    ("out/{{ c }}.png", "x/../../escaped"),
    ("out/{{ c }}.png", "./.././escaped"),
    ("out/{{ c }}.png", "..//escaped"),
    ("out/{{ c }}.png", "/../escaped"),
    ("out/{{ c }}.png", "link/../escaped"),
    ("out/{{ c }}.png", "link/escaped"),
    ("out/{{ c }}.png", "a\x00b"),
    ("out/{{ c }}/x.png", ".."),
    ("out/{{ c }}/{{ c }}/x.png", ".."),
    ("out/{{ c }}{{ c }}/escaped.png", "."),
    ("out/{{ c }}x.png", "../out"),
    ("out/a{{ c }}.png", "/../../escaped"),
    ("{{ c }}.png", "../escaped"),
    ("{{ c }}.png", "{tmp}/escaped"),
    ("{{ c }}.png", "//{tmp}/escaped"),
    ("{{ c }}.png", "~/escaped"),
    ("{{ c }}/escaped.png", "~"),
    ("{{ c }}.png", "memory://elsewhere/escaped"),
    ("{{ c }}.png", "MEMORY://elsewhere/escaped"),
    ("{{ c }}.png", "file://{tmp}/escaped"),
    ("{{ c }}.png", "file://localhost{tmp}/escaped"),
    ("{{ c }}.png", "file://%2e%2e/escaped"),
    ("{{ c }}.png", "file://x/%2e%2e/%2e%2e/escaped"),
    ("{{ c }}.png", "local://{tmp}/escaped"),
    ("{{ c }}.png", "local://~/escaped"),
    ("{{ c }}.png", "simplecache::memory://elsewhere/escaped"),
    ("{{ c }}.png", "http://127.0.0.1:9/escaped"),
    ("../{{ c }}/escaped.png", ".."),
    ("../{{ c }}.png", "../escaped"),
    ("../../{{ c }}.png", "../../escaped"),
    ("memory://bucket/out/{{ c }}.png", "../escaped"),
    ("memory://bucket/out/{{ c }}.png", "../../elsewhere/escaped"),
    ("memory://{{ c }}/x.png", "../elsewhere"),
]


@pytest.mark.parametrize(("output", "column"), COLUMNS, ids=lambda text: ascii(text)[1:-1])
def test_a_column_that_leads_out_of_the_output_folder_ends_its_item_before_anything_is_paid_or_written(
    cli: Any, bfl: FakeBfl, work: Path, tmp_path: Path, output: str, column: str
) -> None:
    picture(work / "photos" / "bad.png")
    (work / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (work / "out" / "link").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    MemoryFileSystem.store.clear()
    bad = column.replace("{tmp}", str(tmp_path))
    (work / "recipe.yaml").write_text(recipe(output, {"c": bad}))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    memory, MemoryFileSystem.store = set(MemoryFileSystem.store), {}
    assert tree(tmp_path) - before - {"work/recipe.yaml"} | memory == set()
    assert told.outcomes == {"bad": "invalid"}, told.all
    assert "leads out of" in told.out
    assert bfl.jobs == 0


def test_the_items_beside_one_that_would_lead_out_are_done(cli: Any, bfl: FakeBfl, work: Path) -> None:
    for name in ("bad", "good", "fine"):
        picture(work / "photos" / f"{name}.png")
    column = "{{ '../escaped' if stem == 'bad' else 'sub/' ~ stem }}"
    (work / "recipe.yaml").write_text(recipe("out/{{ c }}.png", {"c": column}))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert sorted(told.outcomes.values()) == ["cached", "done", "invalid"], "equal pictures are one job"
    assert told.outcomes["bad"] == "invalid"
    assert bfl.jobs == 1, "the same picture twice"
    assert sorted(p.name for p in (work / "out" / "sub").iterdir()) == ["fine.png", "good.png"]


NAMES = [
    "...png",
    "%2e%2e.png",
    "..%2f..%2fescaped.png",
    "..%2F..%2Fescaped-too.png",
    "%2fetc%2fescaped.png",
    "..\\..\\escaped-back.png",
    "C:\\escaped.png",
    "C:escaped-drive.png",
    "~.png",
    "~root.png",
    "a%00b.png",
    "file:%2f%2fx%2fescaped.png",
    "memory:%2f%2felsewhere%2fescaped.png",
    "-rf.png",
    "$(touch escaped).png",
    "`touch escaped`.png",
    "{{ 7 * 7 }}.png",
    "{% raw %}.png",
    "a\nb.png",
    " .png",
]


@pytest.mark.parametrize(
    "output", ["{{ stem }}.png", "{{ name }}.png", "{{ stem }}/x.png", "out/{{ stem }}.png", "out/{{ name }}/x.png"]
)
def test_no_file_name_leads_a_result_out_of_the_folder_that_the_recipe_names(
    cli: Any, bfl: FakeBfl, work: Path, tmp_path: Path, output: str
) -> None:
    for name in NAMES:
        picture(work / "photos" / name)
    (work / "recipe.yaml").write_text(recipe(f"results/{output}"))
    before = tree(tmp_path)
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    rows = [json.loads(line) for line in told.file("manifest").read_bytes().split(b"\n") if line]
    outcomes = [row["outcome"].replace("cached", "done") for row in rows]  # equal pictures are one job
    assert len(rows) == len(NAMES)
    assert set(outcomes) <= {"done", "invalid"}
    assert outcomes.count("done") > 5
    new = tree(tmp_path) - before
    assert [path for path in new if not path.startswith("work/results/")] == []
    assert len(new) == outcomes.count("done")
    assert not any("49" in path for path in new), "a file name is no template"


@pytest.mark.parametrize("name", ["~.png", "~root.png"])
def test_a_file_that_is_named_like_a_home_folder_does_not_lead_there(
    cli: Any, bfl: FakeBfl, work: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(work / "photos" / name)
    (work / "recipe.yaml").write_text(recipe("{{ stem }}/flux-none-such/result.png"))
    home = Path("~root").expanduser() / "flux-none-such"
    cli("run", "recipe.yaml", "--endpoint", bfl.url)
    escaped = home.exists()
    if escaped:  # leave nothing behind
        for path in (*home.iterdir(), home):
            path.rmdir() if path.is_dir() else path.unlink()
    assert not escaped
    assert list((tmp_path / "home").rglob("*")) == []


def test_a_name_as_long_as_names_can_be_is_that_items_trouble_alone(cli: Any, bfl: FakeBfl, work: Path) -> None:
    picture(work / "photos" / "good.png")
    picture(work / "photos" / f"{'x' * 251}.png")
    (work / "recipe.yaml").write_text(recipe("out/{{ stem }}-{{ stem }}.png"))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 1
    assert told.outcomes["good"] in ("done", "cached")
    assert told.outcomes["x" * 251] in ("invalid", "failed")
    assert sorted(p.name for p in (work / "out").iterdir()) == ["good-good.png"]


@pytest.mark.parametrize("kind", ["file", "dangling", "loop", "folder"])
def test_a_link_in_the_place_of_a_result_is_replaced_and_what_it_points_to_stays_as_it_is(
    cli: Any, bfl: FakeBfl, work: Path, tmp_path: Path, kind: str
) -> None:
    picture(work / "photos" / "good.png")
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("precious")
    elif kind == "folder":
        target.mkdir()
    link = work / "out" / "good.png"
    link.parent.mkdir()
    link.symlink_to(link if kind == "loop" else target)
    (work / "recipe.yaml").write_text(recipe("out/{{ stem }}.png"))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.outcomes == {"good": "done"}
    assert not link.is_symlink()
    with Image.open(link) as image:
        assert image.size == (96, 80)
    if kind == "file":
        assert target.read_text() == "precious"
    elif kind == "folder":
        assert list(target.iterdir()) == []
    else:
        assert not target.exists()


# -- names are text ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "new\nline",
    "carriage\rreturn",
    'two\n\n{"item": "forged", "outcome": "done"}',
    "next\x85line",
    "line\u2028separator",
    "paragraph\u2029separator",
    "form\x0cfeed\x0bvertical\x1cfile\x1dgroup\x1erecord",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http:evil.example\x1b\\link",
    "\x9b31mred",
    "\x90dcs\x9c",
    "bell\x07back\x08delete\x7f",
    "right\u202eto\u2066left",
    "<script>alert(1)<\u2215script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--",
    "]]>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}",
    "[bold red]markup[-bold]",
    "%s%d%n",
    "\\x1b[31m",
    "🐈",
]


class Page(HTMLParser):
    """A report taken apart: its elements and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        else:
            self.text += data


def assert_harmless(page: Page) -> None:
    """The only script is the report's own, and nothing else can run, load or lead anywhere."""
    import pipelines.report

    own = Path(pipelines.report.__file__).parent.joinpath("assets", "report.js").read_text("utf-8")
    assert ["".join(page.scripts).strip()] == [own.strip()]
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    for tag, attributes in page.elements:
        assert tag not in {"iframe", "object", "embed", "base", "form", "applet", "frame", "frameset"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name, value)
            assert name not in {"srcdoc", "action", "formaction", "srcset", "background", "ping"}
            if name in {"src", "href", "xlink:href"}:
                assert value.startswith(("data:", "#")), (tag, name, value)


def controls(text: str) -> list[str]:
    """Characters that a terminal obeys instead of showing them; a line's end is none."""
    return sorted(set(re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)))


@pytest.fixture
def hostile(work: Path) -> Path:
    """For each hostile name one good picture and one that is none."""
    for number, name in enumerate(HOSTILE):
        picture(work / "photos" / f"{number} {name}.png")
        (work / "photos" / f"bad {number} {name}.png").write_text("not a picture")
    (work / "recipe.yaml").write_text(recipe("out/{{ stem }}.png"))
    return work


def test_hostile_names_are_whole_in_the_manifest_text_in_the_report_and_harmless_on_the_terminal(
    cli: Any, bfl: FakeBfl, hostile: Path
) -> None:
    from pipelines.data.manifest import read_manifest

    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    wanted = {f"photos/{p.name}" for p in (hostile / "photos").iterdir()}
    written = told.file("manifest")
    by_line = [json.loads(line) for line in written.read_bytes().split(b"\n") if line]
    assert {row["source"] for row in by_line} == wanted
    assert {row["outcome"] for row in by_line} == {"done", "cached", "invalid"}
    assert len(by_line) == len(wanted)
    assert bfl.jobs == 1, "the same picture under many names"
    assert len(list((hostile / "out").iterdir())) == len(HOSTILE)
    page = Page(told.file("report").read_text("utf-8"))
    assert_harmless(page)
    assert controls(told.all) == []
    assert not re.search(r"^forged|^\{", told.out, re.MULTILINE)
    # Other readers of lines than json.loads over b"\n", above all this project's own, see the same rows.
    assert {row["source"] for row in read_manifest(str(written))} == wanted
    assert sum(tag == "article" for tag, _ in page.elements) == len(wanted)
    for name in ("<script>alert(1)", "onerror=alert(1)", "<!--", "{{ 7 * 7 }}"):
        assert name in page.text


def test_what_the_service_says_cannot_steer_the_terminal_or_the_report(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe("out/{{ stem }}.png"))
    words = "\x1b[2J\x1b]0;owned\x07\x9b31m<script>alert(1)</script>\r  done: everything\u202e"
    bfl.submit_answer = Answer(400, {"detail": words})
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert set(told.outcomes.values()) == {"invalid"}
    assert "alert(1)" in told.out, "its words are told"
    assert controls(told.all) == []
    assert_harmless(Page(told.file("report").read_text("utf-8")))


def test_a_refusal_at_the_door_cannot_steer_the_terminal(cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe("out/{{ stem }}.png"))
    bfl.on("GET /v1/credits", Answer(403, {"detail": "\x1b[2Jgo\u2028away\x9b1m"}))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.code == 3
    assert controls(told.all) == []


NAMED: dict[str, Callable[[str], dict[str, Any]]] = {
    "name": lambda text: {"name": text},
    "unknown key": lambda text: {text: 1},
    "image": lambda text: {"source": {"images": f"photos/{text}"}},
    "column": lambda text: {"source": {"images": "photos/*", "columns": {text: "x"}}},
    "step": lambda text: {"steps": [text]},
    "parameter": lambda text: {"steps": [{"deblur": {text: 1}}]},
    "value": lambda text: {"steps": [{"erase": {"mask": "m.png", "dilate_pixels": text}}]},
    "when": lambda text: {"steps": [{"deblur": {}, "when": f"'{text}' =="}]},
    "output": lambda text: {"output": {"path": f"{text}{{{{ x }}}}.png"}},
}


@pytest.mark.parametrize("place", NAMED)
def test_nothing_in_a_recipe_steers_the_terminal(cli: Any, photos: Path, tmp_path: Path, place: str) -> None:
    document = json.loads(recipe("out/{{ stem }}.png")) | NAMED[place]("\x1b[2Jowned\x07\x9b31m\u202e\x08")
    (tmp_path / "recipe.yaml").write_text(json.dumps(document))
    told = cli("validate", "recipe.yaml")
    assert "owned" in told.all
    assert controls(told.all) == []


def test_a_recipe_file_with_a_hostile_name_is_named_harmlessly(cli: Any, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "\x1b[2Jowned\x07.yaml").write_text("name: [")
    told = cli("validate", "\x1b[2Jowned\x07.yaml")
    assert told.code == 2
    assert "owned" in told.err
    assert controls(told.all) == []


STRICT = """
import sys
from pipelines.cli.main import main
encoding = sys.argv.pop(1)  # as PYTHONIOENCODING=<encoding>:strict sets the streams
sys.stdout = open(1, "w", encoding=encoding, errors="strict", closefd=False)
sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)
sys.exit(main())
"""


def test_names_that_are_no_text_at_all_are_told_on_a_terminal_that_is_strict_about_it(work: Path) -> None:
    (work / "photos").mkdir()
    bad = os.fsencode(work / "photos") + b"/\xff\xfe-bad.png"
    with open(bad, "wb") as file:
        file.write(b"not a picture")
    (work / "recipe.yaml").write_text(recipe("out/{{ stem }}.png"))
    for encoding in ("utf-8", "ascii", "latin-1"):
        command = [sys.executable, "-c", STRICT, encoding, "run", "recipe.yaml", "--endpoint", "local"]
        with Forked(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding=encoding) as process:
            out, err = process.communicate()
        assert "Traceback" not in err
        assert process.returncode == 1
        assert "-bad" in out
