"""What a network that estimates no x_0 excludes: all that takes its output for E[x_0 | x_t]."""

from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit.methods import condition_of
from diffusion_jax.app.kinds import sections
from diffusion_jax.app.kinds.rules import EDIT, EVALUATE, Row


def _no_denoiser(c, where):
  return '' if c.objective.declared.estimates else where


def _part_of_sampling(c, facts):
  # What computes a score or a posterior from the estimate; a sampler is the user's choice.
  names = 'classifier', 'corrector'
  return _no_denoiser(c, next((name for name in names if c.sampling.get(name)), ''))


def _metric(c, facts):
  metrics = sections.of_metrics(c.evaluation)
  return _no_denoiser(c, next((n for n, x in metrics.items() if x.declared.needs_denoiser), ''))


def needs_denoiser(c: Node) -> bool:
  """Returns whether the edit of a config computes with estimates of x_0."""
  task = c.edit.constructor
  observes = task.observes and condition_of(c) is None
  return bool(observes or task.part or task.inverts or c.edit.at('method.name') == 'reconstruction')


_REASON = ' needs a denoiser, and the network of objective={c.objective.name} estimates no x_0: '

ESTIMATES = (
  Row(_part_of_sampling, 'config.sampling.{it}' + _REASON + 'set it to None'),
  Row(
    _metric,
    'config.evaluation.metrics={it}' + _REASON + 'take metrics of samples, such as fd',
    EVALUATE,
  ),
  Row(
    lambda c, facts: _no_denoiser(c, needs_denoiser(c)),
    'config.edit={c.edit.name}' + _REASON + 'it can do inpaint by repaint or replace, and sdedit',
    EDIT,
  ),
)
