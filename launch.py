"""Trains, samples or noises: `python launch.py --config=configs/digits.py`.

Every value of a config can be changed on the command line, for instance
--config.training.num_steps=100; configs/base.py lists them all. Processes that
work together are each started with --multihost (docs/scaling.md).
"""

from diffusion_jax import command_line

if __name__ == '__main__':
  command_line.run()
