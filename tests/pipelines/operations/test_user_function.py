"""The user's own functions: found beside the recipe, called with pictures, and whatever they do told as our errors."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, noise
from PIL import Image, ImageOps
from waiting import PATIENCE

from flux_tasks.errors import InvalidImage, InvalidRequest, ItemError
from flux_tasks.images.encoding import mark_preview
from flux_tasks.images.reference import ImageRef
from pipelines.operations.registry import OPERATIONS, Operation
from pipelines.operations.user_function import UserFunction, load, operation

ROOT = Path(__file__).resolve().parents[3]
HEAD = "from PIL import Image, ImageOps\nfrom pipelines.operations.user_function import operation\n"
_numbers = count()


def ref(image: Image.Image | None = None, kind: str = "PNG", **options: Any) -> ImageRef:
    return ImageRef.of(encoded(image or noise(), kind, **options), name="apple")


Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Write a module beside the recipe, that is, into the current folder; gives its name."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(text: str) -> str:
        name = f"my_ops_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(HEAD + text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("my_ops"):
            del sys.modules[name]


def refusal(reference: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load(reference, where="steps.0.call")
    (problem,) = caught.value.problems
    assert problem.where == "steps.0.call"
    return problem.what


# -- calling ----------------------------------------------------------------------------------------------------------


def test_a_plain_function_beside_the_recipe_is_a_step(module: Module) -> None:
    name = module("def mirror(image, twice=False):\n    return image if twice else ImageOps.mirror(image)\n")
    step = load(f"{name}:mirror")
    assert (step.output_kind, list(step.inputs)) == ("image", ["image"])
    result = step.perform({}, {"image": ref()})
    assert result.open().tobytes() == ImageOps.mirror(noise()).tobytes()
    assert (result.name, result.media_type, result.data is not None) == ("apple", "image/png", True)


def test_bytes_stay_untouched_where_the_function_changes_nothing(module: Module) -> None:
    step = load(f"{module('def same(image, n=1): return image')}:same")
    photo = ref(kind="JPEG")
    assert step.perform({"n": 3}, {"image": photo}).read() == photo.read()


def test_a_function_may_change_its_picture_in_place(module: Module) -> None:
    name = module("def dot(image):\n    image.putpixel((0, 0), (1, 2, 3))\n    return image\n")
    step = load(f"{name}:dot")
    photo = ref()
    assert step.perform({}, {"image": photo}).open().getpixel((0, 0)) == (1, 2, 3)
    assert photo.open().getpixel((0, 0)) == noise().getpixel((0, 0))


def test_the_function_gets_an_upright_picture_of_a_mode_that_it_can_rely_on(module: Module) -> None:
    text = "def tell(image):\n    assert image.mode in ('L', 'LA', 'RGB', 'RGBA'), image.mode\n"
    step = load(f"{module(text + '    return Image.new(image.mode, (image.width, 1))')}:tell")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert step.perform({}, {"image": ref(exif=exif)}).upright_size == (48, 1)
    for mode in ("1", "P", "I;16"):
        picture = Image.new(mode, (5, 4))
        assert step.perform({}, {"image": ref(picture)}).upright_size == (5, 1)
    assert step.perform({}, {"image": ref(Image.new("CMYK", (5, 4)), "TIFF")}).open().mode == "RGB"


def test_further_pictures_are_the_parameters_that_are_annotated_so(module: Module) -> None:
    name = module(
        "def blend(photo: Image.Image, other: Image.Image, frame: 'Image.Image | None' = None, *, share: float):\n"
        "    assert frame is None or frame.mode == 'L'\n"
        "    return Image.blend(photo, other, share)\n"
    )
    step = load(f"{name}:blend")
    assert {n: (s.required, s.is_primary) for n, s in step.inputs.items()} == {
        "image": (True, True),
        "other": (True, False),
        "frame": (False, False),
    }
    white, black = ref(Image.new("RGB", (2, 2), "white")), ref(Image.new("RGB", (2, 2)))
    result = step.perform({"share": 0.4}, {"image": white, "other": black, "frame": ref(Image.new("L", (2, 2)))})
    assert result.open().getpixel((0, 0)) == (153, 153, 153)
    with pytest.raises(InvalidRequest, match=r"blend\.other: is required: give it a picture"):
        step.perform({"share": 0.4}, {"image": white})


def test_annotations_that_exist_for_type_checkers_only_are_read_as_text(module: Module) -> None:
    name = module("def put(image: Image.Image, mark: 'Image.Image', size: 'NotThere' = 1): return mark\n")
    assert list(load(f"{name}:put").inputs) == ["image", "mark"]


def test_what_gives_a_mask_is_made_black_and_white(module: Module) -> None:
    name = module("@operation(gives='mask')\ndef bright(image): return image.convert('L')\n")
    step = load(f"{name}:bright")
    assert step.output_kind == "mask"
    assert set(step.perform({}, {"image": ref()}).open().tobytes()) == {0, 255}


def test_the_mark_of_a_local_preview_stays_on_what_a_function_makes(module: Module) -> None:
    step = load(f"{module('def flip(image, by: Image.Image = None): return ImageOps.flip(image)')}:flip")
    photo = noise()
    preview = ref(photo, **mark_preview(photo, "local:classical@1"))
    for pictures in ({"image": preview}, {"image": ref(), "by": preview}):
        assert step.perform({}, pictures).is_preview
    assert not step.perform({}, {"image": ref()}).is_preview


def test_a_function_is_called_from_several_threads_at_once_each_with_its_own_values(module: Module) -> None:
    name = module("def add(image, values):\n    values.append(9)\n    return Image.new('L', (len(values), 1))\n")
    step, values = load(f"{name}:add"), [1, 2]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: step.perform({"values": values}, {"image": ref()}), range(32)))
    assert {result.width for result in made} == {3}
    assert values == [1, 2]


# -- what goes wrong in it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('too dark')", "ValueError: too dark"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyError", "KeyError"),
        ("return 1 / 0", "ZeroDivisionError: division by zero"),
        ("return None", "returned nothing, not an image: return a Pillow image"),
        ("return 'a.png'", "returned a str, not an image: return a Pillow image"),
        (
            "import numpy; return numpy.zeros((3, 3), 'uint8')",
            "returned a ndarray, not an image: return Image.fromarray(…)",
        ),
        ("return Image.new('RGB', (0, 5))", "returned 0×5 px: return from 1 px to 100 MP"),
        ("return Image.new('1', (100_000, 1_001))", "returned 100000×1001 px: return from 1 px to 100 MP"),
        ("image.close(); return image", "ValueError"),
    ],
)
def test_whatever_goes_wrong_is_the_items_trouble(module: Module, body: str, told: str) -> None:
    name = module(f"def fn(image):\n    {body}\n")
    with pytest.raises(InvalidImage) as caught:
        load(f"{name}:fn").perform({}, {"image": ref()})
    assert str(caught.value).startswith(f"{name}:fn: {told}")


def test_an_error_that_cannot_be_told_is_named(module: Module) -> None:
    name = module("class Odd(Exception):\n    def __str__(self): raise RuntimeError\n\ndef fn(image):\n    raise Odd\n")
    with pytest.raises(InvalidImage, match=f"^{name}:fn: Odd$"):
        load(f"{name}:fn").perform({}, {"image": ref()})


@settings(deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I", "F"]),
    size=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    gives=st.sampled_from(["image", "mask"]),
)
def test_whatever_picture_a_function_returns_is_a_result_or_the_items_trouble(
    mode: str, size: tuple[int, int], gives: Any
) -> None:
    step = UserFunction("tests:fn", gives, lambda image: Image.new(mode, size), "0" * 64)
    try:
        assert step.perform({}, {"image": ref()}).upright_size == size
    except ItemError as error:
        assert "tests:fn: returned" in str(error)


# -- references -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference", ["", "fn", "my_ops", "my_ops.fn", "my_ops:", ":fn", "my ops:fn", "a:b:c", 7, None]
)
def test_a_reference_of_another_shape_is_refused(reference: Any) -> None:
    assert "write it as package.module:function, such as my_ops:grain" in refusal(reference)


def test_names_that_are_not_there_are_told_with_the_nearest(module: Module) -> None:
    name = module("def grain(image): return image\n")
    assert refusal(f"{name}:grian") == f"{name} has no 'grian' (did you mean 'grain'?)"
    assert refusal(f"{name}x:grain") == f"there is no module '{name}x' (did you mean '{name}'?)"
    assert refusal(f"{name}.inner:grain").startswith(f"there is no module '{name}.inner'")
    assert "; it is looked for in " in refusal("quite_another_thing:grain")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise ValueError('not today')", "ValueError: not today"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("import not_installed_at_all", "ModuleNotFoundError: No module named 'not_installed_at_all'"),
        ("def (", "SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(module: Module, text: str, told: str) -> None:
    name = module(text)
    assert refusal(f"{name}:fn").startswith(f"{name} cannot be imported: {told}")


def test_a_module_that_answers_for_its_own_names_may_fail(module: Module) -> None:
    name = module("def __getattr__(name): raise ValueError(name)\n")
    assert refusal(f"{name}:fn") == f"{name}:fn cannot be imported: ValueError: fn"


def test_a_current_folder_that_has_gone_is_no_other_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert refusal("not_there_at_all:fn").startswith("there is no module 'not_there_at_all'")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fn = 3", "is int, no function"),
        ("async def fn(image): return image", "is async: write it with a plain def"),
        ("def fn(image): yield image", "yields: return one image"),
        ("def fn(): return 1", "takes no picture: its first parameter is the picture"),
        ("def fn(*, image): return image", "takes no picture: its first parameter is the picture"),
        ("def fn(image, other, /): return image", "has further parameters without a name"),
        ("def fn(photo, image: Image.Image): return image", "calls a further picture 'image'"),
        ("fn = dict.update", "does not show its parameters"),
    ],
)
def test_what_cannot_be_a_step_is_refused(module: Module, text: str, told: str) -> None:
    assert told in refusal(f"{module(text)}:fn")


def test_importing_leaves_no_trace(module: Module, tmp_path: Path) -> None:
    name = module("def fn(image): return image\n")
    paths, bytecode, finders = list(sys.path), sys.dont_write_bytecode, set(sys.path_importer_cache)
    load(f"{name}:fn")
    refusal("not_there_at_all:fn")
    assert sys.path == paths
    assert sys.dont_write_bytecode is bytecode
    assert str(tmp_path) not in set(sys.path_importer_cache) - finders
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.py"]


# -- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_checked_by_the_functions_signature(module: Module) -> None:
    step = load(f"{module('def fn(image, strength, seed=0, *, other: Image.Image = None): return image')}:fn")
    found = {p.where: p.what for p in step.check({"strenght": 1, "image": "a.png", "other": 2}, where="steps.1.call")}
    assert found == {
        "steps.1.call.strenght": f"{step.reference} has no such parameter (did you mean 'strength'?)",
        "steps.1.call.image": "is a picture: give it a step or a file, no plain value",
        "steps.1.call.other": "is a picture: give it a step or a file, no plain value",
        "steps.1.call.strength": "is required: write a value for it",
    }
    assert step.check({"strength": 1}) == []
    assert step.check({}, partial=True) == []
    with pytest.raises(InvalidRequest, match="strength: is required"):
        step.perform({}, {"image": ref()})


def test_a_function_of_any_parameters_takes_any(module: Module) -> None:
    name = module("def fn(image, **more): return Image.new('L', (more['n'], 1))\n")
    step = load(f"{name}:fn")
    assert step.check({"whatever": 1}) == []
    assert step.perform({"n": 7}, {"image": ref()}).width == 7


def test_the_first_parameter_is_not_written_in_the_recipe(module: Module) -> None:
    step = load(f"{module('def fn(photo, n=1): return photo')}:fn")
    assert [p.where for p in step.check({"photo": 1}, where="call")] == ["call.photo"]


# -- source -----------------------------------------------------------------------------------------------------------


def source_in_a_new_process(folder: Path, reference: str) -> dict[str, str]:
    code = (
        "import json; from pipelines.operations.user_function import load; "
        f"print(json.dumps(load({reference!r}).identity))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-P", "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return dict(json.loads(done.stdout))


def test_an_edited_module_has_another_source_in_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "my_own.py"
    path.write_text("def fn(image): return image\n")
    first = source_in_a_new_process(tmp_path, "my_own:fn")
    assert first == {
        "call": "my_own:fn",
        "source": hashlib.sha256(path.read_bytes()).hexdigest(),
        "gives": "image",
    }
    assert source_in_a_new_process(tmp_path, "my_own:fn") == first
    path.write_text("def fn(image): return image.copy()\n")
    assert source_in_a_new_process(tmp_path, "my_own:fn")["source"] != first["source"]


def test_the_source_is_that_of_the_code_that_runs_not_of_a_later_edit(module: Module, tmp_path: Path) -> None:
    name = module("def fn(image): return ImageOps.flip(image)\n")
    before = load(f"{name}:fn")
    (tmp_path / f"{name}.py").write_text("def fn(image): return image\n")
    assert load(f"{name}:fn").source == before.source


class Hook(SourceFileLoader):
    """Changes what it loads, as the import hooks of type checkers do; Prefect's server brings one of them along."""

    def source_to_code(self, data: Any, path: Any, **options: Any) -> Any:  # type: ignore[override]
        return super().source_to_code(bytes(data).replace(b"rotate", b"transpose"), path, **options)


