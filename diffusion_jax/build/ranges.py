"""What every number and every name in a config may be, in one table.

`check` needs no jax and no data, so launch.py calls it first. What depends on
several fields is checked where these are built into one thing.
"""

from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.errors import UserError

_FINITE = '(-inf, inf)'
_SEED = '[0, 4294967295]'  # 32 bits: what grain takes

# Intervals as in mathematics: a square bracket includes the end. Each applies
# to all elements of a tuple; None, where a field may be None, is no number.
# Only the two fields whose interval includes inf may be infinite.
RANGES = {
  'seed': _SEED,
  'data.image_shape': '[1, inf)',
  'data.num_classes': '[0, inf)',
  'data.num_levels': '[2, 256]',  # pixels are stored in 8 bits
  'data.test_fraction': '[0, 1)',
  'data.num_pictures': '[1, inf)',
  'data.num_objects': '[1, 2]',
  'data.photo_shrink': '[1, inf)',
  'data.num_threads': '[0, inf)',
  'latent.shape': '[1, inf)',
  'latent.scale': '(0, inf)',
  'schedule.num_steps': '[1, inf)',
  'schedule.start': '(0, 1]',
  'schedule.end': '(0, 1]',
  'schedule.value': '(0, 1]',
  'schedule.fraction': '[0, 1]',
  'schedule.alphas': '[0, 1)',
  'schedule.logsnr_min': _FINITE,
  'schedule.logsnr_max': _FINITE,
  'schedule.beta_min': '[0, inf)',
  'schedule.beta_max': '(0, inf)',
  'schedule.sigma_min': '(0, inf)',
  'schedule.sigma_max': '(0, inf)',
  'schedule.rho': '(0, inf)',
  'schedule.sigmoid_start': _FINITE,
  'schedule.sigmoid_end': _FINITE,
  'schedule.sigmoid_tau': '(0, inf)',
  'schedule.shift': '(0, inf)',
  'schedule.gamma_min': _FINITE,
  'schedule.gamma_max': _FINITE,
  'network.channels': '[1, inf)',
  'network.multipliers': '(0, inf)',
  'network.num_blocks': '[1, inf)',
  'network.attention_resolutions': '[1, inf)',
  'network.dropout': '[0, 1)',
  'network.num_groups': '[1, inf)',
  'network.norm_eps': '(0, inf)',
  'network.stem_channels': '[1, inf)',
  'network.num_heads': '[1, inf)',
  'network.head_channels': '[1, inf)',
  'network.fourier': '[0, 24]',  # float32 knows no finer waves of [-1, 1]
  'network.text_width': '[1, inf)',
  'network.text_layers': '[0, inf)',
  'network.text_heads': '[1, inf)',
  'network.latent_dim': '[0, inf)',
  'network.latent_channels': '[1, inf)',
  'network.decoder_blocks': '[1, inf)',
  'network.log_variance_limits': _FINITE,
  'network.num_latents': '[1, inf)',
  'conditioning.time_scale': '(0, inf)',
  'conditioning.text_length': '[1, inf)',
  'conditioning.label_dropout': '[0, 1]',
  'conditioning.image_factor': '[1, inf)',
  'objective.num_steps': '[0, inf)',
  'objective.t_min': '[0, 1)',
  'objective.vlb_weight': '[0, inf)',
  'objective.min_snr_gamma': '(0, inf)',
  'objective.log_normal_mean': _FINITE,
  'objective.log_normal_std': '(0, inf)',
  'objective.logit_normal_mean': _FINITE,
  'objective.logit_normal_std': '(0, inf)',
  'objective.sigma_data': '(0, inf)',
  'objective.augment': '[0, 1]',
  'objective.beta': '[0, inf)',
  'objective.free_bits': '[0, inf)',
  'objective.kl_warmup': '[0, inf)',
  'optimizer.learning_rate': '(0, inf)',
  'optimizer.warmup_steps': '[0, inf)',
  'optimizer.decay_steps': '[0, inf)',
  'optimizer.clip_norm': '[0, inf)',
  'optimizer.b1': '[0, 1)',
  'optimizer.b2': '[0, 1)',
  'optimizer.eps': '(0, inf)',  # a gradient of 0 would give 0 / 0
  'optimizer.weight_decay': '[0, inf)',
  'training.num_steps': '[1, inf)',
  'training.batch_size': '[1, inf)',
  'training.accumulate': '[1, inf)',
  'training.mesh': '[-1, inf)',
  'training.ema_decay': '[0, 1)',
  'training.more_ema_decays': '[0, 1)',
  'training.ema_half_life': '(0, inf)',
  'training.ema_rampup': '[0, inf)',
  'training.log_every': '[0, inf)',
  'training.sample_every': '[0, inf)',
  'training.checkpoint_every': '[0, inf)',
  'training.keep_checkpoints': '[1, inf)',
  'training.keep_every': '[0, inf)',
  'training.keep_best': '[0, inf)',
  'training.heartbeat_timeout': '[1, inf)',
  'training.skip_nonfinite': '[0, inf)',
  'evaluation.every': '[0, inf)',
  'evaluation.num_batches': '[1, inf)',
  'evaluation.num_images': '[0, inf)',
  'evaluation.batch_size': '[1, inf)',
  'evaluation.num_steps': '[0, inf)',
  'evaluation.random_steps': '[0, inf)',
  'evaluation.tolerance': '(0, 1)',
  'evaluation.t_min': '[0, 1)',
  'evaluation.num_samples': '[1, inf)',
  'evaluation.num_probes': '[1, inf)',
  'evaluation.seed': _SEED,
  'sampling.num_steps': '[1, inf)',
  'sampling.eta': '[0, inf)',
  'sampling.order': '[1, 3]',
  'sampling.langevin_steps': '[1, inf)',
  'sampling.langevin_step_size': '(0, inf)',
  'sampling.corrector_steps': '[0, inf)',
  'sampling.corrector_snr': '(0, inf)',
  'sampling.churn': '[0, inf)',
  'sampling.churn_min': '[0, inf)',
  'sampling.churn_max': '[0, inf]',  # sigma / alpha at zero terminal SNR
  'sampling.churn_noise': '[0, inf)',
  'sampling.guidance_scale': _FINITE,  # below 0: away from the class
  'sampling.guidance_rescale': '[0, 1]',
  'sampling.guidance_min': '[0, inf)',
  'sampling.guidance_max': '[0, inf]',  # as churn_max
  'sampling.classifier_scale': _FINITE,
  'sampling.dynamic_threshold': '[0, 1]',
  'sampling.num_samples': '[1, inf)',
  'sampling.batch_size': '[1, inf)',
  'sampling.labels': '[0, inf)',
  'sampling.ema_decay': '[0, 1)',
  'sampling.seed': _SEED,
  'edit.num_samples': '[1, inf)',
  'edit.label': '[0, inf)',
  'edit.num_resamples': '[1, inf)',
  'edit.jump': '[1, inf)',
  'edit.scale': '[0, inf)',
  'edit.iterations': '[1, inf)',
  'edit.factor': '[1, inf)',
  'edit.strength': '[0, 1]',
  'edit.repeats': '[1, inf)',
  'noise.size': '[2, inf)',
  'noise.strip': '[2, inf)',
  'noise.frames': '[2, inf)',
  'noise.num_draws': '[2, inf)',
}

