"""``status``, ``jobs``, ``history``, ``spend``, ``collect``, ``doctor``: what goes on, what went on, is all well."""
