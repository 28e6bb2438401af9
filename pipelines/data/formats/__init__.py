"""Formats that items are read from: tables, folders of pictures, Parquet and Arrow files, tars."""
