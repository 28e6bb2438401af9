"""One recipe with everything in it, as a user goes about it: graph, plan, run; in YAML and in Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli
from PIL import Image

from flux_tasks.local.server import LocalServer
from pipelines import Recipe
from pipelines.steps import deblur, edit, erase, mask_from_boxes, resize

ROOT = Path(__file__).parent.parent.parent
PHOTOS = ("camels", "drums", "hens")

TEXT = """\
name: everything
vars: {{style: watercolour}}
source:
  images: [{photos}]
  columns: {{object: "{root}/examples/masks/{{{{ stem }}}}.png"}}
steps:
  - resize: {{max_side: 320}}
    id: small
  - deblur: {{}}                                       # a condition, decided before anything is paid
    id: sharp
    when: sharpness < 700
  - mask_from_boxes: {{boxes: [[10, 10, 90, 70]]}}
    id: corner
    from: small
  - erase: {{mask: {{step: corner}}, dilate_pixels: 4}}   # a branch
    id: clean
    from: sharp
    preserve: true
  - edit: {{prompt: "in {{{{ style }}}}, take {{{{ take }}}}", seed: "{{{{ take }}}}", model: flux-2-klein-4b}}
    id: painted                                       # another branch, spread out
    from: sharp
    matrix: {{take: [1, 2]}}
  - edit: {{prompt: "join them", model: flux-2-pro}}    # a join
    id: joined
    from: [clean, painted]
output:
  - {{path: "{out}/{{{{ stem }}}}-clean.png", from: clean}}
  - {{path: "{out}/{{{{ stem }}}}-{{{{ variant }}}}.png", from: joined}}
"""


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer(key="right-key", credits=10_000) as running:
        yield running


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    photos = ", ".join(f'"{ROOT}/examples/photos/{name}.jpg"' for name in PHOTOS)
    path = tmp_path / "everything.yaml"
    path.write_text(TEXT.format(photos=photos, root=ROOT, out=tmp_path / "out"))
    return path


def in_python(tmp_path: Path) -> Recipe:
    small = resize(max_side=320, id="small")
    sharp = deblur(id="sharp", when="sharpness < 700")
    corner = mask_from_boxes(boxes=[(10, 10, 90, 70)], id="corner", from_=small)
    clean = erase(mask=corner, dilate_pixels=4, id="clean", from_=sharp, preserve=True)
    painted = edit(
        prompt="in {{ style }}, take {{ take }}",
        seed="{{ take }}",
        model="flux-2-klein-4b",
        id="painted",
        from_=sharp,
        matrix={"take": [1, 2]},
    )
    joined = edit(prompt="join them", model="flux-2-pro", id="joined", from_=[clean, painted])
    return Recipe(
        "everything",
        vars={"style": "watercolour"},
        source={
            "images": [f"{ROOT}/examples/photos/{name}.jpg" for name in PHOTOS],
            "columns": {"object": f"{ROOT}/examples/masks/{{{{ stem }}}}.png"},
        },
        steps=[small, sharp, corner, clean, painted, joined],
        output=[
            {"path": f"{tmp_path}/out/{{{{ stem }}}}-clean.png", "from": "clean"},
            {"path": f"{tmp_path}/out/{{{{ stem }}}}-{{{{ variant }}}}.png", "from": "joined"},
        ],
    )


def test_graph_and_plan_come_first_the_book_has_as_many_jobs_as_planned_and_python_pays_for_nothing_more(
    recipe: Path, tmp_path: Path, server: LocalServer, prefect_server: str
) -> None:
    cli = Cli(tmp_path, prefect_server)
    drawn = cli("graph", str(recipe))
    assert drawn.returncode == 0
    assert all(name in drawn.stdout for name in ("small", "sharp", "corner", "clean", "painted", "joined"))

    planned = cli("plan", str(recipe), "--endpoint", server.url, "--json", key="right-key")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert not (tmp_path / "store").exists(), "a plan writes nothing"
    assert not server.charges.entries, "a plan spends nothing"
    assert plan["undecided"]["jobs"] == 0
    assert 0 < next(s for s in plan["steps"] if s["id"] == "sharp")["skipped"] < 3, "the condition tells them apart"

    done = cli("run", str(recipe), "--endpoint", server.url, key="right-key")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(server.charges.entries) == plan["jobs"]
    for name in PHOTOS:
        for variant in ("clean", "take-1", "take-2"):
            with Image.open(tmp_path / "out" / f"{name}-{variant}.png") as image:
                assert max(image.size) >= 256

    written = in_python(tmp_path)
    assert written.digest == Recipe.load(recipe).digest == Recipe.parse(written.to_yaml()).digest
    again = written.run(endpoint=server.url, key="right-key", store=str(tmp_path / "store"))
    assert (again["counts"], again["jobs"]) == ({"cached": 3}, 0)
    assert len(server.charges.entries) == plan["jobs"]
    assert "no job to pay for" in cli("plan", str(recipe), "--endpoint", server.url, key="right-key").stdout


def test_a_variable_that_is_set_on_the_command_line_makes_other_jobs(
    recipe: Path, tmp_path: Path, server: LocalServer
) -> None:
    cli = Cli(tmp_path)
    refused = cli("plan", str(recipe), "--endpoint", server.url, "--set", "stile=oil", key="right-key")
    assert refused.returncode == 2
    assert "--set stile: there is no variable 'stile' to be set (did you mean 'style'?)" in refused.stderr
    assert Recipe.load(recipe, {"style": "oil"}).digest != Recipe.load(recipe).digest


def test_plan_validate_and_graph_import_neither_prefect_nor_a_cloud_library(recipe: Path, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pipelines.cli import main\n"
        f"for command in ('plan', 'validate', 'graph'):\n"
        f"    arguments = [command, {str(recipe)!r}]\n"
        f"    if command == 'plan': arguments += ['--endpoint', 'local', '--store', {str(tmp_path / 'store')!r}]\n"
        "    assert main(arguments) == 0\n"
        "print([name for name in ('prefect', 's3fs', 'gcsfs', 'pyarrow', 'cv2') if name in sys.modules])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1:] == ["[]"], ran.stdout + ran.stderr
