"""One item taken through a recipe: the walk, arguments, conditions, expectations, local steps."""
