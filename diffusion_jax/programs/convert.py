"""Implements --mode=convert: imports or exports the weights of a run."""

import ast
import importlib
import json
import shlex
from pathlib import Path

import jax
import numpy as np

import diffusion_jax as dj
from diffusion_jax import build, families
from diffusion_jax.build import audit, ranges
from diffusion_jax.build.make import choose, from_config
from diffusion_jax.errors import UserError
from diffusion_jax.interop import diffusers, files
from diffusion_jax.programs import sample
from diffusion_jax.runs import run_folder
from diffusion_jax.training import checkpoints

# The modules of diffusion_jax.interop with `load`; and our own file.
OURS = 'safetensors'
FORMATS = ('diffusers', 'openai', 'ho', 'score_sde', 'edm', 'edm2', OURS)
TARGETS = ('diffusers', OURS)
_STORED = (*run_folder.RUN_SECTIONS, 'sampling')  # in our own file


def run(config, workdir):
  """Makes the run in workdir of convert.source, or convert.out of the run."""
  c = config.convert
  if bool(c.source) == bool(c.to):
    raise UserError(
      'config.convert: give either source, weights that become the run in '
      '--workdir, or to=diffusers or safetensors, what becomes of that run '
      '(docs/weights.md)'
    )
  try:
    if c.source:
      read(config, workdir)
    else:
      write(config, workdir)
  except OSError as error:  # a full disk, most of all
    raise UserError(f'{error}') from error


def read(config, workdir):
  """Writes a run folder with the weights in convert.source, at step 0."""
  c = config.convert
  if run_folder.read_config(workdir) is not None:
    raise UserError(f'{workdir} holds a run: give another --workdir')
  run_folder.check_config_kept(workdir)
  source = Path(c.source)
  name = c.format or recognise(source)
  choose(FORMATS, 'convert', 'format', name)
  with from_config('convert.source'):
    params, fields, notes = load(name, source, c.model, options_of(c.options))
  if config.latent.run:
    fields = in_latents(config, fields)
  with from_config('convert.source'):
    set_fields(config, fields)
  ranges.check(config)
  audit.audit(config)
  families.of(config).check(config)
  check_fits(config, params)
  for note in notes:
    print(f'note: {note}')
  print(describe(config, params))
  workdir = run_folder.prepare(workdir)
  stored = run_folder.plain(config)
  checkpoints.save_params(
    workdir, 0, params, stored, items=('params', 'ema_params')
  )
  run_folder.write_config(workdir, config)
  if config.latent.run:  # its scale is known, so that no image is needed
    latents = families.of(config).latents(config, workdir)
    families.of(config).prepare(config, workdir, latents, None, None)
  print(f'wrote {workdir}: --config=configs/run.py:{workdir} has its config')


def set_fields(config, fields):
  """Sets the fields that came with weights; ValueError for an unknown one."""
  sections = {}
  for field, value in fields.items():
    section, _, name = field.partition('.')
    sections.setdefault(section, {})[name] = value
  for section, values in sections.items():
    try:
      run_folder.set_fields(config, section, values)
    except (KeyError, AttributeError) as error:
      raise ValueError(
        f'the {section} of these weights does not fit this version: {error}'
      ) from error


def in_latents(config, fields):
  """Returns the fields of a model of the latents of the run latent.run."""
  run = config.latent.run
  stored = run_folder.read_config(run)
  if stored is None or stored['latent']['scale'] is None:
    raise UserError(
      f'config.latent.run: {run} is no run of an autoencoder with a scale: '
      'convert the AutoencoderKL of the same pipeline first'
    )
  return fields | {
    'latent.shape': fields['data.image_shape'],
    'data.image_shape': tuple(stored['data']['image_shape']),
    'sampling.clip': False,
  }


def write(config, workdir):
  """Writes convert.out, the weights of a run, as sampling.* chooses them."""
  c = config.convert
  choose(TARGETS, 'convert', 'to', c.to)
  if not c.out:
    raise UserError('config.convert.out: where is it written to?')
  config = run_folder.run_config(workdir, config)
  params = jax.device_get(sample.restore(config, workdir))
  out = Path(c.out)
  if out.exists():
    raise UserError(f'config.convert.out: {out} exists already')
  with from_config('convert'):
    if c.to == OURS:
      if c.label is not None:
        raise ValueError('label: is of to=diffusers alone')
      out.parent.mkdir(parents=True, exist_ok=True)
      stored = {n: run_folder.plain(config)[n] for n in _STORED}
      arrays = files.flatten(params)
      files.write_safetensors(out, arrays, config=json.dumps(stored))
    else:
      network = build.build_network(config)
      fields = export_fields(config)
      diffusers.save(out, network, params['network'], fields, c.label)
  print(f'wrote {out}, of checkpoint {config.sampling.checkpoint}')


