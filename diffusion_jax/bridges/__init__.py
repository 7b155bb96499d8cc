"""Bridges from a source to data."""
