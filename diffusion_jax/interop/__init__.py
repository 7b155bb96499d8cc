"""Weights of other projects, read and written: one file for each project."""
