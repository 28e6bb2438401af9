"""``init``: write a recipe that is valid as it stands, with a comment on every part."""

from flux_tasks.errors import Problem, RecipeError
from pipelines.cli.common import Exit, Location
from pipelines.cli.terminal import print_line

SCHEMA = "recipe.schema.json"
"""The file beside the recipe that its first line names, for editors."""

STARTER = f"""\
# yaml-language-server: $schema={SCHEMA}
#
# A recipe: where pictures come from, what is done to each, and where the results go.
#
#   flux-pipelines plan recipe.yaml --endpoint local    # what a run would do and cost: spends nothing
#   flux-pipelines run recipe.yaml --endpoint local     # a preview made on this machine: no key, no network
#   BFL_API_KEY=… flux-pipelines run recipe.yaml        # made by BFL: a second run pays for new photos only

name: my-photos

# Values that templates know. Change one for a single run: --set ratio=1:1
vars:
  ratio: "16:9"

# Every photo is an item. Paths are relative to the folder you are in; s3://bucket/photos/*.jpg works, too.
source:
  images: "photos/*.jpg"
  columns:
    mask: "masks/{{{{ stem }}}}.png" # black and white; white is what has to go. A photo may have none.
  # limit: 5 # the first five, to try it out

# Each step gets the picture of the step before it. After a step's name stand its parameters.
steps:
  - auto_orient: {{}} # costs nothing; so do resize, crop, pad, convert and others

  - deblur: {{}}
    when: sharpness < 500 # sharp photos skip it, and cost nothing here

  - erase: {{mask: "{{{{ mask }}}}", dilate_pixels: 10}}
    when: mask_exists
    preserve: true # outside the mask, grown by those 10 px, every pixel stays exactly as it was

  - outpaint: {{aspect_ratio: "{{{{ ratio }}}}", fit: downscale}}
    expect: {{solid: false}} # a result that is one single colour is taken for a failure

output:
  path: "out/{{{{ stem }}}}.png" # the extension decides the file type

# A run never spends more than this. One credit is 0.01 USD.
budget: {{credits: 200}}
"""


def init(recipe: Location = "recipe.yaml", /) -> Exit:
    """Write a commented recipe to begin with.

    Writes recipe.schema.json beside it, with which editors complete it. A
    recipe that exists already is not changed.

    For example:
      flux-pipelines init
      flux-pipelines init recipes/photos.yaml

    Args:
        recipe: the file to write (default recipe.yaml)
    """
    from flux_tasks import files
    from pipelines.language.schema import text

    place = str(recipe)
    if not files.create(place, STARTER.replace("recipe.yaml", place).encode()):
        raise RecipeError([Problem(place, "already exists and was not changed: choose another name")])
    folder, sign, _ = place.rpartition("/")
    files.write(f"{folder}{sign}{SCHEMA}", text().encode())
    print_line(f"{place}: written, and {SCHEMA} beside it, with which editors complete it")
    print_line(f"write there where your pictures are, then: flux-pipelines plan {place} --endpoint local")
    return Exit.OK
