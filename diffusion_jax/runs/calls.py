"""Which steps of a training are dispatched together, and what follows them."""

from collections.abc import Iterator


def events(config) -> Iterator[tuple[str, int]]:
  """Yields (what is done during training, every how many steps); 0: never."""
  c = config.training
  yield 'log', c.log_every
  yield 'evaluate', c.evaluate_every
  yield 'measure', c.metrics_every
  if c.keep_best:  # Every checkpoint is compared with the others.
    own = 'evaluate' if c.keep_best_by == 'test_loss' else 'measure'
    yield own, c.checkpoint_every
  yield 'sample', c.sample_every
  yield 'snapshot', c.snapshot_every if c.ema_sigma_rels else 0
  yield 'save', c.checkpoint_every


def due(config, step: int) -> set[str]:
  """Returns what is done after a step: at multiples, and after the last."""
  last = step == config.training.num_steps
  return {
    name
    for name, every in events(config)
    if every and (last or step % every == 0)
  }


def end_of_call(config, step: int) -> int:
  """Returns the last step of the call that begins after `step`.

  training.steps_per_call later, but not after a step that something is due at.
  """
  c = config.training
  ends = [(step // every + 1) * every for _, every in events(config) if every]
  return min(step + c.steps_per_call, c.num_steps, *ends)
