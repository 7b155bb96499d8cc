"""`--config=<file>:smoke`: a trial of any experiment, in seconds."""

from diffusion_jax.app.config.store import Flags
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.store import completed
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
}
TRAINING = {
  'num_steps': 4,
  'ema_warmup': True,  # else four steps show the first parameters
  'mesh': (-1, 1),
  'batch_size': 8,
  'log_every': 1,
  'steps_per_call': 1,  # every step is logged
  'sample_every': 4,
  'checkpoint_every': 2,
  'metrics_images': 16,
}


def shrunk(config: Node, flags: Flags = ()) -> Node:
  """Returns a complete config with a tiny network and four steps of training.

  Data that must be downloaded are replaced by generated pictures, unless the
  user's flags set fields of these data, and runs that this one needs by their
  own trials, in '<run>-smoke'.
  """
  tree = config.to_dict()
  fields = {path for path in config.paths() if path.startswith('data')}
  own = any(path in fields for path, _ in flags)
  if datasets.asks_for_labels(config.data):  # generated pictures do not
    conditioning = tree.get('conditioning', {})
    conditioning['labels'] = conditioning.get('labels') is not False
  has_texts = bool(datasets.text_length(config))
  tree['data'] = _small_data(config.data, has_texts, own)
  tree['network'] |= {
    name: min(value, SIZES[name])
    for name, value in tree['network'].items()
    if name in SIZES and isinstance(value, int)
  }
  for path in ('latent.run', 'training.init_from', 'training.teacher'):
    section, field = path.split('.')
    if run := config.at(path):
      tree[section][field] = run + ('_smoke' if '-' in run else '-smoke')
  if 'warmup_steps' in config.optimizer:
    tree['optimizer']['warmup_steps'] = 2
  tree['training'] |= TRAINING
  if config.training.evaluate_every or config.training.keep_best:
    tree['training']['evaluate_batches'] = 1
  tree['evaluation'] |= {'num_generated': 16, 'num_pairs': 16, 'draws_per_pair': 9}
  if 'iw' in config.evaluation:
    tree['evaluation']['iw']['num_samples'] = 4
  tree['report']['after_training'] = False
  tree['sampling'] |= _small_sampling(config.sampling)
  return completed(tree)


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


def _small_sampling(section):
  fields: dict[str, object] = {'num_samples': 16, 'batch_size': 16}
  if section.get('respacing'):
    fields['respacing'] = '4'
  elif 'num_steps' in section:
    fields['num_steps'] = min(section.num_steps, 4)
  # A Langevin step is proportional to the inverse square of the score, which is
  # almost 0 for an untrained network.
  if section.get('corrector'):
    fields['corrector'] = None
  return fields
