"""The language of recipes: its model, how it is read, written in Python, and described as a schema."""
