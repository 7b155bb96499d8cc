"""Trains, samples and evaluates: `python launch.py --config=configs/digits.py`.

Every value of a config can be changed on the command line, for instance
--config.training.num_steps=100; --help_mode=train lists them. Processes that
work together are each started with --multihost (docs/running.md).
"""

from diffusion_jax import app

if __name__ == '__main__':
  app.start()
