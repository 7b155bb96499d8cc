"""Implements --mode=noise: noises a photo and tests how white the end is."""

import json

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import plots, whiteness
from diffusion_jax.runs import run_folder


def run(config, workdir):
  """Writes pictures, plots and white_noise.json into workdir."""
  c = config.noise
  schedule = build.build_schedule(config)
  if not isinstance(schedule, dj.DiscreteSchedule):
    raise UserError(
      f'config.schedule.name={config.schedule.name!r} has no steps: choose '
      'betas or give --config.schedule.alphas, and no schedule.shift'
    )
  with build.from_config('noise'):
    if not c.image:
      raise ValueError('which picture? Give --config.noise.image=china.jpg')
    photo = images.fit(
      images.read_image(images.photo_path(c.image)), c.size, c.fit
    )
  workdir = run_folder.prepare(workdir)

  # Strip and animation show steps of the same noising.
  last = schedule.num_steps
  in_strip, in_film = spread(last, c.strip), spread(last, c.frames)
  steps = sorted({*in_strip, *in_film})
  x = jnp.asarray(images.scale(photo))
  noise = jax.jit(lambda key, x: dj.noise_image(key, x, schedule, steps))
  z = np.asarray(noise(stream(config.seed, 'noise'), x))
  at = dict(zip(steps, z, strict=True))

  strip = np.stack([images.to_uint8(at[i]) for i in in_strip])
  images.write_png(workdir / 'strip.png', images.grid(strip, len(strip)))
  # The film has every n-th pixel: averages of neighbours have less noise.
  stride = max(1, c.size // 300)
  film = [images.to_uint8(at[i][::stride, ::stride]) for i in in_film]
  images.write_gif(workdir / 'noise.gif', film)
  plots.plot_schedule(
    workdir / 'schedule.png', schedule.alphas, schedule.alpha_bars
  )
  spectra = [whiteness.radial_power_spectrum(at[i]) for i in in_strip]
  plots.plot_spectra(
    workdir / 'spectrum.png',
    spectra[0][0],
    [power for _, power in spectra],
    [f't = {i}' for i in in_strip],
  )
  report = whiteness_report(config, schedule, np.asarray(x), at[last])
  run_folder.write_json(workdir / 'white_noise.json', report)
  print(json.dumps(report, indent=2))
  print(f'strip.png shows t = {", ".join(map(str, in_strip))}')
  for name in ('strip.png', 'noise.gif', 'schedule.png', 'spectrum.png'):
    print(f'wrote {workdir / name}')
  print(f'wrote {workdir / "white_noise.json"}')


def spread(last, n):
  """Returns n steps from 0 to last, evenly spread, without repetition."""
  return sorted({int(i) for i in np.rint(np.linspace(0, last, n))})


def whiteness_report(config, schedule, x, z):
  """Returns the contents of white_noise.json: numbers, and their meaning."""
  found = whiteness.distance_to_noise(z, config.noise.num_draws, config.seed)
  alpha_bar = float(schedule.alpha_bars[-1])
  second_moment = float(np.mean(np.square(x, dtype=np.float64)))
  deviation = float(np.std(x, dtype=np.float64))
  z_deviation = (alpha_bar * deviation**2 + 1.0 - alpha_bar) ** 0.5
  distance = {
    'estimate': found['mean'],
    'standard_error': found['standard_error'],
    'closed_form': found['closed_form'],
    'white_noise': 2.0 * z.size,
  }
  return {
    'steps': schedule.num_steps,
    'dimensions': z.size,
    'alpha_bar_T': alpha_bar,
    'distance_total': {
      **distance,
      'meaning': (
        'E|eps - z_T|^2 over fresh white noise eps, for this one z_T, summed '
        'over all pixels and channels. estimate is the mean of '
        f'{config.noise.num_draws} draws of eps and should lie within a few '
        'standard_errors of closed_form = |z_T|^2 + D. white_noise = 2 D is '
        'what to expect if z_T were itself white noise: Var(eps) + Var(z_T).'
      ),
    },
    'distance_per_dim': {
      **{name: value / z.size for name, value in distance.items()},
      'averaged_over_z': 2.0 + alpha_bar * (second_moment - 1.0),
      'meaning': (
        'The same divided by D, so that white noise scores 2. averaged_over_z '
        '= 2 + alpha_bar_T (mean(x^2) - 1) averages over the noise in z_T as '
        'well: it is 2 when no signal is left, but also for any picture whose '
        'mean square is 1, noisy or not. A 2 does not prove that z_T is noise.'
      ),
    },
    'correlation_with_x': {
      'value': whiteness.correlation(z, x),
      'expected': alpha_bar**0.5 * deviation / z_deviation,
      'of_independent_noise': z.size**-0.5,
      'meaning': (
        'What the distance does not show: how much of the picture x is left '
        'in z_T. expected = sqrt(alpha_bar_T) std(x) / std(z_T); noise that is '
        'independent of x gives 0, up to about of_independent_noise.'
      ),
    },
  }
