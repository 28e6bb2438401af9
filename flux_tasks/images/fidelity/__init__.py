"""Whether an edit is where its input was, and of its colours."""
