"""Implements --mode=edit: edits the user's picture with a trained run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import PyTree
from diffusion_jax.app import (
  devices,
  models,
  other_runs,
  sample_inputs,
  weights,
)
from diffusion_jax.app.config import tables
from diffusion_jax.app.config.errors import from_config
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.models.diffusion import Diffusion, Wrap
from diffusion_jax.app.models.guidance import Guides
from diffusion_jax.app.models.model import Params
from diffusion_jax.app.modes import sample
from diffusion_jax.app.run import provenance
from diffusion_jax.core.keys import split_key, stream
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import make_folder
from diffusion_jax.runtime.per_image import rows
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.training import conditions

Pictures = dict[str, np.ndarray]  # by their field: image, image2, mask

Edit = Any  # the object of config.edit, which has the fields of its task


def run(config: Node, workdir: str | Path) -> None:
  """Writes <output>.png, <output>.npz and single pictures into edits/."""
  model = models.make(config, workdir)
  model.check('edit')
  assert isinstance(model, Diffusion)  # other models refuse
  edit = config.edit.make()
  method = check(model, edit)
  cond = choose_cond(model, edit)
  guides = check_guidance(model, cond)
  with from_config('edit'):
    pictures = read_pictures(model, edit, method)
  params, step = weights.restore(model)
  settings = provenance.edit_settings(model, params, step, pictures)
  print(provenance.describe(settings))
  out = make_folder(workdir, 'edits')
  path = out / f'{edit.output}.npz'
  if path.exists():
    provenance.check_same(path, settings, path, 'edit.output')
  params |= model.load()
  x = generate(model, edit, method, params, cond, pictures, guides)
  sample.check_numbers(model, x)
  results = images.to_uint8(x, model.facts.num_levels)
  mask = pictures.get('mask')
  if mask is not None:  # exact, also with other grey levels than the run's
    results = np.where(mask[None], pictures['image'][None], results)
  provenance.write_npz(path, {'arr_0': results} | pictures, settings)
  print(f'wrote {path}: {len(results)} images of {model.facts.image_shape}')
  write_pictures(model, out / edit.output, results, pictures)


def write_pictures(
  model: Diffusion, path: Path, results: np.ndarray, pictures: Pictures
) -> None:
  """Writes each result, and a row with the user's pictures and all results."""
  for i, picture in enumerate(results):
    images.write_png(path.with_name(f'{path.name}_{i}.png'), picture)
  last = f' to _{len(results) - 1}.png' if len(results) > 1 else ''
  print(f'wrote {path}_0.png{last}')
  shown = [as_picture(model, x) for x in pictures.values()]
  row = np.stack([*shown, *results])
  zoom = max(1, round(96 / results.shape[1]))
  path = path.with_name(f'{path.name}.png')
  images.write_png(path, images.grid(row, len(row), zoom))
  print(f'wrote {path}: {", ".join(pictures)}, then the results')


def generate(
  model: Diffusion,
  edit: Edit,
  method: str,
  params: Params,
  cond: dict,
  pictures: Pictures,
  guides: Guides,
) -> np.ndarray:
  """Makes the images [num_samples, H, W, C] of an edit, batch by batch.

  As in --mode=sample, batches are split over the devices, and image i depends
  on sampling.seed and i only.
  """
  n, mesh = edit.num_samples, devices.make_mesh(model.config)
  inputs = {'cond': cond, 'weight': np.linspace(0.0, 1.0, n, dtype=np.float32)}
  for name, x in encode_pictures(model, params, pictures).items():
    inputs[name] = np.broadcast_to(x, (n, *x.shape))
  size = min(model.config.sampling.batch_size, n)
  function = TASKS[model.config.edit.name]

  def draw(*call):  # params, guides, keys, inputs
    return function(Task(model, edit, method, *call))

  root = stream(model.config.sampling.seed, 'edit')
  compute = model.generate_by(draw, mesh, root, guides, size)
  params = replicate(mesh, params)
  batches = np.split(np.arange(n), range(size, n, size))
  return np.concatenate(
    [compute(params, index, rows(inputs, index)) for index in batches]
  )


def encode_pictures(
  model: Diffusion, params: Params, pictures: Pictures
) -> dict[str, np.ndarray]:
  """Returns pictures and masks, by name, as the model diffuses them.

  Pictures uint8 [H, W, C] become x in [-1, 1], or means of z [h, w, c]. Masks
  are True where all pixels of a latent are known.
  """
  encode = jax.jit(model.latents.encode)
  autoencoder = params.get('autoencoder')
  return {
    name: model.latents.shrink_mask(x)
    if x.dtype == bool
    else np.asarray(encode(autoencoder, images.scale(x)[None])[0])
    for name, x in pictures.items()
  }


