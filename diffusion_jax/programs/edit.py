"""--mode=edit: a picture of the user's, changed by a trained run."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build
from diffusion_jax.build.make import choose, from_config
from diffusion_jax.core.keys import fold_in_each, split_key, stream
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.families import latent
from diffusion_jax.programs import sample
from diffusion_jax.runs import (
  guidance_runs,
  provenance,
  run_folder,
  sample_inputs,
)
from diffusion_jax.training import conditions

METHODS = {
  'inpaint': ('repaint', 'replace', 'reconstruction', 'palette'),
  'superres': ('reconstruction', 'palette'),
  'colour': ('reconstruction', 'palette'),
  'sdedit': (),
  'interpolate': (),
}

# what a network must have been told of in training for its own way of a task
TOLD = {'inpaint': 'inpainting', 'superres': 'superres', 'colour': 'gray'}


def run(config, workdir):
  """Writes <name>.png, <name>.npz and single pictures into edits/."""
  config = run_folder.run_config(workdir, config)
  if build.is_vae(config):
    raise UserError(
      'this run is a VAE, which changes no picture: --mode=sample writes '
      'reconstructions and interpolations, and a diffusion model can edit'
    )
  c = config.edit
  build.check_signal(config)
  method = check(config)
  cond = choose_cond(config)
  check_guidance(config, cond)
  task = TASKS[c.task]
  with from_config('edit'):
    given = task.read(config, method)
  sample.choose_checkpoint(config, workdir)
  params = sample.restore(config, workdir)
  settings = provenance.edit_settings(config, workdir, params, given)
  print(provenance.describe(settings))
  out = run_folder.prepare(Path(workdir) / 'edits')
  path = out / f'{c.name}.npz'
  if path.exists():
    provenance.check_same(path, settings, path, 'edit.name')
  params |= latent.load(config, workdir)
  latents = latent.build(config, workdir)
  seen = latent.encode_given(config, latents, params, given)

  index = np.arange(c.num_samples)
  x = task.make(config, method, params, index, cond, seen)
  x = jax.jit(latents.decode)(params.get('autoencoder'), x)
  sample.check_numbers(config, x)
  made = images.to_uint8(np.asarray(x), config.data.num_levels)
  mask = given.get('mask')
  if mask is not None:  # to the bit, whatever the grey levels of the run are
    made = np.where(mask[None], given['image'][None], made)

  arrays = {'arr_0': made, 'settings': provenance.pack(settings)} | given
  run_folder.write_npz(path, arrays)
  print(f'wrote {path}: {len(made)} images of {config.data.image_shape}')
  for i, picture in enumerate(made):
    images.write_png(out / f'{c.name}_{i}.png', picture)
  print(f'wrote {out / c.name}_0.png to _{len(made) - 1}.png')
  before = [as_picture(config, x) for x in given.values()]
  path = out / f'{c.name}.png'
  row = np.stack([*before, *made])
  zoom = max(1, round(96 / made.shape[1]))
  images.write_png(path, images.grid(row, len(row), zoom))
  print(f'wrote {path}: {", ".join(given)}, then what was made')


def check(config):
  """The method; UserError for a task or method that the run cannot do."""
  c, told = config.edit, config.conditioning.image
  methods = choose(METHODS, 'edit', 'task', c.task)
  if build.is_latent(config) and c.task in ('superres', 'colour'):
    raise UserError(
      f'config.edit.task={c.task}: a run in latents (latent.run) sees no '
      'pixels while it samples: take inpaint, sdedit, interpolate, or a run in '
      'pixels'
    )
  if told and TOLD.get(c.task) != told:
    raise UserError(
      f'config.edit.task={c.task}: the network of this run was trained with '
      f'conditioning.image={told} and can do only what it was told of'
    )
  if c.task == 'sdedit' and c.mask:
    refuse_unipc(config, 'mask')
  if not methods:
    if c.method:
      raise UserError(f'config.edit.method: {c.task} has no methods')
    return ''
  method = c.method or ('palette' if told else methods[0])
  choose(methods, 'edit', 'method', method)
  if (method == 'palette') != bool(told):
    need = TOLD[c.task] if method == 'palette' else "''"
    raise UserError(
      f'config.edit.method={method} needs a run with conditioning.image={need},'
      f' this one has {told!r}'
    )
  if method in ('replace', 'repaint'):
    refuse_unipc(config, f'method={method}')
  return method


def refuse_unipc(config, what):
  """UserError for the sampler that `replace_known` and `repaint` exclude."""
  if config.sampling.sampler == 'unipc':
    raise UserError(
      f'config.edit.{what} changes x between steps, which '
      'sampling.sampler=unipc would undo: take another sampler'
    )


def choose_cond(config):
  """cond of N pictures: edit.label and sampling.prompt, where they are told."""
  c = config.conditioning
  label, cond = choose_label(config), {}
  if label is not None:
    cond['label'] = label
  if c.text and config.sampling.prompt is None:
    if not c.label_dropout:
      raise UserError(
        'config.sampling.prompt: the network of this run needs a text (it was '
        'trained without label dropout)'
      )
    return cond
  texts = sample_inputs.choose_texts(config, config.edit.num_samples)
  return cond | (sample_inputs.encode_texts(config, texts) or {})


def choose_label(config):
  """int32 [N] of the class asked for, None where none is given."""
  label, classes = config.edit.label, config.data.num_classes
  if not config.conditioning.labels:
    if label is not None:
      raise UserError(
        'config.edit.label is set, but the network of this run knows no labels '
        '(conditioning.labels)'
      )
    return None
  if label is None:
    if not config.conditioning.label_dropout:
      raise UserError(
        'config.edit.label: the network of this run needs a class, '
        f'0..{classes - 1} (it was trained without label dropout)'
      )
    return None
  if not 0 <= label < classes:
    raise UserError(
      f'config.edit.label={label} is out of range, the classes are '
      f'0..{classes - 1}'
    )
  return np.full(config.edit.num_samples, label, np.int32)


def check_guidance(config, cond):
  """UserError for guidance that an edit cannot have."""
  c = config.sampling
  guidance_runs.check(config)
  for field in ('guidance_run', 'classifier'):
    if c[field]:
      raise UserError(
        f'config.sampling.{field}: edits are not guided by others'
      )
  if c.guidance_scale != 1.0 and not cond:
    text = config.conditioning.text
    raise UserError(
      f'config.sampling.guidance_scale={c.guidance_scale} needs '
      + (
        'a text: give --config.sampling.prompt'
        if text
        else 'a class: give --config.edit.label'
      )
    )


def read_picture(config, field, shape=None):
  """The file of an edit field -> uint8 of `shape`, by default the run's.

  Colours are made grey, or grey is repeated, as the run needs it, which is
  said. ValueError for a field without a file and for another size.
  """
  path = config.edit[field]
  height, width, channels = shape or config.data.image_shape
  if not path:
    raise ValueError(f'which {field}? Give --config.edit.{field}=file.png')
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


def read_mask(config):
  """edit.mask -> bool [H, W, 1]: True, known, where the file is white.

  Where it has transparent pixels: where it is opaque, whatever its colours.
  """
  path, (height, width, _) = config.edit.mask, config.data.image_shape
  white = read_picture(config, 'mask', (height, width, 1)) >= 128
  alpha = images.read_alpha(Path(path).expanduser())
  mask, known = white, 'white'
  if alpha is not None:
    mask, known = alpha >= 128, 'opaque'
    if mask.any() and not (white & mask).any():
      raise ValueError(
        f'mask {path} is black on transparent, which can be read both ways: '
        'make known pixels white and the others black'
      )
  print(f'{path}: {known} is known, {mask.mean():.0%} of the pixels')
  if mask.all():
    raise ValueError(
      f'mask {path} is {known} everywhere: {known} pixels are known and stay, '
      'all others are filled in, and there are none'
    )
  return mask


def read_masked(config, method):
  """{image, mask}, for inpainting."""
  return {'image': read_picture(config, 'image'), 'mask': read_mask(config)}


def read_guide(config, method):
  """{image} and, if one is given, {mask}, for SDEdit."""
  given = {'image': read_picture(config, 'image')}
  return given | ({'mask': read_mask(config)} if config.edit.mask else {})


def read_ends(config, method):
  """{image, image2}, for interpolation."""
  if config.edit.num_samples < 2:
    raise ValueError('num_samples: an interpolation has at least its two ends')
  return {name: read_picture(config, name) for name in ('image', 'image2')}


def read_small(config, method):
  """{image}, `factor` times smaller than those of the run."""
  height, width, channels = config.data.image_shape
  factor = factor_of(config, method)
  if height % factor or width % factor:
    raise ValueError(f'factor={factor} does not divide {width}x{height} pixels')
  shape = height // factor, width // factor, channels
  return {'image': read_picture(config, 'image', shape)}


def read_grey(config, method):
  """{image}, without its colours, for colourisation."""
  height, width, channels = config.data.image_shape
  if channels != 3:
    raise ValueError('the images of this run have no colours')
  return {'image': read_picture(config, 'image', (height, width, 1))}


def factor_of(config, method):
  """How many times smaller the picture of super-resolution is."""
  if method == 'palette':
    return config.conditioning.image_factor
  return config.edit.factor


def many(config, x):
  """[H, W, C] -> num_samples times, [N, H, W, C]."""
  return jnp.broadcast_to(x, (config.edit.num_samples, *x.shape))


def make_inpainted(config, method, params, index, cond, given):
  """Known pixels as they are, the others filled in."""
  known, mask = many(config, given['image']), given['mask'][None]
  if method == 'palette':
    image = conditions.known_pixels(known, mask)
    return generate(config, params, index, cond, image=image)
  if method == 'reconstruction':
    change = functools.partial(
      dj.reconstruction_guided,
      known=known,
      mask=mask,
      scale=config.edit.scale,
      num_iterations=config.edit.iterations,
    )
    return generate(config, params, index, cond, change=change)
  wrap = {'replace': dj.replace_known, 'repaint': dj.repaint}[method]

  def around(sampler, levels):
    if method == 'repaint':
      with from_config('edit'):
        levels = dj.repaint_levels(
          levels, config.edit.num_resamples, config.edit.jump
        )
    return wrap(sampler, known, mask), levels

  return generate(config, params, index, cond, around=around)


def make_observed(config, method, params, index, cond, given):
  """Super-resolution and colours: told of the picture, or guided by it."""
  observed = many(config, given['image'])
  factor = factor_of(config, method)
  if config.edit.task == 'colour':
    observe, image = conditions.luminance, observed
  else:
    observe = functools.partial(conditions.pooled, factor=factor)
    image = conditions.enlarged(observed, factor)
  if method == 'palette':
    return generate(config, params, index, cond, image=image)
  change = functools.partial(
    dj.observation_guided,
    observe=observe,
    observed=observed,
    scale=config.edit.scale,
    num_iterations=config.edit.iterations,
  )
  return generate(config, params, index, cond, change=change)


def generate(config, params, index, cond, image=None, change=None, around=None):
  """Samples from noise: as sample.make_generate, in one batch.

  image: cond['image']; change: denoiser -> denoiser; around: (sampler, levels)
  -> (sampler, levels).
  """

  def walk(params, key, cond):
    trained, levels, sampler = sample.walk(config, params)
    denoise = sample.build_denoise(config, params, cond, trained, change, {})
    x = dj.prior_sample(
      key[0], (len(index), *build.state_shape(config)), levels.take(0)
    )
    if around is not None:
      sampler, levels = around(sampler, levels)
    return dj.sample(key[1], denoise, sampler, levels, x)

  cond = cond if image is None else cond | {'image': image}
  return jax.jit(walk)(params, keys(config, index), cond)


def make_sdedit(config, method, params, index, cond, given):
  """Noised up to strength, and back down."""
  c = config.edit
  guide, mask = many(config, given['image']), given.get('mask')

  def edit(params, key, cond):
    trained, levels, sampler = sample.walk(config, params)
    denoise = sample.build_denoise(config, params, cond, trained, guides={})
    mask_of_all = None if mask is None else mask[None]
    with from_config('edit'):
      return dj.sdedit(
        key[1],
        denoise,
        sampler,
        levels,
        guide,
        c.strength,
        repeats=c.repeats,
        mask=mask_of_all,
      )

  return jax.jit(edit)(params, keys(config, index), cond)


def make_between(config, method, params, index, cond, given):
  """From one picture to the other along the ODE, whatever the sampler is."""
  if config.conditioning.self_conditioning:
    raise UserError(
      'config.edit.task=interpolate: inverting the ODE is not there for '
      'networks with self-conditioning'
    )
  # clipped, the way up is not undone by the way down
  config = config.copy_and_resolve_references()
  config.sampling.clip = False
  ends = (x[None] for x in given.values())
  weights = np.linspace(0.0, 1.0, len(index))

  def between(params, cond, a, b):
    trained, levels, _ = sample.walk(config, params)
    denoise = sample.build_denoise(config, params, cond, trained, guides={})
    return dj.interpolate(denoise, levels, a, b, weights)[:, 0]

  cond = sample.rows(cond, slice(1))
  return jax.jit(between)(params, cond, *ends)


def keys(config, index):
  """[2, N]: of the first noise and of the steps, of sampling.seed and i."""
  return split_key(fold_in_each(stream(config.sampling.seed, 'edit'), index), 2)


def as_picture(config, x):
  """What was given, of the size and channels of the run, uint8."""
  height, _, channels = config.data.image_shape
  x = np.where(x, np.uint8(255), np.uint8(0)) if x.dtype == bool else x
  factor = height // x.shape[0]
  x = x.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(x, (*x.shape[:2], channels))


class Task(NamedTuple):
  """read: (config, method) -> what was given, uint8 or bool, by name.

  make: (config, method, params, index, cond, given) -> images in [-1, 1], given
  being what was read as it is diffused (`latent.encode_given`); and so in
  latents are the results.
  """

  read: Callable
  make: Callable


TASKS = {
  'inpaint': Task(read_masked, make_inpainted),
  'sdedit': Task(read_guide, make_sdedit),
  'interpolate': Task(read_ends, make_between),
  'superres': Task(read_small, make_observed),
  'colour': Task(read_grey, make_observed),
}
