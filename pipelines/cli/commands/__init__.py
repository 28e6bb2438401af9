"""The commands of ``flux-pipelines``, one file each: a function whose parameters are the arguments."""
