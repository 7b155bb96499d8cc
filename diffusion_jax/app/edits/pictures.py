"""The edits of --mode=edit: their fields, checks, pictures and samplers."""

import abc
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app.config import unread
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.fields import Suffix
from diffusion_jax.app.model import Model, Plan
from diffusion_jax.core import operators
from diffusion_jax.core.keys import split_key
from diffusion_jax.data import images
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.ranges import (
  Count,
  NonNegative,
  Probability,
  Size,
)
from diffusion_jax.runtime.per_image import rows
from diffusion_jax.training import conditions

Pictures = dict[str, np.ndarray]  # by their field: image, image2, mask
Encode = Callable[[np.ndarray], np.ndarray]  # as the model diffuses it
Method = Literal['reconstruction', 'palette']
# Fields of sampling that what has steps of its own does not read.
STEPS = 'sampler', 'churn', 'ancestral_noise', 'corrector'


class Task(NamedTuple):
  """A batch of an edit.

  plan: of the run's parameters and guides. keys: [B]; inputs: the user's
  pictures in the form that is diffused, for each of the images; cond; and
  weight, of an interpolation. decode: what is diffused -> images.
  """

  model: Model
  plan: Plan
  keys: jax.Array
  inputs: dict[str, PyTree]
  decode: Callable[[jax.Array], jax.Array]


class Made(NamedTuple):
  """What an edit has made.

  results: uint8 [n, H, W, C]; numbers: x and the numbers of `Edit.results`;
  pictures: the user's; data: examples behind a drawing.
  """

  results: np.ndarray
  numbers: dict[str, np.ndarray]
  pictures: Pictures
  data: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Edit(abc.ABC):
  """Holds what all edits have.

  Args:
    num_samples: number of results
    label: the class; None: no class
    output: name of the files in edits/; '': the edit's name and its settings
  """

  num_samples: Size = 4
  label: Count | None = None
  output: Suffix = ''

  observes: ClassVar = False  # The picture has fewer pixels or colours.
  inverts: ClassVar = False  # The ODE is followed from the picture to noise.
  loses: ClassVar = False  # Single results may be NaN, and `write` says which.

  def check(self, model: Model) -> None:
    """Raises UserError if the edit cannot work with the run."""
    c, condition = model.config, _condition(model)
    name = c.edit.name
    for fields, beside in self.unread(model):
      names = [f'sampling.{field}' for field in fields]
      refuse(unread.of_fields(c, model.workdir, names, beside))
    if condition and name != condition:
      raise UserError(
        f'config.edit={name}: the network of this run was trained with '
        f'conditioning.image={condition} and can do only this task'
      )

  def unread(self, model: Model) -> Iterator[tuple[Sequence[str], str]]:
    """Yields fields of sampling that have no effect, and beside what."""
    fields = 'num_samples', 'labels', 'trajectory', 'name'
    yield fields, '--mode=edit, which reads edit.num_samples, label and output'

  def read(self, model: Model) -> Pictures:
    """Reads the files of the edit; raises ValueError for unsuitable files."""
    return {}

  def count(self) -> int:
    """Returns the number of results; ValueError if there are no pictures."""
    return self.num_samples

  def inputs(self, encode: Encode, pictures: Pictures) -> dict[str, np.ndarray]:
    """Returns pictures in the form that is diffused, for each result."""
    n = self.num_samples
    encoded = {name: encode(x) for name, x in pictures.items()}
    return {n_: np.broadcast_to(x, (n, *x.shape)) for n_, x in encoded.items()}

  @abc.abstractmethod
  def results(self, task: Task) -> dict[str, jax.Array]:
    """Returns x, what the model diffuses, and numbers [B], of a batch."""

  def write(self, model: Model, path: Path, made: Made) -> None:
    """Writes each result, and a row with the user's pictures and all results.

    path: without a suffix.
    """
    results, pictures = made.results, made.pictures
    for i, picture in enumerate(results):
      images.write_png(path.with_name(f'{path.name}_{i}.png'), picture)
    last = f' to _{len(results) - 1}.png' if len(results) > 1 else ''
    print(f'wrote {path}_0.png{last}')
    shown = [as_picture(model, x) for x in pictures.values()]
    row = np.stack([*shown, *results])
    zoom = max(1, round(96 / results.shape[1]))
    path = path.with_name(f'{path.name}.png')
    images.write_png(path, images.grid(row, len(row), zoom))
    count = len(results)
    shown = [*pictures, f'{count} result{"s" * (count > 1)}']
    print(f'wrote {path}: {" and ".join(", ".join(shown).rsplit(", ", 1))}')


