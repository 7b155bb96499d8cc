"""The edit `restore`: pictures, or other data, from a measurement of them."""

import functools
import glob
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.app.edit.methods import Batch, Edited, Known, Method
from diffusion_jax.app.edit.pictures import (
  Edit,
  EncodeImages,
  Made,
  Pictures,
  Shown,
  drawn,
  read_file,
  sheet_of,
)
from diffusion_jax.app.edit.posteriors import listed, warning, whiteness
from diffusion_jax.core import operators
from diffusion_jax.core.operators import Operator
from diffusion_jax.data import images, npz
from diffusion_jax.data.pictures import as_picture, read_array, read_measurement, read_picture
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import restoration
from diffusion_jax.metrics.restoration import MOST
from diffusion_jax.paths import ReadPath
from diffusion_jax.posteriors.damage import (
  GREY,
  damage_of,
  noise_needed,
)
from diffusion_jax.ranges import Positive
from diffusion_jax.runtime.streams import stream

_FILES = '.png', '.jpg', '.jpeg', '.npy'
_ROWS = 16  # the most rows of a sheet


def mask(mask: ReadPath = '', *, shape: tuple[int, ...]) -> Operator:
  """Shows the white pixels of the picture `mask`, and 0 elsewhere.

  For arrays other than pictures, `mask` is a .npy file of their shape, True or
  1 where numbers are seen.
  """
  if Path(mask).suffix != '.npy':
    return operators.masked(jnp.asarray(read_file(mask, 'mask', shape, 'operator.mask')))
  seen = npz.read_array(mask, 'mask', 'fiub')
  if seen.shape != shape or not np.isin(seen, (0, 1)).all() or not seen.any():
    raise ValueError(
      f'operator.mask={mask} must have 0 and 1 in the shape {list(shape)}, got {list(seen.shape)}'
    )
  return operators.masked(jnp.asarray(seen, bool))


def matrix(path: ReadPath = '', *, shape: tuple[int, ...]) -> Operator:
  """Multiplies x, flattened, by the matrix [M, D] of a .npy file: [B, M]."""
  rows, size = npz.read_array(path, 'matrix'), math.prod(shape)
  if rows.ndim != 2 or rows.shape[1] != size:
    raise ValueError(
      f'operator.path={path} has the shape {list(rows.shape)}, and a matrix '
      f'[M, {size}] is needed for x of the shape {list(shape)}'
    )
  return lambda x: x.reshape(len(x), -1) @ jnp.asarray(rows, x.dtype).T


