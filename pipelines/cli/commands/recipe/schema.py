"""``schema``: the JSON Schema of recipes."""

from pipelines.cli.common import Exit
from pipelines.cli.terminal import print_line


def schema() -> Exit:
    """Print the JSON Schema of recipes, for editors.

    For example:
      flux-pipelines schema > recipe.schema.json
    """
    from pipelines.language.schema import text

    print_line(text().rstrip())
    return Exit.OK
