"""A recipe drawn: what the Mermaid text and the SVG show, and that no recipe breaks them."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flux_tasks.errors import RecipeError
from pipelines.recipe import Recipe
from pipelines.report.drawing.elements import Box, Sketch
from pipelines.report.drawing.layout import Layout, Link, lay_out
from pipelines.report.drawing.mermaid import mermaid
from pipelines.report.drawing.svg import svg

SVG = "{http://www.w3.org/2000/svg}"

MANY = """
name: many
source: {images: "photos/*.jpg", columns: {object: "masks/{{ stem }}.png"}, filter: index < 9, limit: 3}
steps:
  - resize: {max_side: 512}
    id: small
  - deblur: {}
    id: sharp
    when: sharpness < 500
  - mask_from_boxes: {boxes: [[10, 10, 100, 100]]}
    id: corner
  - erase: {mask: {step: corner, dilate: 4}}
    id: clean
    from: sharp
    preserve: true
    expect: {solid: false}
    on_failure: {retry_with: {seed: 3}, then: keep}
    save: "out/clean/{{ stem }}.png"
  - edit: {model: flux-2-pro, prompt: "take {{ take }}"}
    id: variants
    matrix: {take: [1, 2, 3], seed: [4, 5]}
  - edit: {model: flux-kontext-pro, prompt: plain}
    id: plain
    from: clean
  - edit: {model: flux-2-max, prompt: join them}
    id: joined
    from: [clean, variants, source]
output:
  - {path: "out/{{ stem }}-{{ variant }}.png", from: joined}
  - {path: "out/{{ stem }}-plain.png", from: plain}
