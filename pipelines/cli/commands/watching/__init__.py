"""``status``, ``jobs``, ``history``, ``spend``, ``collect``, ``doctor``: what goes on, what went on, and whether all is well."""