@dataclass(frozen=True, kw_only=True)
class PictureEdit(Edit):
  """Changes a picture in the size of the run's images.

  image: the file of the picture.
  """

  image: str = ''

  def read(self, model: Model) -> Pictures:
    shape = model.facts.x.shape
    return {'image': read_picture(self.image, 'image', shape)}

  def results(self, task: Task) -> dict[str, jax.Array]:
    return {'x': self.draw(task)}

  @abc.abstractmethod
  def draw(self, task: Task) -> jax.Array:
    """Returns the results of a batch, as the model diffuses them."""


def _condition(model):
  section = model.config.conditioning.image
  return None if section is None else section.name


def refuse_unipc(model: Model, what: str) -> None:
  """Raises UserError for the sampler that `replace_known` does not allow."""
  sampler = model.config.sampling.get('sampler')
  if sampler is not None and sampler.constructor is dj.unipc:
    raise UserError(
      f'config.edit.{what} changes x between steps, which '
      'sampling.sampler=unipc would undo: take another sampler'
    )


class _ByMethod(PictureEdit):
  # An edit with several methods; palette is for runs with conditioning.image.

  method: str | None
  usual: ClassVar = 'reconstruction'

  def check(self, model: Model) -> None:
    super().check(model)
    self.method_in(model)

  def method_in(self, model: Model) -> str:
    """Returns the method that is given, or else the one that fits the run."""
    condition = _condition(model)
    method = self.method or ('palette' if condition else self.usual)
    if (method == 'palette') != bool(condition):
      needed = model.config.edit.name if method == 'palette' else 'None'
      raise UserError(
        f'config.edit.method={method} needs a run with conditioning.image='
        f'{needed}, and this one has {condition}'
      )
    return method


@dataclass(frozen=True, kw_only=True)
class InpaintStates(_ByMethod):
  """Fills in the pixels that are not white in the picture `mask`."""

  mask: str = ''
  method: Literal['replace'] = 'replace'

  usual: ClassVar = 'repaint'

  def read(self, model: Model) -> Pictures:
    pictures = super().read(model)
    pictures['mask'] = read_mask(self.mask, model.facts.x.shape)
    return pictures

  def draw(self, task: Task) -> jax.Array:
    known, mask = task.inputs['image'], task.inputs['mask']

    def replace(sampler, levels):
      return task.plan.replace_known(sampler, known, mask), levels

    return task.plan.from_noise(task.keys, task.inputs['cond'], wrap=replace)


@dataclass(frozen=True, kw_only=True)
class Inpaint(InpaintStates):
  """Fills in the pixels that are not white in the picture `mask`.

  Args:
    method: repaint (num_resamples times, jump steps back), replace,
      reconstruction (guidance by `scale`, with `iterations` of conjugate
      gradients), or palette, for runs with conditioning.image; None: palette
      for such runs, else repaint
  """

  method: Literal['repaint', 'replace', 'reconstruction', 'palette'] | None = (
    None
  )
  num_resamples: Size = 10
  jump: Size = 10
  scale: NonNegative = 1.0
  iterations: Size = 4

  def check(self, model: Model) -> None:
    super().check(model)
    method = self.method_in(model)
    if method in ('replace', 'repaint'):
      refuse_unipc(model, f'method={method}')

  def draw(self, task: Task) -> jax.Array:
    inputs, method = task.inputs, self.method_in(task.model)
    cond, known, mask = inputs['cond'], inputs['image'], inputs['mask']
    if method == 'replace':
      return super().draw(task)
    if method == 'palette':
      image = conditions.known_pixels(known, mask)
      return task.plan.from_noise(task.keys, cond | {'image': image})
    if method == 'reconstruction':
      guided = functools.partial(
        dj.reconstruction_guided,
        known=known,
        mask=mask,
        scale=self.scale,
        num_iterations=self.iterations,
      )
      return task.plan.from_noise(task.keys, cond, after_guidance=guided)

    def repaint(sampler, levels):
      with from_config('edit'):
        levels = dj.repaint_levels(levels, self.num_resamples, self.jump)
      return dj.repaint(sampler, known, mask), levels

    return task.plan.from_noise(task.keys, cond, wrap=repaint)


