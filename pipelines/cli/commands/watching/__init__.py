"""``status``, ``jobs``, ``history``, ``collect``, ``doctor``: what goes on, what went on, and whether all is well."""
