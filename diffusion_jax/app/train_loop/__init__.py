"""The loop of a training: what it is made of, and what acts after a step."""
