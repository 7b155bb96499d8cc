"""Makes tables and charts of the results of --mode=evaluate."""

import re
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from diffusion_jax.aliases import Json
from diffusion_jax.planning import rates
from diffusion_jax.report import charts, record, sampling_words
from diffusion_jax.report.charts import Chart, Line
from diffusion_jax.report.record import LeftOut, Record
from diffusion_jax.runtime.files import with_error

_SPEEDS = 'images_per_second', 'tflops', 'mfu'
# Numbers of a result that add up, or that stand beside these.
PARTS = {
  'parts': 'What adds up',
  'above_linear': 'Above a linear denoiser',
  'changes': 'One change at a time',
}
_MOST_OF_A_NOTE = 48  # characters, which fit below a number


class Table(NamedTuple):
  """Rows of text after a head.

  code: whether cells are code. folded: whether the table is hidden at first.
  """

  caption: str
  rows: list[list[str]]
  code: bool = False
  folded: bool = False


def in_words(name: str) -> str:
  """Returns a name in words: FD digits for fd_digits."""
  text = name.replace('_', ' ').replace('grad norm', 'gradient norm')
  text = text.replace('tflops', 'speed of a device')
  short = r'\b(elbo|ode|iw|s?fi?d|kid|is|cmmd|mfu)\b'
  return re.sub(short, lambda x: x[0].upper(), text)


def speed_in_words(name: str, noun: str) -> str:
  """Returns a name in words, with the noun of what is trained on."""
  return in_words(name).replace('images', noun)


def _folder(name):
  # Returns the name of an evaluation's folder in words, but for its fields: num_steps=4.
  parts = re.split('[/,]', name)
  words = (x if '=' in x and '-' not in x else in_words(x.replace('-', ' ')) for x in parts)
  return ', '.join(words)


def named(run: Record) -> list[tuple[str, Json]]:
  """Returns the results of a run, by names that say their checkpoint if another one is sampled.

  So results of before the training went on are not taken for those of its last step. See
  `told_apart`.
  """
  found = []
  for name, x in told_apart(run.results, run.unsaid):
    at = x.get('settings', {}).get('sampling', {}).get('checkpoint')
    other = at is not None and at != str(run.sampled) and f'checkpoint={at}' not in name
    found.append((f'{name},checkpoint={at}' if other else name, x))
  return found


def told_apart(results: Sequence[tuple[str, Json]], unsaid: LeftOut) -> list[tuple[str, Json]]:
  """Returns results whose `options`, in words, are those that differ among equal names.

  Names are without their hashes where options, examples and draws tell all apart. unsaid:
  fields that tables, tiles and cards say elsewhere.
  """
  alike: dict[str, list[int]] = {}
  for i, (name, _) in enumerate(results):
    alike.setdefault(record.without_hash(name), []).append(i)
  found = [*results]
  for name, places in alike.items():
    fields = [_options(results[i][1], unsaid) for i in places]
    differ = [f for f in fields[0] if any(x.get(f, '') != fields[0][f] for x in fields)]
    told = []
    for i, x in zip(places, fields, strict=True):
      words = [f'{f.replace("_", " ")} {x[f]}' for f in differ if f in x]
      found[i] = (results[i][0], results[i][1] | {'options': words})
      sampling = results[i][1].get('settings', {}).get('sampling', {})
      drawn = [sampling.get(n) for n in ('checkpoint', 'num_samples')]
      told.append([*words, *examples_of(results[i][1]), *drawn])
    if all(told.count(x) == 1 for x in told):
      for i in places:
        found[i] = (name, found[i][1])
  return found


def _options(x, unsaid):
  # Returns the fields that scores depend on besides the draws, without their sections.
  settings = x.get('settings', {})
  sections = 'evaluation', *(['sampling'] if 'examples' in x else [])
  found = {'examples': x['examples']} if 'examples' in x else {}
  for section in sections:
    said = (n for n in settings.get(section, {}) if n not in unsaid.get(section, ()))
    for name in said:
      value = settings[section][name]
      found |= value if isinstance(value, dict) else {name: value}
  return found


