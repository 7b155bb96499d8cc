"""Edits that draw from a posterior: `restore` pictures, `steer` by a reward."""

import functools
import glob
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edits import (
  STEPS,
  Edit,
  Encode,
  Made,
  Pictures,
  Task,
  as_picture,
  read_mask,
  read_picture,
)
from diffusion_jax.app.model import NOTHING, Model
from diffusion_jax.app.posteriors import Given, Method, steer
from diffusion_jax.core import operators
from diffusion_jax.core.keys import stream
from diffusion_jax.core.measurements import is_linear
from diffusion_jax.core.operators import Operator
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.ranges import Finite, Positive, Size

_FILES = '.png', '.jpg', '.jpeg', '.npy'
_GREY = 127.5  # grey levels of 255 in one unit of x in [-1, 1]
_ROWS = 16  # of the sheet


def mask(mask: str = '', *, image_shape: tuple[int, int, int]) -> Operator:
  """Shows the white pixels of the picture `mask`, and 0 elsewhere."""
  white = read_mask(mask, image_shape, 'operator.mask')
  return operators.masked(jnp.asarray(white))


def brightness(x0: jax.Array, strength: Finite = 10.0) -> jax.Array:
  """Computes the mean of all pixels, times `strength`, [B]."""
  return strength * jnp.mean(x0, axis=tuple(range(1, x0.ndim)))


