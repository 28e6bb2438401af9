"""Finding files: by patterns, all of a folder, and what a pattern nearly named."""
