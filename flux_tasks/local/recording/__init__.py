"""A real session as an offline test: a proxy that records, and a server that answers from recordings."""
