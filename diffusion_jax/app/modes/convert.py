"""Implements --mode=convert: imports or exports the weights of a run."""

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.config.schema import parameters
from diffusion_jax.app.config.tree import Node, check_one_of, check_set, from_config
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds import diffusion, other_runs, store
from diffusion_jax.app.kinds.model import Model, check_attention
from diffusion_jax.app.kinds.sampling import Sampling
from diffusion_jax.app.kinds.sections import COMMON, Top
from diffusion_jax.app.run import sharing, weights
from diffusion_jax.app.run.drawing import generate
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.classes import number_of
from diffusion_jax.data.sources import pictures
from diffusion_jax.data.spec import Facts
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.interop import (
  diffusers,
  diffusers_schedulers as schedulers,
  formats,
  options,
  stablehlo,
  weight_files,
)
from diffusion_jax.interop.formats import OURS
from diffusion_jax.interop.reader import Imported
from diffusion_jax.runtime import run_folder
from diffusion_jax.runtime.files import parse_json
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.sharding import host_mesh
from diffusion_jax.weights import checkpoints, load
from diffusion_jax.weights.checkpoints import AVERAGE, RAW

# Sections that a user may set for weights, besides the common ones.
GIVEN = 'data', 'latent', 'optimizer', 'edit'


def main(config: Node, workdir: RunFolder) -> None:
  """Imports convert.source as the run in workdir, or exports the run."""
  c = config.convert
  if bool(c.source) == bool(c.to):
    *others, last = WRITE
    raise UserError(
      'config.convert: give either source=<weights>, which become the run in '
      f'--workdir, or to={", ".join(others)} or {last}, which exports that run '
      '(docs/weights.md)'
    )
  convert = read if c.source else write
  convert(config, workdir)


def read(config: Node, workdir: RunFolder) -> None:
  """Writes a run folder with the weights in convert.source, at step 0."""
  c = config.convert
  folder.check_no_run(workdir, '--workdir')
  folder.check_config_kept(workdir)
  with from_config('convert.source'):
    if RunFolder(c.source, Path(c.source)).is_shared:
      raise ValueError(
        f'{c.source} needs no conversion: --config={c.source} reads it in every mode'
      )
    name = c.format or formats.recognise(Path(c.source))
  check_one_of(READ, 'convert.format', name)
  check_given(config, name)
  with from_config('convert.source'):
    config, params = READ[name](config)
  model = make_model(config, workdir)
  model.check('convert')
  with from_config('convert.source'):
    what = 'the weights are of another network'
    checkpoints.check_fits(params, model.shapes(), what)
  print(describe(model, params))
  stored = folder.stored_form(config, model.facts)
  with run_folder.hold(workdir.make()):
    folder.check_no_run(workdir, '--workdir')  # which another process may have written
    checkpoints.save_params(workdir, 0, params, stored, (AVERAGE, RAW))
    folder.write_config(workdir, config, model.facts)
    model.autoencoder.prepare(None, None)  # the scale of this autoencoder needs no image
  print(f'wrote {workdir}: --config={workdir} uses it')


def check_given(config: Node, name: str) -> None:
  """Raises UserError for fields that the weights of a format decide."""
  usual = folder.plain(store.completed({}, trusted=False))
  free = ('convert', 'compilation_cache', 'latent')
  if name != OURS:
    others = (path for path in COMMON if path not in ('', 'sampling'))
    sampling = (f'sampling.{field}' for field in parameters(Sampling))
    free = (*GIVEN, *others, *sampling, *parameters(Top))
  fixed = folder.differences(usual, folder.plain(config), free)
  if fixed:
    raise UserError(
      f'config.{fixed}: this comes with the weights, and cannot be given in --mode=convert'
    )


def config_of(config: Node, imported: Imported) -> Node:
  """Returns the complete config of a run with imported weights.

  config: the user's config, for fields that the weights do not decide.
  """
  facts, sections = dict(imported.facts), imported.sections
  free = diffusion.SCHEMA._replace(parts=COMMON, choices=('data', 'optimizer'))
  tree = overrides.of_kind(config, free)
  if config.latent is not None:
    tree['latent'] = {**config.latent, 'shape': facts['image_shape']}
    facts['image_shape'] = image_shape_of(config.latent.run)
    if sections['sampling'].get('bound'):
      print('note: the scheduler clips x_0; latents are not clipped here')
    sections = sections | {'sampling': sections['sampling'] | {'bound': None}}
  for name, section in sections.items():
    tree[name] = {**tree.get(name, {}), **section}
  complete = store.completed(tree, trusted=False)
  tree['facts'] = facts_of(complete, facts).as_json()
  return store.completed(tree, trusted=False)


