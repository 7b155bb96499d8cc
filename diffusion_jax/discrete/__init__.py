"""Diffusion on discrete states: D3PM, masked diffusion."""