def examples_of(x: Json) -> list[str]:
  """Returns which examples the scores of a result are by, in words; [] for the training's."""
  reference = x.get('settings', {}).get('evaluation', {}).get('reference', 'train')
  classes = x.get('protocol', {}).get('classes', '')
  words = {
    f'against {reference}': reference != 'train',
    f'for {x.get("pairs", 0):,} {x.get("split")} pairs': 'pairs' in x,
    f'given {x.get("given")}': 'given' in x,
    'other data': x.get('other_data'),
    classes: classes,  # '' for the frequencies of the reference
  }
  return [text for text, shown in words.items() if shown]


def _title(name, x):
  return ', '.join([_folder(name), *x['options'], *examples_of(x)])


def parts(run: Record) -> Iterator[Table | Chart]:
  """Yields tables of all results of a run, then their charts."""
  results = named(run)
  rows = [
    [title, _score(score), f'{x["examples"]:,}', _note(x, score)]
    for name, x in results
    for title, score in _of_examples(name, x)
  ]
  if rows:
    yield Table(f'Real {run.noun}', [['evaluation', 'value', run.noun, 'about'], *rows])
  by_draws = _rows(results)
  metrics = dict.fromkeys(metric for row in by_draws for metric in row.scores)
  if metrics:
    head = ['evaluation', *map(in_words, metrics), 'about']
    rows = []
    for row in by_draws:
      notes = (score.get('note') or '' for score in row.scores.values())
      lines = [(_folder(row.name), row.scores, about(row.sampling, run.unsaid, row.of, *notes))]
      if row.floor:
        words = f'{max(row.real):,} of the other split in place of samples'
        lines.append((f'real {run.noun}, {_folder(row.name)}', row.floor, words))
      rows += [[name, *(_score(x.get(m, {})) for m in metrics), note] for name, x, note in lines]
    yield Table(f'Generated {run.noun}', [head, *rows])
  for name, x in results:
    for part, caption in PARTS.items():
      if scores := x.get(part):
        scores = x.get('whole', {}) | scores if part == 'parts' else scores
        rows = [[row, _score(score), score.get('note') or ''] for row, score in scores.items()]
        yield Table(f'{caption}, {_title(name, x)}', [['', x.get('unit', 'value'), 'about'], *rows])
    if losses := x.get('losses'):
      heads = [part for part in next(iter(losses.values())) if not part.startswith('class ')]
      rows = [
        [in_words(line), *(_score(of.get(part, {})) for part in heads)]
        for line, of in losses.items()
      ]
      yield Table(
        f'The loss and those of exact denoisers, {_title(name, x)}', [['', *heads], *rows]
      )
    yield from _charts(_title(name, x), x)


def is_of_examples(x: Json) -> bool:
  """Returns whether a result has scores of the model on real examples, and no table of losses."""
  return 'examples' in x and 'losses' not in x


def _of_examples(name, x):
  # Yields (a title, a score) of a result on real examples. Its folder is named by the metric.
  for score, content in x['metrics'].items() if is_of_examples(x) else ():
    title = _title(re.sub(rf'^{re.escape(str(x.get("metric")))}(?=-|$)', score, name), x)
    yield title, content


def _note(x, score):
  random = x.get('random_steps')
  return ', '.join(filter(None, [score.get('note'), f'{random:,} random steps' if random else '']))


class _Row(NamedTuple):
  """The scores of a set of samples, and `of`, the examples that they are by (`examples_of`).

  floor: the scores of real examples in place of samples, if they are there; real: their
  number.
  """

  name: str
  sampling: Json
  of: str
  scores: dict[str, dict]
  floor: dict[str, dict]
  real: set[int]


