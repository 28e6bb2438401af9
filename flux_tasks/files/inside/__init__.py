"""Bytes inside other files: members of tars, cells of Parquet and Arrow files."""