def imported_by_hand(name: str, folder: Path, loader: type[SourceFileLoader] = SourceFileLoader) -> Any:
    file = str(folder / f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, file, loader=loader(name, file))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fn


CHANGES = {
    "its body": ("return image.rotate(90)", "return image.rotate(180)"),
    "what it calls": ("return size", "return 2 * size"),
    "a line above it": ("import math", "import math, os\n"),
    "so that it is no Python": ("import math", "import math math"),
}


@pytest.mark.parametrize("loader", [SourceFileLoader, Hook])
@pytest.mark.parametrize("change", CHANGES)
def test_a_function_imported_before_its_file_was_edited_has_not_the_source_of_the_new_file(
    module: Module, tmp_path: Path, change: str, loader: type[SourceFileLoader]
) -> None:
    text = "import math\nclass Helper:\n    def half(self, size): return size\n"
    text += "def fn(image):\n    return image.rotate(90)\n"
    as_written, name = load(f"{module(text)}:fn").source, module(text)
    imported = imported_by_hand(name, tmp_path, loader)
    file = tmp_path / f"{name}.py"
    file.write_text(file.read_text().replace(*CHANGES[change]))
    edited = hashlib.sha256(file.read_bytes()).hexdigest()
    assert UserFunction.of(imported).source not in (as_written, edited)


