"""The edits of --mode=edit: their fields, checks, pictures and samplers."""

import abc
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.edit.methods import STEPS, Batch, Edited, Known, Method, fitting
from diffusion_jax.core import operators
from diffusion_jax.core.keys import split_key
from diffusion_jax.data import drawings
from diffusion_jax.data.pictures import as_picture, read_mask, read_picture
from diffusion_jax.declared import Use, declares
from diffusion_jax.paths import ReadPath
from diffusion_jax.ranges import Count, Probability, Several, Size, Suffix
from diffusion_jax.runtime.per_example import rows
from diffusion_jax.training import conditions

Pictures = dict[str, np.ndarray]  # {field: picture}, for image, image2 and mask
EncodeImages = Callable[[np.ndarray], np.ndarray]  # images of files -> what the model diffuses
_of_pictures = declares(
  data='pictures',
  instead='take edit=restore with operator mask, matrix or yours',
  uses=Use.USING,
)


class Made(NamedTuple):
  """What an edit has made.

  results: uint8 [n, H, W, C]; numbers: x and the numbers of `Edit.results`;
  pictures: the user's; data: examples behind a drawing.
  """

  results: np.ndarray
  numbers: dict[str, np.ndarray]
  pictures: Pictures
  data: np.ndarray | None = None


class Shown(NamedTuple):
  """What an edit shows.

  files: pictures uint8, by the end of their file's name, '' for the sheet of
  all; said: lines about the results; about: what the sheet has.
  """

  files: dict[str, np.ndarray]
  said: list[str]
  about: str = ''


@declares(uses=Use.USING)
@dataclass(frozen=True, kw_only=True)
class Edit(abc.ABC):
  """Holds what all edits have.

  Args:
    num_samples: number of results
    label: the class, a name, 3 or #3; None: no class
    output: name of the files in edits/; '': the edit's name and its settings
  """

  num_samples: Size = 4
  label: str | Count | None = None
  output: Suffix = ''

  files: ClassVar[tuple[str, ...]] = ()  # The fields of pictures and masks.
  observes: ClassVar = False  # The picture has fewer pixels or colours.
  inverts: ClassVar = False  # The ODE is followed from the picture to noise.
  unread: ClassVar[tuple[str, ...]] = ()  # Fields of sampling without effect.
  # The field that says what its denoiser is guided by; '': it needs no denoiser.
  part: ClassVar = ''
  loses: ClassVar = False  # Single results may be NaN, and `show` says which.

  def read(self, model: Edited) -> Pictures:
    """Reads the files of the edit; raises ValueError for unsuitable files."""
    shape, paths = self.shape(model), {n: vars(self)[n] for n in self.files}
    return {name: read_file(path, name, shape) for name, path in paths.items()}

  def shape(self, model: Edited) -> tuple[int, ...]:
    """Returns the shape of the pictures; raises ValueError without one."""
    return model.facts.x.shape

  def count(self) -> int:
    """Returns the number of results; ValueError without pictures."""
    return self.num_samples

  def inputs(self, encode: EncodeImages, pictures: Pictures) -> dict[str, np.ndarray]:
    """Returns pictures in the form that is diffused, for each result."""
    n, each = self.num_samples, {f: encode(x) for f, x in pictures.items()}
    return {f: np.broadcast_to(x, (n, *x.shape)) for f, x in each.items()}

  @abc.abstractmethod
  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    """Returns x, what the model diffuses, and numbers [B], of a batch."""

  def show(self, model: Edited, made: Made) -> Shown:
    """Returns each result, and a row with the user's pictures and all results.

    Arrays that are not pictures become one drawing.
    """
    results, pictures = made.results, made.pictures
    if not model.facts.x.is_picture:
      return Shown({'': drawn(model, results, made.data)}, [])
    row = np.stack([*(as_picture(x, model.facts.x.shape) for x in pictures.values()), *results])
    count = len(results)
    about = ', '.join([*pictures, f'{count} result{"s" * (count > 1)}'])
    files = {f'_{i}': picture for i, picture in enumerate(results)}
    return Shown(files | {'': sheet_of(row, len(row))}, [], ' and '.join(about.rsplit(', ', 1)))


def fill_in(
  known: Known, method: Method | None, model: Edited, batch: Batch
) -> dict[str, jax.Array]:
  """Draws what a picture does not show; returns `Edit.results`.

  known: what it shows. method: None: palette for runs with conditioning.image,
  else repaint, or reconstruction without a mask.
  """
  return (method or fitting(model.config)).draw(batch, known)


@_of_pictures
@dataclass(frozen=True, kw_only=True)
class Inpaint(Edit):
  """Fills in the pixels that are not white in the picture `mask`.

  Args:
    image: the file of the picture
    method: None: palette for runs with conditioning.image, else repaint
  """

  image: ReadPath = ''
  method: Method | None = None
  mask: ReadPath = ''

  files: ClassVar = 'image', 'mask'

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    return fill_in(self.known(model, batch.inputs), self.method, model, batch)

  def known(self, model: Edited, inputs: Mapping[str, PyTree]) -> Known:
    """Returns what the pictures of a batch show."""
    mask = inputs['mask']
    y = jnp.where(mask, inputs['image'], 0)
    shown = conditions.known_pixels(y, mask)
    return Known(y, operators.masked(mask), mask=mask, condition=shown)


