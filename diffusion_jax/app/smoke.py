"""`--config=<file>:smoke`: a trial of any experiment, in seconds."""

import copy

from ml_collections import ConfigDict

from diffusion_jax.app import images
from diffusion_jax.app.load import completed

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
# Data that need no download, or that a trial cannot replace.
AT_HAND = (
  'digits', 'photos', 'two_levels', 'synthetic', 'shapes', 'npz', 'text',
)  # fmt: skip


def shrunk(config: ConfigDict) -> ConfigDict:
  """Returns a complete config with a tiny network and four steps of training.

  Data that must be downloaded are replaced by generated pictures, and runs that
  this one needs by their own trials, in '<run>-smoke'.
  """
  config = copy.deepcopy(config)
  with config.unlocked(), config.ignore_type():
    _shrink_data(config)
    _shrink_network(config.network)
    for path in ('latent.run', 'training.init_from', 'training.teacher'):
      section, field = path.split('.')
      if config.get(section) and config[section][field]:
        config[section][field] = smoke_run(config[section][field])
    if 'warmup_steps' in config.optimizer:
      config.optimizer.warmup_steps = 2
    config.training.update(
      num_steps=4,
      ema_warmup=True,  # else four steps show the first parameters
      mesh=(-1, 1),
      batch_size=8,
      log_every=1,
      steps_per_call=1,  # every step is logged
      sample_every=4,
      checkpoint_every=2,
      evaluate_batches=1,
      metrics_images=16,
    )
    config.evaluation.num_generated = 16
    if 'iw' in config.evaluation:
      config.evaluation.iw.num_samples = 4
    config.report.after_training = False
    _shrink_sampling(config.sampling)
    if 'num_resamples' in config.edit:
      config.edit.num_resamples = config.edit.jump = 2
  return completed(config)


def smoke_run(run: str) -> str:
  """Returns the folder of the trial of a run."""
  return run + ('_smoke' if '-' in run else '-smoke')


def _shrink_data(config):
  section = config.data
  if section is None or section.name in AT_HAND or ':' in section.name:
    return
  facts = images.KNOWN.get(section.name)
  shape = section.image_shape if facts is None else facts.image_shape
  count = section.get('num_classes', 10) if facts is None else facts.num_classes
  if not section.get('labelled', True):
    count = 0
  config.data = ConfigDict({'name': 'synthetic', 'image_shape': shape})
  if images.text_length(config):
    config.data.name = 'shapes'
  else:
    config.data.num_classes = count


def _shrink_network(section):
  for field, small in SIZES.items():
    if isinstance(section.get(field), int):
      section[field] = min(section[field], small)


def _shrink_sampling(section):
  section.update(num_samples=16, batch_size=16)
  if 'num_steps' in section:
    section.num_steps = min(section.num_steps, 4)
  if section.get('respacing'):
    section.respacing = '4'
  # A Langevin step is proportional to the inverse square of the score, which is
  # almost 0 for an untrained network.
  if section.get('corrector'):
    section.corrector = None
