"""A run: every item of a recipe, each ending in a row of the manifest."""