# Tuples: what their elements are, and how many there may be.
TUPLES = {
  'data.image_shape': (int, '[3, 3]'),
  'latent.shape': (int, '[0, inf)'),
  'schedule.alphas': (float, '[0, inf)'),
  'network.multipliers': (float, '[1, inf)'),
  'network.attention_resolutions': (int, '[0, inf)'),
  'network.fourier': (int, '[2, 2]'),
  'network.log_variance_limits': (float, '[2, 2]'),
  'training.mesh': (int, '[2, 2]'),
  'training.more_ema_decays': (float, '[0, inf)'),
  'sampling.labels': (int, '[0, inf)'),
}

# Names of files or folders that are written, and whether one may be empty.
NAMES = {'sampling.name': False, 'edit.name': False, 'evaluation.name': True}


def check(config: ConfigDict) -> None:
  """UserError for the first number or name that is not what it may be."""
  for field, interval in RANGES.items():
    value: Any = _read(config, field)
    if value is None:
      continue
    if field not in TUPLES:
      check_number(field, value, interval)
      continue
    kind, count = TUPLES[field]
    if not contains(count, len(value)):
      raise UserError(
        f'config.{field}={value}: the number of its elements, {len(value)}, is '
        f'not in {count}'
      )
    for i, element in enumerate(value):
      check_number(f'{field}[{i}]', element, interval, kind)
  for field, may_be_empty in NAMES.items():
    check_name(field, _read(config, field), may_be_empty)


def check_number(field, value, interval, kind=float):
  """UserError unless value is a number of `kind` in the interval."""
  numbers = int if kind is int else (int, float)
  if not isinstance(value, numbers) or isinstance(value, bool):
    what = 'an integer' if kind is int else 'a number'
    raise UserError(f'config.{field}={value!r} is not {what}')
  if not contains(interval, value):
    raise UserError(f'config.{field}={value} is not in {interval}')


def contains(interval: str, value: float) -> bool:
  """Whether a number is in an interval such as '[0, inf)'; nan is in none."""
  low, high = map(float, interval[1:-1].split(', '))
  above = value >= low if interval[0] == '[' else value > low
  below = value <= high if interval[-1] == ']' else value < high
  return above and below


def check_name(field, name, may_be_empty):
  """UserError for a name that is no file name, or would leave its folder."""
  if not name and may_be_empty:
    return
  if (
    not name
    or not name.isprintable()
    or name.startswith('.')
    or set(name) & set('/\\')
    or len(name.encode()) > 200  # file systems allow 255 with the endings
  ):
    raise UserError(
      f'config.{field}={name!r} is not the name of a file: give one to 200 '
      'characters, no / or \\, and no dot at the beginning'
    )


def _read(config, field):
  section, _, name = field.rpartition('.')
  return config[section][name] if section else config[name]
