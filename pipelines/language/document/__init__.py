"""The model of a recipe document: what can be written in it, each part as one pydantic model."""