def check(model: Diffusion, edit: Edit) -> str:
  """Returns the method of an edit, or ''; UserError if it cannot work."""
  task, section = model.config.edit.name, model.config.conditioning.image
  condition = None if section is None else section.name
  if condition and task != condition:
    raise UserError(
      f'config.edit={task}: the network of this run was trained with '
      f'conditioning.image={condition} and can do only this task'
    )
  if task == 'interpolate' and model.conditioning.self_conditioning:
    raise UserError(
      'config.edit=interpolate: the ODE of a network with self-conditioning '
      'cannot be inverted'
    )
  if task == 'sdedit' and edit.mask:
    refuse_unipc(model, 'mask')
  if not hasattr(edit, 'method'):
    return ''
  default = 'repaint' if task == 'inpaint' else 'reconstruction'
  method = edit.method or ('palette' if condition else default)
  if (method == 'palette') != bool(condition):
    needed = task if method == 'palette' else 'None'
    raise UserError(
      f'config.edit.method={method} needs a run with conditioning.image='
      f'{needed}, and this one has {condition}'
    )
  if method in ('replace', 'repaint'):
    refuse_unipc(model, f'method={method}')
  return method


def refuse_unipc(model: Diffusion, what: str) -> None:
  """Raises UserError for the sampler that `replace_known` does not allow."""
  sampler = model.config.sampling.get('sampler')
  if sampler is not None and sampler.name == 'unipc':
    raise UserError(
      f'config.edit.{what} changes x between steps, which '
      'sampling.sampler=unipc would undo: take another sampler'
    )


def choose_cond(model: Diffusion, edit: Edit) -> dict[str, np.ndarray]:
  """Returns the cond of the results, from edit.label and sampling.prompt."""
  c, cond = model.conditioning, {}
  label = choose_label(model, edit)
  if label is not None:
    cond['label'] = label
  if c.text is not None and model.config.sampling.prompt is None:
    check_optional(model, 'sampling.prompt', 'a text')
    return cond
  texts = sample_inputs.choose_texts(model, edit.num_samples)
  return cond | (sample_inputs.encode_texts(model, texts) or {})


def choose_label(model: Diffusion, edit: Edit) -> np.ndarray | None:
  """Returns edit.label as int32 [N], or None."""
  c, n = model.conditioning, edit.num_samples
  if edit.label is not None:
    return sample_inputs.repeat_labels(model, [edit.label], n, 'edit.label')
  if c.labels:
    last = model.facts.num_classes - 1
    check_optional(model, 'edit.label', f'a class, 0..{last}')
  return None


def check_optional(model: Diffusion, field: str, what: str) -> None:
  """Raises UserError if the network always needs the condition of a field."""
  if not model.conditioning.dropout:
    raise UserError(
      f'config.{field}: the network of this run needs {what} (it was trained '
      'without conditioning.dropout)'
    )


def check_guidance(model: Diffusion, cond: dict) -> Guides:
  """Returns the runs that guide an edit; raises UserError for a classifier."""
  c = model.sampling
  if getattr(c, 'classifier', None) is not None:
    raise UserError('config.sampling.classifier: edits cannot be guided by it')
  guidance = getattr(c, 'guidance', None)
  if guidance is not None and guidance.scale != 1.0 and not cond:
    text = 'a text: give --config.sampling.prompt'
    label = 'a class: give --config.edit.label'
    raise UserError(
      f'config.sampling.guidance.scale={guidance.scale} needs '
      f'{label if model.conditioning.text is None else text}'
    )
  return other_runs.guides_of(model)


