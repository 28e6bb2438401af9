"""Check an output: what no single field of it says."""

from collections.abc import Collection
from typing import Any

from flux_tasks.errors import InvalidRequest, nearest, quote
from pipelines.language import templates
from pipelines.language.document.output import Output
from pipelines.language.reading.parameters import check_path, check_variants
from pipelines.language.reading.problems import ProblemCollector
from pipelines.language.reading.scope import Scope, check_template

Path = tuple[str | int, ...]


def check_output(
    output: Output, given: Any, at: Path, axes: Collection[str], scope: Scope, problems: ProblemCollector
) -> Output:
    """Return the output, with the folder and the names of a dataset written out.

    Args:
        given: the output as it is written.
        axes: what is varied of its step.
    """
    keys = {str(key) for key, value in given.items() if value is not None} if isinstance(given, dict) else set()
    own = scope.plus((*axes, "variant"))
    if output.dataset:
        return _check_dataset(output, keys, at, axes, scope, own, problems)
    if not output.path:
        is_told = (*at, "path") in problems.paths or (*at, "dataset") in problems.paths
        if not is_told and not any(nearest(key, ("path", "dataset")) for key in keys - {"path", "dataset"}):
            what = "is missing: write a template such as 'out/{{ stem }}.png', or dataset, a folder"
            problems.add((*at, "path"), what)
        return output
    for key in sorted(keys.intersection(Output.OF_DATASETS)):
        problems.add((*at, key), "belongs to a dataset: write dataset in the place of path, or leave it out")
    check_template(output.path, (*at, "path"), own, problems)
    check_path(output.path, (*at, "path"), problems)
    check_variants(output.path, axes, (*at, "path"), problems)
    return output


def _check_dataset(
    output: Output,
    keys: Collection[str],
    at: Path,
    axes: Collection[str],
    scope: Scope,
    own: Scope,
    problems: ProblemCollector,
) -> Output:
    if "path" in keys:
        problems.add((*at, "path"), "cannot be used together with dataset: keep one, or write two outputs")
    if output.annotations:
        problems.add((*at, "annotations"), "belongs to path: a dataset has a column objects; take it out")
    if output.format == "imagefolder" and "shard_size" in keys:
        problems.add((*at, "shard_size"), "belongs to parquet and webdataset: take it out")
    convert = output.convert
    if convert is not None and convert.quality is not None and convert.format in (None, "png"):
        what = "is for jpeg and webp: write format: jpeg or format: webp, too, or leave it out"
        problems.add((*at, "convert", "quality"), what)
    name = output.name or ("{{ stem }}_{{ variant }}" if axes else "{{ stem }}")
    check_template(name, (*at, "name"), own, problems)
    if not templates.is_template(name):
        what = f"{quote(name)} is one name for all items: write a template such as '{{{{ stem }}}}'"
        problems.add((*at, "name"), what)
    check_variants(name, axes, (*at, "name"), problems)
    if isinstance(output.split, str):
        check_template(output.split, (*at, "split"), own, problems)
    folder = output.dataset
    if templates.is_template(folder):
        place = (*at, "dataset")
        check_template(folder, place, own, problems)
        try:
            folder = str(templates.render(folder, scope.constants, "output.dataset")).rstrip("/")
        except InvalidRequest:
            if place not in problems.paths:
                problems.add(
                    place, f"{quote(folder)} may name only vars and env: a dataset is one folder for all items"
                )
    return output.model_copy(update={"name": name, "dataset": folder, "path": ""})
