"""Recipes in Python: the same as in YAML, with types for editors, and with mistakes found early."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from recipes import Painter, perform, place

from flux_tasks import Mask, catalog
from flux_tasks.errors import InvalidRequest, RecipeError
from pipelines import Recipe, operation, steps
from pipelines.language.document.expect import Expect
from pipelines.language.python.signatures import OPTIONS, STEPS, parameters
from pipelines.language.python.stub import stub
from pipelines.operations.user_function import load
from pipelines.steps import (
    Template,
    auto_orient,
    call,
    composite,
    deblur,
    edit,
    erase,
    fill,
    generate,
    mask_dilate,
    mask_from_alpha,
    mask_from_boxes,
    mask_from_color,
    mask_union,
    outpaint,
    pad,
    recipe,
    resize,
    step,
    try_on,
)

ROOT = Path(steps.__file__).parents[1]
PHOTOS = "photos/*.jpg"
OUT = "out/{{ stem }}.png"


def of(*steps: Any, **further: Any) -> Recipe:
    return Recipe("r", **{"source": PHOTOS, "output": OUT, "steps": steps, **further})


def lines(text: str, *, output: str = OUT, head: str = "") -> str:
    return f"name: r\n{head}\nsource: {PHOTOS}\nsteps:\n{text}\noutput: '{output}'\n"


def chain() -> Recipe:
    return Recipe(
        "restore",
        source={"images": PHOTOS, "columns": {"mask": "masks/{{ stem }}.png"}, "limit": 3},
        steps=[
            auto_orient(),
            deblur(when="sharpness < 120"),
            erase(mask="{{ mask }}", dilate_pixels=12, when="mask_exists", preserve=True),
            outpaint(aspect_ratio="16:9", fit="downscale"),
        ],
        output="out/{{ stem }}.png",
        budget=200,
    )


CHAIN = """
name: restore
source: {images: "photos/*.jpg", columns: {mask: "masks/{{ stem }}.png"}, limit: 3}
steps:
  - auto_orient
  - deblur: {}
    when: sharpness < 120
  - erase: {mask: "{{ mask }}", dilate_pixels: 12}
    when: mask_exists
    preserve: true
  - outpaint: {aspect_ratio: "16:9", fit: downscale}
output: {path: "out/{{ stem }}.png"}
budget: 200
"""


def branches() -> Recipe:
    corner = mask_from_boxes(boxes=[[10, 10, 100, 100]], from_="source")
    clear = mask_from_alpha(from_="source")
    both = mask_union(from_=[corner, clear], id="both")
    clean = erase(mask=both, from_="source", id="clean", save="out/clean/{{ stem }}.png")
    grown = fill(mask=step("both", dilate=4, invert=True), prompt="grass", from_="source", id="grown")
    return of(corner, clear, both, clean, grown, edit(prompt="join them", from_=[clean, "grown", "source"]))


BRANCHES = lines("""
  - mask_from_boxes: {boxes: [[10, 10, 100, 100]]}
    from: source
  - mask_from_alpha: {}
    from: source
  - mask_union: {}
    from: [mask_from_boxes, mask_from_alpha]
    id: both
  - erase: {mask: {step: both}}
    from: source
    id: clean
    save: "out/clean/{{ stem }}.png"
  - fill: {mask: {step: both, dilate: 4, invert: true}, prompt: grass}
    from: source
    id: grown
  - edit: {prompt: join them}
    from: [clean, grown, source]
""")


def varied() -> Recipe:
    return of(
        edit(prompt="in {{ style }}, take {{ take }}", matrix={"take": [1, 2], "model": ["flux-2-pro", "flux-2-max"]}),
        resize(max_side=256),
        vars={"style": "oil"},
        output=["out/{{ stem }}-{{ variant }}.png"],
    )


VARIED = lines(
    """
  - edit: {prompt: "in {{ style }}, take {{ take }}"}
    matrix: {take: [1, 2], model: [flux-2-pro, flux-2-max]}
  - resize: {max_side: 256}
