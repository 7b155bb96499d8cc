"""Folders to be shared: config.json, weights, a model card and pictures.

Such a folder is a run without a history: config.json of the model and how it
samples, and the weights of one checkpoint (`weights.share`). A run of latents
also has its autoencoder, in the same form. The card is README.md in the form of
the Hugging Face Hub: its head is between lines of ---, and JSON, which YAML
contains.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from diffusion_jax.aliases import Json, Params
from diffusion_jax.app.config import folder, store
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.run import provenance
from diffusion_jax.atomic_files import draft, draft_folder
from diffusion_jax.errors import UserError, as_user_error
from diffusion_jax.paths import texts_in
from diffusion_jax.report import record, results
from diffusion_jax.runtime import files
from diffusion_jax.runtime.files import one_line
from diffusion_jax.weights import checksums, load, share

# Fields of config.sampling that choose among the weights of a run.
_CHOICES = {
  'sampling.ema': True,
  'sampling.ema_decay': 0.0,
  'sampling.ema_sigma_rel': None,
  'sampling.checkpoint': 'latest',
  'sampling.name': '',
}
_FILES = 'config.json', share.NAME, checksums.NAME


def config_of(model: Model) -> Json:
  """Returns the config.json of weights that are handed on.

  It has the model, its training and how it samples, but no place on this
  machine: paths become the names of their files.
  """
  config = store.with_fields(model.config, _CHOICES)
  stored = folder.stored_form(config.without_folders(), model.facts)
  return {n: x for n, x in stored.items() if n == 'sampling' or n not in folder.USES}


def write(out: Path, model: Model, params: Params, step: int) -> None:
  """Writes a folder for the Hugging Face Hub, whole or not at all.

  Raises UserError if the folder has files.
  """
  if out.exists() and (not out.is_dir() or any(out.iterdir())):
    raise UserError(f'config.convert.out: {out} exists and is not empty: give a new folder')
  weights = checksums.of_arrays(params)
  picture, caption = picture_of(model, weights, step)
  scores = [*scores_of(model.workdir, weights)]
  stored = config_of(model)
  with draft_folder(out) as new:
    share.write(new, params, step)
    for name in model.keeps:  # an autoencoder, and the record of its scale
      _write_kept(model.workdir / name, new / name)
    files.write_json(new / 'config.json', stored)
    if picture:
      _copy(picture, new / 'samples.png')
    count = sum(x.size for x in jax.tree.leaves(params))
    about = About(out.absolute().name, model, stored, count, step, caption, scores)
    files.write_text(new / 'README.md', card(about))
  if not picture:
    print('no samples.png: --mode=sample has drawn nothing from these weights')


def _write_kept(source, target):
  if source.is_dir():
    params, stored, step = load.open(source)
    files.make_folder(target)
    share.write(target, params, step)
    config = store.stored(stored, source / 'config.json', skip=()).without_folders()
    files.write_json(target / 'config.json', folder.plain(config))
  else:
    record = files.read_json(source)
    files.write_json(target, record | {'run': Path(record['run']).name})


def picture_of(model: Model, weights: int, step: int) -> tuple[Path | None, str]:
  """Returns (a sheet that these weights have drawn, how), or (None, '').

  The newest of --mode=sample, or else the preview of the step.
  """
  place = model.workdir / 'samples'
  paths = sorted(place.glob('*.npz'), key=lambda x: x.stat().st_mtime)
  for path in reversed(paths):
    sheet = path.with_suffix('.png')
    if files.is_regular(path) and files.is_regular(sheet):
      about = provenance.read(path)
      if about.get('weights') == weights:
        return sheet, provenance.describe(about)
  c = model.config.sampling
  if c.ema and not c.ema_decay and c.ema_sigma_rel is None:
    for at, path in record.read_sheets(place):
      if at == step:
        return path, f'the preview of step {step}'
  return None, ''


def fetch(source: str, workdir: str) -> None:
  """Makes workdir a copy of the model in a shared folder, unless it is a run.

  Only files of known names are copied. Raises UserError if the weights cannot
  be read, and if workdir is a copy of another folder.
  """
  there, here = folder.read_config(source), folder.read_config(workdir)
  with as_user_error(f'--config={source}: '):
    if here is None:
      share.read(source)
      place = files.make_folder(workdir)
      for path in _parts(Path(source)):
        files.make_folder(place, path.parent)
        _copy(Path(source) / path, place / path)
      print(f'copied the weights of {source} to {workdir}')
    elif not share.exist(workdir):  # a training that began with these weights
      return
    elif here != there or not share.same(source, workdir):
      raise UserError(
        f'{workdir} is a copy of another folder than {source}, or of an '
        'earlier state of it: give another --workdir'
      )


def _parts(source) -> Iterator[Path]:
  # config.json, which makes the copy a run, is last.
  names = [Path('autoencoder', name) for name in _FILES]
  names += map(Path, ('latent.json', *reversed(_FILES)))
  for path in names:
    if (source / path).exists():
      yield path


def _copy(source, target):
  with files.open_regular(source, 2**50) as old, draft(target) as new:
    shutil.copyfileobj(old, new)


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


class Score(NamedTuple):
  """A number of an evaluation, with its standard error if it is known."""

  metric: str
  value: float
  error: float | None
  about: str

  @property
  def shown(self) -> str:
    """The value and ± its error."""
    return results.with_error(self.value, self.error)


class About(NamedTuple):
  """What a card tells.

  config: as in config.json; parameters: their number; caption: how samples.png
  was drawn, '' without it.
  """

  name: str
  model: Model
  config: Json
  parameters: int
  step: int
  caption: str
  scores: Sequence[Score]


def scores_of(workdir: Path, weights: int) -> Iterator[Score]:
  """Yields the scores of a run's evaluations of the weights of a checksum."""
  for path, content in dict(record.read_json_files(workdir / 'evaluation')).items():
    if path.name != 'result.json':
      continue
    samples = content.get('protocol', {}).get('samples')
    made = samples or content.get('settings', {})
    if made.get('weights') != weights:
      print(f'{path.parent} is of other weights: the card leaves it out')
      continue
    about = path.parent.relative_to(workdir / 'evaluation').as_posix()
    if samples:
      about = f'{about}: {results.about(samples.get("sampling", {}))}'
    elif 'images' in content:
      about = f'{about}: {content["images"]:,} {content.get("split")} images'
    scores = content.get('metrics', {})
    for name in (f'{unit}_per_dim' for unit in results.UNITS):
      if name in content:
        error = content.get('standard_error')
        scores = {name: {'value': content[name], 'error': error}} | scores
    for metric, score in scores.items():
      value, error, note = map(score.get, ('value', 'error', 'note'))
      if isinstance(value, (int, float)) and math.isfinite(value):
        yield Score(metric, value, error, f'{about}; {note}' if note else about)


