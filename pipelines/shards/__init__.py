"""One run by many processes: its items in shards, each on a worker, and one manifest in the end."""