""",
    output="out/{{ stem }}-{{ variant }}.png",
    head="vars: {style: oil}",
)


def masks() -> Recipe:
    return of(
        erase(mask=Mask(boxes=((1, 2, 30, 40),), dilate=3)),
        fill(mask={"alpha": True}, prompt="sky"),
        erase(mask=Path("masks/one.png"), id="third"),
        composite(over="stamp.png", mask=step("white"), feather=2.5),
        mask_from_color(color="white", id="white", from_="source"),
        output={"path": OUT, "from": "composite"},
    )


MASKS = lines("""
  - erase: {mask: {boxes: [[1, 2, 30, 40]], dilate: 3}}
  - fill: {mask: {alpha: true}, prompt: sky}
  - erase: {mask: masks/one.png}
    id: third
  - composite: {over: stamp.png, mask: {step: white}, feather: 2.5}
  - mask_from_color: {color: white}
    id: white
    from: source
""").replace(f"output: '{OUT}'", f"output: {{path: '{OUT}', from: composite}}")


def checked() -> Recipe:
    return of(
        outpaint(
            aspect_ratio="1:1",
            expect=Expect(solid=False, min_side=64),
            on_failure={"retry_with": {"mode": "high"}, "then": "keep"},
            vars={"who": "a cat"},
            prompt="{{ who }}",
        ),
        pad(aspect_ratio="2:1", color="#ffffff"),
    )


CHECKED = lines("""
  - outpaint: {aspect_ratio: "1:1", prompt: "{{ who }}"}
    expect: {solid: false, min_side: 64}
    on_failure: {retry_with: {mode: high}, then: keep}
    vars: {who: a cat}
  - pad: {aspect_ratio: "2:1", color: "#ffffff"}
""")


def words() -> Recipe:
    return Recipe(
        "r",
        source={"table": "looks.csv", "image": "people/{{ who }}.png"},
        steps=[try_on(garment="garments/{{ garment }}.png", prompt="wear it", seed="{{ seed }}"), generate(prompt="x")],
        output=[{"path": "out/a-{{ index }}.png", "from": "try_on"}, "out/{{ index }}.png"],
    )


WORDS = """
name: r
source: {table: looks.csv, image: "people/{{ who }}.png"}
steps:
  - try_on: {garment: "garments/{{ garment }}.png", prompt: wear it, seed: "{{ seed }}"}
  - generate: {prompt: x}
output: [{path: "out/a-{{ index }}.png", from: try_on}, "out/{{ index }}.png"]
"""

PAIRS: dict[str, tuple[Callable[[], Recipe], str]] = {
    "chain": (chain, CHAIN),
    "branches": (branches, BRANCHES),
    "varied": (varied, VARIED),
    "masks": (masks, MASKS),
    "checked": (checked, CHECKED),
    "words": (words, WORDS),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_recipe_in_python_and_in_yaml_have_the_same_digest(name: str) -> None:
    in_python, in_yaml = PAIRS[name]
    assert in_python().digest == Recipe.parse(in_yaml).digest


@pytest.mark.parametrize("name", PAIRS)
def test_a_recipe_that_is_written_as_yaml_and_read_again_has_the_same_digest(name: str) -> None:
    made = PAIRS[name][0]()
    assert Recipe.parse(made.to_yaml()).digest == made.digest


def test_what_a_recipe_in_yaml_paid_for_the_one_in_python_does_not_pay_for() -> None:
    text = lines("  - deblur: {seed: 3}\n  - edit: {prompt: 'at {{ hour }}'}\n    matrix: {hour: [dawn, dusk]}")
    with Painter() as bfl, place(bfl) as here:
        ends = {
            "source": f"{here.folder}/photos/*",
            "output": f"{here.folder}/out/{{{{ stem }}}}-{{{{ variant }}}}.png",
        }
        in_yaml = Recipe.parse(
            text.replace(f"source: {PHOTOS}", f"source: {ends['source']}").replace(OUT, ends["output"])
        )
        in_python = Recipe(
            "r", **ends, steps=[deblur(seed=3), edit(prompt="at {{ hour }}", matrix={"hour": ["dawn", "dusk"]})]
        )
        assert in_yaml.digest == in_python.digest
        first, _ = perform(in_yaml, here.settings)
        second, _ = perform(in_python, here.settings)
    assert (first.summary.jobs, second.summary.jobs) == (6, 0)


# -- functions and recipes as steps -----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sepia(image: Any, strength: float = 1.0, id: str = "") -> Any:  # noqa: A002
    return image


@operation(gives="mask")
def bright(image: Any) -> Any:
    return image


def test_a_function_in_python_is_the_one_that_yaml_names(folder: Path) -> None:
    (folder / "my_steps_ops.py").write_text("def grain(image, strength=4):\n    return image\n")
    yaml = lines("  - call: my_steps_ops:grain\n    with: {strength: 2}\n    id: noisy\n  - deblur")
    function = load("my_steps_ops:grain").function
    for given in (function, "my_steps_ops:grain"):
        made = of(call(given, strength=2, id="noisy"), deblur())
        assert made.digest == Recipe.parse(yaml).digest
    assert made.steps[0].action.source == load("my_steps_ops:grain").source  # type: ignore[union-attr]


def test_a_decorated_function_gives_what_it_says() -> None:
    hole = call(bright, from_="source")
    made = of(hole, erase(mask=hole))
    assert made.graph.node("erase").parameters["mask"].node == "bright"


def test_a_parameter_that_means_something_else_beside_a_step_is_given_apart() -> None:
    made = of(call(sepia, strength=0.5, with_={"id": "mine"}, id="brown"))
    assert (made.steps[0].id, made.steps[0].parameters) == ("brown", {"strength": 0.5, "id": "mine"})


def test_what_a_function_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequest, match=r"call.strenght: .*sepia has no such parameter \(did you mean 'strength'"):
        call(sepia, strenght=2)


def test_a_function_that_cannot_be_named_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="write it with def at the top of a module"):
        call(lambda image: image)


INNER = """
name: inner
vars: {style: oil}
source: "x/*.png"
steps:
  - deblur
  - edit: {prompt: "in {{ style }}"}
