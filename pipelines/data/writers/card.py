"""The card of a dataset: its README, with the header that ``datasets`` and the Hugging Face Hub read."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from PIL import Image

from flux_tasks import files
from flux_tasks.errors import FluxError
from flux_tasks.images.reference import ImageRef, decoding, makes_previews
from flux_tasks.units import credits
from pipelines.data.keyed_lines import program_version
from pipelines.data.writers.columns.kinds import Kind
from pipelines.data.writers.columns.schema import IMAGE, Schema
from pipelines.language.document.output import Output

__all__ = ["SHOWN", "Card", "thumbnails"]

SHOWN = 3
"""Rows whose pictures are in the card."""

_OWN = "<!-- written by flux-pipelines; remove this line to keep your own text -->"
_SIDE = 320
_ORDER = ("original", "mask", IMAGE)
_HEADINGS = {"original": "before", "mask": "mask", IMAGE: "after"}
_CLASSES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


class Card:
    """What a README says of a dataset.

    Args:
        name: of the recipe.
        text: of the recipe.
    """

    def __init__(self, name: str, text: str, digest: str) -> None:
        self._name, self._text, self._digest = name, text, digest
        self.begin(0)

    def begin(self, without_row: int) -> None:
        """Forget all rows.

        Args:
            without_row: how many items of the last run have none.
        """
        self._rows: Counter[str] = Counter()
        self._tools: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._costs: Counter[str] = Counter()
        self._engines: set[str] = set()
        self._without_row = without_row

    def add(self, split: str, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self._rows[split] += 1
        self._outcomes[row["outcome"]] += 1
        self._tools[row["tool"]] += bool(row["tool"])
        self._costs[split] += row["cost"] or 0
        self._engines.add(row["engine"])

    def write(self, output: Output, schema: Schema, fields: Sequence[str]) -> list[str]:
        """Write the card; returns a remark if somebody else has written the README.

        Args:
            fields: the extensions of the pictures in tars.

        Raises:
            OSError: it cannot be written.
        """
        place = files.join(output.dataset, "README.md")
        try:
            if _OWN not in files.read(place).decode("utf-8", "replace"):
                what = "somebody else has written it"
                return [f"{files.quoted(place)} stays as it is, because {what}: without configs, name splits yourself"]
        except FileNotFoundError:
            pass
        files.write(place, self._page(output, schema, fields).encode())
        return []

    def _page(self, output: Output, schema: Schema, fields: Sequence[str]) -> str:
        header: dict[str, Any] = {"license": output.license or "unknown"}
        tags = ["flux", "flux-pipelines", *sorted(filter(None, self._tools)), *output.tags]
        tags += ["webdataset"] if output.format == "webdataset" else []
        header |= {"tags": list(dict.fromkeys(tags)), "pretty_name": self._name}
        total = self._rows.total()
        header["size_categories"] = [next((name for most, name in _CLASSES if total < most), "n>1M")]
        paths = {"imagefolder": "{}/**", "parquet": "data/{}-*.parquet", "webdataset": "data/{}-*.tar"}
        splits = [{"split": name, "path": paths[output.format].format(name)} for name in sorted(self._rows)]
        header["configs"] = [{"config_name": "default", "data_files": splits}]
        if output.format != "imagefolder":  # which has its features from metadata.jsonl
            features = _features(output, schema, fields)
            header["dataset_info"] = {"config_name": "default", "features": features}
        return "\n".join(
            (
                "---",
                yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
                "---",
                _OWN,
                "",
                f"# {_plain(self._name)}",
                "",
                *self._facts(),
                "",
                *_pictures(output.dataset),
                "## Recipe",
                "",
                f"Digest `{self._digest}`.",
                "",
                *_block(self._text),
            )
        )

    def _facts(self) -> Iterator[str]:
        version = program_version()
        yield f"Made with [flux-pipelines](https://pypi.org/project/flux-pipelines/) {version}.".replace(" .", ".")
        if any(map(makes_previews, self._engines)):
            yield ""
            yield "**Previews of a local engine, not results of Black Forest Labs' models.**"
        yield ""
        yield "| split | rows | credits |"
        yield "|---|---|---|"
        for split in sorted(self._rows):
            yield f"| {split} | {self._rows[split]:,} | {credits(self._costs[split])} |"
        yield ""
        done = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(self._outcomes.items()))
        yield f"Rows by outcome: {done or 'none'} (skipped: no step applied, the picture is the original)."
        if self._without_row:
            yield ""
            count = "1 item" if self._without_row == 1 else f"{self._without_row:,} items"
            yield f"Without a row in the last run: {count}. Its manifest and its report say why."
        yield ""
        yield "`datasets.load_dataset` finds the splits, and `flux-pipelines verify` checks every picture."


def _plain(text: str) -> str:
    return " ".join(text.split())


def _block(text: str) -> Iterator[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    yield f"{fence}yaml"
    yield text.rstrip()
    yield fence
    yield ""


def _pictures(folder: str) -> Iterator[str]:
    """Yield a table of the pictures in the folder ``card``."""
    found = [name for name in files.listing(files.join(folder, "card")) if name.endswith(".jpg")]
    kinds = [kind for kind in _ORDER if any(name.endswith(f"-{kind}.jpg") for name in found)]
    numbers = sorted({name.partition("-")[0] for name in found})
    if not kinds or not numbers:
        return
    yield f"| {' | '.join(_HEADINGS[kind] for kind in kinds)} |"
    yield f"|{'---|' * len(kinds)}"
    for number in numbers:
        cells = (f"![](card/{number}-{kind}.jpg)" if f"{number}-{kind}.jpg" in found else "" for kind in kinds)
        yield f"| {' | '.join(cells)} |"
    yield ""


def _features(output: Output, schema: Schema, fields: Sequence[str]) -> list[dict[str, Any]]:
    """Return the features of rows, as ``datasets`` reads them in a card."""
    columns = [_feature(name, kind) for name, kind in schema.kinds.items()]
    if output.format == "parquet":
        return [*({"name": name, "dtype": "image"} for name in schema.pictures), *columns]
    pictures = [{"name": name, "dtype": "image"} for name in fields]
    own = [{"name": name, "dtype": "string"} for name in ("__key__", "__url__")]
    return [*pictures, {"name": "json", "struct": columns}, *own]


def _feature(name: str, kind: Kind) -> dict[str, Any]:
    return {"name": name, **_typed(kind)}


def _typed(kind: Kind) -> dict[str, Any]:
    if isinstance(kind, dict):
        return {"struct": [_feature(name, inner) for name, inner in kind.items()]}
    if isinstance(kind, list):
        inner = _typed(kind[0])
        return {"list": inner["dtype"] if "dtype" in inner else inner.get("struct", inner)}
    return {"dtype": kind}


def thumbnails(pictures: Mapping[str, ImageRef]) -> dict[str, bytes]:
    """Return the pictures of a row, small, as JPEG; none of one that cannot be decoded."""
    found = {}
    for name, image in pictures.items():
        try:
            with decoding(image):
                picture = image.open()
                picture.thumbnail((_SIDE, _SIDE))
                small = io.BytesIO()
                white = Image.new("RGB", picture.size, "white")
                clear = picture.convert("RGBA")
                white.paste(clear, mask=clear.getchannel("A"))
                white.save(small, "JPEG", quality=85)
                found[name] = small.getvalue()
        except (FluxError, OSError, ValueError, MemoryError):
            continue
    return found
