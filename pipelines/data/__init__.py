"""Items in, files out, and what a run leaves behind: tables, outputs, the manifest, history."""
