"""Images in. NumPy only: no jax, no flax."""
