"""What a config, its data and a mode cannot be together: a row for each rule."""

from collections.abc import Callable, Collection
from typing import NamedTuple

import diffusion_jax as dj
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import condition_of, fitting, method_name
from diffusion_jax.app.kinds import schemas
from diffusion_jax.app.kinds.couplings import COUPLINGS
from diffusion_jax.app.kinds.rules import EDIT, EVALUATE, TRAIN, Row, guidance_of_pairs
from diffusion_jax.data.sources import Facts

LATENTS, MAPS, VAES = (schemas.LATENT_DIFFUSION,), (schemas.FLOW_MAP,), (schemas.VAE,)
PAIRED = schemas.DIFFUSION, schemas.LATENT_DIFFUSION, schemas.STATES


# -- what needs which data -----------------------------------------------------


class Need(NamedTuple):
  """What a part needs of the data, whether they have it, and what else to do."""

  what: str
  advice: str
  has: Callable[[Facts], bool]


def _has_grid(facts):
  return len(facts.x.shape) == 3


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
SQUARES = Need('data [H, W, C]', 'take network=unet or dit, or mlp for vectors', _has_grid)
VECTORS = Need('vectors [D] of real numbers', 'leave it out', _has_vectors)
CONTEXT = Need(
  'a context',
  'give data with one, as data=npz with `context`, or train without, by conditioning.context=None',
  lambda facts: facts.context is not None,
)
OBSERVED = CONTEXT._replace(advice='leave it out')


def needing(path: str, names: Collection[str], need: Need, modes: tuple[str, ...] = ()) -> Row:
  """Returns the row of a field whose values `names`, or any, need such data."""

  def value(c, facts):
    joint = path == 'sampling.context' and c.at('conditioning.known') is not None
    if need.has(facts) or joint:
      return None
    found = c.at(path)
    name = found.name if isinstance(found, Node) else found
    values = name if isinstance(name, tuple) else (name,)
    return next((x for x in values if (x in names if names else x)), None)

  what = f'config.{path}={{it}} needs {need.what}, and these data are {{data}}: {need.advice}'
  return Row(value, what, modes)


DATA = (
  needing('sampling.clip', (), LEVELS),
  needing('sampling.dynamic_threshold', (), LEVELS),
  needing('conditioning.self_conditioning', (), LEVELS),
  needing('objective', ('hybrid', 'vlb', 'masked', 'd3pm', 'vae', 'hvae'), LEVELS),
  needing('objective', ('classifier',), PICTURES),
  needing('latent', (), PICTURES),
  needing('training.random_flip', (), PICTURES),
  needing('conditioning.augment', (), PICTURES),
  needing('conditioning.image', (), PICTURES),
  needing('network', ('ddpmpp', 'edm2', 'vdm'), SQUARES),
  needing('conditioning.context', (), CONTEXT),
  needing('conditioning.known', (), VECTORS),
  needing('sampling.context', (), OBSERVED),
  needing('evaluation.metrics', ('elbo', 'iw', 'independent_pixels'), LEVELS, EVALUATE),
  needing('evaluation.metrics', ('fid', 'sfid', 'is', 'cmmd'), MEASURED, EVALUATE),
  needing('evaluation.metrics', ('accuracy',), PICTURES, EVALUATE),
  needing('edit', ('inpaint', 'sdedit', 'interpolate', 'superres', 'colorize'), EDITED, EDIT),
  needing('edit.operator', ('blur', 'motion', 'downsample', 'gray', 'hdr', 'phase'), EDITED, EDIT),
)


# -- what a kind of model cannot do --------------------------------------------

_OF_PIXELS = (
  'conditioning.augment',
  'conditioning.image',
  'conditioning.self_conditioning',
  'sampling.clip',
  'sampling.dynamic_threshold',
  'sampling.classifier',
)


def _reads_images(c):
  if c.data.name == 'binarized':
    return 'data=binarized draws new images in each epoch'
  return c.conditioning.text and 'conditioning.text reads texts'


def _is_guided_alone(c, facts):
  guidance = c.sampling.get('guidance')
  if guidance is None or guidance.get('run') or guidance.scale == 1.0:
    return False
  return not c.conditioning.dropout


def _calls_pairs(c, *others):
  # The guidance whose sampler calls pairs, and another field that is set.
  setting = guidance_of_pairs(c, None)
  other = next((path for path in others if c.at(path)), '')
  return (setting, other) if setting and other else None


def _has_scales(c):
  return 'high' in (c.objective.get('guidance') or ())


def _goes_one_way(c, facts):
  is_one_way = c.objective.constructor.needs.map_kind != 'average_velocity'
  several = c.sampling.num_steps > 1 or c.sampling.respacing
  return is_one_way and not c.sampling.stochastic and several


