"""A training: its loop, what it is made of, and what acts after a step."""
