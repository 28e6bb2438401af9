"""Faults: what the service was seen to do, or may do, made to happen when a test asks for it."""