@pytest.mark.parametrize("loader", [SourceFileLoader, Hook])
def test_a_function_imported_before_the_recipe_has_the_source_of_its_file(
    module: Module, tmp_path: Path, loader: type[SourceFileLoader]
) -> None:
    name = module("def fn(image): return image if image.mode in {'L', 'RGB'} else (lambda: image)()\n")
    imported = imported_by_hand(name, tmp_path, loader)
    assert UserFunction.of(imported).source == hashlib.sha256((tmp_path / f"{name}.py").read_bytes()).hexdigest()


def test_the_source_of_a_borrowed_function_is_that_of_both_modules(module: Module, tmp_path: Path) -> None:
    inner = module("def fn(image): return image\n")
    outer = module(f"from {inner} import fn\n")
    assert len({load(f"{inner}:fn").source, load(f"{outer}:fn").source}) == 2


def test_a_function_of_a_notebook_has_its_own_source(tmp_path: Path) -> None:
    code = (
        "import linecache, hashlib\nfrom pipelines.operations.user_function import UserFunction\n"
        "text = 'def cell(image): return image\\n'\n"
        "linecache.cache['<cell 1>'] = (len(text), None, text.splitlines(True), '<cell 1>')\n"
        "exec(compile(text, '<cell 1>', 'exec'))\n"
        "step = UserFunction.of(cell)\n"
        "assert step.reference == '__main__:cell', step.reference\n"
        "assert step.source == hashlib.sha256(text.encode()).hexdigest()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        timeout=PATIENCE,
        check=True,
    )