def _sees_no_time(c, facts):
  reads_steps = c.objective.constructor.needs.map_kind == 'average_velocity'
  return reads_steps and c.noise_input.constructor is not dj.time_input


def _derivative_is_large(c, facts):
  section = c.noise_input
  if not c.objective.constructor.needs.forward_mode or section.name == 'edm':
    return False
  return section.constructor is not dj.time_input or section.scale > 10.0


def _needs_a_denoiser(c, facts):
  if c.edit.name in ('restore', 'steer'):  # which hear of it below
    return False
  task = c.edit.constructor
  observes = task.observes and condition_of(c) is None
  return observes or task.inverts or c.edit.at('method.name') == 'reconstruction'


MODELS = (
  Row(
    lambda c, facts: True,
    'this run is a classifier, which makes no images: sample another run with '
    '--config.sampling.classifier.run=<this one>',
    ('sample', 'edit'),
    (schemas.CLASSIFIER,),
  ),
  Row(
    lambda c, facts: True,
    'this run is a VAE, which cannot edit pictures: --mode=sample writes '
    'reconstructions and interpolations, and diffusion models can edit',
    EDIT,
    VAES,
  ),
  Row(
    lambda c, facts: next((x for x in ('labels', 'prompt', 'trajectory') if c.sampling[x]), ''),
    'config.sampling.{it} has no effect on a VAE',
    kinds=VAES,
  ),
  Row(
    lambda c, facts: c.decoding.decoder == 'bernoulli' and facts.x.levels != 2,
    'config.decoding.decoder=bernoulli has 2 grey levels, and these images {facts.x.levels}: take '
    'logistic, or --config.data=binarized --config.data.source={c.data.name}',
    kinds=VAES,
  ),
  Row(
    lambda c, facts: c.objective.get('free_bits') and c.training.accumulate > 1,
    'config.objective.free_bits needs the whole batch: set training.accumulate=1',
    kinds=VAES,
  ),
  Row(
    lambda c, facts: next((path for path in _OF_PIXELS if c.at(path)), ''),
    'config.{it} needs pixels, and this run diffuses latents (config.latent): switch it off',
    kinds=LATENTS,
  ),
  Row(
    lambda c, facts: c.latent.path and _reads_images(c),
    'config.latent.path={c.latent.path}: {it}, which stored latents lack: leave latent.path out, '
    'so that each step encodes its images',
    TRAIN,
    LATENTS,
  ),
  Row(
    lambda c, facts: c.edit.constructor.observes,
    'config.edit={c.edit.name} needs pixels, and this run diffuses latents: it can do inpaint, '
    'sdedit and interpolate',
    EDIT,
    LATENTS,
  ),
  Row(
    _is_guided_alone,
    'config.sampling.guidance.scale={c.sampling.guidance.scale} needs a network that was trained '
    'with conditioning.dropout, or another run: sampling.guidance=autoguidance',
    kinds=PAIRED,
  ),
  Row(
    lambda c, facts: _calls_pairs(c, 'sampling.classifier', 'conditioning.self_conditioning'),
    'config.{it[0]} needs two predictions of x_0 at each step, and {it[1]} changes them: take '
    'another guidance',
  ),
  Row(
    guidance_of_pairs,
    'config.{it} has steps of its own, which edits cannot take: take another guidance',
    EDIT,
  ),
  Row(
    lambda c, facts: c.objective.get('guidance') and not c.conditioning.dropout,
    'config.objective.guidance also trains the network without a condition: set '
    'conditioning.dropout, 0.1 for instance',
    kinds=MAPS,
  ),
  Row(
    lambda c, facts: c.sampling.guidance_scale != 1.0 and not _has_scales(c),
    'config.sampling.guidance_scale={c.sampling.guidance_scale}: a flow map has the guidance scale '
    'it was trained with, which is 1 here; objective.guidance=power_law trains several scales',
    kinds=MAPS,
  ),
  Row(
    lambda c, facts: (
      _has_scales(c) and not 1.0 <= c.sampling.guidance_scale <= c.objective.guidance.high
    ),
    'config.sampling.guidance_scale={c.sampling.guidance_scale} is outside the scales of the '
    'training, 1 to {c.objective.guidance.high}',
    kinds=MAPS,
  ),
  Row(
    _sees_no_time,
    'config.noise_input={c.noise_input.name}: the network of objective={c.objective.name} gets t '
    'and t - s: set it to time',
    kinds=MAPS,
  ),
  Row(
    _derivative_is_large,
    'config.noise_input: the loss of objective={c.objective.name} contains the derivative in time, '
    'which an input that goes to 1000 makes 1000 times too large: set noise_input=time and '
    'noise_input.scale=1',
    kinds=MAPS,
  ),
  Row(
    lambda c, facts: (
      c.objective.constructor.needs.forward_mode and c.network.get('attention') == 'cudnn'
    ),
    'config.network.attention=cudnn has no forward-mode derivative, which '
    'objective={c.objective.name} needs: set it to auto or xla',
    kinds=MAPS,
  ),
  Row(
    _goes_one_way,
    'config.sampling.num_steps={c.sampling.num_steps}: a consistency function only reaches the '
    'clean end: set it to 1, or sampling.stochastic=True',
    kinds=MAPS,
  ),
  Row(
    _needs_a_denoiser,
    'config.edit={c.edit.name} needs a denoiser, and this run is a flow map: it can do inpaint by '
    'repaint or replace, and sdedit',
    EDIT,
    MAPS,
  ),
)


