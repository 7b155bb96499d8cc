"""The modes of the command line: a module for each, with `run`."""

from diffusion_jax.app.config.modes import MODES
