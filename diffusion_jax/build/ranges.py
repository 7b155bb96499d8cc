"""Checks that every number and every name in a config is in its range.

`check` needs no jax and no data, so launch.py calls it first. What depends on
several fields is checked where these are built into one thing.
"""

from typing import Any

from ml_collections import ConfigDict

from diffusion_jax.errors import UserError

# Intervals as in mathematics: a square bracket includes the end. Each applies
# to all elements of a tuple; None, where a field may be None, is no number.
# Pixels are stored in 8 bits; float32 resolves no Fourier feature of [-1, 1]
# above 2^24; grain takes seeds of 32 bits; an optimizer.eps of 0 would make
# 0 / 0 of a gradient of 0; a guidance_scale below 0 guides away from the class.
# Only the two fields whose interval includes inf, which is sigma / alpha at
# zero terminal SNR, may be infinite.
_BY_INTERVAL = {
  '[1, inf)': """
    data.image_shape data.num_pictures data.photo_shrink latent.shape
    schedule.num_steps network.channels network.num_blocks
    network.attention_resolutions network.num_groups network.stem_channels
    network.num_heads network.head_channels network.text_width
    network.decoder_blocks network.patch_size
    network.text_heads network.latent_channels network.num_latents
    conditioning.text_length conditioning.image_factor training.num_steps
    objective.teacher_steps objective.map_steps objective.steps_per_stage
    objective.num_stages objective.first objective.last objective.max_guidance
    training.batch_size training.accumulate training.steps_per_call
    training.keep_checkpoints average.step
    training.heartbeat_timeout training.evaluate_batches training.metrics_images
    evaluation.batch_size evaluation.num_generated evaluation.sweep.num_steps
    evaluation.num_samples evaluation.num_probes sampling.num_steps
    sampling.langevin_steps sampling.guidance_channels
    sampling.num_samples sampling.batch_size
    edit.num_samples edit.num_resamples edit.jump edit.iterations edit.factor
    edit.repeats
  """,
  '[0, inf)': """
    data.num_classes data.num_threads schedule.beta_min network.text_layers
    network.latent_dim network.bottleneck network.class_tokens
    network.class_tokens_at
    objective.num_steps objective.uncertainty objective.vlb_weight
    objective.offset objective.tangent_warmup objective.huber_offset
    objective.beta
    objective.free_bits objective.kl_warmup optimizer.warmup_steps
    optimizer.decay_steps optimizer.clip_norm optimizer.weight_decay
    training.ema_rampup training.log_every training.sample_every
    training.checkpoint_every training.keep_every training.keep_best
    training.skip_nonfinite training.evaluate_every training.metrics_every
    training.snapshot_every
    evaluation.num_images evaluation.num_draws
    evaluation.num_steps evaluation.random_steps sampling.eta
    sampling.corrector_steps sampling.churn sampling.churn_min
    sampling.churn_noise sampling.diffusion_scale sampling.guidance_min
    sampling.min_sigma
    sampling.labels edit.label
    edit.scale report.trajectory_seconds
  """,
  '(0, inf)': """
    schedule.beta_max schedule.sigma_min schedule.sigma_max schedule.rho
    schedule.sigmoid_tau schedule.shift latent.scale
    network.multipliers network.norm_eps
    conditioning.time_scale objective.min_snr_gamma objective.max_flow_weight
    objective.log_normal_std objective.q objective.omega
    objective.logit_normal_std objective.sigma_data optimizer.learning_rate
    optimizer.eps training.ema_half_life sampling.langevin_step_size
    sampling.corrector_snr
  """,
  '[0, 1)': """
    data.test_fraction schedule.alphas network.dropout objective.t_min
    objective.kappa
    optimizer.b1 optimizer.b2 training.ema_decay training.more_ema_decays
    evaluation.t_min evaluation.sweep.ema_decay sampling.ema_decay
  """,
  '(-inf, inf)': """
    schedule.logsnr_min schedule.logsnr_max schedule.sigmoid_start
    schedule.sigmoid_end schedule.gamma_min schedule.gamma_max
    objective.log_normal_mean objective.logit_normal_mean
    network.log_variance_limits network.resample_filter
    sampling.guidance_scale sampling.classifier_scale
    evaluation.sweep.guidance_scale
  """,
  # Up to 1 / sqrt(12), the plain mean.
  '(0, 0.2886]': """
    training.ema_sigma_rels sampling.ema_sigma_rel average.sigma_rel
    evaluation.sweep.ema_sigma_rel
  """,
  '[0, 1]': """
    schedule.fraction conditioning.dropout objective.augment
    objective.power objective.equal objective.start objective.end
    objective.bootstrap
    sampling.guidance_rescale sampling.dynamic_threshold edit.strength
  """,
  '[2, inf)': """
    objective.pair_levels training.keep_snapshots
    noise.size noise.strip noise.frames noise.num_draws
  """,
  '[0, 4294967295]': """
    seed evaluation.seed sampling.seed
  """,
  '(0, 1]': """
    schedule.start schedule.end schedule.value
  """,
  '[0, inf]': """
    sampling.churn_max sampling.guidance_max
  """,
  '[2, 256]': """
    data.num_levels
  """,
  '[1, 2]': """
    data.num_objects
  """,
  '[0, 24]': """
    network.fourier
  """,
  '[-1, inf)': """
    convert.label training.mesh
  """,
  '(0, 1)': """
    evaluation.tolerance
  """,
  '[1, 3]': """
    sampling.order
  """,
}
RANGES = {
  field: interval
  for interval, fields in _BY_INTERVAL.items()
  for field in fields.split()
}

