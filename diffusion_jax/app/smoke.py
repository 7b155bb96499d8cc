"""`--config=<file>:smoke`: a trial of any experiment, in seconds."""

from diffusion_jax.app.config import trust
from diffusion_jax.app.config.experiments import from_file
from diffusion_jax.app.config.overrides import Flags
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.store import completed, with_fields
from diffusion_jax.data import image_folder

# Limits of the parameters of networks.
SIZES = {
  'channels': 8,
  'num_groups': 4,
  'num_blocks': 1,
  'num_layers': 1,
  'head_channels': 4,
  'stem_channels': 4,
  'num_heads': 2,
  'bottleneck': 4,
  'class_tokens': 2,
  'class_tokens_at': 0,
  'value_residual': False,
  'routing': 0.0,
  'routing_ends': 0,
}
FIELDS = {
  'training.num_steps': 4,
  'training.batch_size': 8,
  'training.log_every': 1,
  'training.steps_per_call': 1,  # every step is logged
  'training.sample_every': 4,
  'training.checkpoints.every': 2,
  'training.mesh': (-1, 1),
  'evaluation.num_generated': 16,
  'evaluation.num_pairs': 16,
  'evaluation.draws_per_pair': 9,
  'report.after_training': False,
  'sampling.num_samples': 16,
  'sampling.batch_size': 16,
}
# Fields that only some configs have: they are set where a config has their section.
OPTIONAL = {
  'training.band': '',  # no band is of four steps
  'training.average.warmup': True,  # else four steps show the first parameters
  'training.held_out.batches': 1,
  'training.metrics.images': 16,
  'optimizer.warmup_steps': 2,
  'evaluation.iw.num_samples': 4,
  'sampling.grid.steps': '4',
  # A Langevin step is proportional to the inverse square of the score, which is
  # almost 0 for an untrained network.
  'sampling.corrector': None,
}


def described(path: str, argument: str, flags: Flags = ()) -> Node:
  """Returns the complete config of a file, '': the defaults; argument: as in file.py:argument.

  It is a variant of the file, or smoke or <variant>_smoke for its trial. flags: see `shrunk`.
  """
  trial = argument == 'smoke' or argument.endswith('_smoke')
  variant = argument.removesuffix('smoke').rstrip('_') if trial else argument
  config = completed(from_file(path, variant) if path else {})
  return shrunk(config, flags) if trial else config


def shrunk(config: Node, flags: Flags = ()) -> Node:
  """Returns a complete config with a tiny network and four steps of training.

  Data that must be downloaded are replaced by generated pictures, unless the
  user's flags set fields of these data, and runs that this one needs by their
  own trials, in '<run>-smoke'.
  """
  tree = config.to_dict()
  fields = {path for path in config.paths() if path.startswith('data')}
  own = any(path in fields for path, _ in flags)
  if sections.asks_for_labels(config.data):  # generated pictures do not
    conditioning = tree.get('conditioning', {})
    conditioning['labels'] = conditioning.get('labels') is not False
  has_texts = bool(datasets.text_length(config))
  tree['data'] = _small_data(config.data, has_texts, own)
  tree['network'] |= {
    name: min(value, SIZES[name])
    for name, value in tree['network'].items()
    if name in SIZES and isinstance(value, int | float)
  }
  fields = FIELDS | {path: x for path, x in OPTIONAL.items() if config.at(path) is not None}
  for path in ('latent.run', 'training.start.run', 'training.teacher'):
    if run := config.at(path):
      fields[path] = run + ('_smoke' if '-' in run else '-smoke')
      trust.allow([fields[path]])
  if number := config.at('sampling.grid.number'):
    sampler = config.at('sampling.sampler')
    by_heun = sampler is not None and sampler.declared.averages_ends  # 4 would be too few
    fields['sampling.num_steps'] = min(number, 5 if by_heun else 4)
  return with_fields(completed(tree), fields)


def _small_data(section, has_texts, own):
  # own: the user's flags say what the data are.
  if section is None:
    return None
  inner = [name for name in ('source', 'target') if name in section]
  if inner:
    parts = {name: _small_data(section[name], has_texts, own) for name in inner}
    return section.to_dict() | parts
  facts = datasets.stated_facts(section)
  is_folder = section.constructor is image_folder.folder
  if own or facts is None and not is_folder:
    if not own and section.get('path', '') is None:  # text has its own
      return {'name': 'two_moons'}
    # The draws of an untrained network would hardly ever be within a box.
    return section.to_dict() | ({'bounds': ()} if 'bounds' in section else {})
  shape = section.image_shape if facts is None else facts.x.shape
  if has_texts:
    return {'name': 'shapes', 'image_shape': shape}
  count = 10 if facts is None else facts.num_classes
  count *= section.get('labelled', True)
  return {'name': 'synthetic', 'image_shape': shape, 'num_classes': count}
