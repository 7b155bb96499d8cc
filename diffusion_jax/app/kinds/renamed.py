"""What fields of earlier versions are called now, for the message that refuses them."""

RENAMED = {
  'evaluation.statistics': 'evaluation.reference',
  'sampling.ema': 'sampling.weights=raw, or average',
  'sampling.ema_decay': 'sampling.weights.decay',
  'sampling.ema_sigma_rel': 'sampling.weights=width, with .sigma_rel',
  'sampling.spacing': 'sampling.grid.spacing',
  'sampling.respacing': 'sampling.grid=respaced, with .steps',
  'sampling.clip': 'sampling.bound=clip, or None',
  'sampling.dynamic_threshold': 'sampling.bound=quantile, with .quantile',
  'sampling.dynamic_threshold_max': 'sampling.bound=quantile, with .largest',
  'training.ema_decay': 'training.average.decay',
  'training.ema_warmup': 'training.average.warmup',
  'training.more_ema_decays': 'training.average.more',
  'training.ema_half_life': 'training.average=half_life, with .images',
  'training.ema_rampup': 'training.average=half_life, with .rampup',
  'training.ema_sigma_rels': 'training.average=powers, with .widths',
  'training.snapshot_every': 'training.average=powers, with .every',
  'training.keep_snapshots': 'training.average=powers, with .keep',
  'training.init_from': 'training.start.run',
  'training.lora_rank': 'training.start=adapters, with .rank',
  'training.lora_alpha': 'training.start=adapters, with .alpha',
  'training.lora_convolutions': 'training.start=adapters, with .convolutions',
  **{
    f'training.{name}': f'training.machine.{name}'
    for name in (
      *('accumulate', 'num_threads', 'heartbeat_timeout'),
      *('deterministic', 'compile', 'compile_ahead'),
    )
  },
  'training.profile_steps': 'training.machine.trace, with .first and .steps',
  'training.evaluate_every': 'training.held_out.every',
  'training.evaluate_batches': 'training.held_out.batches',
  'training.patience': 'training.held_out.patience',
  'training.metrics_every': 'training.metrics.every',
  'training.metrics_images': 'training.metrics.images',
  'training.checkpoint_every': 'training.checkpoints.every',
  'training.keep_checkpoints': 'training.checkpoints.keep',
  'training.keep_every': 'training.checkpoints.multiples, in checkpoints',
  'training.keep_best': 'training.checkpoints.best.number',
  'training.keep_best_by': 'training.checkpoints.best.by',
}