@dataclass(frozen=True, kw_only=True)
class Restore(Edit):
  """Draws x_0 given y = operator(x_0) + noise (docs/posterior.md).

  Args:
    image: a damaged picture, a folder of them, or a pattern such as 'in/*.png';
      .npy files have y in its own units, phase's for instance, and are needed
      for data other than pictures
    operator: the damage
    posterior: the method
    noise: standard deviation of y's noise, in grey levels of 255, or in the
      units of y for data other than pictures; one for all of y, or one for each
      channel, its last axis
    simulate: the pictures are clean, and are damaged first
  """

  image: ReadPath = ''
  operator: Operator | None = None  # made with the shape of the run's images
  posterior: Method
  noise: Positive | tuple[Positive, ...] = 1.0
  simulate: bool = False

  part: ClassVar = 'operator'
  loses: ClassVar = True

  def read(self, model: Edited) -> Pictures:
    """Reads y [P, ...] and the files' names; `simulate`: and clean pictures."""
    damage, values = self._damage(model), model.facts.x
    names = {'names': np.array([Path(path).name for path in self.paths])}
    x = jax.ShapeDtypeStruct((1, *values.shape), np.float32)
    shape = jax.eval_shape(damage.forward, x).shape[1:]
    if values.levels:
      std = (damage.std / damage.weights).ravel()
      grey, std = (', '.join(f'{x:.4g}' for x in a) for a in (GREY * std, std))
      print(f'noise: {grey} grey levels of 255, {std} in [-1, 1]')
    print(self.posterior.note, end='')
    if not self.simulate:
      y = np.stack([read_measurement(path, shape, values) for path in self.paths])
      return names | {'y': self._possible(model, damage, y - damage.offset)}
    if values.is_picture:
      clean = np.stack([read_picture(path, 'image', values.shape) for path in self.paths])
    else:
      clean = np.stack([read_array(path, values.shape) for path in self.paths])
    y = jax.jit(damage.forward)(values.written.encode(clean))
    key = stream(model.config.sampling.seed, 'measurement')
    y += damage.std * jax.random.normal(key, y.shape)
    y /= damage.weights
    return names | {'y': self._possible(model, damage, y), 'clean': clean}

  def _damage(self, model):
    assert self.operator is not None  # else it was refused
    return damage_of(self.operator, self.noise, model.facts.x)

  def _possible(self, model, damage, y):
    # Returns y with 0 where no x_0 can change it, such as at hidden pixels;
    # says which pictures have more that no x_0 explains.
    y = np.where(damage.seen, y, 0.0).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(y).reshape(len(y), -1).all(axis=1))
    if len(bad):
      raise ValueError(
        f'{self.paths[bad[0]]} has numbers that are not finite where the operator sees them'
      )
    if not damage.is_linear or not model.facts.x.levels:
      return y
    x0 = np.zeros((len(y), *model.facts.x.shape), np.float32)
    needed = noise_needed(damage.forward, y * damage.weights, x0, damage.std)
    needed /= np.sqrt(damage.seen.mean())
    beyond = needed > MOST
    if beyond.any():
      worst = Path(self.paths[np.argmax(needed)]).name
      print(
        f'{beyond.sum()} of {len(y)} pictures are not what this operator makes '
        f'of any picture: {worst} is at least {needed.max():.3g} times the '
        'noise away, and about 1 is right. Check operator and noise, and '
        'whether y was cut, scaled or compressed after the damage'
      )
    return y

  @functools.cached_property
  def paths(self) -> list[str]:
    """The files of pictures, listed once; raises ValueError without one."""
    path = Path(self.image).expanduser()
    if not self.image:
      raise ValueError("image is not set: give --config.edit.image='in/*.png'")
    paths = [str(path)]
    if path.is_dir():
      paths = [str(x) for x in path.iterdir() if x.suffix.lower() in _FILES]
    elif glob.has_magic(self.image) and not path.exists():
      paths = glob.glob(str(path))
    if not paths:
      raise ValueError(f'image={self.image}: no picture was found')
    stems = [Path(x).stem for x in paths]
    if twice := [x for x in stems if stems.count(x) > 1]:
      raise ValueError(f'image={self.image}: two files are named {twice[0]}')
    return sorted(paths)

  def count(self) -> int:
    return self.num_samples * len(self.paths)

  def inputs(self, encode: EncodeImages, pictures: Pictures) -> dict[str, np.ndarray]:
    return {'y': pictures['y'].repeat(self.num_samples, axis=0)}

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    damage = self._damage(model)
    linear = damage.is_linear and model.config.get('latent') is None
    if self.posterior.needs_linear and not linear:
      c = model.config.edit
      raise UserError(
        f'config.edit.posterior={c.posterior.name} needs a linear operator, '
        f'and {c.operator.name} is not: set posterior to steered or '
        'pseudoinverse, or for decoupled and gibbs posterior.step_size'
      )
    known = Known(
      batch.inputs['y'] * damage.weights,
      lambda x: damage.forward(batch.decode(x)),
      damage.std,
      is_linear=linear,
      width=damage.width,
    )
    samples = self.posterior.draw(batch, known)
    residual = known.residual(samples['x']) / damage.std
    square = jnp.mean(residual**2, axis=tuple(range(1, residual.ndim)))
    more = {'residual': jnp.sqrt(square / damage.seen.mean())}
    if self.posterior.takes_white:
      more['whiteness'] = whiteness(batch, samples['x'])
    return samples | more

  def show(self, model: Edited, made: Made) -> Shown:
    y, clean = made.pictures['y'], made.pictures.get('clean')
    has_pictures = y.ndim == 4 and y.shape[-1] in (1, 3)
    samples = made.results.reshape(len(y), -1, *made.results.shape[1:])
    shown, sheet, every = Shown({}, []), [], []
    for i, file in enumerate(self.paths):
      end = f'_{Path(file).stem}'
      mine, figures = self._summarized(model, made, i, shown.said)
      if not model.facts.x.is_picture:
        shown.files[end] = drawn(model, samples[i], made.data)
        continue
      every += [figures] if figures else []
      x = np.nan_to_num(mine['x'])
      parts = {f'_{j}': one for j, one in enumerate(samples[i])}
      parts['_mean'] = images.PICTURES.decode(x.mean(axis=0))
      parts['_std'] = images.PICTURES.decode(2.0 * x.std(axis=0) - 1.0)
      shown.files.update({end + part: picture for part, picture in parts.items()})
      row = [] if clean is None else [clean[i]]
      if has_pictures:
        row.append(as_picture(images.PICTURES.decode(y[i]), model.facts.x.shape))
      sheet.append([*row, *parts.values()])
    if not sheet:  # Arrays are in the npz file.
      return shown
    means = {n: float(np.mean([f[n] for f in every])) for n in every[0]}
    white = means.pop('whiteness', 1.0)
    if len(y) > 1:
      count = f'{len(every)} of {len(y)}' if len(every) < len(y) else len(y)
      shown.said.append(f'mean of {count} pictures: {listed(means)}')
    if white < 0.5:
      shown.said.append(
        f'where sigma = alpha, x_0 has {white:.2g} of the variance that '
        f'edit.posterior={model.config.edit.posterior.name} takes it to have, '
        'so its samples may vary too much: compare with posterior=moment, or '
        'with more particles of steered'
      )
    rows = np.concatenate([np.stack(row) for row in sheet[:_ROWS]])
    shown.files[''] = sheet_of(rows, len(sheet[0]))
    first = 'clean, ' * (clean is not None) + 'y, ' * has_pictures
    return shown._replace(about=f'{first}samples, their mean and standard deviation')

  def _summarized(self, model, made, i, said):
    # Returns the numbers of measurement i's samples without those that are left
    # out, and their figures, {} without a sample; appends lines to `said`.
    name, clean = Path(self.paths[i]).name, made.pictures.get('clean')
    size, values, figures = len(made.pictures['y']), model.facts.x, {}
    numbers = {n: a.reshape(size, -1, *a.shape[1:])[i] for n, a in made.numbers.items()}
    kept = restoration.kept(numbers['x'], numbers['residual'])
    stored = made.results.reshape(size, -1, *made.results.shape[1:])[i]
    numbers |= {'x': values.written.encode(stored)}  # with their grey levels
    if kept.any():
      numbers = {n: a[kept] for n, a in numbers.items()}
      truth = None if clean is None else values.written.encode(clean[i])
      figures = restoration.figures(numbers, truth)
      hidden = ('whiteness',) if values.is_picture else ('psnr', 'psnr_of_mean')
      shown = {n: x for n, x in figures.items() if n not in hidden}
      count = model.config.edit.posterior.get('particles', 0)
      said.append(f'{name}: {listed(shown)}{warning(**shown, particles=count)}')
    if not kept.all():
      lost = ', '.join(map(str, np.flatnonzero(~kept)))
      said.append(
        f'{name}: {(~kept).sum()} of {len(kept)} samples are left out ({lost}): not finite, or '
        f'with a residual above {MOST:g} times the usual one. The mean, std and figures are '
        'without them. Try more sampling.num_steps, or another edit.posterior'
      )
    return numbers, figures
