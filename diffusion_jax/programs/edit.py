"""Implements --mode=edit: changes a picture of the user by a trained run."""

import functools
from pathlib import Path

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.build.make import choose, from_config
from diffusion_jax.core.keys import split_key, stream
from diffusion_jax.data import images
from diffusion_jax.errors import UserError
from diffusion_jax.families.diffusion import (
  build_denoise,
  from_noise,
  generate_by,
  levels_and_sampler,
)
from diffusion_jax.programs import sample
from diffusion_jax.runs import (
  guidance_runs,
  provenance,
  run_folder,
  sample_inputs,
)
from diffusion_jax.runs.per_image import rows
from diffusion_jax.training import conditions
from diffusion_jax.runtime.sharding import replicate

METHODS = {
  'inpaint': ('repaint', 'replace', 'reconstruction', 'palette'),
  'superres': ('reconstruction', 'palette'),
  'colorize': ('reconstruction', 'palette'),
  'sdedit': (),
  'interpolate': (),
}


def run(config, workdir):
  """Writes <name>.png, <name>.npz and single pictures into edits/."""
  config = run_folder.run_config(workdir, config, own=run_folder.COMPUTED_BY)
  family, c = families.of(config), config.edit
  family.check(config)
  family.check_mode(config, 'edit')
  build.check_signal(config)
  method = check(config)
  cond = choose_cond(config)
  check_guidance(config, cond)
  with from_config('edit'):
    pictures = read_pictures(config, method)
  params = sample.restore(config, workdir)
  settings = provenance.edit_settings(config, workdir, params, pictures)
  print(provenance.describe(settings))
  out = run_folder.prepare(Path(workdir) / 'edits')
  path = out / f'{c.name}.npz'
  if path.exists():
    provenance.check_same(path, settings, path, 'edit.name')
  params |= family.load(config, workdir)
  latents = family.latents(config, workdir)
  x = generate(config, method, params, latents, cond, pictures)
  sample.check_numbers(config, x)
  made = images.to_uint8(x, config.data.num_levels)
  mask = pictures.get('mask')
  if mask is not None:  # exact, whatever the grey levels of the run are
    made = np.where(mask[None], pictures['image'][None], made)

  provenance.write_npz(path, {'arr_0': made} | pictures, settings)
  print(f'wrote {path}: {len(made)} images of {config.data.image_shape}')
  for i, picture in enumerate(made):
    images.write_png(out / f'{c.name}_{i}.png', picture)
  print(f'wrote {name_pictures(out / c.name, len(made))}')
  before = [as_picture(config, x) for x in pictures.values()]
  path = out / f'{c.name}.png'
  row = np.stack([*before, *made])
  zoom = max(1, round(96 / made.shape[1]))
  images.write_png(path, images.grid(row, len(row), zoom))
  print(f'wrote {path}: {", ".join(pictures)}, then the results')


def name_pictures(path, count):
  """Returns the names of count pictures, as 'edits/a_0.png to _3.png'."""
  first = f'{path}_0.png'
  return first if count == 1 else f'{first} to _{count - 1}.png'


def generate(config, method, params, latents, cond, pictures):
  """Makes the images [num_samples, H, W, C] of an edit, batch by batch.

  As those of --mode=sample they are split over the devices, sampling.batch_size
  at a time, and image i is a function of sampling.seed and i.
  """
  config = config.copy_and_resolve_references()
  config.sampling.trajectory = False
  n, mesh = config.edit.num_samples, build.build_mesh(config)
  inputs = {'cond': cond, 'weight': np.linspace(0.0, 1.0, n, dtype=np.float32)}
  for name, x in encode_pictures(latents, params, pictures).items():
    inputs[name] = np.broadcast_to(x, (n, *x.shape))
  size = min(config.sampling.batch_size, n)
  draw = functools.partial(TASKS[config.edit.task], method)
  compute = generate_by(draw, config, mesh, root_key(config), latents, size)
  params = replicate(mesh, params)
  batches = np.split(np.arange(n), range(size, n, size))
  return np.concatenate(
    [compute(params, index, rows(inputs, index)) for index in batches]
  )


def root_key(config):
  """Returns the key from which every image of an edit has one."""
  return stream(config.sampling.seed, 'edit')


def encode_pictures(latents, params, pictures):
  """Returns pictures and masks, by name, as they are diffused.

  Pictures uint8 [H, W, C] -> means of z [h, w, c], or in pixels x in [-1, 1];
  masks True where all pixels of a latent are known.
  """
  encode = jax.jit(latents.encode)
  autoencoder = params.get('autoencoder')
  return {
    name: latents.shrink_mask(x)
    if x.dtype == bool
    else np.asarray(encode(autoencoder, images.scale(x)[None])[0])
    for name, x in pictures.items()
  }


