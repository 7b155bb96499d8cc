"""Pages of code on the public API; each runs as a script."""