@_of_pictures
@dataclass(frozen=True, kw_only=True)
class Sdedit(Edit):
  """Adds noise and samples from there (SDEdit, Meng et al. 2022).

  Args:
    image: the file of the picture
    strength: 0 keeps the picture, 1 begins with noise
    repeats: how often the picture is edited
    mask: a picture whose white pixels stay unchanged
  """

  image: ReadPath = ''
  strength: Probability = 0.5
  repeats: Size = 1
  mask: ReadPath = ''

  @property
  def files(self) -> tuple[str, ...]:
    """The picture, and the mask if it is given."""
    return ('image', 'mask') if self.mask else ('image',)

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    plan, inputs = batch.plan, batch.inputs
    key, image = split_key(batch.keys, 2)[1], inputs['image']
    with from_config('edit'):
      x = dj.sdedit(
        key,
        plan.step_function(batch.cond),
        plan.sampler,
        plan.levels,
        image,
        self.strength,
        repeats=self.repeats,
        mask=inputs.get('mask'),
      )
      return {'x': x}


@_of_pictures
@dataclass(frozen=True, kw_only=True)
class Interpolate(Edit):
  """Interpolates between two pictures along the ODE."""

  num_samples: Several = 4  # from one picture to the other
  image: ReadPath = ''
  image2: ReadPath = ''

  files: ClassVar = 'image', 'image2'
  inverts: ClassVar = True
  unread: ClassVar = STEPS

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    """Goes from one picture to the other along the ODE, for any sampler.

    Image i has the weight i / (N - 1), and all have the condition of the first.
    """
    plan, inputs = batch.plan, batch.inputs
    a, b = (inputs[name][:1] for name in self.files)
    # With clipping, the solution of the ODE would not undo its inversion.
    denoise = plan.step_function(rows(batch.cond, slice(1)), clip=False)

    def between(weight):
      return dj.interpolate(denoise, plan.levels, a, b, weight[None])[0, 0]

    return {'x': jax.vmap(between)(jnp.asarray(inputs['weight']))}


@_of_pictures
@dataclass(frozen=True, kw_only=True)
class Superres(Edit):
  """Enlarges a picture `factor` times, to the size of the run's images.

  Args:
    image: the file of the picture
    method: None: palette for runs with conditioning.image, else reconstruction
  """

  image: ReadPath = ''
  method: Method | None = None
  factor: Size = 2

  files: ClassVar = ('image',)
  observes: ClassVar = True

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    return fill_in(self.known(model, batch.inputs), self.method, model, batch)

  def shape(self, model: Edited) -> tuple[int, ...]:
    height, width, channels = model.facts.x.shape
    factor = self._factor(model)
    if height % factor or width % factor:
      size = f'{width}x{height}'
      raise ValueError(f'factor={factor} does not divide {size} pixels')
    return height // factor, width // factor, channels

  def known(self, model: Edited, inputs: Mapping[str, PyTree]) -> Known:
    """Returns what the pictures of a batch show."""
    factor, image = self._factor(model), inputs['image']
    forward = functools.partial(operators.pooled, factor=factor)
    return Known(image, forward, condition=conditions.enlarged(image, factor))

  def _factor(self, model):
    # Returns the factor that a network for this edit was trained with.
    section = model.config.conditioning.image
    return self.factor if section is None else section.factor


@_of_pictures
@dataclass(frozen=True, kw_only=True)
class Colorize(Edit):
  """Colours a grey picture.

  Args:
    image: the file of the picture
    method: None: palette for runs with conditioning.image, else reconstruction
  """

  image: ReadPath = ''
  method: Method | None = None

  files: ClassVar = ('image',)
  observes: ClassVar = True

  def results(self, model: Edited, batch: Batch) -> dict[str, jax.Array]:
    return fill_in(self.known(model, batch.inputs), self.method, model, batch)

  def shape(self, model: Edited) -> tuple[int, ...]:
    height, width, channels = model.facts.x.shape
    if channels != 3:
      raise ValueError('the images of this run have no colours')
    return height, width, 1

  def known(self, model: Edited, inputs: Mapping[str, PyTree]) -> Known:
    """Returns what the pictures of a batch show."""
    image = inputs['image']
    return Known(image, operators.luminance, condition=image)


def read_file(path: str, field: str, shape: tuple[int, ...], where: str = '') -> np.ndarray:
  """Reads the picture of a field, uint8, or its mask; ValueError without a file.

  where: the path of the field in config.edit, if it is another than its name.
  """
  if not path:
    raise ValueError(f'{field} is not set: give --config.edit.{where or field}=file.png')
  return read_mask(path, shape) if field == 'mask' else read_picture(path, field, shape)


def drawn(model: Edited, x: np.ndarray, data: np.ndarray | None) -> np.ndarray:
  """Draws arrays [n, ...], as files have them, in front of data."""
  return drawings.sheet(model.facts.x, x, 10, data=data)


def sheet_of(x: np.ndarray, columns: int) -> np.ndarray:
  """Returns pictures [n, H, W, C] as a table."""
  return drawings.grid(x, columns, max(1, round(96 / x.shape[1])))