def image_shape_of(run: str) -> tuple[int, ...]:
  """Returns the shape of the images of the autoencoder that latent.run names.

  Its run must have a scale, which cannot be measured without images.
  """
  config = store.open_run(RunFolder.at(run, written=False), 'latent.run')
  if not config.get('decoding', {}).get('scale'):
    raise UserError(
      f'config.latent.run: {run} is not the run of an autoencoder with a '
      'scale: convert the AutoencoderKL of the same pipeline first'
    )
  return datasets.facts_of(config).x.shape


def facts_of(config: Node, given: Json) -> Facts:
  """Returns the facts of the images of imported weights.

  given: `Imported.facts`. Without config.data there are 256 grey levels.
  """
  if config.data is None:
    return pictures(given['image_shape'], given.get('num_classes', 0))
  facts = datasets.facts_of(config)
  known = {'image_shape': facts.x.shape, 'num_classes': facts.num_classes}
  for name, ours in known.items():
    if name in given and given[name] != ours:
      raise UserError(
        f'config.data={config.data.name}: {name} is {ours}, and {given[name]} for the weights'
      )
  return facts


def read_others(name: str, config: Node) -> tuple[Node, Params]:
  """Reads (config, params) with the module of a format."""
  c = config.convert
  with from_config('convert.options'):
    given = options.of_text(c.options)
  imported = formats.load(name, Path(c.source), c.model, given)
  for note in imported.notes:
    print(f'note: {note}')
  params = {'network': imported.params, **imported.more}
  return config_of(config, imported), params


def read_ours(config: Node) -> tuple[Node, Params]:
  """Reads (config, params) of a file that convert.to=safetensors wrote.

  The user may only change latent.run, the place of the autoencoder's run.
  """
  c = config.convert
  if c.model or c.options:
    raise ValueError('this file has its own config: give no convert.model, convert.options')
  metadata = weight_files.read_metadata(c.source)
  if 'config' not in metadata:
    raise ValueError(f'{c.source} was not written by --mode=convert')
  stored = store.stored(parse_json(metadata['config']), c.source)
  if config.latent is not None:
    stored = store.with_fields(stored, {'latent.run': config.latent.run})
  return stored, weight_files.unflatten(weight_files.read_tensors(c.source))


def write(config: Node, workdir: RunFolder) -> None:
  """Exports the weights that config.sampling chooses to convert.out."""
  c = config.convert
  if c.to == 'onnx':
    raise UserError(
      'config.convert.to=onnx: ONNX is not written. stablehlo is a program that JAX runs on CPUs, '
      'CUDA and TPUs, and diffusers has weights for PyTorch'
    )
  check_one_of(WRITE, 'convert.to', c.to)
  check_set('convert.out', c.out, 'give the file or folder to write')
  if c.label is not None and c.to != 'diffusers':
    raise UserError('config.convert.label is for convert.to=diffusers only')
  out = Path(c.out)
  into_folder = c.to == 'huggingface' and out.exists()
  if os.path.lexists(out) and not into_folder:
    raise UserError(f'config.convert.out: {out} exists already')
  model = make_model(config, workdir)
  model.check('convert')
  params, step = weights.restore(model, merge=c.to != 'lora')
  params = jax.device_get(params)
  out.parent.mkdir(parents=True, exist_ok=True)
  with run_folder.hold(out.parent, out.name, '--config.convert.out'), from_config('convert'):
    WRITE[c.to](out, model, params, step)
  print(f'wrote {out}, of step {step}')


