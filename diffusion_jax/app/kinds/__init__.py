"""Kinds of models, a file each, and what several share."""
