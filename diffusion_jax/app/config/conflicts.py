"""What a config, its data and a mode cannot be together.

Each function yields a line for each rule that is broken.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import diffusion_jax as dj
from diffusion_jax.app.config import folder, kinds, trust
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edits.methods import condition_of, fitting, method_name
from diffusion_jax.data.sources import Facts
from diffusion_jax.training import loggers


def conflicts(c: Node, mode: str, facts: Facts) -> Iterator[str]:
  """Yields a line for each rule that a config breaks."""
  yield from of_data(c, mode, facts)
  match kinds.kind_of(c):
    case kinds.CLASSIFIER if mode in ('sample', 'edit'):
      yield (
        'this run is a classifier, which makes no images: sample another run with '
        '--config.sampling.classifier.run=<this one>'
      )
    case kinds.VAE:
      yield from _of_vae(c, mode, facts)
    case kinds.FLOW_MAP:
      yield from _of_flow_map(c, mode)
    case kinds.LATENT_DIFFUSION:
      yield from _of_latents(c, mode)
  yield from _of_guidance(c)
  if mode == 'edit':
    yield from _of_edit(c)


# -- what needs which data -----------------------------------------------------


class Need(NamedTuple):
  """What a part needs of the data, whether they have it, and what else to do."""

  what: str
  advice: str
  has: Callable[[Facts], bool]


def _has_vectors(facts):
  return len(facts.x.shape) == 1 and not facts.x.levels


LEVELS = Need(
  'levels, as pictures and texts have',
  'uint8 arrays have levels; leave it out for real numbers',
  lambda facts: bool(facts.x.levels),
)
PICTURES = Need('pictures, uint8 [H, W, C]', 'leave it out', lambda facts: facts.x.is_picture)
EDITED = PICTURES._replace(advice='take edit=restore with operator mask, matrix or yours')
MEASURED = PICTURES._replace(advice='take fd, c2st or others of numbers')
SQUARES = Need(
  'data [H, W, C]',
  'take network=unet or dit, or mlp for vectors',
  lambda facts: len(facts.x.shape) == 3,
)
VECTORS = Need('vectors [D] of real numbers', 'leave it out', _has_vectors)
CONTEXT = Need(
  'a context',
  'give data with one, as data=npz with `context`, or train without, by conditioning.context=None',
  lambda facts: facts.context is not None,
)
OBSERVED = CONTEXT._replace(advice='leave it out')

# Field, the values that need such data, '' for any; the mode, '' for any.
DATA = (
  ('sampling.clip', '', LEVELS, ''),
  ('sampling.dynamic_threshold', '', LEVELS, ''),
  ('conditioning.self_conditioning', '', LEVELS, ''),
  ('objective', 'hybrid vlb masked d3pm vae hvae', LEVELS, ''),
  ('objective', 'classifier', PICTURES, ''),
  ('latent', '', PICTURES, ''),
  ('training.random_flip', '', PICTURES, ''),
  ('conditioning.augment', '', PICTURES, ''),
  ('conditioning.image', '', PICTURES, ''),
  ('network', 'ddpmpp edm2 vdm', SQUARES, ''),
  ('conditioning.context', '', CONTEXT, ''),
  ('conditioning.known', '', VECTORS, ''),
  ('sampling.context', '', OBSERVED, ''),
  ('evaluation.metrics', 'elbo iw independent_pixels', LEVELS, 'evaluate'),
  ('evaluation.metrics', 'fid sfid is cmmd', MEASURED, 'evaluate'),
  ('evaluation.metrics', 'accuracy', PICTURES, 'evaluate'),
  ('edit', 'inpaint sdedit interpolate superres colorize', EDITED, 'edit'),
  ('edit.operator', 'blur motion downsample gray hdr phase', EDITED, 'edit'),
)


def of_data(c: Node, mode: str, facts: Facts) -> Iterator[str]:
  """Yields a line for each field whose value needs other data."""
  for path, words, need, of_mode in DATA:
    is_joint = path == 'sampling.context' and c.at('conditioning.known') is not None
    if of_mode not in ('', mode) or need.has(facts) or is_joint:
      continue
    value = c.at(path)
    values = value if isinstance(value, tuple) else (getattr(value, 'name', value),)
    for value in values:
      if value in words.split() if words else value:
        yield (
          f'config.{path}={value} needs {need.what}, and these data are {described(facts)}: '
          f'{need.advice}'
        )
        break


def described(facts: Facts) -> str:
  """Returns the shape and the kind of the data, in words."""
  kind = f'{facts.x.levels} levels' if facts.x.levels else 'real numbers'
  more = ' without a context' if facts.context is None else ''
  return f'{kind} [{", ".join(map(str, facts.x.shape))}]{more}'


# -- what a kind of model cannot do --------------------------------------------

_OF_PIXELS = (
  'conditioning.augment',
  'conditioning.image',
  'conditioning.self_conditioning',
  'sampling.clip',
  'sampling.dynamic_threshold',
  'sampling.classifier',
)


def _of_vae(c, mode, facts):
  if mode == 'edit':
    yield (
      'this run is a VAE, which cannot edit pictures: --mode=sample writes '
      'reconstructions and interpolations, and diffusion models can edit'
    )
  for name in ('labels', 'prompt', 'trajectory'):
    if c.sampling[name]:
      yield f'config.sampling.{name} has no effect on a VAE'
  if c.decoding.decoder == 'bernoulli' and facts.x.levels != 2:
    yield (
      f'config.decoding.decoder=bernoulli has 2 grey levels, and these images {facts.x.levels}: '
      f'take logistic, or --config.data=binarized --config.data.source={c.data.name}'
    )
  if c.objective.get('free_bits') and c.training.accumulate > 1:
    yield 'config.objective.free_bits needs the whole batch: set training.accumulate=1'


def _of_latents(c, mode):
  for path in _OF_PIXELS:
    if c.at(path):
      yield (
        f'config.{path} needs pixels, and this run diffuses latents (config.latent): switch it off'
      )
  if mode == 'edit' and c.edit.constructor.observes:
    yield (
      f'config.edit={c.edit.name} needs pixels, and this run diffuses latents: it can do inpaint, '
      'sdedit and interpolate'
    )
  if mode == 'edit' and c.at('edit.posterior') and not c.edit.posterior.make().in_latents:
    yield (
      f'config.edit.posterior={c.edit.posterior.name} needs pixels, and this run diffuses latents: '
      'set it to steered'
    )


def _of_guidance(c):
  guidance = c.sampling.get('guidance')
  if guidance is None or guidance.get('run') or guidance.scale == 1.0:
    return
  if not c.conditioning.dropout:
    yield (
      f'config.sampling.guidance.scale={guidance.scale} needs a network that was trained with '
      'conditioning.dropout, or another run: sampling.guidance=autoguidance'
    )


def _of_flow_map(c, mode):
  scale, guidance = c.sampling.guidance_scale, c.objective.get('guidance') or {}
  needs, noise_input = c.objective.constructor.needs, c.noise_input
  of_two_times = needs.map_kind == 'average_velocity'
  if guidance and not c.conditioning.dropout:
    yield (
      'config.objective.guidance also trains the network without a condition: set '
      'conditioning.dropout, 0.1 for instance'
    )
  if scale != 1.0 and 'high' not in guidance:
    yield (
      f'config.sampling.guidance_scale={scale}: a flow map has the guidance scale it was trained '
      'with, which is 1 here; objective.guidance=power_law trains several scales'
    )
  if 'high' in guidance and not 1.0 <= scale <= guidance['high']:
    yield (
      f'config.sampling.guidance_scale={scale} is outside the scales of the training, 1 to '
      f'{guidance["high"]}'
    )
  if of_two_times and noise_input.constructor is not dj.time_input:
    yield (
      f'config.noise_input={noise_input.name}: the network of objective={c.objective.name} gets t '
      'and t - s: set it to time'
    )
  is_large = noise_input.constructor is not dj.time_input or noise_input.scale > 10.0
  if needs.forward_mode and noise_input.name != 'edm' and is_large:
    yield (
      f'config.noise_input: the loss of objective={c.objective.name} contains the derivative in t, '
      'which an input that goes to 1000 makes 1000 times too large: set noise_input=time and '
      'noise_input.scale=1'
    )
  if needs.forward_mode and c.network.get('attention') == 'cudnn':
    yield (
      'config.network.attention=cudnn has no forward-mode derivative, which '
      f'objective={c.objective.name} needs: set it to auto or xla'
    )
  several = c.sampling.num_steps > 1 or c.sampling.respacing
  if several and not of_two_times and not c.sampling.stochastic:
    yield (
      f'config.sampling.num_steps={c.sampling.num_steps}: a consistency function only reaches the '
      'clean end: set it to 1, or sampling.stochastic=True'
    )
  if mode == 'edit' and _needs_a_denoiser(c):
    yield (
      f'config.edit={c.edit.name} needs a denoiser, and this run is a flow map: it can do inpaint '
      'by repaint or replace, and sdedit'
    )


def _needs_a_denoiser(c):
  if c.edit.name in ('restore', 'steer'):  # which hear of it below
    return False
  task = c.edit.constructor
  observes = task.observes and condition_of(c) is None
  return observes or task.inverts or c.edit.at('method.name') == 'reconstruction'


# -- what an edit cannot do ----------------------------------------------------


def _of_edit(c):
  name, condition, schema = c.edit.name, condition_of(c), kinds.kind_of(c)
  sees_itself = c.at('conditioning.self_conditioning')
  if c.sampling.get('classifier') is not None:
    yield 'config.sampling.classifier: edits cannot be guided by it'
  if condition and condition != name:
    yield (
      f'config.edit={name}: the network of this run was trained with '
      f'conditioning.image={condition} and can do only this task'
    )
  part = {'restore': 'operator', 'steer': 'reward'}.get(name)
  if part and c.edit[part] is None:
    choices = ', '.join(schema.table(f'edit.{part}'))
    yield f'config.edit.{part} is not set: {name} needs one of {choices}, or your own, module:name'
  yield from _of_method(c)
  if change := _change_of_x(c):
    yield (
      f'config.edit.{change} changes x between steps, which sampling.sampler=unipc would undo: '
      'take another sampler'
    )
  if name == 'interpolate' and sees_itself:
    yield 'config.edit=interpolate: the ODE of a network with self-conditioning cannot be inverted'
  if name == 'interpolate' and c.edit.num_samples < 2:
    yield 'config.edit: num_samples must be at least 2 for an interpolation'
  if part and (schema is kinds.FLOW_MAP or sees_itself):
    yield (
      f'config.edit={name} needs a denoiser, and this run is a flow map, or was trained with '
      'conditioning.self_conditioning'
    )


def _of_method(c):
  if c.at('edit.method') is None:
    return
  name, method, condition = c.edit.method.name, c.edit.method.make(), condition_of(c)
  if c.edit.constructor.observes and method.needs_mask:
    table = kinds.kind_of(c).table('edit.method')
    others = ' or '.join(name for name, make in table.items() if not make().needs_mask)
    yield f'config.edit.method={name} needs a mask: set it to {others} for edit={c.edit.name}'
  if method.is_trained != bool(condition):
    needed = c.edit.name if method.is_trained else 'None'
    yield (
      f'config.edit.method={name} needs a run with conditioning.image={needed}, and this one has '
      f'{condition}'
    )


def _change_of_x(c):
  # Returns what changes x between the steps of UniPC, ''.
  sampler = c.sampling.get('sampler')
  if sampler is None or sampler.constructor is not dj.unipc:
    return ''
  if c.at('edit.posterior') is not None:
    return f'posterior={c.edit.posterior.name}' * c.edit.posterior.make().changes_x
  if 'method' in c.edit:
    method = fitting(c) if c.edit.method is None else c.edit.method.make()
    return f'method={method_name(c)}' * method.changes_x
  return 'mask' if c.edit.get('mask') else ''


# -- a training ----------------------------------------------------------------


def of_training(c: Node) -> Iterator[str]:
  """Yields a line for each rule of a training that a config breaks."""
  t, path = c.training, 'config.training'
  if t.keep_every and (not t.checkpoint_every or t.keep_every % t.checkpoint_every):
    yield (
      f'{path}.keep_every={t.keep_every} is not a multiple of '
      f'training.checkpoint_every={t.checkpoint_every}'
    )
  if t.ema_sigma_rels and not t.snapshot_every:
    yield (
      f'{path}.ema_sigma_rels needs snapshots: set training.snapshot_every, to num_steps / 32 = '
      f'{max(t.num_steps // 32, 1)}, for instance'
    )
  if len({*t.ema_sigma_rels}) < len(t.ema_sigma_rels):
    yield f'{path}.ema_sigma_rels={t.ema_sigma_rels}: a width is there twice'
  if t.lora_rank and not t.init_from:
    yield (
      f'{path}.lora_rank={t.lora_rank} adapts the weights of a trained run: set '
      'training.init_from to its folder, or lora_rank to 0'
    )
  for run in c.report.runs if c.report.after_training else ():
    if folder.read_config(run) is None:
      yield f'config.report.runs: {run} is not a run folder'
  for name in loggers.missing(t.log_to):
    yield f"{path}.log_to: {name} is not installed: run pip install -e '.[{name}]'"
  for name in t.log_to:
    if name != 'tensorboard' and not trust.is_given(name):
      yield (
        f'{path}.log_to={name} may send the curves and previews away, but only a stored config '
        f'names it. If you want this, add --config.training.log_to={",".join(t.log_to)} to the '
        'command'
      )
  if t.skip_nonfinite and c.optimizer.get('repair_gradients'):
    yield (
      f'{path}.skip_nonfinite leaves out steps that optimizer.repair_gradients would take: set '
      'one of the two'
    )