def _rows(results: Sequence[tuple[str, dict]]) -> list[_Row]:
  """Returns a row for each set of samples of results, named by what differs from the run.

  Metrics of the same samples have files of their own. Scores are in one row if they are of the
  same draws and by the same examples; the options of a metric are in the names of its scores.
  """
  rows: list[tuple[list[Json], _Row]] = []
  for name, x in results:
    if 'metrics' not in x or 'examples' in x:
      continue
    drawn, others = x.get('protocol', {}).get('samples', {}), x.get('other_data', '')
    if drawn and (metric := x.get('metric')):
      split = r'(-(train|test|validation)(?=[-,]|$))?'
      name = re.sub(rf'^{re.escape(str(metric))}{split}', 'samples', name)
    new = _Row(name, drawn.get('sampling', {}), ', '.join(examples_of(x)), {}, {}, set())
    scores, floor = (
      {', '.join([score, *x['options']]): value for score, value in x.get(part, {}).items()}
      for part in ('metrics', 'floor')
    )
    for draws, row in rows:
      same = drawn and (draws, row[:3]) == ([drawn, others], new[:3])
      if same and row.scores.keys().isdisjoint(scores):
        new = row
        break
    else:
      rows.append(([drawn, others], new))
    new.scores.update(scores)
    new.floor.update(floor)
    new.real.add(x.get('floor_examples', 0))
  return [row for _, row in rows]


def _score(content):
  # The loss of an exact denoiser may be infinite, which JSON has as null.
  if content.get('value', '') is None:
    return 'none'
  return with_error(content.get('value'), content.get('error'))


def about(c: Json, unsaid: LeftOut, *notes: str) -> str:
  """Returns how images were sampled, by a section `sampling`, and notes; unsaid: see `Record`."""
  words = {
    ', '.join(sampling_words.in_words(c, unsaid.get('sampling', ()))): True,
    f'{c.get("num_samples", 0):,} of checkpoint {c.get("checkpoint")}': c,
    f'seed {c.get("seed")}': c,
    **dict.fromkeys(notes, True),
  }
  return ', '.join(text for text, shown in words.items() if text and shown)


def _charts(name, x):
  # Yields charts of bits by step, rate and distortion, or accuracy by t.
  for x_name, y_name, label, title, *labels in (
    ('', 'terms', 'bits', 'Bits by step', 'step t', 'bits/dim', 'xy'),
    ('rate', 'distortion', 'RMSE', 'Rate and distortion', 'rate, bits/dim', 'RMSE of 0..255'),
    ('t', 'accuracy', 'accuracy', 'Accuracy by t', 't'),
  ):
    y = x.get(y_name)
    places = x.get(x_name) if x_name else y and range(1, len(y) + 1)
    if places and y:
      yield charts.draw(f'{title}, {name}', [Line(label, places, y)], *labels)


class Value(NamedTuple):
  """A number in words, and a note, such as what exact draws have."""

  text: str
  note: str = ''


def final(run: Record) -> dict[str, Value]:
  """Returns the scores of a run, and a value of each curve, by their names in words.

  It is the last one up to the step that is sampled. Scores of samples are named with their
  number, on which Frechet distances depend.
  """
  hidden = 'learning_rate', 'grad_norm', 'skipped_steps'
  values = {}
  results = named(run)
  for name, x in results:
    for title, score in _of_examples(name, x):
      unit, *rest = (score.get('note') or '').split(', ')
      words = [unit, title] if unit.endswith('/dim') else [title, unit]
      values[', '.join(filter(None, [*words, *rest]))] = Value(_score(score))
  for row in _rows(results):
    noun = 'draws' if ' pairs' in row.of else run.noun
    added = record.of_number(row.sampling.get('num_samples', 0), noun)
    added += '' if row.name == 'samples' else f', {_folder(row.name.removeprefix("samples,"))}'
    added += f', {row.of}' if row.of else ''
    for metric, score in row.scores.items():
      note = str(score.get('note') or '')
      note = note if len(note) <= _MOST_OF_A_NOTE else ''
      values[in_words(metric) + added] = Value(_score(score), note)
  for name, curve in run.curves.items():
    if name in (*hidden, *_SPEEDS) or '_quarter_' in name:
      continue
    if (value := curve.at(run.sampled)) is not None:
      values.setdefault(in_words(name), Value(f'{value:.4g}'))
  for name in _SPEEDS:
    if name in run.curves:
      value = statistics.median(run.curves[name].values)
      text = rates.as_text({'tflops': value}) if name == 'tflops' else f'{value:,.4g}'
      values[speed_in_words(name, run.noun)] = Value(text)
  return values