@dataclass(frozen=True, kw_only=True)
class Sdedit(PictureEdit):
  """Adds noise and samples from there (SDEdit, Meng et al. 2022).

  Args:
    strength: 0 keeps the picture, 1 begins with noise
    repeats: how often the picture is edited
    mask: a picture whose white pixels stay unchanged
  """

  strength: Probability = 0.5
  repeats: Size = 1
  mask: str = ''

  def check(self, model: Model) -> None:
    if self.mask:
      refuse_unipc(model, 'mask')
    super().check(model)

  def read(self, model: Model) -> Pictures:
    pictures = super().read(model)
    if self.mask:
      pictures['mask'] = read_mask(self.mask, model.facts.x.shape)
    return pictures

  def draw(self, task: Task) -> jax.Array:
    inputs, plan = task.inputs, task.plan
    with from_config('edit'):
      return dj.sdedit(
        split_key(task.keys, 2)[1],
        plan.step_function(inputs['cond']),
        plan.sampler,
        plan.levels,
        inputs['image'],
        self.strength,
        repeats=self.repeats,
        mask=inputs.get('mask'),
      )


@dataclass(frozen=True, kw_only=True)
class Interpolate(PictureEdit):
  """Interpolates between two pictures along the ODE."""

  image2: str = ''

  inverts: ClassVar = True

  def check(self, model: Model) -> None:
    super().check(model)
    if model.conditioning.self_conditioning:
      raise UserError(
        'config.edit=interpolate: the ODE of a network with self-conditioning '
        'cannot be inverted'
      )

  def unread(self, model: Model) -> Iterator[tuple[Sequence[str], str]]:
    yield from super().unread(model)
    yield STEPS, 'edit=interpolate, which follows the ODE'

  def read(self, model: Model) -> Pictures:
    if self.num_samples < 2:
      raise ValueError('num_samples must be at least 2 for an interpolation')
    pictures, shape = super().read(model), model.facts.x.shape
    pictures['image2'] = read_picture(self.image2, 'image2', shape)
    return pictures

  def draw(self, task: Task) -> jax.Array:
    """Goes from one picture to the other along the ODE, for any sampler.

    Image i has the weight i / (N - 1), and all have the condition of the first.
    """
    inputs = task.inputs
    firsts = (rows(inputs[x], slice(1)) for x in ('cond', 'image', 'image2'))
    cond, a, b = firsts
    # With clipping, the solution of the ODE would not undo its inversion.
    denoise = task.plan.step_function(cond, clip=False)

    def between(weight):
      return dj.interpolate(denoise, task.plan.levels, a, b, weight[None])[0, 0]

    return jax.vmap(between)(jnp.asarray(inputs['weight']))


class _Observe(_ByMethod):
  # An edit whose picture is what `measure` shows of the result, [B, H, W, C].

  observes: ClassVar = True
  scale: float
  iterations: int

  @abc.abstractmethod
  def observe(self, task: Task) -> tuple[Callable, jax.Array]:
    """Returns (x_0 -> what the picture shows of it, condition of a palette)."""

  def draw(self, task: Task) -> jax.Array:
    cond, (measure, image) = task.inputs['cond'], self.observe(task)
    if self.method_in(task.model) == 'palette':
      return task.plan.from_noise(task.keys, cond | {'image': image})
    guided = functools.partial(
      dj.observation_guided,
      observe=measure,
      observed=task.inputs['image'],
      scale=self.scale,
      num_iterations=self.iterations,
    )
    return task.plan.from_noise(task.keys, cond, after_guidance=guided)