@dataclass(frozen=True, kw_only=True)
class Restore(Edit):
  """Draws pictures x_0 given y = operator(x_0) + noise (docs/posterior.md).

  Args:
    image: a damaged picture, a folder of them, or a pattern such as 'in/*.png';
      .npy files have y in its own units, phase's for instance
    operator: the damage
    posterior: the method
    noise: standard deviation of y's noise, in grey levels of 255
    simulate: the pictures are clean, and are damaged first
  """

  image: str = ''
  operator: Node | None = None  # made with the shape of the run's images
  posterior: Method
  noise: Positive = 1.0
  simulate: bool = False

  @functools.cached_property
  def _operators(self) -> dict[tuple[int, ...], Operator]:
    return {}  # by the shape of the run's images

  def check(self, model: Model) -> None:
    super().check(model)
    _check_given(model, 'operator', self.operator)
    name = model.config.edit.posterior.name
    if model.autoencoder is not NOTHING and not self.posterior.in_latents:
      raise UserError(
        f'config.edit.posterior={name} needs pixels, and this run diffuses '
        'latents: set it to steered'
      )
    self.posterior.check(model)

  def unread(self, model: Model) -> Iterator[tuple[Sequence[str], str]]:
    yield from super().unread(model)
    name = model.config.edit.posterior.name
    yield self.posterior.unread, f'edit.posterior={name}'

  def read(self, model: Model) -> Pictures:
    """Reads y [P, ...], and with `simulate` the clean pictures, uint8."""
    forward, shape = self._forward(model), model.facts.image_shape
    seen = jax.eval_shape(
      forward, jax.ShapeDtypeStruct((1, *shape), np.float32)
    )
    std = self.noise / _GREY
    print(f'noise: {self.noise:g} grey levels of 255, {std:.4g} in [-1, 1]')
    print(self.posterior.note, end='')
    if not self.simulate:
      y = [_read(path, seen.shape[1:]) for path in self.files()]
      return {'y': np.stack(y)}
    clean = np.stack([read_picture(x, 'image', shape) for x in self.files()])
    y = forward(jnp.asarray(images.scale(clean)))
    key = stream(model.config.sampling.seed, 'measurement')
    y += std * jax.random.normal(key, y.shape)
    return {'y': np.asarray(y), 'clean': clean}

  def files(self) -> list[str]:
    """Returns the files of pictures; raises ValueError without one."""
    path = Path(self.image).expanduser()
    if not self.image:
      raise ValueError("image is not set: give --config.edit.image='in/*.png'")
    if path.is_dir():
      found = [str(x) for x in path.iterdir() if x.suffix.lower() in _FILES]
    elif glob.has_magic(self.image) and not path.exists():
      found = glob.glob(str(path))
    else:
      found = [str(path)]
    if not found:
      raise ValueError(f'image={self.image}: there are no pictures')
    stems = [Path(x).stem for x in found]
    twice = [x for x in stems if stems.count(x) > 1]
    if twice:
      raise ValueError(f'image={self.image}: two files are named {twice[0]}')
    return sorted(found)

  def count(self) -> int:
    return self.num_samples * len(self.files())

  def inputs(self, encode: Encode, pictures: Pictures) -> dict[str, np.ndarray]:
    return {'y': pictures['y'].repeat(self.num_samples, axis=0)}

  def results(self, task: Task) -> dict[str, jax.Array]:
    forward, inputs, model = self._forward(task.model), task.inputs, task.model
    check_denoises(task)
    grey = np.zeros((1, *model.facts.image_shape), np.float32)
    linear = model.autoencoder is NOTHING and is_linear(forward, grey)
    if self.posterior.needs_linear and not linear:
      c = model.config.edit
      raise UserError(
        f'config.edit.posterior={c.posterior.name} needs a linear operator, '
        f'and {c.operator.name} is not: set posterior to steered or '
        'pseudoinverse, or for decoupled and gibbs posterior.step_size'
      )
    measurement = dj.Measurement(
      inputs['y'], lambda x: forward(task.decode(x)), self.noise / _GREY
    )
    return self.posterior.draw(
      Given(task.plan, task.keys, inputs['cond'], measurement, linear)
    )

  def _forward(self, model):
    # A mask is read, and described, once.
    made, shape = self._operators, model.facts.image_shape
    if shape not in made:
      assert self.operator is not None  # `check` refuses
      made[shape] = self.operator.make({'image_shape': shape})
    return made[shape]

  def write(self, model: Model, path: Path, made: Made) -> None:
    forward = jax.jit(self._forward(model))
    results, numbers, pictures = made
    y, clean = pictures['y'], pictures.get('clean')
    samples, x = (
      a.reshape(len(y), -1, *a.shape[1:]) for a in (results, numbers['x'])
    )
    mean = images.to_uint8(x.mean(axis=1), 256)
    spread = images.to_uint8(2.0 * x.std(axis=1) - 1.0, 256)
    sheet, figures = [], []
    for i, file in enumerate(self.files()):
      name = path.with_name(f'{path.name}_{Path(file).stem}')
      parts = {str(j): one for j, one in enumerate(samples[i])}
      parts |= {'mean': mean[i], 'std': spread[i]}
      for part, picture in parts.items():
        images.write_png(name.with_name(f'{name.name}_{part}.png'), picture)
      residual = np.asarray(forward(x[i])) - y[i]
      found = {'residual': _rms(residual) * _GREY / self.noise}
      found['spread'] = float(x[i].std(axis=0).mean())
      truth = []
      if clean is not None:
        truth = [clean[i]]
        found |= errors(x[i], images.scale(clean[i]))
      for key, values in numbers.items():
        if key != 'x':
          of = values.reshape(len(y), -1)[i]
          found[key] = float(of.min() if key == 'lowest_ess' else of.mean())
      figures.append(found)
      print(f'{Path(file).name}: {_listed(found)}{_warning(**found)}')
      seen = (
        [as_picture(model, images.to_uint8(y[i]))] if _is_picture(y[i]) else []
      )
      sheet.append([*truth, *seen, *samples[i], mean[i], spread[i]])
    if len(y) > 1:
      means = {n: float(np.mean([f[n] for f in figures])) for n in figures[0]}
      print(f'mean of {len(y)} pictures: {_listed(means)}')
    print(f'wrote {path}_<picture>_0.png and others, _mean.png, _std.png')
    rows = np.concatenate([np.stack(row) for row in sheet[:_ROWS]])
    zoom = max(1, round(96 / rows.shape[1]))
    path = path.with_name(f'{path.name}.png')
    images.write_png(path, images.grid(rows, len(sheet[0]), zoom))
    first = 'clean, ' * bool(clean is not None) + 'y, ' * _is_picture(y[0])
    print(f'wrote {path}: {first}samples, their mean and standard deviation')