def card(about: About) -> str:
  """Returns the content of README.md."""
  head = ''.join(
    f'{key}: {json.dumps(value, ensure_ascii=False)}\n' for key, value in metadata(about).items()
  )
  model, c = about.model, about.config
  shape = 'x'.join(map(str, model.facts.x.shape))
  classes = model.facts.num_classes
  size = c['training']['batch_size']
  rows = {
    'images': f'{shape}, {classes or "no"} classes',
    'parameters': f'{about.parameters:,}',
    'training': f'{about.step:,} steps, {size} images each',
  }
  if not about.step:
    rows['training'] = 'not here: these are converted weights'
  rows |= {n: _in_words(c[n]) for n in _SECTIONS if c.get(n)}
  lines = [
    f'---\n{head}---\n\n# {about.name}\n',
    f'{model.schema.kind.capitalize()}, trained with diffusion_jax (JAX and '
    'Flax). `config.json` has every field.\n',
    _table(('', ''), rows.items()),
  ]
  if about.caption:
    lines.append(f'\n![samples](samples.png)\n\n*{one_line(about.caption)}*')
  lines.append('\n## Evaluation\n')
  if about.scores:
    words = results.in_words
    shown = [(words(x.metric), x.shown, x.about) for x in about.scores]
    lines.append(_table(('metric', 'value', 'of'), shown))
    lines.append('\n± is a standard error.\n')
  else:
    lines.append('These weights have not been evaluated.\n')
  lines.append(_use(about))
  lines.append(
    '\n## Licence\n\nTo be filled in by the author: here, and as `license` in '
    'the first lines of this file. The licence of the data may limit it.\n'
  )
  return '\n'.join(lines)


def metadata(about: About) -> Json:
  """Returns the head of the card; fields of the Hugging Face Hub."""
  model, data = about.model, about.config.get('data')
  head: Json = {
    'license': 'unknown',
    'library_name': 'diffusion_jax',
    'tags': ['diffusion', 'jax', 'flax', about.config['objective']['name']],
  }
  task = 'other'
  if model.draw is not None:
    reads_text = model.conditioning.text is not None
    task = 'text-to-image' if reads_text else 'unconditional-image-generation'
    head['pipeline_tag'] = task
  if data:
    head['datasets'] = [data['name']]
  if about.scores:
    name, metrics = data['name'] if data else 'unknown', []
    for x in about.scores:
      shown = f'{results.in_words(x.metric)}, {x.shown} ({x.about})'
      metrics.append({'type': x.metric, 'value': x.value, 'name': shown})
    head['model-index'] = [
      {
        'name': about.name,
        'results': [
          {'task': {'type': task}, 'dataset': {'type': name, 'name': name}, 'metrics': metrics}
        ],
      }
    ]
  return head


def _use(about):
  draws = about.model.draw is not None
  mode = 'sample' if draws else 'evaluate'
  parts = sorted({x for x in texts_in(about.config) if _is_own(x)})
  allow = f' --allow={",".join(parts)}' if parts else ''
  lines = [
    '\n## Use\n',
    'With diffusion_jax installed, and this folder at `<folder>`:\n',
    f'    diffusion-jax --mode={mode} --config=<folder> --workdir=out{allow}',
    '    diffusion-jax --config=<folder> --config.training.init_from=<folder> '
    f'--workdir=finetuned{allow}\n',
    'The second trains on from these weights. No code of this folder is run: '
    'it has JSON, safetensors and a picture.',
  ]
  if parts:
    lines.append(
      f'\nIts parts {", ".join(parts)} are code of the author, which is not in this folder.'
    )
  return '\n'.join(lines)


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


def _table(head, rows):
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(map(_cell, line))} |' for line in lines)


def _cell(text):
  return one_line(text).replace('|', '\\|')
