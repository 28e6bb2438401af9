"""Faults that the service was seen to have, or may have, produced when a test asks for them."""
