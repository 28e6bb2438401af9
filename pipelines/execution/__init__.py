"""How a recipe is carried through for one item: arguments, conditions, expectations, local steps."""
