"""The homework: a photo is noised step by step with a list of alphas.

  python examples/noise_photo.py                       # 500 alphas from 0.9998 down to 0.96
  python examples/noise_photo.py --image=me.jpg --alphas=alphas.txt --out=runs/homework

Draws z_t = sqrt(alpha_t) z_{t-1} + sqrt(1 - alpha_t) eps_t, and says how white z_T is.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import diffusion_jax as dj
from diffusion_jax.core.arguments import check_at_least
from diffusion_jax.data import drawings, images
from diffusion_jax.demos import whiteness


def main(argv=None):
  """Reads the command line, and writes the pictures and the report."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--image', default='china.jpg', help="a file, or scikit-learn's photos")
  parser.add_argument('--alphas', help='a text file, one alpha_t of (0, 1) a line')
  parser.add_argument('--size', type=int, default=600, help='side of the square picture')
  parser.add_argument('--out', type=Path, default=Path('runs/noise_photo'))
  given = parser.parse_args(argv)
  try:
    check_at_least(8, size=given.size)
    alphas = np.loadtxt(given.alphas, ndmin=1) if given.alphas else np.linspace(0.9998, 0.96, 500)
    schedule = dj.DiscreteSchedule.from_betas(1.0 - alphas)
    photo = images.fit(images.read_image(images.photo_path(given.image)), given.size, 'crop')
    report = noised(photo, schedule, given.out)
  except (OSError, ValueError) as error:
    parser.error(str(error))
  print(json.dumps(report, indent=2))
  print(f'wrote strip.png, noise.gif, spectrum.png and white_noise.json into {given.out}')


def noised(photo, schedule, out):
  """Writes the pictures of a photo [H, W, 3] and returns how white its last latent is."""
  last = schedule.num_steps
  strip, film = (sorted({*np.linspace(0, last, n).round().astype(int).tolist()}) for n in (6, 51))
  steps, x = sorted({*strip, *film}), images.PICTURES.encode(photo)
  noise = jax.jit(lambda key: dj.noise_image(key, x, schedule, steps))
  z = dict(zip(steps, np.asarray(noise(jax.random.key(0))), strict=True))
  out.mkdir(parents=True, exist_ok=True)
  sheet = np.stack([images.PICTURES.decode(z[t]) for t in strip])
  drawings.write_png(out / 'strip.png', drawings.grid(sheet, len(strip)))
  n = max(1, len(photo) // 300)  # averages of neighbours would have less noise
  drawings.write_gif(out / 'noise.gif', [images.PICTURES.decode(z[t][::n, ::n]) for t in film])

  axes = (figure := Figure(layout='constrained')).subplots()
  for t in strip:
    axes.loglog(*whiteness.radial_power_spectrum(z[t]), label=f't = {t}')
  axes.axhline(1.0, color='black', linestyle='--', label='white noise')
  axes.set(xlabel='cycles per pixel', ylabel='radial power of z_t')
  axes.legend()
  figure.savefig(out / 'spectrum.png')

  alpha_bar, size = float(schedule.alpha_bars[-1]), z[last].size
  left, distance = alpha_bar * float(x.var()), whiteness.distance_to_noise(z[last], num_draws=100)
  report = {
    'steps': last,
    'alpha_bar_T': alpha_bar,
    # |eps - z_T|^2 of each number, over fresh white noise eps: 2 if z_T is white noise too
    **{name: value / size for name, value in distance.items()},
    'correlation': whiteness.correlation(z[last], x),  # what is left of the photo
    'expected_correlation': (left / (left + 1.0 - alpha_bar)) ** 0.5,
    'correlation_of_independent_noise': size**-0.5,
  }
  (out / 'white_noise.json').write_text(json.dumps(report, indent=2))
  return report


if __name__ == '__main__':
  main()