@dataclass(frozen=True, kw_only=True)
class Steer(Edit):
  """Draws from the run's images times exp(reward), by weighted particles.

  Args:
    reward: x_0 -> numbers, brightness or a function of yours, module:name
    particles: of each result, which is one of them
    gradient: whether the reward's gradient moves them
  """

  reward: Node | None = None
  particles: Size = 16
  gradient: bool = True

  def check(self, model: Model) -> None:
    super().check(model)
    _check_given(model, 'reward', self.reward)

  def unread(self, model: Model) -> Iterator[tuple[Sequence[str], str]]:
    yield from super().unread(model)
    yield STEPS, 'edit=steer, whose particles have steps of their own'

  def results(self, task: Task) -> dict[str, jax.Array]:
    check_denoises(task)
    node = self.reward
    assert node is not None  # `check` refuses

    def reward(x):
      found = node.make({'x0': task.decode(x)})
      if jnp.shape(found) != x.shape[:1]:
        raise UserError(
          f'config.edit.reward={node.name}: its result has the shape '
          f'{list(jnp.shape(found))}, [{len(x)}] is needed, a number an image'
        )
      return found

    batch = task.plan, task.keys, task.inputs['cond']
    drawn = steer(*batch, reward, None, self.particles, self.gradient)
    return drawn | {'reward': reward(drawn['x'])}

  def write(self, model: Model, path: Path, made: Made) -> None:
    super().write(model, path, made)
    numbers = made.numbers
    found = {n: float(x.mean()) for n, x in numbers.items() if n != 'x'}
    found['lowest_ess'] = float(numbers['lowest_ess'].min())
    print(f'{_listed(found)}{_warning(**found)}')


def _check_given(model, field, node):
  if node is None:
    names = ', '.join(model.schema.table(f'edit.{field}'))
    raise UserError(
      f'config.edit.{field} is not set: {model.config.edit.name} needs one of '
      f'{names}, or your own, module:name'
    )


def check_denoises(task: Task) -> None:
  """Raises UserError for a run whose step functions are no denoisers."""
  if not task.plan.denoises:
    raise UserError(
      f'config.edit={task.model.config.edit.name} needs a denoiser, and this '
      'run is a flow map, or was trained with conditioning.self_conditioning'
    )


def errors(x: np.ndarray, clean: np.ndarray) -> dict[str, float]:
  """Compares samples x [S, ...] with the clean picture, in [-1, 1].

  Returns PSNR in dB of their mean and of single samples, and the percentage of
  pixels whose truth is between the lowest and the highest sample; (S - 1) / (S
  + 1) of them are if the truth is another draw.
  """
  between = (x.min(axis=0) <= clean) & (clean <= x.max(axis=0))
  return {
    'psnr_of_mean': _psnr(x.mean(axis=0) - clean),
    'psnr': float(np.mean([_psnr(one - clean) for one in x])),
    'between': 100.0 * float(between.mean()),
  }


def _psnr(error):
  return 20.0 * math.log10(2.0 / max(_rms(error), 1e-9))


def _rms(x):
  return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _read(path, shape):
  # Reads a measurement: a picture in [-1, 1], or an array in its own units.
  if Path(path).suffix == '.npy':
    y = np.load(path, allow_pickle=False).astype(np.float32)
    if y.shape != shape:
      raise ValueError(f'{path} has the shape {y.shape}, {shape} is needed')
    return y
  if len(shape) != 3 or shape[-1] not in (1, 3):
    raise ValueError(
      f'{path}: what this operator measures is no picture, but an array '
      f'{shape}: give a .npy file, or simulate=True with clean pictures'
    )
  return images.scale(read_picture(path, 'image', shape))


def _is_picture(y):
  return y.ndim == 3 and y.shape[-1] in (1, 3)


def _listed(found):
  return ', '.join(f'{name} {x:.3g}' for name, x in found.items())


def _warning(residual=1.0, lowest_ess=np.inf, **_):
  if lowest_ess < 1.5:
    return (
      '. One particle had nearly all the weight, so neither the samples nor '
      'log_evidence are reliable: take more particles, or more steps'
    )
  if 1 / 3 <= residual <= 3.0:
    return ''
  high = (
    'the method has not reached y: try edit.posterior=gibbs, more '
    'posterior.iterations or sampling.num_steps, then check noise and operator'
  )
  return (
    '. The residual is |y - operator(x)| / noise, about 1 for a sample: '
    + (high if residual > 1.0 else 'noise is too large')
  )
