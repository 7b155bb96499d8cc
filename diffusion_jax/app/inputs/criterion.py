"""What chooses the best checkpoint of a training."""

from diffusion_jax.app.config.tree import Node


def held_out(config: Node) -> str:
  """Returns the split whose loss a training measures."""
  return 'validation' if config.at('data.validation_fraction') else 'test'


def held_out_loss(config: Node) -> str:
  """Returns the name of that loss in metrics.jsonl."""
  return f'{held_out(config)}_loss'


def keep_best_by(config: Node) -> str:
  """Returns what chooses the best checkpoint: this loss, or a metric."""
  return config.training.keep_best_by or held_out_loss(config)
