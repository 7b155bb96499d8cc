"""Judges of drawn digits and shapes, with their weights."""
