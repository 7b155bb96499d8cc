"""Data sets and image files. NumPy only: no jax, no flax."""