@dataclass(frozen=True, kw_only=True)
class Superres(_Observe):
  """Enlarges a picture `factor` times, to the size of the run's images.

  method: as for inpaint.
  """

  method: Method | None = None
  factor: Size = 2
  scale: NonNegative = 1.0
  iterations: Size = 4

  def read(self, model: Model) -> Pictures:
    height, width, channels = model.facts.x.shape
    factor = self._factor(model)
    if height % factor or width % factor:
      raise ValueError(
        f'factor={factor} does not divide {width}x{height} pixels'
      )
    shape = height // factor, width // factor, channels
    return {'image': read_picture(self.image, 'image', shape)}

  def observe(self, task: Task) -> tuple[Callable, jax.Array]:
    factor = self._factor(task.model)
    measure = functools.partial(operators.pooled, factor=factor)
    return measure, conditions.enlarged(task.inputs['image'], factor)

  def _factor(self, model):
    # Returns the factor that a network for this edit was trained with.
    section = model.config.conditioning.image
    return self.factor if section is None else section.factor


@dataclass(frozen=True, kw_only=True)
class Colorize(_Observe):
  """Colours a grey picture; method: as for inpaint."""

  method: Method | None = None
  scale: NonNegative = 1.0
  iterations: Size = 4

  def read(self, model: Model) -> Pictures:
    height, width, channels = model.facts.x.shape
    if channels != 3:
      raise ValueError('the images of this run have no colours')
    return {'image': read_picture(self.image, 'image', (height, width, 1))}

  def observe(self, task: Task) -> tuple[Callable, jax.Array]:
    return operators.luminance, task.inputs['image']


def read_picture(
  path: str, field: str, shape: tuple[int, ...], where: str = ''
) -> np.ndarray:
  """Reads the file of an edit's field, uint8 of `shape`.

  where: the path of the field in config.edit, if it is another than its name.

  Makes colours grey, or repeats grey, as the run needs it, and prints that.
  Raises ValueError for a field without a file and for another size.
  """
  height, width, channels = shape
  if not path:
    raise ValueError(
      f'{field} is not set: give --config.edit.{where or field}=file.png'
    )
  picture = images.read_image(str(Path(path).expanduser()))
  h, w = picture.shape[:2]
  if (h, w) != (height, width):
    raise ValueError(
      f'{field} {path} has {w}x{h} pixels (width x height), {width}x{height} '
      'are needed: scale or crop it'
    )
  coloured = (picture != picture[..., :1]).any()
  if coloured and channels == 1:
    print(f'{path}: its colours are left out, grey is their luma')
    return images.with_channels(picture, 1)
  if not coloured and channels == 3:
    print(f'{path}: it is grey, each channel is taken to be the same')
  return picture[..., :channels]


def read_mask(
  path: str, shape: tuple[int, ...], where: str = 'mask'
) -> np.ndarray:
  """Reads a mask, bool [H, W, 1]: True, known, where the file is white.

  If it has transparent pixels: where it is opaque, in any colour.
  """
  white = read_picture(path, 'mask', (*shape[:2], 1), where) >= 128
  alpha = images.read_alpha(Path(path).expanduser())
  mask, word = white, 'white'
  if alpha is not None:
    mask, word = alpha >= 128, 'opaque'
    if mask.any() and not (white & mask).any():
      raise ValueError(
        f'mask {path} is black on transparent, which can be read both ways: '
        'make known pixels white and the others black'
      )
  print(f'{path}: {word} is known, {mask.mean():.0%} of the pixels')
  if mask.all():
    raise ValueError(
      f'mask {path} is {word} everywhere: {word} pixels stay unchanged, so '
      'nothing would be filled in'
    )
  return mask


def as_picture(model: Model, x: np.ndarray) -> np.ndarray:
  """Returns a picture or mask in the size and channels of the run, uint8."""
  height, _, channels = model.facts.x.shape
  x = np.where(x, np.uint8(255), np.uint8(0)) if x.dtype == bool else x
  factor = height // x.shape[0]
  x = x.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(x, (*x.shape[:2], channels))
