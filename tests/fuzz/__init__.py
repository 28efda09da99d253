"""Fuzz targets of every parser, their corpus, and comparisons with other implementations."""
