"""``graph``: draw the steps of a recipe."""

from typing import Annotated

from cyclopts import Parameter

from pipelines.cli.common import Exit, Location, NoCode, RecipeFile, Variables, load_recipe
from pipelines.cli.terminal import print_line


def graph(
    recipe: RecipeFile,
    /,
    *,
    svg: Annotated[Location | None, Parameter(metavar="FILE")] = None,
    variables: Variables = (),
    no_code: NoCode = False,
) -> Exit:
    """Draw the steps of a recipe.

    Prints Mermaid text, or writes an SVG picture.

    For example:
      flux-pipelines graph recipe.yaml
      flux-pipelines graph recipe.yaml --svg recipe.svg

    Args:
        svg: write an SVG picture to this file
    """
    from flux_tasks import files
    from pipelines.report.drawing.mermaid import mermaid
    from pipelines.report.drawing.svg import svg as draw

    loaded = load_recipe(recipe, variables, no_code=no_code)
    if not svg:
        print_line(mermaid(loaded))
        return Exit.OK
    files.write(svg, draw(loaded).encode())
    print_line(f"graph: {svg}")
    return Exit.OK