def check(config):
  """Returns the method; UserError for a task or method that cannot be done."""
  c, condition = config.edit, config.conditioning.image
  methods = choose(METHODS, 'edit', 'task', c.task)
  if condition and c.task != condition:
    raise UserError(
      f'config.edit.task={c.task}: the network of this run was trained with '
      f'conditioning.image={condition} and has only the task of that condition'
    )
  if c.task == 'interpolate' and config.conditioning.self_conditioning:
    raise UserError(
      'config.edit.task=interpolate: the ODE of a network with '
      'self-conditioning cannot be inverted'
    )
  if c.task == 'sdedit' and c.mask:
    refuse_unipc(config, 'mask')
  if not methods:
    if c.method:
      raise UserError(f'config.edit.method: {c.task} has no methods')
    return ''
  method = c.method or ('palette' if condition else methods[0])
  choose(methods, 'edit', 'method', method)
  if (method == 'palette') != bool(condition):
    need = c.task if method == 'palette' else "''"
    raise UserError(
      f'config.edit.method={method} needs a run with conditioning.image={need},'
      f' this one has {condition!r}'
    )
  if method in ('replace', 'repaint'):
    refuse_unipc(config, f'method={method}')
  return method


def refuse_unipc(config, what):
  """Raises UserError for the sampler that `replace_known` does not allow."""
  if config.sampling.sampler == 'unipc':
    raise UserError(
      f'config.edit.{what} changes x between steps, which '
      'sampling.sampler=unipc would undo: take another sampler'
    )


def choose_cond(config):
  """Returns cond of N images: edit.label and sampling.prompt."""
  c = config.conditioning
  label, cond = choose_label(config), {}
  if label is not None:
    cond['label'] = label
  if c.text and config.sampling.prompt is None:
    if not c.dropout:
      raise UserError(
        'config.sampling.prompt: the network of this run needs a text (it was '
        'trained without conditioning.dropout)'
      )
    return cond
  texts = sample_inputs.choose_texts(config, config.edit.num_samples)
  return cond | (sample_inputs.encode_texts(config, texts) or {})


def choose_label(config):
  """Returns int32 [N] of edit.label; None without."""
  c, label = config.conditioning, config.edit.label
  known = f'the classes are 0..{config.data.num_classes - 1}'
  if label is None:
    if c.labels and not c.dropout:
      raise UserError(
        f'config.edit.label: the network of this run needs a class, {known} '
        '(it was trained without conditioning.dropout)'
      )
    return None
  if not c.labels:
    raise UserError(
      'config.edit.label is set, but the network of this run takes no labels '
      '(conditioning.labels)'
    )
  if label >= config.data.num_classes:
    raise UserError(f'config.edit.label={label} is out of range, {known}')
  return np.full(config.edit.num_samples, label, np.int32)


def check_guidance(config, cond):
  """Raises UserError for guidance that an edit cannot have."""
  c = config.sampling
  guidance_runs.check(config)
  for field in ('guidance_run', 'classifier'):
    if c[field]:
      raise UserError(
        f'config.sampling.{field}: edits are not guided by other runs'
      )
  if c.guidance_scale != 1.0 and not cond:
    text = 'a text: give --config.sampling.prompt'
    label = 'a class: give --config.edit.label'
    raise UserError(
      f'config.sampling.guidance_scale={c.guidance_scale} needs '
      f'{text if config.conditioning.text else label}'
    )