output: "o/{{ stem }}.png"
"""


def test_a_recipe_as_a_step_is_the_same_in_both(folder: Path) -> None:
    (folder / "inner.yaml").write_text(INNER)
    plain = Recipe.parse(lines("  - resize: {max_side: 300}\n  - recipe: inner.yaml"))
    inner = Recipe.load("inner.yaml")
    for given in (inner, recipe(inner), recipe("inner.yaml"), recipe(Path("inner.yaml")), {"recipe": "inner.yaml"}):
        assert of(resize(max_side=300), given).digest == plain.digest


def test_a_recipe_as_a_step_may_have_an_id_a_picture_and_values(folder: Path) -> None:
    (folder / "inner.yaml").write_text(INNER)
    yaml = lines(
        "  - resize: {max_side: 300}\n    save: 'o/{{ stem }}.png'\n"
        "  - recipe: inner.yaml\n    id: done\n    from: source\n    with: {style: ink}\n  - pad: {left: 2}"
    )
    made = of(
        resize(max_side=300, save="o/{{ stem }}.png"),
        recipe(Recipe.load("inner.yaml"), id="done", from_="source", with_={"style": "ink"}),
        pad(left=2),
    )
    assert made.digest == Recipe.parse(yaml).digest


def test_only_what_a_recipe_takes_may_stand_beside_it() -> None:
    with pytest.raises(InvalidRequest, match=r"recipe\.when: unknown key; it takes id, from_"):
        recipe("inner.yaml", when="width > 3")


# -- steps that name others -------------------------------------------------------------------------------------------


def test_a_recipe_grows_step_by_step() -> None:
    first = Recipe("r", source=PHOTOS, output=OUT)
    grown = first | deblur() | outpaint(aspect_ratio="16:9")
    assert grown.digest == of(deblur(), outpaint(aspect_ratio="16:9")).digest


def test_a_recipe_that_was_read_grows_in_the_same_way() -> None:
    made = Recipe.parse(CHAIN) | resize(max_side=9)
    assert (made.steps[-1].id, made.outputs[0].step) == ("resize", "resize")
    assert made.digest == (chain() | resize(max_side=9)).digest
    varied = Recipe.parse(VARIED, variables={"style": "ink"}) | {"pad": {"left": 3}}
    assert varied.compiled.vars == {"style": "ink"}


def test_a_step_that_others_name_needs_no_id_of_its_own() -> None:
    hole, further = (
        mask_from_boxes(boxes=[[1, 1, 9, 9]], from_="source"),
        mask_from_boxes(boxes=[[5, 5, 9, 9]], from_="source"),
    )
    made = of(hole, further, erase(mask=further), fill(mask=hole, prompt="x"))
    yaml = lines("""
  - mask_from_boxes: {boxes: [[1, 1, 9, 9]]}
    from: source
  - mask_from_boxes: {boxes: [[5, 5, 9, 9]]}
    from: source
  - erase: {mask: {step: mask_from_boxes_2}}
  - fill: {mask: {step: mask_from_boxes}, prompt: x}
