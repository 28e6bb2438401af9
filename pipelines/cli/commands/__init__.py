"""The commands of ``flux-pipelines``: one file each."""
