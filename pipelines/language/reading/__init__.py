"""From the text of a recipe to the checked recipe, with every problem and its line."""