""")
    assert made.digest == Recipe.parse(yaml).digest


def test_steps_as_mappings_may_name_steps_too() -> None:
    hole = mask_from_boxes(boxes=[[1, 1, 9, 9]])
    made = of({"deblur-v1": {}}, deblur(), hole, {"erase": {"mask": hole}})
    assert [s.id for s in made.steps] == ["deblur", "deblur_2", "mask_from_boxes", "erase"]


def test_a_step_that_is_named_and_not_among_the_steps_is_told() -> None:
    hole = mask_from_boxes(boxes=[[1, 1, 9, 9]])
    with pytest.raises(RecipeError, match=r"mask_from_boxes\(boxes=.*\) is named by a step and is not one itself: put"):
        of(erase(mask=hole)).check()


def test_a_step_that_is_named_and_is_there_twice_is_told() -> None:
    hole = mask_from_boxes(boxes=[[1, 1, 9, 9]])
    with pytest.raises(RecipeError, match="is the id of an earlier step, too"):
        of(hole, hole, erase(mask=hole)).check()


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_every_parameter_that_does_not_exist_is_told_with_the_nearest_one() -> None:
    with pytest.raises(InvalidRequest) as caught:
        erase(mask="m.png", dilate_pixel=3, wen="x")
    assert str(caught.value).splitlines() == [
        "erase.dilate_pixel: erase has no such parameter (did you mean 'dilate_pixels'?)",
        "erase.wen: erase has no such parameter; it takes mask, user, dilate_pixels, seed, safety_tolerance, "
        "output_format, variant, fit",
    ]


@pytest.mark.parametrize(
    ("make", "name"), [(deblur, "image"), (try_on, "person"), (mask_dilate, "mask"), (edit, "image")]
)
def test_the_picture_of_the_step_before_is_no_parameter(make: Any, name: str) -> None:
    with pytest.raises(
        InvalidRequest, match="comes from the step before: leave it out, or name another step with from_"
    ):
        make(**{name: "a.png"})


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), [1, [2, {3}]], {"a": iter(())}])
def test_a_value_that_no_recipe_can_hold_is_refused_at_once(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"edit\.prompt.*which no recipe can hold: write a text, a number"):
        edit(prompt=value)


def test_a_list_that_holds_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        mask_from_boxes(boxes=endless)


def test_a_picture_to_begin_with_is_taken_as_it_is() -> None:
    with pytest.raises(
        InvalidRequest, match=r"erase\.from_: step\('a', dilate=3\) is the picture as it is here: leave dilate"
    ):
        erase(mask="m.png", from_=step("a", dilate=3))


def test_texts_and_numbers_of_other_kinds_are_written_as_plain_ones() -> None:
    made = of(outpaint(aspect_ratio="1:1", mode=Template("{{ 'high' }}"), prompt=Template("x")))
    assert "mode: '{{ ''high'' }}'" in made.to_yaml()
    assert Recipe.parse(made.to_yaml()).digest == made.digest


# -- what editors and people see --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_every_parameter_of_every_step_is_known_to_the_recipe(name: str) -> None:
    for parameter in parameters(name):
        known = [model for model in catalog.MODELS.get(name, ()) if parameter.name in catalog.TOOLS[model].parameters]
        given = {parameter.name: "{{ stem }}", **({"model": known[0]} if known else {})}
        try:
            of(getattr(steps, name)(**given)).check()
        except RecipeError as error:
            assert f"{parameter.name}: {name} has no such parameter" not in str(error)


@pytest.mark.parametrize("name", STEPS)
def test_no_parameter_of_a_tool_is_called_like_what_stands_beside_a_step(name: str) -> None:
    assert not {p.name for p in parameters(name)} & {p.name for p in OPTIONS}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_has_its_signature_and_words_for_every_parameter(name: str) -> None:
    function = getattr(steps, name)
    assert [*inspect.signature(function).parameters] == [p.name for p in (*parameters(name), *OPTIONS)]
    assert all(f"    {p.name}: {p.description}" in function.__doc__ for p in parameters(name))
    assert all(p.description for p in parameters(name))


def test_a_step_is_shown_as_it_is_written() -> None:
    hole = mask_from_alpha(id="hole")
    assert repr(deblur()) == "deblur()"
    assert (
        repr(erase(mask=hole, dilate_pixels=3, from_="source"))
        == "erase(mask=step('hole'), dilate_pixels=3, from_='source')"
    )
    assert repr(fill(mask=step("hole", dilate=2))) == "fill(mask=step('hole', dilate=2))"
    assert repr(call("my_ops:grain", strength=2)) == "call('my_ops:grain', strength=2)"
    assert repr(edit(from_=[hole, "b"], save=Path("a/{{ stem }}.png"))) == (
        "edit(from_=[step('hole'), 'b'], save='a/{{ stem }}.png')"
    )


def test_a_recipe_is_shown_with_its_steps_even_if_it_is_wrong() -> None:
    assert repr(Recipe.parse(CHAIN)) == "<Recipe 'restore': auto_orient, deblur, erase, outpaint>"
    wrong = of(erase(), call("no:where"), {"from": "x", "resize": {}}, chain(), deblur(id="last"))
    assert repr(wrong) == "<Recipe 'r': erase, where, resize, restore, last>"
    assert repr(recipe(chain())).startswith("recipe(<Recipe 'restore'")
    assert repr(Recipe("r", source=PHOTOS, output=OUT)) == "<Recipe 'r': no steps>"


def test_the_stub_is_fresh() -> None:
    assert Path(steps.__file__).with_suffix(".pyi").read_text(encoding="utf-8") == stub(), "make stubs"


def test_recipes_in_python_need_neither_prefect_nor_a_cloud_library() -> None:
    program = (
        "import sys; from pipelines import Recipe, operation, step; from pipelines.steps import deblur\n"
        "Recipe('r', source='a/*.png', steps=[deblur()], output='o/{{ stem }}.png').check()\n"
        "print(sorted(m for m in ('prefect', 's3fs', 'gcsfs', 'numpy', 'cv2', 'pyarrow') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


GOOD = """
from pathlib import Path
from pipelines import Recipe, operation, step
from pipelines.language.document.expect import Expect
from pipelines.steps import Template, call, deblur, edit, erase, fill, mask_from_boxes, outpaint, recipe, resize
from PIL import Image