# -- what an edit cannot do ----------------------------------------------------


def _part_that_is_missing(c, facts):
  path = {'restore': 'operator', 'steer': 'reward'}.get(c.edit.name)
  if path is None or c.edit[path] is not None:
    return None
  return path, ', '.join(schemas.kind_of(c).table(f'edit.{path}'))


def _methods_without_mask(c, facts):
  method = c.at('edit.method')
  if not c.edit.constructor.observes or method is None or not method.make().needs_mask:
    return ''
  table = schemas.kind_of(c).table('edit.method')
  return ' or '.join(name for name, make in table.items() if not make().needs_mask)


def _training_of_method(c, facts):
  method, condition = c.at('edit.method'), condition_of(c)
  if method is None or method.make().is_trained == bool(condition):
    return None
  return c.edit.name if method.make().is_trained else 'None', condition


def _change_that_unipc_undoes(c, facts):
  sampler = c.sampling.get('sampler')
  if sampler is None or sampler.constructor is not dj.unipc:
    return ''
  if c.at('edit.posterior') is not None:
    return f'posterior={c.edit.posterior.name}' * c.edit.posterior.make().changes_x
  if 'method' in c.edit:
    method = fitting(c) if c.edit.method is None else c.edit.method.make()
    return f'method={method_name(c)}' * method.changes_x
  return 'mask' if c.edit.get('mask') else ''


def _posterior_of_pixels(c, facts):
  return c.at('edit.posterior') is not None and not c.edit.posterior.make().in_latents


def _is_no_denoiser(c, facts):
  needs_one = c.edit.name in ('restore', 'steer')
  is_map = schemas.kind_of(c) is schemas.FLOW_MAP
  return needs_one and (is_map or c.at('conditioning.self_conditioning'))


EDITS = (
  Row(
    lambda c, facts: c.sampling.get('classifier') is not None,
    'config.sampling.classifier: edits cannot be guided by it',
    EDIT,
  ),
  Row(
    lambda c, facts: condition_of(c) and condition_of(c) != c.edit.name,
    'config.edit={c.edit.name}: the network of this run was trained with '
    'conditioning.image={c.conditioning.image.name} and can do only this task',
    EDIT,
  ),
  Row(
    _part_that_is_missing,
    'config.edit.{it[0]} is not set: {c.edit.name} needs one of {it[1]}, or your own, module:name',
    EDIT,
  ),
  Row(
    _posterior_of_pixels,
    'config.edit.posterior={c.edit.posterior.name} needs pixels, and this run diffuses latents: '
    'set it to steered',
    EDIT,
    LATENTS,
  ),
  Row(
    _methods_without_mask,
    'config.edit.method={c.edit.method.name} needs a mask: set it to {it} for edit={c.edit.name}',
    EDIT,
  ),
  Row(
    _training_of_method,
    'config.edit.method={c.edit.method.name} needs a run with conditioning.image={it[0]}, and this '
    'one has {it[1]}',
    EDIT,
  ),
  Row(
    _change_that_unipc_undoes,
    'config.edit.{it} changes x between steps, which sampling.sampler=unipc would undo: take '
    'another sampler',
    EDIT,
  ),
  Row(
    lambda c, facts: c.edit.name == 'interpolate' and c.at('conditioning.self_conditioning'),
    'config.edit=interpolate: the ODE of a network with self-conditioning cannot be inverted',
    EDIT,
  ),
  Row(
    lambda c, facts: c.edit.name == 'interpolate' and c.edit.num_samples < 2,
    'config.edit: num_samples must be at least 2 for an interpolation',
    EDIT,
  ),
  Row(
    _is_no_denoiser,
    'config.edit={c.edit.name} needs a denoiser, and this run is a flow map, or was trained with '
    'conditioning.self_conditioning',
    EDIT,
  ),
)

CONFLICTS = *DATA, *MODELS, *EDITS, *COUPLINGS
