"""What fields of earlier versions are called now, for the message that refuses them."""

RENAMED = {
  'training.ema_decay': 'training.average.decay',
  'training.ema_warmup': 'training.average.warmup',
  'training.more_ema_decays': 'training.average.more',
  'training.ema_half_life': 'training.average=half_life, with .images',
  'training.ema_rampup': 'training.average=half_life, with .rampup',
  'training.ema_sigma_rels': 'training.average=powers, with .widths',
  'training.snapshot_every': 'training.average=powers, with .every',
  'training.keep_snapshots': 'training.average=powers, with .keep',
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
