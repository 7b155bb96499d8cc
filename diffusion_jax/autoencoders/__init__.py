"""Variational autoencoders, with one layer of latents or a chain."""
