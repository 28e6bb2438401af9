"""Items whose picture another item has: found before a run begins, and left out of it."""