def recognise(source):
  """Returns the format of a folder or file by what is there."""
  if not source.exists():
    raise UserError(f'config.convert.source: there is no {source}')
  if source.is_dir():
    if diffusers.find_model(source) or (source / diffusers.INDEX).is_file():
      return 'diffusers'
    raise UserError(
      f'config.convert.source: {source} is not a folder of diffusers, which '
      'has a model_index.json or a config.json: give such a folder, or the '
      'file of the weights'
    )
  if source.name.startswith('diffusion_pytorch_model'):
    return 'diffusers'
  if source.suffix == '.npz':
    return 'ho'
  if source.suffix == '.safetensors':
    with from_config('convert.source'):
      if 'config' in files.read_metadata(source):
        return OURS
    if source.with_suffix('.json').is_file():
      return 'edm2' if 'unet.out_gain' in files.open_tensors(source) else 'edm'
  with from_config('convert.source'):
    files.check_kind(source)
  raise UserError(
    f'config.convert.source: {source} may be of several projects: give '
    f'--config.convert.format={"|".join(FORMATS)}'
  )


def load(name, source, model, options):
  """Returns (params of a run, fields, notes) of a file or folder."""
  if name == OURS:
    if model or options:
      raise ValueError('a file of ours takes no convert.model and no options')
    return load_ours(source)
  module = importlib.import_module(f'diffusion_jax.interop.{name}')
  if model:
    options = {'model': model} | options
  try:
    found = module.load(source, **options)
  except TypeError as error:  # an option that it does not take
    raise ValueError(f'of format={name}: {error}') from error
  return {'network': found.params, **found.more}, found.fields, found.notes


def load_ours(source):
  """Returns what `load` does for a file that convert.to=safetensors wrote."""
  metadata = files.read_metadata(source)
  if 'config' not in metadata:
    raise ValueError(f'{source} was not written by --mode=convert')
  fields = {
    f'{section}.{name}': tuple(x) if isinstance(x, list) else x
    for section, values in json.loads(metadata['config']).items()
    for name, x in values.items()
  }
  params = {}
  for name, array in files.read_tensors(source).items():
    *path, leaf = name.split('/')
    place = params
    for part in path:
      place = place.setdefault(part, {})
    place[leaf] = array
  return params, fields, ()


def options_of(text):
  """Returns {'a': 1, 'b': 'x'} of the text 'a=1 b=x'."""
  found = {}
  for part in shlex.split(text):
    name, sign, value = part.lstrip('-').partition('=')
    if not sign or not name.isidentifier():
      raise UserError(
        f'config.convert.options: {part!r} is not name=value; several are '
        "separated by spaces: 'image_size=64 class_cond=True'"
      )
    try:
      found[name] = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
      found[name] = value
  return found


def check_fits(config, params):
  """Raises UserError unless the config's network has these parameters."""
  try:
    checkpoints.check_fits(
      params,
      families.abstract_params(config),
      'the weights are of another network',
    )
  except ValueError as error:
    raise UserError(f'config.convert.source: {error}') from error


def describe(config, params):
  """Returns a line on the network, the data and the schedule."""
  count = sum(x.size for x in files.flatten(params).values())
  shape = 'x'.join(map(str, config.data.image_shape))
  classes = config.data.num_classes
  labels = f', {classes} classes' if classes else ''
  line = (
    f'{config.network.name}: {count:,} parameters; images of {shape}{labels}'
  )
  if config.network.name == 'autoencoder':
    return f'{line}; scale of the latents {config.latent.scale}'
  steps, kind = config.schedule.num_steps, config.objective.parametrization
  return f'{line}; {config.schedule.name} of {steps} steps, predicts {kind}'


def export_fields(config):
  """Returns the fields of a config; an explicit list for other schedules."""
  plain = audit.complete(config)
  fields = {
    f'{section}.{name}': value
    for section in _STORED
    for name, value in plain[section].items()
  }
  known = 'linear', 'scaled_linear', 'cosine', 'sigmoid'
  if fields['schedule.name'] in known and not fields['schedule.shift']:
    return fields
  schedule = build.build_schedule(config)
  if isinstance(schedule, dj.DiscreteSchedule):
    fields['schedule.alphas'] = np.asarray(schedule.alphas)
  elif fields['schedule.shift']:
    raise ValueError('schedule.shift: diffusers has schedules of betas')
  return fields
