"""Reads a run folder, draws its content and writes one HTML page."""
