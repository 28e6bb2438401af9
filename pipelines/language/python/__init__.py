"""Recipes written in Python: steps as functions, and their types."""