# Tuples: what their elements are, and how many there may be.
TUPLES = {
  'data.image_shape': (int, '[3, 3]'),
  'latent.shape': (int, '[0, inf)'),
  'schedule.alphas': (float, '[0, inf)'),
  'network.multipliers': (float, '[1, inf)'),
  'network.attention_resolutions': (int, '[0, inf)'),
  'network.fourier': (int, '[2, 2]'),
  'network.resample_filter': (float, '[2, inf)'),
  'network.log_variance_limits': (float, '[2, 2]'),
  'training.mesh': (int, '[2, 2]'),
  'training.more_ema_decays': (float, '[0, inf)'),
  'training.ema_sigma_rels': (float, '[0, inf)'),
  'sampling.labels': (int, '[0, inf)'),
  'evaluation.sweep.guidance_scale': (float, '[0, inf)'),
  'evaluation.sweep.num_steps': (int, '[0, inf)'),
  'evaluation.sweep.ema_decay': (float, '[0, inf)'),
  'evaluation.sweep.ema_sigma_rel': (float, '[0, inf)'),
}

# Names of files or folders that are written, and whether one may be empty.
NAMES = {'sampling.name': False, 'edit.name': False, 'evaluation.name': True}


def check(config: ConfigDict) -> None:
  """Raises UserError for the first number or name outside its range."""
  for field, interval in RANGES.items():
    value: Any = _read(config, field)
    if value is None:
      continue
    if field not in TUPLES:
      check_number(field, value, interval)
      continue
    kind, count = TUPLES[field]
    check_words(field, value, kind)
    if not contains(count, len(value)):
      raise UserError(
        f'config.{field}={value}: the number of its elements, {len(value)}, is '
        f'not in {count}'
      )
    for i, element in enumerate(value):
      check_number(f'{field}[{i}]', element, interval, kind)
  for field, may_be_empty in NAMES.items():
    check_name(field, _read(config, field), may_be_empty)


def check_words(field, value, kind):
  """Raises UserError for a tuple with words; 1,a is read as ('1,a',)."""
  for word in ','.join(x for x in value if isinstance(x, str)).split(','):
    try:
      kind(word or 0)
    except ValueError:
      one, many = (
        ('an integer', 'integers') if kind is int else ('a number', 'numbers')
      )
      raise UserError(
        f'config.{field}: {word!r} is not {one}: give {many} separated by '
        'commas, such as 1,2'
      ) from None


def check_number(field, value, interval, kind=float):
  """Raises UserError unless value is a number of `kind` in the interval."""
  numbers = int if kind is int else (int, float)
  if not isinstance(value, numbers) or isinstance(value, bool):
    what = 'an integer' if kind is int else 'a number'
    raise UserError(f'config.{field}={value!r} is not {what}')
  if not contains(interval, value):
    raise UserError(f'config.{field}={value} is not in {interval}')


def contains(interval: str, value: float) -> bool:
  """Returns whether value is in an interval such as '[0, inf)'; nan is not."""
  low, high = map(float, interval[1:-1].split(', '))
  above = value >= low if interval[0] == '[' else value > low
  below = value <= high if interval[-1] == ']' else value < high
  return above and below


def check_name(field, name, may_be_empty):
  """Raises UserError for a name that cannot be that of a file in a folder."""
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
  for name in field.split('.'):
    config = config[name]
  return config
