"""A whole run whose every place is at Azure: source, masks, table, store, outputs, dataset, manifest and report."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from command_line import Here
from fake_bfl import FakeBfl
from object_stores import azurite, new_bucket_name, reach_azure

from flux_tasks import files

RECIPE = """\
name: azure
source: {table: "AT/rows.csv", image: "AT/photos/{{ photo }}", columns: {mask: "AT/masks/{{ photo }}"}}
steps:
  - erase: {mask: "{{ mask }}"}
output:
  - "AT/clean/{{ stem }}.png"
  - {dataset: "AT/data", format: imagefolder}
"""


def test_every_place_of_a_run_can_be_at_azure_and_a_second_run_pays_for_nothing(
    folder: Path, bfl: FakeBfl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Here(folder, monkeypatch)
    with azurite(tmp_path) as endpoint, reach_azure(endpoint):
        container = new_bucket_name()
        fsspec.filesystem("az").mkdir(container, exist_ok=False)
        at = f"az://{container}/work"
        names = sorted(path.name for path in (folder / "masks").iterdir())
        for name in names:
            files.write(f"{at}/photos/{name}", (folder / "photos" / name).read_bytes())
            files.write(f"{at}/masks/{name}", (folder / "masks" / name).read_bytes())
        files.write(f"{at}/rows.csv", "\n".join(["photo", *names]).encode())
        files.write(f"{at}/recipe.yaml", RECIPE.replace("AT", at).encode())
        places = ("--store", f"{at}/store", "--report", f"{at}/report.html", "--manifest", f"{at}/rows.jsonl")
        for _ in range(2):
            done = here("run", f"{at}/recipe.yaml", "--endpoint", bfl.url, *places, key="k")
            assert (done.returncode, bfl.jobs) == (0, len(names)), done.stderr + done.stdout
        rows = [json.loads(line) for line in files.read(f"{at}/rows.jsonl").splitlines()]
        assert [row["source"] for row in rows] == [f"{at}/photos/{name}" for name in names]
        assert files.listing(f"{at}/clean") == names
        assert b"<html" in files.read(f"{at}/report.html")
        verified = here("verify", f"{at}/data")
        assert (verified.returncode, verified.stdout.split()[0]) == (0, str(3 * len(names))), (
            verified.stdout
        )  # result, original, mask
