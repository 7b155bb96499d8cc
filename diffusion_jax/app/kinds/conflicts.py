"""What a config, its data and a mode cannot be together: a row for each rule."""

import math
import os
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax

import diffusion_jax as dj
from diffusion_jax.app.config.rules import EDIT, EVALUATE, SAMPLE, TRAIN, Row
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import condition_of, fitting, method_name
from diffusion_jax.app.kinds.choices import PAIRED
from diffusion_jax.app.kinds.couplings import COUPLINGS
from diffusion_jax.data.sources import Facts

# -- what a machine holds -----------------------------------------------------


def _too_large(field, mode, most=''):
  # Returns the row of a batch of which a machine cannot hold two; most: the field of
  # the number of examples, if a batch has no more.
  def found(c, facts):
    size = min(c.at(name) for name in (field, most) if name)
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    batch = 4 * math.prod((size, *facts.x.shape)) / jax.process_count()
    return (
      2 * batch > memory and f'{batch / 2**30:,.0f} GiB, and the machine has {memory / 2**30:,.0f}'
    )

  advice = f'config.{field}={{c.{field}}}: a batch takes {{it}}: take a smaller one'
  return Row(found, advice, mode)


MACHINE = (
  _too_large('training.batch_size', TRAIN),
  _too_large('evaluation.batch_size', EVALUATE),
  _too_large('sampling.batch_size', SAMPLE, 'sampling.num_samples'),
)

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


def needing(need: Need, modes: tuple[str, ...] = (), **paths: Collection[str]) -> Row:
  """Returns the row of fields whose values, or any for (), need such data.

  paths: the values by the field, with __ for the dot in its path.
  """

  def found(c, facts):
    if need.has(facts):
      return None
    for name, values in paths.items():
      path = name.replace('__', '.')
      given = c.at(path)
      given = given.name if isinstance(given, Node) else given
      for value in given if isinstance(given, tuple) else (given,):
        if value in values if values else value:
          return f'{path}={value}'
    return None

  what = f'config.{{it}} needs {need.what}, and your data are {{data}}: {need.advice}'
  return Row(found, what, modes)


_CONTEXT = needing(CONTEXT._replace(advice='leave it out'), sampling__context=())
# Numbers that are known of x are a context of the samples too.
OBSERVED = _CONTEXT._replace(
  when=lambda c, facts: c.at('conditioning.known') is None and _CONTEXT.when(c, facts)
)

DATA = (
  needing(
    LEVELS,
    sampling__bound=('clip', 'quantile'),
    conditioning__self_conditioning=(),
    objective=('hybrid', 'vlb', 'masked', 'd3pm', 'vae', 'hvae'),
  ),
  needing(
    PICTURES,
    objective=('classifier',),
    latent=(),
    training__random_flip=(),
    conditioning__augment=(),
    conditioning__image=(),
  ),
  needing(SQUARES, network=('ddpmpp', 'edm2', 'vdm')),
  needing(CONTEXT, conditioning__context=()),
  needing(VECTORS, conditioning__known=()),
  OBSERVED,
  needing(LEVELS, EVALUATE, evaluation__metrics=('elbo', 'iw', 'independent_pixels')),
  needing(MEASURED, EVALUATE, evaluation__metrics=('fid', 'sfid', 'is', 'cmmd')),
  needing(PICTURES, EVALUATE, evaluation__metrics=('accuracy',)),
  needing(
    EDITED,
    EDIT,
    edit=('inpaint', 'sdedit', 'interpolate', 'superres', 'colorize'),
    edit__operator=('blur', 'motion', 'downsample', 'gray', 'hdr', 'phase'),
  ),
)


# -- guidance ------------------------------------------------------------------


def takes_pairs(c: Node) -> bool:
  """Returns whether the sampler calls pairs of predictions."""
  return c.at('sampling.sampler.name') in PAIRED


def _is_guided_alone(c, facts):
  guidance, section = c.sampling.get('guidance'), 'guidance'
  if takes_pairs(c):
    guidance, section = c.sampling.sampler, 'sampler'
  elif guidance is None or guidance.scale == 1.0:
    return ''
  return (
    '' if guidance.get('run') or c.conditioning.dropout else f'{section}.scale={guidance.scale}'
  )


GUIDED_ALONE = Row(
  _is_guided_alone,
  'config.sampling.{it} needs a network that was trained '
  'with conditioning.dropout, or another run: sampling.guidance=autoguidance',
)

# What changes predictions of x_0, or is another guidance than the sampler's.
_CHANGES = (
  *(f'sampling.{name}' for name in ('guidance', 'classifier', 'corrector')),
  'conditioning.self_conditioning',
)

GUIDANCE = (
  Row(
    lambda c, facts: takes_pairs(c) and next((path for path in _CHANGES if c.at(path)), ''),
    'config.sampling.sampler={c.sampling.sampler.name} takes two predictions of x_0 at each step, '
    'which {it} would change: take another sampler, or switch that off',
  ),
  Row(
    lambda c, facts: (
      f'sampler={c.sampling.sampler.name}'
      if takes_pairs(c)
      else 'classifier' * bool(c.sampling.get('classifier'))
    ),
    'config.sampling.{it}: edits cannot be guided by it, take another guidance',
    EDIT,
  ),
)


# -- what an edit cannot do ----------------------------------------------------


def _part_that_is_missing(c, facts):
  path = c.edit.constructor.part
  if not path or c.edit[path] is not None:
    return None
  return path, ', '.join(c.schema.table(f'edit.{path}'))


def _methods_without_mask(c, facts):
  method = c.at('edit.method')
  if not c.edit.constructor.observes or method is None or not method.make().needs_mask:
    return ''
  table = c.schema.table('edit.method')
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


EDITS = (
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
    lambda c, facts: (
      (c.edit.constructor.part or c.edit.name == 'interpolate')
      and c.at('conditioning.self_conditioning')
    ),
    'config.edit={c.edit.name} needs a denoiser, and this run was trained with '
    'conditioning.self_conditioning',
    EDIT,
  ),
)

CONFLICTS = *MACHINE, *DATA, *GUIDANCE, *EDITS, *COUPLINGS
