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
}