"""


def recipe(steps: str, source: str = "{images: a/*.jpg}") -> Recipe:
    text = f"source: {source}\nsteps:\n{steps}\noutput: {{path: 'out/{{{{ stem }}}}.png'}}\n"
    return Recipe.parse(text)


def box(drawn: Recipe, name: str) -> Box:
    return next(b for b in Sketch.of(drawn).boxes if b.id == name)


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def titles(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter(f"{SVG}title")]


def test_there_is_one_box_a_step_and_one_for_the_source_each_output_and_each_saved_result() -> None:
    ids = [b.id for b in Sketch.of(Recipe.parse(MANY)).boxes]
    steps = ["small", "sharp", "corner", "clean", "variants", "plain", "joined"]
    assert [i for i in ids if i.startswith("step:")] == [f"step:{name}" for name in steps]
    assert {"source", "saved:clean", "output:0", "output:1"} == {i for i in ids if not i.startswith("step:")}


def test_a_box_tells_what_its_step_does_and_when() -> None:
    shown = texts(svg(Recipe.parse(MANY).compiled))
    for expected in (
        "sharp", "deblur-v1", "when sharpness < 500", "resize · max_side 512", "erase-v1", "untouched pixels put back",
        "checked, tried again once, then kept", "edit · flux-2-pro", "out/{{ stem }}-plain.png",
        "out/clean/{{ stem }}.png", "photos/*.jpg", "where index < 9", "at most 3 items",
    ):  # fmt: skip
        assert expected in shown


def test_a_matrix_is_one_box_that_says_how_often_and_what_is_varied() -> None:
    drawn = Recipe.parse(MANY)
    assert box(drawn, "step:variants").fan == "×6 take, seed"
    assert box(drawn, "step:joined").fan == "×6 take, seed", "what it feeds is made as often"
    assert box(drawn, "output:0").fan == "×6"
    assert box(drawn, "step:plain").fan == ""
    assert "take: 1, 2, 3" in box(drawn, "step:variants").details


def test_paid_steps_show_their_price_and_local_ones_are_free() -> None:
    drawn = Recipe.parse(MANY)
    prices = {name: box(drawn, f"step:{name}").price for name in ("small", "sharp", "clean", "plain", "variants")}
    assert prices == {
        "small": "free",
        "sharp": "price unknown",
        "clean": "from 3 credits",
        "plain": "4 credits",
        "variants": "from 3 credits each",
    }


def test_models_of_different_prices_show_the_span() -> None:
    drawn = Recipe.parse(
        "source: {images: a/*.jpg}\nsteps:\n  - edit: {prompt: x}\n    id: paint\n"
        "    matrix: {model: [flux-kontext-pro, flux-kontext-max]}\n"
        "output: {path: 'out/{{ stem }}-{{ model }}.png'}\n"
    )
    found = box(drawn, "step:paint")
    assert found.price == "4–8 credits each"
    assert found.lines[0].text == "edit · flux-kontext-pro, flux-kontext-max"


def test_arrows_name_the_picture_they_bring_unless_it_is_the_main_one() -> None:
    arrows = {(a.start, a.end, a.label) for a in Sketch.of(Recipe.parse(MANY)).arrows}
    assert {
        ("source", "step:small", ""),
        ("step:sharp", "step:clean", ""),
        ("step:corner", "step:clean", "mask"),
        ("step:clean", "step:joined", ""),
        ("step:variants", "step:joined", "reference"),
        ("source", "step:joined", "reference"),
        ("step:clean", "saved:clean", ""),
        ("step:joined", "output:0", ""),
        ("step:plain", "output:1", ""),
    } <= arrows
    assert "mask of clean: corner, dilate 4" in titles(svg(Recipe.parse(MANY).compiled))


def test_a_step_that_makes_a_picture_of_words_is_begun_by_the_source_with_a_dotted_arrow() -> None:
    drawn = recipe("  - generate: {model: flux-2-pro, prompt: '{{ row.p }}'}", "{table: t.csv}")
    assert [(a.start, a.has_picture) for a in Sketch.of(drawn).arrows] == [("source", False), ("step:generate", True)]
    assert "n0 -.-> n1" in mermaid(drawn.compiled)


def test_long_texts_are_cut_and_are_whole_in_the_title() -> None:
    condition = "width > 1 and " * 30 + "height > 1"
    drawn = svg(recipe(f"  - deblur: {{}}\n    when: {condition}").compiled)
    cut = next(text for text in texts(drawn) if text.startswith("when"))
    assert cut.endswith("…")
    assert len(cut) < 60
    assert any(condition in title for title in titles(drawn))


def test_the_svg_is_complete_in_itself() -> None:
    drawn = svg(Recipe.parse(MANY).compiled)
    root = ElementTree.fromstring(drawn)
    assert root.tag == f"{SVG}svg"
    assert not [e for e in root.iter() if e.tag.rsplit("}", 1)[-1] in ("script", "image", "use", "foreignObject", "a")]
    assert not re.search(r"url\s*\(|@import|href|\son\w+=", drawn)
    assert "prefers-color-scheme: dark" in drawn
    assert root.get("aria-label", "").startswith("Steps of many: source, small, ")


def test_signs_that_mean_something_to_a_format_are_only_text() -> None:
    hostile = """stem == "</title><script>alert(1)</script>]]> & 'x' | {y} ]) --> n9;" """.strip()
    drawn = recipe(f"  - deblur: {{}}\n    when: |-\n      {hostile}")
    assert ElementTree.fromstring(svg(drawn.compiled)).find(f".//{SVG}script") is None
    assert any(hostile in title for title in titles(svg(drawn.compiled)))
    assert all(is_mermaid(line) for line in mermaid(drawn.compiled).split("\n"))
    assert "#34;" in mermaid(drawn.compiled)


def test_keys_in_addresses_are_not_drawn() -> None:
    source = "{images: 'https://me:pass@bucket.example/*.jpg?X-Amz-Signature=tell-nobody'}"
    drawn = recipe("  - deblur: {}", source)
    for text in (svg(drawn.compiled), mermaid(drawn.compiled)):
        assert "bucket" in text
        assert "tell-nobody" not in text
        assert "me:pass" not in text


def test_a_recipe_that_is_wrong_is_not_drawn() -> None:
    with pytest.raises(RecipeError):
        svg(Recipe(source="a/*.jpg", steps=[{"deblr": {}}], output="out/{{ stem }}.png").compiled)


def test_equal_recipes_are_drawn_equally() -> None:
    assert svg(Recipe.parse(MANY).compiled) == svg(Recipe.parse(MANY).compiled)


# -- mermaid ---------------------------------------------------------------------------------------------------------

_WORDS = r'"(?:[^"#;]|#\d+;)*"'
_LINES = (
    "graph TD",
    rf"  n\d+(?:\(\[{_WORDS}\]\)|\[{_WORDS}\]|\[/{_WORDS}/\])",
    rf"  n\d+ (?:-->|-\.->)(?:\|{_WORDS}\|)? n\d+",
    r"  classDef \w+ [\w:,-]+(?: \d)?",
    r"  class n\d+(?:,n\d+)* \w+",
)


def is_mermaid(line: str) -> bool:
    return any(re.fullmatch(known, line) for known in _LINES)


def test_the_mermaid_text_has_the_boxes_and_arrows() -> None:
    lines = mermaid(Recipe.parse(MANY).compiled).split("\n")
    assert all(is_mermaid(line) for line in lines)
    assert lines[0] == "graph TD"
    assert any("variants<br/>edit · flux-2-pro<br/>from 3 credits each · ×6 take, seed" in line for line in lines)
    assert any('-->|"mask"|' in line for line in lines)
    assert any("out/#123;#123; stem #125;#125;#45;plain.png" in line for line in lines)


# -- layout ----------------------------------------------------------------------------------------------------------


def clear(layout: Layout) -> None:
    """No two boxes overlap, all lie within the whole, and arrows end on top of their boxes."""
    spots = list(layout.spots.values())
    for one, other in combinations(spots, 2):
        apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2 - 0.01
        apart_y = one.y + one.height <= other.y + 0.01 or other.y + other.height <= one.y + 0.01
        assert apart_x or apart_y
    for spot in spots:
        assert spot.x - spot.width / 2 >= -0.01
        assert spot.x + spot.width / 2 <= layout.width + 0.01
        assert spot.y >= 0
        assert spot.y + spot.height <= layout.height + 0.01


def test_a_chain_of_fifteen_is_a_straight_line() -> None:
    names = [f"s{n}" for n in range(15)]
    links = [Link(a, b) for a, b in pairwise(names)]
    layout = lay_out({name: (150.0 + 20 * (n % 4), 60.0) for n, name in enumerate(names)}, links)
    clear(layout)
    assert len({round(spot.x, 3) for spot in layout.spots.values()}) == 1
    assert [layout.spots[n].y for n in names] == sorted(layout.spots[n].y for n in names)
    assert all(len({round(x, 3) for x, _ in route}) == 1 for route in layout.routes)


def test_an_arrow_that_passes_a_layer_goes_round_its_boxes() -> None:
    layout = lay_out(dict.fromkeys("abc", (100.0, 50.0)), [Link("a", "b"), Link("b", "c"), Link("a", "c")])
    between = layout.routes[2][2:4]
    middle = layout.spots["b"]
    assert all(abs(x - middle.x) > middle.width / 2 for x, _ in between)


def test_long_arrows_from_one_box_go_together_until_they_part() -> None:
    names = [f"s{n}" for n in range(12)]
    links = [Link(a, b, weight=4.0) for a, b in pairwise(names)] + [Link("s0", name, 60.0) for name in names[2:]]
    layout = lay_out(dict.fromkeys(names, (200.0, 60.0)), links)
    clear(layout)
    assert layout.width < 2 * 200
    longest = layout.routes[-1]
    assert all(set(route[2:-2]) <= set(longest) for route in layout.routes[len(names) :])


def test_two_branches_that_could_cross_do_not() -> None:
    sizes = dict.fromkeys(("top", "a", "b", "under_b", "under_a"), (100.0, 50.0))
    links = [Link("top", "a"), Link("top", "b"), Link("b", "under_b"), Link("a", "under_a")]
    spots = lay_out(sizes, links).spots
    assert (spots["a"].x < spots["b"].x) == (spots["under_a"].x < spots["under_b"].x)


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, tuple[float, float]], list[Link]]:
    names = [f"b{n}" for n in range(draw(st.integers(1, 14)))]
    sizes = {name: (float(draw(st.integers(40, 300))), float(draw(st.integers(20, 120)))) for name in names}
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=25, unique=True)) if pairs else []
    labels = st.sampled_from([0.0, 40.0, 80.0])
    return sizes, [Link(a, b, draw(labels), draw(st.sampled_from([1.0, 4.0]))) for a, b in chosen]


@settings(deadline=None, max_examples=150)
@given(graphs())
def test_no_graph_makes_boxes_overlap_or_an_arrow_lead_up(
    graph: tuple[dict[str, tuple[float, float]], list[Link]],
) -> None:
    sizes, links = graph
    layout = lay_out(sizes, links)
    clear(layout)
    for link, route in zip(links, layout.routes, strict=True):
        start, end = layout.spots[link.start], layout.spots[link.end]
        assert route[0] == (start.x, start.y + start.height)
        assert route[-1][1] == end.y
        assert abs(route[-1][0] - end.x) <= end.width / 2
        assert [y for _, y in route] == sorted(y for _, y in route)


# -- any recipe ------------------------------------------------------------------------------------------------------

wild = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(
    lambda text: "{" not in text and "}" not in text
)
plain = st.sampled_from(
    ["'\"]|", "a{b", "#35;", "--> x", "<b>", "×", "end", "1. x", "%%", "`x`", "ß", "\x00", "\ud800", "漢字" * 40]
)


@st.composite
def recipes(draw: st.DrawFn) -> str:
    words = st.one_of(wild, plain)
    steps: list[dict[str, object]] = []
    for number in range(draw(st.integers(1, 8))):
        earlier = ["source", *(f"s{n}" for n in range(number))]
        come_from = draw(st.sampled_from(earlier))
        kind = draw(st.sampled_from(["deblur", "resize", "edit", "erase", "join"]))
        task: dict[str, object] = {
            "deblur": {"deblur": {"seed": 1}},
            "resize": {"resize": {"max_side": 300}},
            "edit": {
                "edit": {"prompt": draw(words)},
                "matrix": {f"v{number}": draw(st.lists(words, min_size=1, max_size=3, unique=True))},
            },
            "erase": {"erase": {"mask": {"boxes": [[0, 0, 5, 5]]}}},
            "join": {"edit": {"model": "flux-2-pro", "prompt": "x"}},
        }[kind]
        step: dict[str, object] = {**task, "id": f"s{number}", "from": come_from}
        if kind == "join":
            step["from"] = draw(st.lists(st.sampled_from(earlier), min_size=1, max_size=4, unique=True))
        if draw(st.booleans()):
            step["when"] = f"stem == {draw(words)!r}"
        if draw(st.booleans()):
            step["save"] = f"out/s{number}/{draw(words)}/{{{{ stem }}}}-{{{{ variant }}}}.png"
        steps.append(step)
    outputs = [{"path": f"out/{n}/{{{{ stem }}}}-{{{{ variant }}}}.png", "from": f"s{n}"} for n in range(len(steps))]
    whole = {"name": draw(words), "source": {"images": draw(words)}, "steps": steps, "output": outputs}
    return yaml.safe_dump(whole, allow_unicode=False)


@settings(deadline=None, max_examples=150)
@given(recipes())
def test_no_recipe_breaks_the_drawings(text: str) -> None:
    try:
        drawn = Recipe.parse(text).check()
    except RecipeError:
        return
    root = ElementTree.fromstring(svg(drawn.compiled).encode())
    assert {e.tag for e in root.iter()} <= {
        f"{SVG}{name}" for name in ("svg", "style", "rect", "g", "title", "path", "text")
    }
    lines = mermaid(drawn.compiled).split("\n")
    assert [line for line in lines if not is_mermaid(line)] == []


def test_every_recipe_of_the_project_can_be_drawn() -> None:
    found = sorted(Path(__file__).parents[3].glob("configs/*.yaml"))
    assert found
    for file in found:
        drawn = Recipe.load(file)
        ElementTree.fromstring(svg(drawn.compiled))
        assert all(is_mermaid(line) for line in mermaid(drawn.compiled).split("\n"))
