"""Losses, training steps and checkpoints; networks are plain functions."""
