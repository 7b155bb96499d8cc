"""How good: of samples, and of noise."""
