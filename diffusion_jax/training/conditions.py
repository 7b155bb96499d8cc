"""What a network is told in training: (key, batch) -> cond, arrays [B, ...]."""

from collections.abc import Callable

import jax

Array = jax.Array
Tell = Callable[[Array, dict], dict]


def nothing(key: Array, batch: dict) -> dict:
  """cond of an unconditional network: {}."""
  return {}


def tell(labels: bool = True, dropout: float = 0.0, text: bool = False) -> Tell:
  """cond of a batch: what it has of what is asked for.

  labels: cond['label'] is batch['label']. text: cond['text'], tokens [B, L],
  and cond['text_mask'], False at padding. dropout: each example is told nothing
  with this probability, by cond['drop'] [B], for classifier-free guidance (Ho &
  Salimans 2022). The draws are those of the whole batch.
  """

  def told(key, batch):
    cond = {'label': batch['label']} if labels else {}
    if text:
      cond |= {name: batch[name] for name in ('text', 'text_mask')}
    if dropout:
      size = batch['image'].shape[:1]
      cond['drop'] = jax.random.bernoulli(key, dropout, size)
    return cond

  return told
