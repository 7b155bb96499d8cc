"""Edits of pictures and arrays."""
