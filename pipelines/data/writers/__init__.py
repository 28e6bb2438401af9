"""Datasets that runs write and add to: imagefolder, Parquet, WebDataset; and checks of whole outputs."""
