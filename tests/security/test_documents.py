"""Hostile recipes: whatever is written in one, no code runs, nothing takes long or much, and the error is clear."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import Cases
from fake_bfl import FakeBfl
from forked import Forked, run
from PIL import Image
from waiting import PATIENCE

from flux_tasks.errors import InvalidRequest
from pipelines.language import templates

HERE = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])

GOOD = "source: {images: 'photos/*'}\nsteps: [deblur]\noutput: {path: 'out/{{ stem }}.png'}\n"

SECONDS = 20
"""Processor time after which a program is taken to go on for ever; all of these take less than two."""

MEMORY = 2 * 1024**3
"""Address space that a program may take; reading a recipe takes a small part of it."""


def limited(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The program in a process that is killed when it takes too long or too much."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("BFL_", "FLUX_"))}
    return run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        errors="replace",
        cwd=folder,
        env={**environment, "PYTHONPATH": HERE, "BFL_API_KEY": "never-shown-1"},
        limits={"CPU": SECONDS, "AS": MEMORY},
    )


def laughs(levels: int = 30, width: int = 10) -> str:
    """A document of a few lines that stands for more values than there are atoms in the room."""
    lines = ["a0: &a0 [ha]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n" + GOOD


YAML: dict[str, Callable[[], str | bytes]] = {
    "a python object": lambda: f"name: !!python/object/apply:os.system ['touch owned']\n{GOOD}",
    "a python object made anew": lambda: f"name: !!python/object/new:os.system ['touch owned']\n{GOOD}",
    "a python name": lambda: f"name: !!python/name:os.system\n{GOOD}",
    "a python module": lambda: f"name: !!python/module:os\n{GOOD}",
    "a python tuple": lambda: f"name: !!python/tuple [1, 2]\n{GOOD}",
    "a python tag in long": lambda: f"name: !<tag:yaml.org,2002:python/object/apply:os.system> ['touch owned']\n{GOOD}",
    "a python tag by a handle": lambda: (
        f"%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\nname: !p!os.system ['touch owned']\n{GOOD}"
    ),
    "a python tag as a key": lambda: f"? !!python/object/apply:os.system ['touch owned']\n: 1\n{GOOD}",
    "a python tag on the document": lambda: "!!python/object/apply:os.system ['touch owned']",
    "a python tag among steps": lambda: GOOD.replace("[deblur]", "[!!python/object/apply:os.system ['touch owned']]"),
    "a tag of ones own": lambda: f"name: !include /etc/passwd\n{GOOD}",
    "binary data": lambda: f"name: !!binary aGVsbG8=\n{GOOD}",
    "a set": lambda: f"name: !!set {{a, b}}\n{GOOD}",
    "an ordered map": lambda: f"name: !!omap [a: 1]\n{GOOD}",
    "a number that is none": lambda: f"name: !!int abc\n{GOOD}",
    "a date that is none": lambda: f"name: 2024-99-99\n{GOOD}",
    "a number of 60 bases": lambda: "name: " + "9:" * 5_000 + f"9\n{GOOD}",
    "a number of 100,000 digits": lambda: "name: " + "9" * 100_000 + f"\n{GOOD}",
    "a number in base 16": lambda: "name: 0x" + "f" * 100_000 + f"\n{GOOD}",
    "a limit of 100,000 digits in base 16": lambda: GOOD.replace("*'}", f"*', limit: -0x{'f' * 100_000}}}"),
    "a billion laughs": laughs,
    "a billion laughs, wide": lambda: laughs(6, 400),
    "itself": lambda: "&a [*a]",
    "itself as a mapping": lambda: f"name: &a {{b: *a}}\n{GOOD}",
    "itself as a key": lambda: "&a {? *a : 1}",
    "an alias as a key": lambda: f"&n name: x\n*n : y\n{GOOD}",
    "a merge": lambda: f"base: &b {{name: x}}\n<<: *b\n{GOOD}",
    "a merge of itself": lambda: "&a\n<<: *a\n",
    "a merge without an alias": lambda: f"<<: {{name: x}}\n{GOOD}",
    "a key twice": lambda: f"{GOOD}name: a\nname: b\n",
    "a key twice, written two ways": lambda: f'{GOOD}name: a\n"name": b\n',
    "deep lists": lambda: "name: " + "[" * 5_000 + "]" * 5_000 + f"\n{GOOD}",
    "deeper lists": lambda: "name: " + "[" * 200_000 + "\n",
    "deep mappings": lambda: "name: " + "{a: " * 5_000 + "1" + "}" * 5_000 + f"\n{GOOD}",
    "deep blocks": lambda: "\n".join(" " * n + "a:" for n in range(2_000)),
    "deep dashes": lambda: "- " * 5_000 + "a",
    "many documents": lambda: "---\n".join([GOOD] * 3),
    "not utf-8": lambda: GOOD.encode() + b"name: \xff\xfe\n",
    "utf-16": lambda: GOOD.encode("utf-16"),
    "utf-16 without a mark": lambda: GOOD.encode("utf-16-le"),
    "nothing but zeros": lambda: bytes(1_000),
    "a zero byte": lambda: GOOD.encode() + b"name: a\0b\n",
    "an escape": lambda: GOOD.encode() + b"name: \x1b[2J\n",
    "only a comment": lambda: "# nothing\n",
    "nothing": lambda: "",
    "a word": lambda: "deblur",
    "a list": lambda: "[1, 2]",
    "an anchor without end": lambda: "&" + "a" * 100_000,
    "a line of a megabyte": lambda: f"name: '{'x' * 1_000_000}\n{GOOD}",
    "a picture": lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10,
    "a missing end": lambda: "name: [a, b",
    "a tab": lambda: "name:\n\t- a",
    "a directive": lambda: f"%YAML 9.9\n---\n{GOOD}",
}


def test_a_hostile_document_is_refused_in_words_and_runs_no_code(
    cli: Any, photos: Path, tmp_path: Path, cases: Cases
) -> None:
    gc.collect()  # else what earlier tests have left may end, and complain, in the depth of a document
    for kind, make in YAML.items():
        text = make()
        (tmp_path / "recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with cases.case(kind):
            told = cli("validate", "recipe.yaml")
            assert told.code == 2, told.all
            assert told.err.startswith("flux-pipelines: recipe.yaml:")
            assert len(told.err) < 500_000, "an error is not larger than what it is about"
            assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "recipe.yaml"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: "# " + "x" * 10_500_000 + "\n" + GOOD,
        lambda: GOOD + "\n".join(f"k{n}: {n}" for n in range(800_000)),
    ],
    ids=["a comment", "keys"],
)
def test_a_recipe_of_more_than_ten_megabytes_is_refused_unread(
    cli: Any, tmp_path: Path, make: Callable[[], str]
) -> None:
    text = make()
    (tmp_path / "recipe.yaml").write_text(text)
    assert len(text) > 10_000_000
    told = cli("validate", "recipe.yaml")
    assert told.code == 2
    assert "more than the limit" in told.err


def test_a_recipe_that_has_no_end_is_refused(tmp_path: Path) -> None:
    done = limited("validate", "/dev/zero", folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "limit" in done.stderr
    folder = limited("validate", str(tmp_path), folder=tmp_path)
    assert folder.returncode == 2
    assert "Traceback" not in done.stderr + folder.stderr


def test_a_recipe_that_is_a_pipe_nobody_writes_to_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    command = [sys.executable, "-m", "pipelines.cli", "validate", "recipe.yaml"]
    with Forked(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as program:
        try:
            _, said = program.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            program.kill()
            raise AssertionError("it waits for ever") from None
    assert program.returncode == 2
    assert "recipe.yaml" in said


# -- templates --------------------------------------------------------------------------------------------------------

CLIMBING = [
    "''.__class__",
    "''.__class__.__mro__[1].__subclasses__()",
    "''['__class__']",
    "''|attr('__class__')",
    "''|attr('\\x5f\\x5fclass\\x5f\\x5f')",
    "[stem]|map(attribute='__class__')|list",
    "[stem]|map('attr', '__class__')|list",
    "[{'a': stem}]|map(attribute='a.__class__')|list",
    "[stem]|groupby('__class__')",
    "[stem]|sort(attribute='__class__')",
    "[stem]|sum(attribute='__class__')",
    "[stem]|selectattr('__class__')|list",
    "stem.__init__.__globals__",
    "stem.format.__globals__",
    "'{0.__class__.__mro__}'.format(stem)",
    "'{0.__class__.__mro__}'.format_map({'0': stem})",
    "'{x.__class__}'.format(x=stem)",
    "('{0.__class__}'|safe).format(stem)",
    "stem.__doc__",
    "(1).__class__.__base__",
    "().__class__.__bases__[0]",
    "{}.__class__",
    "(stem, stem.encode)[1].__self__",
    "stem.encode.__call__",
    "self.__init__",
    "self._TemplateReference__context",
    "config",
    "request",
    "cycler.__init__.__globals__.os.popen('touch owned').read()",
    "joiner.__init__.__globals__",
    "namespace.__init__.__globals__",
    "lipsum.__globals__.os.system('touch owned')",
    "url_for.__globals__",
    "get_flashed_messages.__globals__",
    "dict.__class__",
    "environ",
    "env.BFL_API_KEY",
    "os.environ.BFL_API_KEY",
    "loop.__class__",
    "caller.__class__",
    "varargs",
    "__builtins__",
    "__import__('os').system('touch owned')",
    "open('/etc/passwd').read()",
    "eval('1')",
    "(lambda: 1)()",
    "stem.__getattribute__('upper')",
    "stem.mro()",
    "undefined_name",
    "stem.nothing",
    "stem['nothing']",
    "1/0",
    "'a' + 1",
    "[]|first",
]


def test_an_expression_that_climbs_to_pythons_insides_is_refused_and_runs_nothing(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, key: str, cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = [(expression, "parameter") for expression in CLIMBING]
    tried += [(expression, place) for expression in CLIMBING[::9] for place in ("column", "output", "when")]
    for number, (expression, place) in enumerate(tried):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "photos").symlink_to(photos)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("FLUX_STORE", str(folder / "store"))
        with cases.case(f"{expression} in a {place}"):
            assert_runs_nothing(cli, bfl, folder, key, expression, place)


def assert_runs_nothing(cli: Any, bfl: FakeBfl, folder: Path, key: str, expression: str, place: str) -> None:
    """An item whose recipe has the expression in this place is invalid, and nothing came of it."""
    template = f"x{{{{ {expression} }}}}"
    recipe: dict[str, Any] = {
        "source": {"images": "photos/good0.png", "columns": {"c": template if place == "column" else "x"}},
        "steps": [{"erase": {"mask": template if place == "parameter" else "{{ c }}"}}],
        "output": {"path": f"out/{template if place == 'output' else '{{ stem }}'}.png"},
    }
    if place == "when":
        recipe["steps"][0]["when"] = expression
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    # No mask is called so: whatever came of the expression, the item is invalid at best.
    assert told.code in (1, 2), told.all
    if told.code == 1:
        assert set(told.outcomes.values()) <= {"invalid"} or place == "when"
    assert bfl.jobs == 0
    said = told.all + "".join(p.read_text(errors="replace") for p in folder.rglob("*.jsonl"))
    for secret in (key, "<class", "<function", "<built-in", "<bound method", "root:x:0", "object at 0x"):
        assert secret not in said
    assert not list(folder.rglob("*owned*"))


STATEMENTS = [
    "{% include '/etc/passwd' %}",
    "{% include 'recipe.yaml' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% from 'os' import system %}",
    "{% extends '/etc/passwd' %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set x = stem.__class__ %}{{ x }}",
    "{% for c in ''.__class__.__mro__ %}{{ c }}{% endfor %}",
    "{% call(x) stem.__init__() %}{% endcall %}",
    "{% filter attr('__class__') %}x{% endfilter %}",
    "{% block b %}{{ self.b() }}{% endblock %}",
    "{% do 1 %}",
    "{% debug %}",
    "{% autoescape true %}{{ ''.__class__ }}{% endautoescape %}",
    "{% with x = cycler %}{{ x }}{% endwith %}",
    "{% trans %}x{% endtrans %}",
    "{% raw %}",
    "{% if %}",
    "{{",
    "}}{{ }}",
    "{{ " + "(" * 5_000 + ")" * 5_000 + " }}",
    "{{ " + "-" * 50_000 + "1 }}",
    "{{ " + "not " * 50_000 + "1 }}",
    "{{ " + "+".join(["1"] * 50_000) + " }}",
    "{{ stem" + "|upper" * 20_000 + " }}",
    "{% if 1 %}" * 3_000 + "{% endif %}" * 3_000,
]


def test_a_statement_that_loads_calls_or_nests_too_deeply_is_refused(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path, cases: Cases
) -> None:
    for statement in STATEMENTS:
        recipe = {
            "source": {"images": "photos/good0.png", "columns": {"c": f"x{statement}"}},
            "steps": [{"erase": {"mask": "{{ c }}"}}],
            "output": {"path": "out/{{ stem }}.png"},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        with cases.case(statement[:40]):
            told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
            assert told.code in (1, 2), told.all[:500]
            assert bfl.jobs == 0
            assert "root:x:0" not in told.all
            assert len(told.err) < 500_000


HUGE = [
    "9**(9**9)",
    "9**(9**9) > 1",
    "(9**9999999) % 7",
    "'x' * 10**10",
    "10**10 * 'x'",
    "('x' * 10**5) * 10**5",
    "[0] * 10**10",
    "(0,) * 10**10",
    "([0] * 10**5) * 10**5",
    "'%10000000000d' % 1",
    "'%*d' % (10**10, 1)",
    "'{:10000000000}'.format(1)",
    "'{:{}}'.format(1, 10**10)",
    "'x'.ljust(10**10)",
    "'x'.rjust(10**10)",
    "'x'.center(10**10)",
    "'x'.zfill(10**10)",
    "'x'|center(10**10)",
    "'x\\ny'|indent(10**10)",
    "('a' * 10**6).replace('a', 'b' * 10**6)",
    "('\\t' * 10**6).expandtabs(10**6)",
    "('x' * 10**6).join('y' * 10**6)",
    "range(10**10)|list",
    "range(10**10)|sum",
    "lipsum(10**6)",
    "('a'*10**6)|list|batch(1)|list|batch(1)|list|length",
    "'x'|list|batch(10**9, 'y')|list",
    "'x'|list|slice(10**9)|list",
    "2**(2**40)",
    "(10**(10**7))|string",
    "(10**20000)|string",
    "'a'|wordwrap(1)|urlize|truncate(10**10)",
    "('a' * 10**5 ~ 'b')|wordwrap(1)|length > 0 and 9**(9**9)",
]


LOOPS = [
    "{% for a in 'x' * 1000 %}{% for b in 'x' * 1000 %}{% for c in 'x' * 1000 %}y{% endfor %}{% endfor %}{% endfor %}",
    "{% set x = 'a' * 1000 %}{% set x = x * 1000 %}{% set x = x * 1000 %}{{ x }}",
    "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "{% set x = 'a' %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
    "{% set x %}aaaaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{{ x }}{{ x }}{% endset %}" * 20 + "{{ x }}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for a in 'ab' recursive %}{{ loop('ab') }}{% endfor %}",
    "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "x{{ 9**(9**9) }}",
    "x{{ 'x' * 10**10 }}",
]

PROGRAM = """
import json, os, resource, sys
from flux_tasks.errors import InvalidRequest
from pipelines.language import templates

