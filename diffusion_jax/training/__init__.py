"""Losses, training steps and optimizers; networks are plain functions."""
