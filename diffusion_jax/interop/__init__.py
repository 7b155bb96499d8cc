"""Weights of other projects, read and written: one file a project."""