# -- in Python --------------------------------------------------------------------------------------------------------


@operation(gives="mask")
def dark(image: Image.Image, below: int = 128) -> Image.Image:
    """White where it is dark."""
    return image.convert("L").point([255 if value < below else 0 for value in range(256)])


@operation
def turned(image: Image.Image) -> Image.Image:
    return image.rotate(180)


def test_a_decorated_function_stays_a_plain_function() -> None:
    assert dark(Image.new("RGB", (1, 1))).getpixel((0, 0)) == 255
    assert turned(noise()).size == (64, 48)
    assert (dark.__name__, dark.__doc__) == ("dark", "White where it is dark.")


def test_a_function_is_a_step_without_its_reference_too() -> None:
    step = UserFunction.of(dark)
    assert (step.reference, step.output_kind) == (f"{__name__}:dark", "mask")
    assert step.source == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert UserFunction.of(turned).output_kind == "image"


def test_a_function_that_no_recipe_can_name_is_refused() -> None:
    def local(image: Image.Image) -> Image.Image:
        return image

    for function in (local, lambda image: image):
        with pytest.raises(InvalidRequest, match="cannot be named in a recipe: write it with def at the top"):
            UserFunction.of(function)


def test_a_decorator_that_is_used_wrongly_says_so() -> None:
    with pytest.raises(InvalidRequest, match="gives='masks' is not known: write 'image' or 'mask'"):
        operation(gives="masks")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="cannot be marked as a step"):
        operation(3)  # type: ignore[type-var]


def test_a_runner_treats_operations_and_functions_alike() -> None:
    steps: list[UserFunction | Operation] = [UserFunction.of(turned), OPERATIONS["flatten"]]
    for step in steps:
        assert step.for_role("image").output_kind == "image"
        assert step.check({}) == []
        assert step.identity
        assert step.defaults({}) is not None
        assert step.perform({}, {"image": ref(noise(mode="RGBA"))}).upright_size == (64, 48)
        assert step.output_size({}, (64, 48)) in (None, (64, 48))