def read_picture(path: str, field: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads the file of an edit's field, uint8 of `shape`.

  Makes colours grey, or repeats grey, as the run needs it, and prints that.
  Raises ValueError for a field without a file and for another size.
  """
  height, width, channels = shape
  if not path:
    raise ValueError(f'{field} is not set: give --config.edit.{field}=file.png')
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


def read_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """Reads a mask, bool [H, W, 1]: True, known, where the file is white.

  If it has transparent pixels: where it is opaque, in any colour.
  """
  white = read_picture(path, 'mask', (*shape[:2], 1)) >= 128
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


def read_pictures(model: Diffusion, edit: Edit, method: str) -> Pictures:
  """Reads the files of an edit; raises ValueError for unsuitable files."""
  task, shape = model.config.edit.name, model.facts.image_shape
  height, width, channels = shape
  if task == 'superres':
    factor = factor_of(model, edit, method)
    if height % factor or width % factor:
      raise ValueError(
        f'factor={factor} does not divide {width}x{height} pixels'
      )
    shape = height // factor, width // factor, channels
  if task == 'colorize':
    if channels != 3:
      raise ValueError('the images of this run have no colours')
    shape = height, width, 1
  if task == 'interpolate' and edit.num_samples < 2:
    raise ValueError('num_samples must be at least 2 for an interpolation')
  pictures = {'image': read_picture(edit.image, 'image', shape)}
  if task == 'interpolate':
    pictures['image2'] = read_picture(edit.image2, 'image2', shape)
  if task == 'inpaint' or task == 'sdedit' and edit.mask:
    pictures['mask'] = read_mask(edit.mask, shape)
  return pictures


def factor_of(model: Diffusion, edit: Edit, method: str) -> int:
  """Returns how many times smaller the picture of super-resolution is."""
  if method == 'palette':
    return model.config.conditioning.image.factor
  return edit.factor


class Task(NamedTuple):
  """An edit of a batch; edit is the object of config.edit.

  inputs: the user's pictures in the form that is diffused, for each of the
  images; cond; and weight, of an interpolation. keys: [B].
  """

  model: Diffusion
  edit: Edit
  method: str
  params: Params
  guides: Guides
  keys: jax.Array
  inputs: dict[str, PyTree]

  def sample(
    self,
    cond: dict,
    wrap: Callable | None = None,
    after_guidance: Wrap | None = None,
  ) -> jax.Array:
    """Draws images from noise by `Diffusion.from_noise`."""
    return self.model.from_noise(
      self.params, self.guides, self.keys, cond,
      wrap=wrap, after_guidance=after_guidance,
    )  # fmt: skip


def inpaint(task: Task) -> jax.Array:
  """Keeps the known pixels, and fills in the others."""
  inputs, edit, method = task.inputs, task.edit, task.method
  cond, known, mask = inputs['cond'], inputs['image'], inputs['mask']
  if method == 'palette':
    return task.sample(cond | {'image': conditions.known_pixels(known, mask)})
  if method == 'reconstruction':
    guided = functools.partial(
      dj.reconstruction_guided,
      known=known,
      mask=mask,
      scale=edit.scale,
      num_iterations=edit.iterations,
    )
    return task.sample(cond, after_guidance=guided)

  def replace(sampler, levels):
    return task.model.replace_known(sampler, known, mask), levels

  def repaint(sampler, levels):
    with from_config('edit'):
      levels = dj.repaint_levels(levels, edit.num_resamples, edit.jump)
    return dj.repaint(sampler, known, mask), levels

  wrap = {'replace': replace, 'repaint': repaint}[method]
  return task.sample(cond, wrap=wrap)


def observe(task: Task) -> jax.Array:
  """Adds pixels or colours, by a condition or by guidance."""
  edit, cond, observed = task.edit, task.inputs['cond'], task.inputs['image']
  if isinstance(edit, tables.Colorize):
    measure, image = conditions.luminance, observed
  else:
    factor = factor_of(task.model, edit, task.method)
    measure = functools.partial(conditions.pooled, factor=factor)
    image = conditions.enlarged(observed, factor)
  if task.method == 'palette':
    return task.sample(cond | {'image': image})
  guided = functools.partial(
    dj.observation_guided,
    observe=measure,
    observed=observed,
    scale=edit.scale,
    num_iterations=edit.iterations,
  )
  return task.sample(cond, after_guidance=guided)


def sdedit(task: Task) -> jax.Array:
  """Adds noise up to edit.strength, and samples from there."""
  model, params, inputs = task.model, task.params, task.inputs
  trained, levels, sampler = model.levels_and_sampler(params)
  denoise = model.step_function(params, inputs['cond'], trained, task.guides)
  with from_config('edit'):
    return dj.sdedit(
      split_key(task.keys, 2)[1],
      denoise,
      sampler,
      levels,
      inputs['image'],
      task.edit.strength,
      repeats=task.edit.repeats,
      mask=inputs.get('mask'),
    )


def interpolate(task: Task) -> jax.Array:
  """Goes from one picture to the other along the ODE, for any sampler.

  Image i has the weight i / (N - 1), and all have the condition of the first.
  """
  # With clipping, the solution of the ODE would not undo its inversion.
  model, params, inputs = task.model.unclipped(), task.params, task.inputs
  cond, a, b = (rows(inputs[x], slice(1)) for x in ('cond', 'image', 'image2'))
  trained, levels, _ = model.levels_and_sampler(params)
  denoise = model.step_function(params, cond, trained, task.guides)

  def between(weight):
    return dj.interpolate(denoise, levels, a, b, weight[None])[0, 0]

  return jax.vmap(between)(jnp.asarray(inputs['weight']))


def as_picture(model: Diffusion, x: np.ndarray) -> np.ndarray:
  """Returns a picture or mask in the size and channels of the run, uint8."""
  height, _, channels = model.facts.image_shape
  x = np.where(x, np.uint8(255), np.uint8(0)) if x.dtype == bool else x
  factor = height // x.shape[0]
  x = x.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(x, (*x.shape[:2], channels))


TASKS: dict[str, Callable[[Task], jax.Array]] = {
  'inpaint': inpaint,
  'sdedit': sdedit,
  'interpolate': interpolate,
  'superres': observe,
  'colorize': observe,
}
