"""A photo that is noised step by step, and how white its noise becomes."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Json
from diffusion_jax.atomic_files import write_figure
from diffusion_jax.core.keys import stream
from diffusion_jax.data import images
from diffusion_jax.demos import whiteness
from diffusion_jax.ranges import Size, at_least

_Several = Annotated[int, at_least(2)]


@dataclasses.dataclass(frozen=True)
class Noising:
  """Holds the options of a photo that is noised step by step.

  image: a file, or scikit-learn's china.jpg, flower.jpg; size: side of the
  square picture, to which `fit` crops or scales the photo. strip, frames:
  number of steps in the strip and in the animation; num_draws: number of draws
  of white noise for the Monte-Carlo estimate of the distance to it.
  """

  image: str = 'china.jpg'
  size: Size = 600
  fit: Literal['crop', 'scale'] = 'crop'
  strip: _Several = 6
  frames: _Several = 51
  num_draws: _Several = 100

  def photo(self) -> np.ndarray:
    """Returns the picture, uint8 [size, size, 3]."""
    if not self.image:
      raise ValueError('which picture? Set image, to china.jpg for instance')
    photo = images.read_image(images.photo_path(self.image))
    return images.fit(photo, self.size, self.fit)


def write(
  noising: Noising, photo: np.ndarray, schedule: dj.DiscreteSchedule, seed: int, folder: Path
) -> tuple[list[int], Json]:
  """Writes strip.png, noise.gif, schedule.png and spectrum.png.

  Returns the steps of the strip, and the report on the noise at the end.
  """
  last = schedule.num_steps
  in_strip, in_film = (_spread(last, noising.strip), _spread(last, noising.frames))
  # Strip and animation show steps of the same noising.
  steps = sorted({*in_strip, *in_film})
  x = images.PICTURES.encode(photo)
  noise = jax.jit(lambda key, x: dj.noise_image(key, x, schedule, steps))
  z = np.asarray(noise(stream(seed, 'noise'), jnp.asarray(x)))
  z_at = dict(zip(steps, z, strict=True))
  strip = np.stack([images.PICTURES.decode(z_at[i]) for i in in_strip])
  images.write_png(folder / 'strip.png', images.grid(strip, len(strip)))
  # The film has every n-th pixel: averages of neighbours have less noise.
  stride = max(1, noising.size // 300)
  film = [images.PICTURES.decode(z_at[i][::stride, ::stride]) for i in in_film]
  images.write_gif(folder / 'noise.gif', film)
  _plot_schedule(folder / 'schedule.png', schedule.alphas, schedule.alpha_bars)
  spectra = [whiteness.radial_power_spectrum(z_at[i]) for i in in_strip]
  _plot_spectra(folder / 'spectrum.png', in_strip, spectra)
  report = _report(schedule, x, z_at[last], noising.num_draws, seed)
  return in_strip, report


def _spread(last, n):
  # Returns n steps from 0 to last, evenly spread, without repetition.
  return sorted({int(i) for i in np.rint(np.linspace(0, last, n))})


def _report(schedule, x, z, num_draws, seed):
  # Returns numbers that say how white z_T is, and their meaning. x: the picture
  # in [-1, 1]; z: its latent at the last step, of the same shape.
  found = whiteness.distance_to_noise(z, num_draws, seed)
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
        f'{num_draws} draws of eps and should lie within a few '
        'standard_errors of closed_form = |z_T|^2 + D. white_noise = 2 D is '
        'the value for a z_T that is itself white noise: Var(eps) + Var(z_T).'
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


def _figure(width, height):
  # pyplot would need a window system and global state.
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), dpi=110, layout='constrained')


def _plot_schedule(path, alphas, alpha_bars):
  # Plots alpha_t, alpha_bar_t and SNR (log scale), each [T], by step.
  figure = _figure(12.0, 3.2)
  axes = figure.subplots(1, 3)
  steps = np.arange(1, len(alphas) + 1)
  alpha_bars = np.asarray(alpha_bars, np.float64)
  snr = alpha_bars / (1.0 - alpha_bars)
  snr = np.where(snr > 0.0, snr, np.nan)
  curves = {'alpha_t': alphas, 'alpha_bar_t': alpha_bars, 'SNR': snr}
  marker = 'o' if len(steps) < 20 else None
  for ax, (name, values) in zip(axes, curves.items(), strict=True):
    ax.plot(steps, values, marker=marker)
    ax.set(title=name, xlabel='step t')
    ax.grid(alpha=0.3)
  axes[2].set_yscale('log')
  axes[2].axhline(1.0, color='grey', linewidth=0.8)
  write_figure(path, figure)


def _plot_spectra(path, steps, spectra):
  # Plots power spectra, (frequency, power) each, log-log, and white noise's.
  figure = _figure(6.4, 4.4)
  ax = figure.subplots()
  shades = np.linspace(0.0, 0.85, len(spectra))
  for t, spectrum, shade in zip(steps, spectra, shades, strict=True):
    ax.loglog(*spectrum, label=f't = {t}', color=(shade, 0.25, 1.0 - shade))
  ax.axhline(1.0, color='black', linestyle='--', label='white noise')
  ax.set(xlabel='cycles per pixel', ylabel='power')
  ax.set_title('radial power spectrum of z_t')
  ax.legend(fontsize=8)
  ax.grid(alpha=0.3, which='both')
  write_figure(path, figure)