def read_picture(config, field, shape):
  """Reads the file of an edit field, uint8 of `shape`.

  Makes colours grey, or repeats grey, as the run needs it, and prints that.
  Raises ValueError for a field without a file and for another size.
  """
  path = config.edit[field]
  height, width, channels = shape
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
  """Reads edit.mask, bool [H, W, 1]: True, known, where the file is white.

  If it has transparent pixels: where it is opaque, whatever its colours.
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


def read_pictures(config, method):
  """Reads {name: picture} of the files of a task; ValueError for wrong ones."""
  c, (height, width, channels) = config.edit, config.data.image_shape
  shape = height, width, channels
  if c.task == 'superres':
    factor = factor_of(config, method)
    if height % factor or width % factor:
      raise ValueError(
        f'factor={factor} does not divide {width}x{height} pixels'
      )
    shape = height // factor, width // factor, channels
  if c.task == 'colorize':
    if channels != 3:
      raise ValueError('the images of this run have no colours')
    shape = height, width, 1
  if c.task == 'interpolate' and c.num_samples < 2:
    raise ValueError('num_samples: an interpolation has at least its two ends')
  pictures = {'image': read_picture(config, 'image', shape)}
  if c.task == 'interpolate':
    pictures['image2'] = read_picture(config, 'image2', shape)
  if c.task == 'inpaint' or c.task == 'sdedit' and c.mask:
    pictures['mask'] = read_mask(config)
  return pictures


def factor_of(config, method):
  """Returns how many times smaller the picture of super-resolution is."""
  if method == 'palette':
    return config.conditioning.image_factor
  return config.edit.factor


def inpaint(method, config, params, guiding, keys, inputs):
  """Keeps the known pixels, and fills in the others."""
  c, cond = config.edit, inputs['cond']
  known, mask = inputs['image'], inputs['mask']
  draw = functools.partial(from_noise, config, params, guiding, keys)
  if method == 'palette':
    return draw(cond | {'image': conditions.known_pixels(known, mask)})
  if method == 'reconstruction':
    guided = functools.partial(
      dj.reconstruction_guided,
      known=known,
      mask=mask,
      scale=c.scale,
      num_iterations=c.iterations,
    )
    return draw(cond, after_guidance=guided)

  def replace(sampler, levels):
    return dj.replace_known(sampler, known, mask), levels

  def repaint(sampler, levels):
    with from_config('edit'):
      levels = dj.repaint_levels(levels, c.num_resamples, c.jump)
    return dj.repaint(sampler, known, mask), levels

  return draw(cond, wrap={'replace': replace, 'repaint': repaint}[method])


def observe(method, config, params, guiding, keys, inputs):
  """Adds pixels or colours, by a condition or by guidance."""
  c, cond, observed = config.edit, inputs['cond'], inputs['image']
  draw = functools.partial(from_noise, config, params, guiding, keys)
  factor = factor_of(config, method)
  if c.task == 'colorize':
    measure, image = conditions.luminance, observed
  else:
    measure = functools.partial(conditions.pooled, factor=factor)
    image = conditions.enlarged(observed, factor)
  if method == 'palette':
    return draw(cond | {'image': image})
  guided = functools.partial(
    dj.observation_guided,
    observe=measure,
    observed=observed,
    scale=c.scale,
    num_iterations=c.iterations,
  )
  return draw(cond, after_guidance=guided)


def sdedit(method, config, params, guiding, keys, inputs):
  """Adds noise up to edit.strength, and samples from there."""
  c = config.edit
  trained, levels, sampler = levels_and_sampler(config, params)
  denoise = build_denoise(
    config, params, inputs['cond'], trained, guiding=guiding
  )
  with from_config('edit'):
    return dj.sdedit(
      split_key(keys, 2)[1],
      denoise,
      sampler,
      levels,
      inputs['image'],
      c.strength,
      repeats=c.repeats,
      mask=inputs.get('mask'),
    )


def interpolate(method, config, params, guiding, keys, inputs):
  """Goes from one picture to the other along the ODE, for any sampler.

  Image i has the weight i / (N - 1), and all have the condition of the first.
  """
  # With clipping, the solution of the ODE would not undo its inversion.
  config = config.copy_and_resolve_references()
  config.sampling.clip = False
  cond, a, b = (rows(inputs[x], slice(1)) for x in ('cond', 'image', 'image2'))
  trained, levels, _ = levels_and_sampler(config, params)
  denoise = build_denoise(config, params, cond, trained, guiding=guiding)

  def between(weight):
    return dj.interpolate(denoise, levels, a, b, weight[None])[0, 0]

  return jax.vmap(between)(inputs['weight'])


def as_picture(config, x):
  """Returns a picture or mask in the size and channels of the run, uint8."""
  height, _, channels = config.data.image_shape
  x = np.where(x, np.uint8(255), np.uint8(0)) if x.dtype == bool else x
  factor = height // x.shape[0]
  x = x.repeat(factor, axis=0).repeat(factor, axis=1)
  return np.broadcast_to(x, (*x.shape[:2], channels))


# (method, config, params, guiding, keys [B], inputs) -> x [B, ...] as it is
# diffused, for `diffusion.generate_by`. inputs: the user's pictures as they are
# diffused, for each of the images; cond; and weight, of an interpolation.
TASKS = {
  'inpaint': inpaint,
  'sdedit': sdedit,
  'interpolate': interpolate,
  'superres': observe,
  'colorize': observe,
}
