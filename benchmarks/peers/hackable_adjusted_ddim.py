"""Where hackable_diffusion's AdjustedDDIMStep takes a point, and with one name changed.

  python benchmarks/peers/hackable_adjusted_ddim.py

Needs `pip install hackable-diffusion==1.0.1` on Python 3.12 or newer, and
nothing of this project. Algorithm 3 of Heek et al. (2024, arXiv 2403.06807)
scales the estimate of x_0 by the alpha of the level that it goes to; the code
has `alpha * x0`, of the level that it comes from. The data are the number 2, so
the exact denoiser returns 2, and all x of a level t have the mean 2 (1 - t).
"""

import inspect

import jax
import jax.numpy as jnp
from hackable_diffusion.lib.corruption import gaussian, schedules
from hackable_diffusion.lib.sampling import base, gaussian_step_sampler

SIZE, POINT = 100_000, 2.0


def end(step, num_steps):
  """Returns the mean of x at t = 0."""
  step = step(corruption_process=gaussian.GaussianProcess(schedule=schedules.RFSchedule()))
  times = jnp.linspace(1.0 - 1e-3, 0.0, num_steps + 1)
  infos = [
    base.StepInfo(step=i, time=t[None], rng=jax.random.PRNGKey(i)) for i, t in enumerate(times)
  ]
  x = step.initialize(jax.random.normal(jax.random.key(0), (1, SIZE, 1)), infos[0])
  for info in infos[1:]:
    x = step.update({'x0': jnp.full_like(x.xt, POINT)}, x, info)
  return float(x.xt.mean())


def main():
  """Prints the means."""
  namespace = dict(vars(gaussian_step_sampler))
  source = inspect.getsource(gaussian_step_sampler.AdjustedDDIMStep)
  exec(source.replace('alpha * x0\n', 'next_alpha * x0\n'), namespace)
  steps = gaussian_step_sampler.AdjustedDDIMStep, namespace['AdjustedDDIMStep']
  for name, step in zip(('as it is', 'next_alpha'), steps, strict=True):
    print(f'{name}:', ' '.join(f'{end(step, n):.3f}' for n in (8, 16, 32, 128)))


if __name__ == '__main__':
  main()
