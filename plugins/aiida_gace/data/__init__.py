"""Data types: a data set of labelled structures, a potential bundle."""
