"""The columns of a dataset: their kinds, what it says of them, and why rows cannot be added."""
