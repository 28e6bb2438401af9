"""What shards run on: processes of this machine, or workers of Dask, Ray or Prefect."""
