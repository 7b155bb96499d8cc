"""Kinds of models, a folder each, and what several share."""
