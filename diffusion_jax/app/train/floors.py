"""Losses of exact denoisers, which say whether the loss of a training is good."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Json
from diffusion_jax.app.config import folder
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.app.train.step_log import average
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import compiling
from diffusion_jax.runtime.files import read_summed, write_summed
from diffusion_jax.testing import floors
from diffusion_jax.testing.floors import Fit

DrawnAt = Callable[[int], tuple[jax.Array, dict]]  # the key and the batch of an index
FILE = 'loss_floors.json'
MOST_PRODUCTS = 6e9  # of `memorised`, a few seconds of two cores
# The sections on which the losses depend besides the data.
_SECTIONS = 'objective', 'schedule', 'parametrization', 'conditioning', 'data'


def of_run(model: Model, mesh: Mesh, split: str, size: int, drawn_at: DrawnAt) -> Json:
  """Returns the losses of exact denoisers, as loss_floors.json has them.

  They are on the first batches of `split`, of `size` examples, with the keys of
  the held-out loss, and 'memorised' also on the training examples. The file is
  written again only if data or objective have changed.
  """
  path, settings = model.workdir / FILE, settings_of(model, split, size)
  kept = read(path)
  if settings['checksum'] and kept.get('settings') == settings:
    return kept
  begun = time.monotonic()
  source = datasets.source_of(model.config)
  with from_config('data'):
    fitted = floors.of_source(source, model.facts.x.encode)
  most = int(MOST_PRODUCTS // (size * fitted.examples.size))
  count = min(settings['batches'], max(1, most))
  losses = measure(model, mesh, fitted, count, drawn_at)
  content = {
    'settings': settings,
    'metric': floors.metric_of(losses['nothing_learnt']),
    'losses': losses,
    'examples': len(fitted.examples),
    'linear': fitted.limit,
    'held_out': count * size,
    'seconds': round(time.monotonic() - begun, 2),
  }
  write_summed(path, content)
  return content


def settings_of(model: Model, split: str, size: int) -> Json:
  """Returns all that the losses depend on."""
  fields, facts = folder.plain(model.config), model.facts
  held_out = model.config.training.held_out
  content = {
    'split': split,
    'batches': held_out.batches if held_out else 1,
    'batch_size': size,
    'seed': model.config.seed,
    'examples': facts.examples,
    'checksum': facts.checksum,
    'x': folder.stored_form(model.config, facts)['facts']['x'],
    **{name: fields[name] for name in _SECTIONS if name in fields},
  }
  return provenance.made_of(model.config, content)


def read(path: Path) -> Json:
  """Reads loss_floors.json; {} if it is missing or damaged."""
  try:
    return read_summed(path)
  except (OSError, UserError):
    return {}


def measure(
  model: Model, mesh: Mesh, fitted: Fit, count: int, drawn_at: DrawnAt
) -> dict[str, dict[str, float]]:
  """Returns {denoiser: {metric: mean}} on `count` batches.

  'memorised' is on the training examples, 'memorised_held_out' on the batches.
  """
  assert model.losses is not None
  losses = model.losses(exact=True)

  def compute(fitted, key, batch, row):
    def of(fitted, x):
      return losses({'network': fitted}, key, batch | {'x': x})

    return floors.by_line(of, fitted, batch['x'], row)

  compute = jax.jit(compute, compiler_options=compiling.options(mesh, 'fast'))
  rng, results = np.random.default_rng(0), []
  for i in range(count):
    key, batch = drawn_at(i)
    results.append(
      compute(fitted, key, batch, rng.integers(0, len(fitted.examples), len(batch['x'])))
    )
  means = {line: average([x[line] for x in results]) for line in floors.ROWS}
  return {line: {n: v for n, v in x.items() if v == v} for line, x in means.items()}


def described(content: Json) -> tuple[str, str]:
  """Returns what follows a held-out loss, and a line about the lines."""
  name, split = content['metric'], content['settings']['split']
  value = {line: f'{x[name]:.3g}' for line, x in content['losses'].items()}
  limit = content['linear']
  least = f'linear {"<= " * bool(limit)}{value["linear"]}'
  text = (
    f'{split}_{name} of exact denoisers: nothing learnt {value["nothing_learnt"]}, '
    f'{least}{f" ({limit})" * bool(limit)}, '
    f'memorised {value["memorised"]} on its {content["examples"]:,} training examples, '
    f'{value["memorised_held_out"]} on {split} examples; none reads a condition '
    f'({content["seconds"]:.1f} s, {FILE})'
  )
  return f' ({least}, memorised {value["memorised"]})', text
