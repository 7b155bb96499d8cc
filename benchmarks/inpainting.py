"""Comparison of methods for inpainting, on the test split of the digits.

  python -m benchmarks.inpainting runs/digits runs/digits_inpainting \
    --out=docs/images/inpainting

The first run is one of configs/digits.py, which is given no label here, the
second one of configs/digits_inpainting.py (Palette). Of each of the 360 test
digits the upper half is known. Every method fills in the lower one by the same
100 steps; two figures are taken: the fraction of completed digits that an SVM
reads as what they were (`evaluation.digits`), and the root of the mean squared
error at the unknown pixels, in [-1, 1]. The best guess possible has the
smallest error, a draw of the posterior about sqrt(2) times that, so the first
is the figure of merit. Prints a table and writes <out>.png, first digits of
the split: given, then a column for each method, then the truth.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

import diffusion_jax as dj
from configs import base
from diffusion_jax import build
from diffusion_jax.data import images, sources
from diffusion_jax.demos import digits_judge as digits
from diffusion_jax.families import diffusion
from diffusion_jax.programs import sample
from diffusion_jax.runs import run_folder
from diffusion_jax.training import conditions

flags.DEFINE_string('out', 'inpainting', 'Picture to write, without suffix.')
flags.DEFINE_integer('rows', 12, 'Digits in the picture.')

# name: (index of the run, sampler, (resamples, jump) or None, CG iterations)
METHODS = {
  'replacement': (0, dj.replace_known, None, 0),
  'RePaint(5)': (0, dj.repaint, (5, 10), 0),
  'RePaint(10)': (0, dj.repaint, (10, 10), 0),
  'RePaint(20)': (0, dj.repaint, (20, 10), 0),
  'reconstruction': (0, None, None, 1),
  'reconstruction, 3 iterations': (0, None, None, 3),
  'Palette': (1, None, None, 0),
}


def load(workdir):
  """Returns (config, params) of a run, with 100 steps of DDIM(1)."""
  config = base.get_config()
  sampling = {'sampler': 'ddim', 'eta': 1.0, 'num_steps': 100}
  config.update({'sampling': sampling})
  config = run_folder.run_config(workdir, config)
  return config, sample.restore(config, workdir)


def fill_in(run, wrap, resampling, iterations, known, mask):
  """Returns completed digits [N, 8, 8, 1] and the calls of the network."""
  config, params = run
  keys = jax.random.split(jax.random.key(0), (2, len(known)))

  def change(denoise):
    if not iterations:
      return denoise
    return dj.reconstruction_guided(denoise, known, mask, 1.0, iterations)

  @jax.jit
  def make(params):
    trained, levels, sampler = diffusion.levels_and_sampler(config, params)
    cond = {}
    if config.conditioning.image:
      cond = {'image': conditions.known_pixels(known, mask)}
    denoise: Any = diffusion.build_denoise(
      config, params, cond, trained, after_guidance=change
    )
    x = dj.prior_sample(keys[0], known.shape, levels.take(0))
    if wrap:
      sampler = wrap(sampler, known, mask)
    if resampling:
      levels = dj.repaint_levels(levels, *resampling)
    x = dj.sample(keys[1], denoise, sampler, levels, x)
    return jnp.where(mask, known, x)

  levels = build.build_levels(config, build.build_schedule(config))
  if resampling:
    levels = dj.repaint_levels(levels, *resampling)
  return np.asarray(make(params)), int((np.diff(levels.t) < 0).sum())


def main(argv):
  """Prints the table and writes the picture."""
  logging.set_verbosity(logging.ERROR)  # Orbax says much
  runs = [load(workdir) for workdir in argv[1:]]
  test = sources.digits('test')
  truth = images.scale(test.images, 17)
  mask = (np.arange(8) < 4).reshape(1, 8, 1, 1)
  unknown = np.broadcast_to(~mask, truth.shape)
  columns = [images.to_uint8(np.where(mask, truth, 0.0), 17)]
  labels = digits.real_labels('test')
  read = digits.judge(images.to_uint8(truth, 17), labels)
  print(f'| the digits themselves | {read["accuracy"]:.1%} | 0 | |')
  for name, (which, wrap, resampling, iterations) in METHODS.items():
    start = time.time()
    x, calls = fill_in(runs[which], wrap, resampling, iterations, truth, mask)
    seconds = time.time() - start
    made = images.to_uint8(x, 17)
    verdict = digits.judge(made, labels)
    error = np.sqrt(np.mean((x - truth)[unknown] ** 2))
    print(
      f'| {name} | {verdict["accuracy"]:.1%} ± {verdict["error"]:.1%} | '
      f'{error:.3f} | {calls} | {seconds:.0f} s',
      flush=True,
    )
    columns.append(made)
  columns.append(images.to_uint8(truth, 17))
  rows = np.stack([c[: flags.FLAGS.rows] for c in columns], axis=1)
  sheet = images.grid(rows.reshape(-1, 8, 8, 1), len(columns), 5)
  images.write_png(f'{flags.FLAGS.out}.png', sheet)


if __name__ == '__main__':
  app.run(main)