def value(way, text):
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
    resource.setrlimit(resource.RLIMIT_AS, (1024**3, 1024**3))
    try:
        given = getattr(templates, way)(text, {"stem": "a"}, "here")
        return f"a value of {len(str(given))} characters" if len(str(given)) > 200_000 else ""
    except InvalidRequest as error:
        return f"an error of {len(str(error))} characters" if len(str(error)) > len(text) + 2_000 else ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:200]

for way, text in json.load(sys.stdin):
    sys.stdout.flush()
    if not (child := os.fork()):  # each in a process of its own, that is killed when it takes too long
        try:
            found = value(way, text)
            print(json.dumps([text[:80], found]) if found else "", flush=True)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print(json.dumps([text[:80], f"killed by signal {os.WTERMSIG(status)}"]))
"""


def all_are_refused(program: str, way: str, texts: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([[way, text] for text in texts]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": HERE},
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines() if line] == []


@pytest.mark.parametrize(("way", "texts"), [("evaluate", HUGE), ("render", LOOPS)])
def test_what_would_take_all_time_or_memory_is_refused_quickly(way: str, texts: list[str]) -> None:
    all_are_refused(PROGRAM, way, texts)


@pytest.mark.parametrize("text", ["{{ stem }}", "{{ stem.__class__ }}", "{% include 'x' %}", "{{ 9**9 }}"])
def test_what_a_name_holds_is_never_itself_a_template(text: str) -> None:
    assert templates.render("x-{{ stem }}", {"stem": text}, "here") == f"x-{text}"
    assert templates.render("{{ stem }}", {"stem": text}, "here") == text


def test_conditions_and_templates_that_are_meant_still_work() -> None:
    facts = {"stem": "a_b", "width": 900, "height": 600, "index": 3}
    assert templates.evaluate("width > 800 and height * 2 >= width ** 1", facts, "here") is True
    assert templates.render("{{ stem | upper | replace('_', '-') }}", facts, "here") == "A-B"
    assert templates.render("{{ '%03d' % index }}", facts, "here") == "003"
    assert templates.render("{{ '%s-%s' | format(stem, index) }}", facts, "here") == "a_b-3"
    assert templates.render("{{ stem[:1] * 3 }}", facts, "here") == "aaa"
    assert templates.render("{% if index % 2 %}odd{% else %}even{% endif %}", facts, "here") == "odd"
    with pytest.raises(InvalidRequest):
        templates.evaluate("nothing", facts, "here")


def test_a_condition_decides_nothing_for_other_items_when_it_fails_for_one(
    cli: Any, bfl: FakeBfl, photos: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (96, 80), "teal").save(photos / "bad.png")
    when = "(stem == 'bad' and stem.__class__) or stem != 'bad'"
    steps = [{"deblur": {}, "when": when}]
    recipe = {"source": {"images": "photos/*"}, "steps": steps, "output": {"path": "out/{{ stem }}.png"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    told = cli("run", "recipe.yaml", "--endpoint", bfl.url)
    assert told.outcomes == {"bad": "invalid", "good0": "done", "good1": "done"}


BIG = "b" * 100_000
GROWING = [
    "'{:>1000000000}'.format(1)",
    "'{:.1000000000f}'.format(1.5)",
    "'{:>{}}'.format(1, 10**9)",
    "'{:>{w}}'.format(1, w=10**9)",
    "'{0:>999999999}{0}'.format(stem)",
    "('{0}' * 30000).format(big)",
    "('{a}' * 30000).format(a=big)",
    "('{a}' * 30000).format_map({'a': big})",
    "('{a:>1000000000}').format_map({'a': 1})",
    "('%(a)s' * 15000) % {'a': big}",
    "('%(a)s' * 15000)|format(a=big)",
    "[big] * 100000",
    "[[big] * 100] * 1000",
    "[[[big]]] * 100000",
    "(big, ) * 100000",
    "[big, big] + [big] * 99999",
    "[{'a': big}] * 100000",
    "([big] * 1000)|join",
    f"[{', '.join(['big'] * 2_000)}]|join",
    f"[{', '.join(['big'] * 2_000)}]|string|length",
    f"[{', '.join(['big'] * 2_000)}]|sum(start=[])",
    f"[{', '.join(['entries'] * 2_000)}]|sum(start=[])|length",
    f"({' ~ '.join(['big'] * 900)})|length",
    f"({' ~ '.join(['big'] * 2_000)})|length",
    "[big]|string * 100000",
]
PRINTED = ["{{ big }}" * 2_000, "{{ [" + "big, " * 2_000 + "] }}x", "x{{ {'a': [" + "big, " * 2_000 + "]} }}"]
GROWTH = PROGRAM.replace('{"stem": "a"}', '{"stem": "a", "big": "b" * 100_000, "entries": [1] * 100_000}').replace(
    "RLIMIT_AS, (1024**3, 1024**3)", "RLIMIT_AS, (400 * 1024**2, 400 * 1024**2)"
)
"""The program of before, with long values, and with little memory beyond what Python and its modules take."""


@pytest.mark.parametrize(("way", "texts"), [("evaluate", GROWING), ("render", PRINTED)])
def test_what_would_make_much_of_a_long_value_is_refused_quickly(way: str, texts: list[str]) -> None:
    all_are_refused(GROWTH, way, texts)


def test_long_values_that_are_meant_still_go_through() -> None:
    picture = "QUJD" * 6_000_000
    facts = {"stem": "a", "picture": picture, "index": 7}
    assert templates.render("data:image/png;base64,{{ picture }}", facts, "here").endswith(picture)
    assert templates.evaluate("'data:,' ~ picture|trim", facts, "here") == f"data:,{picture}"
    assert templates.render("{{ '{:03}-{}'.format(index, stem) }}", facts, "here") == "007-a"
    assert templates.render("{{ '{a:>4}'.format_map({'a': index}) }}", facts, "here") == "   7"
