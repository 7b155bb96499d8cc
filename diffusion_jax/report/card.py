"""The card of weights that are shared: README.md in the form of the Hugging Face Hub.

Its head is between lines of ---, and JSON, which YAML contains.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.data.spec import Facts
from diffusion_jax.paths import texts_in
from diffusion_jax.report import page, record, results
from diffusion_jax.runtime.files import one_line, with_error

# Names of data, and their sets on the Hugging Face Hub, which lacks our other data.
_HUB = {'cifar10': 'uoft-cs/cifar10', 'mnist': 'ylecun/mnist'}
# The sections that say what was trained, in the order of the card.
_SECTIONS = (
  'data',
  'network',
  'latent',
  'schedule',
  'transitions',
  'parametrization',
  'objective',
  'conditioning',
  'optimizer',
)


class CardScore(NamedTuple):
  """A number of an evaluation, with its standard error if it is known."""

  metric: str
  value: float
  error: float | None
  about: str

  @property
  def words(self) -> str:
    """The metric's name."""
    return results.in_words(self.metric)

  @property
  def shown(self) -> str:
    """The value and ± its error."""
    return with_error(self.value, self.error)


class About(NamedTuple):
  """What a card tells.

  kind: of the model; draws: whether it makes images, reads_text: of texts.
  config: as in config.json; parameters: their number; caption: how samples.png
  was drawn, '' without it.
  """

  name: str
  kind: str
  facts: Facts
  draws: bool
  reads_text: bool
  config: Json
  parameters: int
  step: int
  caption: str
  scores: Sequence[CardScore]


def scores_of(
  workdir: Path, weights: int, noun: str, unsaid: record.LeftOut
) -> Iterator[CardScore]:
  """Yields the scores of a run's evaluations of the weights of a checksum.

  noun: what its examples are called; unsaid: see `record.Record`.
  """
  found, evaluations = [], [*record.read_results(workdir / 'evaluation')]
  run = page.readable(record.Record(workdir.name, {}, {}, [], evaluations, []))
  for name, content in run.results:
    if 'points' in content:  # the file is a sweep's
      continue
    with record.leaving_out(f'evaluation {name}'):
      made = content.get('protocol', {}).get('samples') or content.get('settings', {})
      if made.get('weights') == weights:
        found.append((name, content))
      else:
        print(f'evaluation {name} is of other weights: the card leaves it out')
  for about, content in results.told_apart(found, unsaid):
    with record.leaving_out(f'evaluation {about}'):
      yield from [*_scores(about, content, noun, unsaid)]


def _scores(about, content, noun, unsaid):
  if samples := content.get('protocol', {}).get('samples'):
    about = f'{about}: {results.about(samples.get("sampling", {}), unsaid)}'
  elif 'examples' in content:
    about = f'{about}: {content["examples"]:,} {content.get("split")} {noun}'
  about = ', '.join([about, *content['options'], *results.examples_of(content)])
  scores = content.get('metrics', {}) if 'losses' not in content else {}
  for metric, score in scores.items():
    value, error, note = map(score.get, ('value', 'error', 'note'))
    if isinstance(value, (int, float)) and math.isfinite(value):
      yield CardScore(metric, value, error, f'{about}; {note}' if note else about)


def card(about: About) -> str:
  """Returns the content of README.md."""
  facts, c = about.facts, about.config
  rows = {
    facts.x.noun: f'{"x".join(map(str, facts.x.shape))}, {facts.num_classes or "no"} classes',
    'parameters': f'{about.parameters:,}',
    'training': f'{about.step:,} steps, {c["training"]["batch_size"]} {facts.x.noun} each',
  }
  if not about.step:
    rows['training'] = 'not here: these are converted weights'
  rows |= {n: _in_words(c[n]) for n in _SECTIONS if c.get(n)}
  parts = sorted({x for x in texts_in(c) if _is_own(x)})
  environment = page.environment()
  environment.filters |= {
    'json': functools.partial(json.dumps, ensure_ascii=False),
    'cell': lambda text: one_line(text).replace('|', '\\|'),
  }
  return environment.get_template('card.md').render(
    about=about,
    head=metadata(about),
    rows=rows,
    parts=parts,
    allow=f' --allow={",".join(parts)}' if parts else '',
  )


def metadata(about: About) -> Json:
  """Returns the head of the card; fields of the Hugging Face Hub."""
  data = about.config.get('data')
  head: Json = {
    'license': 'unknown',
    'library_name': 'diffusion_jax',
    'tags': ['diffusion', 'jax', 'flax', about.config['objective']['name']],
  }
  task = 'other'
  if about.draws and (task := _task(about)) != 'other':
    head['pipeline_tag'] = task
  name = data['name'] if data else 'unknown'
  if name in _HUB:
    head['datasets'] = [_HUB[name]]
  of_hub = {'type': _HUB.get(name, 'other'), 'name': name}
  if about.scores:
    metrics = []
    for x in about.scores:
      shown = f'{x.words}, {x.shown} ({x.about})'
      metrics.append({'type': x.metric, 'value': x.value, 'name': shown})
    head['model-index'] = [
      {
        'name': about.name,
        'results': [{'task': {'type': task}, 'dataset': of_hub, 'metrics': metrics}],
      }
    ]
  return head


def _task(about: About) -> str:
  # Returns the Hub's name of what the samples are.
  if about.facts.x.is_text:
    return 'text-generation'
  if not about.facts.x.is_picture:
    return 'other'
  return 'text-to-image' if about.reads_text else 'unconditional-image-generation'


def _is_own(name):
  module, _, attribute = name.partition(':')
  return attribute.isidentifier() and module.replace('.', '').isidentifier()


def _in_words(section: Mapping) -> str:
  # Returns 'unet: channels=64', or the fields alone without a name.
  rest = {n: x for n, x in section.items() if n != 'name' and x is not None}
  fields = ', '.join(f'{n}={_value(x)}' for n, x in rest.items())
  return ': '.join(x for x in (section.get('name', ''), fields) if x)


def _value(x):
  return f'({_in_words(x)})' if isinstance(x, Mapping) else str(x)
