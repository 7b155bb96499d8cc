"""Says when a training has over-fitted: its held-out loss gets no better."""

from pathlib import Path

from diffusion_jax.report.record import read_curves
from diffusion_jax.runtime import processes


def ended(workdir: Path, step: int, patience: int) -> str:
  """Returns a line on why a training ends at a step, or '' if it goes on.

  patience: training.patience, steps without a lower test loss than before; 0:
  it goes on. The losses are read from metrics.jsonl, so that a continued run
  ends at the same step.
  """
  if not patience:
    return ''
  why = ''
  if processes.is_first():
    curve = read_curves(workdir / 'metrics.jsonl').get('test_loss')
    pairs = zip(curve.steps, curve.values, strict=True) if curve else ()
    losses = [(loss, at) for at, loss in pairs if at <= step]
    best, at = min(losses, default=(0.0, step))
    if step - at >= patience:
      why = (
        f'the test loss has been lowest at step {at}, {best:.4g}, and not '
        f'lower for {step - at} steps (training.patience)'
      )
  return why if processes.broadcast([bool(why)])[0] else ''