def write_diffusers(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes a folder of diffusers."""
  sections, facts = export_sections(model), {'image_shape': model.state_shape}
  network, label = model.network(), null_or_class(model)
  if lacks := diffusers.save(out, network, params['network'], sections, facts, label):
    null = ', and #null the null class' * bool(model.conditioning.dropout)
    print(f'note: {lacks}: --config.convert.label=3 builds class 3 into the weights{null}')


def null_or_class(model: Model) -> int | None:
  """Returns the class of convert.label, -1 for the null class '#null', None without it."""
  label, facts = model.config.convert.label, model.facts
  if label in (None, '#null'):
    return label and -1
  with as_user_error('config.convert.label='):
    return number_of(str(label), facts.num_classes, facts.class_names)


def write_ours(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes weights with our own names, and the config, into one file."""
  text = json.dumps(sharing.config_of(model))
  weight_files.write_safetensors(out, weight_files.flatten(params), config=text)


def write_program(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes the sampler or classifier of a run as StableHLO, with weights."""
  if model.features is not None:
    size = model.config.evaluation.batch_size
    stablehlo.save_features(out, model.features(params), size, model.facts)
    return
  model.check('sample')
  if model.facts.x.kinds:
    raise UserError(
      'config.convert.to=stablehlo: rows of a table are written by the quantiles of its columns, '
      'which the program would not have: draw rows by --mode=sample'
    )
  size = model.config.sampling.batch_size
  other_runs.check_unguided(model, 'convert.to=stablehlo cannot export')
  # Networks choose what every platform has for a mesh of a CPU.
  mesh = host_mesh()
  check_attention(model.config, mesh)
  drawing = generate(model, mesh)
  shapes = conditions.shapes(model, size)
  params |= model.autoencoder.load()
  unit, x = 'in [-1, 1]', model.facts.x
  if not x.levels:
    unit = "in the data's units"
  if x.low:
    unit = (
      f'{unit}; --mode=sample draws again what is outside of data.bounds, '
      f'low={x.low}, high={x.high}, and this program does not'
    )
  print(f'note: what the program draws is {unit}')
  compute = in_units(model, lambda *args: drawing.compute(*args)[0])
  stablehlo.save(out, compute, params, shapes, size, unit)


def in_units(model: Model, compute: Callable) -> Callable:
  """Returns (params, index, cond) -> x, numbers and contexts in their units.

  compute: of standardised ones. Levels stay in [-1, 1].
  """
  context, values = conditions.Contexts(model), model.facts.x

  def in_their_units(params, index, cond):
    seen, known = cond, cond.get('known', np.nan)
    if context.values is not None:
      a, b = context.values.affine
      seen = cond | {context.name: (cond[context.name] - a) / b}
    x = compute(params, index, seen)
    a, b = values.affine
    return x if values.levels else jnp.where(jnp.isnan(known), a + b * x, known)

  return in_their_units


def write_adapters(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes the adapters of a run, without the weights that they adapt."""
  if not load.has_adapters(params):
    raise ValueError(
      'to=lora exports adapters: train a run with training.start=adapters, or give to=diffusers'
    )
  _, scale = load.read_base(model.run)
  tensors = diffusers.adapters_of(model.network(), params['network'], scale, model.state_shape)
  weight_files.write_safetensors(out, tensors, format='pt')


def export_sections(model: Model) -> Json:
  """Returns the sections of a run for diffusers.

  A schedule that diffusers does not know becomes a list of alphas, and and the
  bound auto becomes what the data have.
  """
  sections = folder.plain(model.config)
  if model.noisy is None:
    return sections
  if model.config.at('sampling.bound.name') == 'auto':
    sections['sampling']['bound'] = {'name': 'clip'} if model.noisy.clips else None
  if not schedulers.has_name(sections['schedule']):
    schedule = model.noisy.schedule()
    if isinstance(schedule, dj.DiscreteSchedule):
      sections['schedule'] = {'name': 'alphas', 'values': schedule.alphas}
  return sections


# config -> (config of the run, parameters), by format.
READ = {name: partial(read_others, name) for name in formats.OTHERS} | {OURS: read_ours}
# (out, model, params, step) writes a format.
WRITE = {
  'diffusers': write_diffusers,
  OURS: write_ours,
  'stablehlo': write_program,
  'lora': write_adapters,
  'huggingface': sharing.write,
}


def describe(model: Model, params: Params) -> str:
  """Returns a line about the network, the images and the schedule."""
  config, classes = model.config, model.facts.num_classes
  count = sum(x.size for x in weight_files.flatten(params).values())
  shape = 'x'.join(map(str, model.facts.x.shape))
  line = f'{config.network.name}: {count:,} parameters; images of {shape}'
  line += f', {classes} classes' if classes else ''
  if model.noisy is None:
    return f'{line}; scale of the latents {config.decoding.scale}'
  steps = config.schedule.get('num_steps')
  schedule = config.schedule.name + (f' of {steps} steps' if steps else '')
  kind = model.noisy.process.parametrization.kind
  return f'{line}; {schedule}, predicts {kind}'
