"""What the seed documents say in passing: summaries, prices and examples that no other test looks at."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pictures import encoded, noise

from flux_tasks import ImageRef
from flux_tasks.catalog import TOOLS
from flux_tasks.jobs.call import prepare
from flux_tasks.jobs.result import picture_warnings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flux-2-klein-4b", "Fastest"),
        ("flux-2-klein-9b", "Fast, better quality than 4b"),
        ("flux-2-pro", "balanced"),
        ("flux-2-max", "best quality"),
        ("flux-2-flex", "Typography; steps and guidance"),
        ("flux-kontext-max", "best quality"),
    ],
)
def test_the_summary_of_a_model_says_what_the_documents_say_of_it(name: str, words: str) -> None:
    assert words in TOOLS[name].summary


def test_klein_begins_at_the_price_that_the_fill_page_names() -> None:
    assert TOOLS["flux-2-klein-4b"].price.estimate(1) == 1.4  # 0.014 USD


def test_a_deblurred_picture_that_was_cut_to_multiples_of_16_is_no_surprise() -> None:
    call = prepare(TOOLS["deblur-v1"], {"image": encoded(noise((728, 946)))})
    as_on_the_page = ImageRef.of(encoded(noise((720, 944))))
    assert picture_warnings(call, as_on_the_page) == []
    assert picture_warnings(call, replace(as_on_the_page, width=640)) == ["the result is 640×944 px, not 728×946 px"]
