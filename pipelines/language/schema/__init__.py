"""The JSON Schema of recipes."""