@operation(gives="mask")
def bright(image: Image.Image, above: int = 200) -> Image.Image:
    return image.point(lambda value: 255 * (value > above))

hole = mask_from_boxes(boxes=[[1, 2, 3, 4], ["{{ x }}", 0, 9, 9]], from_="source")
made = Recipe(
    "r",
    source="photos/*.jpg",
    steps=[
        hole,
        resize(max_side=512, fit="cover", filter=Template("{{ how }}")),
        deblur(seed="{{ take }}", matrix={"take": [1, 2]}, when="width > 9", expect={"solid": False}),
        erase(mask=hole, dilate_pixels=3, preserve={"feather": 2.5}, on_failure="keep", expect=Expect(drift=4)),
        fill(mask={"boxes": [[1, 2, 3, 4]], "dilate": 3}, prompt="x", from_=[hole, step("deblur")]),
        edit(model="flux-2-max", references=["a.png", Path("b.png"), hole], prompt="x", save=Path("o")),
        outpaint(expand={"left": 3}, mode="fast", on_failure={"retry_with": {"mode": "high"}, "then": "keep"}),
        call(bright, above=3, id="b"),
        recipe("other.yaml", with_={"style": "oil"}),
    ],
    output="out/{{ stem }}.png",
)
again: Recipe = made | deblur()
text: str = again.to_yaml()
"""

BAD = {
    "deblur(sed=3)": 'Unexpected keyword argument "sed" for "deblur"; did you mean "seed"?',
    "outpaint(mode='hihg')": 'Argument "mode" to "outpaint" has incompatible type',
    "edit(model='flux-3')": 'Argument "model" to "edit" has incompatible type',
    "erase(mask=3)": 'Argument "mask" to "erase" has incompatible type "int"',
    "erase(mask={'dilat': 3})": 'Argument "mask" to "erase" has incompatible type',
    "erase(dilate_pixels=[1])": 'Argument "dilate_pixels" to "erase" has incompatible type',
    "deblur(expect={'solidd': False})": 'Argument "expect" to "deblur" has incompatible type',
    "deblur(on_failure='kep')": 'Argument "on_failure" to "deblur" has incompatible type',
    "erase('mask.png')": 'Too many positional arguments for "erase"',
    "resize(boxes=[])": 'Unexpected keyword argument "boxes" for "resize"',
    "use(endpont='local')": 'Unexpected keyword argument "endpont" for "use"; did you mean "endpoint"?',
    "use(max_jobs='3')": 'Argument "max_jobs" to "use" has incompatible type "str"',
    "use(region='here')": 'Argument "region" to "use" has incompatible type',
    "Recipe.load('r.yaml').run(limt=3)": 'Unexpected keyword argument "limt" for "run" of "Recipe"',
    "Recipe.load('r.yaml').run(budget='3')": 'Argument "budget" to "run" of "Recipe" has incompatible type "str"',
    "Recipe.load('r.yaml').run()['count']": 'TypedDict "RunResult" has no key "count"',
    "asyncio.run(Recipe.load('r.yaml').arun(stor='s'))": 'Unexpected keyword argument "stor" for "arun" of "Recipe"',
    "Recipe.load('r.yaml').plan(seed=3)": 'Unexpected keyword argument "seed" for "plan" of "Recipe"',
    "run_recipe('r.yaml', endpont='local')": 'Unexpected keyword argument "endpont" for "run_recipe"',
}

GOOD_SETTINGS = """
import asyncio
from flux_tasks import Settings, use
from pipelines import Recipe
from pipelines.flows import arun_recipe, run_recipe

