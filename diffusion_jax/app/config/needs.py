"""What needs which kind of data: a row is a field, its choices, and a kind."""

from collections.abc import Iterator

from diffusion_jax.app.config.tree import Node
from diffusion_jax.data.sources import Facts

# What a row needs, and what to do without it.
LEVELS = (
  'levels, as pictures and texts have',
  'uint8 arrays have levels; leave it out for real numbers',
)
PICTURES = 'pictures, uint8 [H, W, C]', 'leave it out'
EDITED = PICTURES[0], 'take edit=restore with operator mask, matrix or yours'
MEASURED = PICTURES[0], 'take fd, c2st or others of numbers'
GRID = 'data [H, W, C]', 'take network=unet or dit, or mlp for vectors'
VECTORS = 'vectors [D] of real numbers', 'leave it out'
CONTEXT = (
  'a context',
  'give data with one, as data=npz with `context`, or train without, by conditioning.context=None',
)
OBSERVED = 'a context', 'leave it out'

# The path of a field, its values that need something (None: any that is set),
# and what they need.
NEEDS = (
  ('sampling.clip', None, LEVELS),
  ('sampling.dynamic_threshold', None, LEVELS),
  ('conditioning.self_conditioning', None, LEVELS),
  ('objective', ('hybrid', 'vlb', 'masked', 'd3pm', 'vae', 'hvae'), LEVELS),
  ('objective', ('classifier',), PICTURES),
  ('latent', None, PICTURES),
  ('training.random_flip', None, PICTURES),
  ('conditioning.augment', None, PICTURES),
  ('conditioning.image', None, PICTURES),
  ('network', ('ddpmpp', 'edm2', 'vdm'), GRID),
  ('conditioning.context', None, CONTEXT),
  ('conditioning.known', None, VECTORS),
  ('sampling.context', None, OBSERVED),
)
METRICS = {
  **dict.fromkeys(('elbo', 'iw', 'independent_pixels'), LEVELS),
  **dict.fromkeys(('fid', 'sfid', 'is', 'cmmd'), MEASURED),
  'accuracy': PICTURES,
}
EDITS = 'inpaint', 'sdedit', 'interpolate', 'superres', 'colorize'
OPERATORS = 'blur', 'motion', 'downsample', 'gray', 'hdr', 'phase'


def problems(config: Node, facts: Facts, mode: str) -> Iterator[str]:
  """Yields a line for each part of a config that other data need."""
  joint = config.at('conditioning.known') is not None
  rows = [row for row in NEEDS if not (joint and row[0] == 'sampling.context')]
  if mode == 'evaluate':
    rows += [('evaluation.metrics', (n,), kind) for n, kind in METRICS.items()]
  if mode == 'edit':
    rows += [('edit', EDITS, EDITED), ('edit.operator', OPERATORS, EDITED)]
  for path, values, needed in rows:
    found = config.at(path)
    name = found.name if isinstance(found, Node) else found
    given = name if isinstance(name, tuple) else (name,)
    hit = [x for x in given if (x if values is None else x in values)]
    if hit and not has(facts, needed):
      what, advice = needed
      yield (
        f'config.{path}={hit[0]} needs {what}, and these data are {described(facts)}: {advice}'
      )


def has(facts: Facts, needed: tuple[str, str]) -> bool:
  """Returns whether data have what a row needs."""
  if needed is LEVELS:
    return bool(facts.x.levels)
  if needed in (PICTURES, EDITED, MEASURED):
    return facts.x.is_picture
  if needed in (CONTEXT, OBSERVED):
    return facts.context is not None
  if needed is VECTORS:
    return len(facts.x.shape) == 1 and not facts.x.levels
  return len(facts.x.shape) == 3


def described(facts: Facts) -> str:
  """Returns the shape and the kind of the data, in words."""
  kind = f'{facts.x.levels} levels' if facts.x.levels else 'real numbers'
  more = ' without a context' if facts.context is None else ''
  return f'{kind} [{", ".join(map(str, facts.x.shape))}]{more}'