with use(endpoint="local", store="out/store", max_jobs=3, deadline=None, region="strict") as chosen:
    shown: Settings = chosen
with use(Settings(), key="k", timeout=3, on_uncertain="hold"):
    recipe = Recipe.load("r.yaml")
plan = recipe.plan(limit=3, budget=2.5, endpoint="local", settings=Settings())
result = recipe.run(limit=3, seed=1, budget=None, raise_on=["failed"], send_urls=True, on_event=print)
counts: dict[str, int] = result["counts"]
cost: float = asyncio.run(recipe.arun(retry_moderated=True, poll_interval=0.5))["cost"]
paid: int = run_recipe("r.yaml", engine="classical")["jobs"]
"""


def test_type_checkers_find_mistakes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "good_settings.py").write_text(GOOD_SETTINGS)
    homes = {"flux_tasks": "use", "pipelines": "Recipe", "pipelines.flows": "run_recipe"}
    imports = [f"from {home} import {names}" for home, names in homes.items()]
    imports += ["import asyncio", "from pipelines.steps import deblur, edit, erase, outpaint, resize"]
    wrong = "; ".join(imports) + "\n" + "\n".join(BAD)
    (tmp_path / "bad.py").write_text(wrong)
    command = [sys.executable, "-m", "mypy", "--no-color-output"]  # strict, and what `make types` has found is known
    files = [str(path) for path in sorted(tmp_path.glob("*.py"))]
    done = subprocess.run([*command, *files], capture_output=True, text=True, cwd=ROOT)
    said = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert not [line for line in said if "good" in line], done.stdout
    for number, (call_, message) in enumerate(BAD.items(), start=2):
        assert any(f"bad.py:{number}: error: " in line and message in line for line in said), (call_, done.stdout)


def test_an_output_names_its_step_and_a_source_lists_its_globs_as_they_stand_in_python() -> None:
    small = steps.resize(max_side=64, id="small")
    recipe = Recipe(source=["a/*.jpg", "b/*.png"], steps=[small], output=[{"path": "o/{{ stem }}.png", "from": small}])
    assert recipe.outputs[0].step == "small"
    assert recipe.source.images == ("a/*.jpg", "b/*.png")
    assert Recipe.parse(recipe.to_yaml()).digest == recipe.digest
