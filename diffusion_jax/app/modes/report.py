"""Implements --mode=report: writes one HTML page about a run.

A training writes the same page at its end.
"""

import contextlib
import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app.config import folder, overrides
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.kinds.model import Frames, Model
from diffusion_jax.app.run import bands, provenance
from diffusion_jax.app.run.drawing import (
  captions_of,
  check_numbers,
  first_of,
  frames_of,
  generate,
)
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import drawings, image_sets, npz
from diffusion_jax.errors import UserError
from diffusion_jax.metrics.neighbours import nearest_examples
from diffusion_jax.report import page, pictures, record, results
from diffusion_jax.report.pictures import Film
from diffusion_jax.report.results import Table
from diffusion_jax.runtime import processes, run_folder, sessions
from diffusion_jax.runtime.files import one_line, write_text
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.runtime.streams import stream
from diffusion_jax.weights import checksums, load

T = TypeVar('T')
# What does not describe a training: how other modes work, names of files, the data's facts.
APART = {*roles.USES, 'facts', 'sampling.name', 'evaluation.name'} - {'sampling', 'evaluation'}
_PICTURES = 10  # images in the trajectory, and with their neighbours
_POINTS = 2000  # vectors that are drawn of a file of samples
_FILES = 12  # the newest files of --mode=sample that are shown
_TEST_IMAGES = 200  # test images whose distances are compared with the samples'
# With more pixels in all training images the search takes minutes.
_MOST_PIXELS = 300_000_000


def main(run: Run) -> None:
  """Writes report.html in the workdir."""
  print(f'wrote {write(run)}')


def after_training(config: Node, workdir: RunFolder, frames: Frames | None = None) -> None:
  """Writes report.html if report.after_training is set; prints a failure.

  frames: of the images that the training has drawn last, if any. They are drawn
  again if sampling uses other weights than the averages of the last step.
  """
  if not config.report.after_training or not processes.is_first():
    return
  try:
    run, c = Run.open(config, workdir), config.sampling
    last, chosen = (sampled_step(workdir, x) for x in ('latest', c.checkpoint))
    if last != chosen or c.weights.name != 'average' or c.weights.get('decay'):
      frames = None
    print(f'wrote {write(run, frames)}: open it in a browser')
  except Exception as error:  # The training itself has succeeded.
    reason = ' '.join(str(error).split()) or type(error).__name__
    print(f'no report was written: {reason}. To try again: --mode=report')


def write(run: Run, frames: Frames | None = None) -> Path:
  """Writes the page of a run and of report.runs; returns its path."""
  path = run.model.workdir.make() / 'report.html'
  with run_folder.hold(path.parent, path.name):
    _write(path, run, frames)
  return path


def _write(path, run, frames):
  model = run.model
  config, workdir = model.config, model.workdir
  others = (RunFolder.at(x, written=False) for x in config.report.runs)
  runs = read_runs([model.run, *others])
  chosen = sampled_step(model.run, config.sampling.checkpoint)
  every = runs[0].fields.get(roles.LOG_EVERY)

  def expected():
    own = sessions.last_own(runs[0].sessions)
    return bands.compare(config, runs[0].fields, runs[0].sessions, own).expected(every)

  of_band = optional('band', expected)
  runs[0] = runs[0]._replace(sampled=chosen, expected=of_band or {})
  if workdir != model.run:
    mine = [*runs[0].results, *record.read_results(workdir.evaluation)]
    runs[0] = runs[0]._replace(results=mine)
  data = optional('training examples', lambda: run.examples)
  drawn = optional('trajectory', trajectory, run, frames, data)
  film, final = drawn or (None, None)
  near = optional('neighbours', neighbours, run, final)
  try:
    films = gallery(run, data)
    decides = roles.decides_loss
    html = page.render(
      runs,
      defaults=defaults(config),
      trajectory=film,
      neighbours=near,
      gallery=films,
      apart=APART,
      decides_loss=decides,
      flag=as_flag,
    )
    write_text(path, html)
  except OSError as error:
    raise UserError(f'{path} cannot be written ({error.strerror})') from error


def read_runs(workdirs: Sequence[RunFolder]) -> list[record.Record]:
  """Reads runs, named by their folders or, if two agree, by their paths."""
  names = [workdir.path.absolute().name for workdir in workdirs]
  if len(set(names)) < len(names):
    names = [workdir.name for workdir in workdirs]
  runs = []
  for name, workdir in zip(names, workdirs, strict=True):
    stored = folder.stored_fields(workdir)
    if not stored:
      raise UserError(f'config.report.runs: {workdir} is not a run folder')
    fields = dict(stored)
    sampled = sampled_step(workdir, fields.get('sampling.checkpoint'))
    runs.append(record.read(name, workdir, fields, sampled, roles.UNSAID))
  return runs


def sampled_step(workdir: RunFolder, checkpoint: object) -> int | None:
  """Returns the step of sampling.checkpoint, None if the run has no such checkpoint."""
  step = str(checkpoint)
  with contextlib.suppress(FileNotFoundError, ValueError):
    return load.find_step(workdir, int(step) if step.isdecimal() else step)


def optional(what: str, function: Callable[..., T], *args: object) -> T | None:
  """Returns function(*args); prints an error and returns None if it fails.

  JAX raises RuntimeError if the trajectory does not fit in memory.
  """
  try:
    return function(*args)
  except Exception as error:  # A file may be a stranger's.
    print(one_line(f'the report leaves out {what}: {error}'))
    return None


def defaults(config: Node) -> dict[str, object]:
  """Returns the defaults of a config's choices, and the default choices."""
  objective = next(iter(config.schema.table('objective')))
  usual = store.completed({'objective': objective}, trusted=False)
  choices = {name: x for name, x in usual.flat.items() if name.endswith('.name')}
  return {**config.default_fields, **choices}


def trajectory(
  run: Run, frames: Frames | None = None, data: np.ndarray | None = None
) -> tuple[Film | None, np.ndarray | None]:
  """Returns a film of the sampler and its last samples, as files have them.

  frames: of samples that are drawn already; data: drawn behind them.
  """
  model = run.model
  c, facts = model.config, model.facts
  # Only the first of several processes calls this.
  if not c.report.trajectory or model.plan is None or processes.started():
    return None, None
  run.check('sample')
  if frames is None:
    x, frames = draw(run)
    if frames is None:  # A VAE takes no steps.
      return None, facts.x.decode(x[:_PICTURES])
  shown, by_step = [], frames()
  for step, x in by_step.items():
    check_numbers(model, x)
    x = facts.x.decode(x)
    if facts.lengths:
      x = conditions.to_their_lengths(conditions.choose(model, len(x)), np.arange(len(x)), x)
    row = drawings.sheet(facts.x, x, len(x), 64, data)
    shown.append((f'step {step} of {max(by_step)}', row))
  title = f'{len(x)} {facts.x.noun}, {max(by_step)} steps, seed {c.sampling.seed}'
  title += f', checkpoint {sampled_step(model.run, c.sampling.checkpoint)}'
  about = f'The first {len(x)} samples on their way from noise'
  return pictures.film(title, about, shown), x


def draw(run: Run) -> tuple[np.ndarray, Frames | None]:
  """Draws the first samples, by the program of --mode=sample."""
  model, mesh = run.model, run.mesh
  n = min(model.config.sampling.num_samples, model.config.sampling.batch_size)
  inputs = conditions.choose(model, n)
  params = run.on_devices
  x, states, *_ = generate(model, mesh)(params, np.arange(n), inputs.cond)
  return x, None if states is None else functools.partial(frames_of, model, mesh, params, states)


def gallery(run: Run, data: np.ndarray | None = None) -> list[Film | Table | None]:
  """Returns pictures of the files of --mode=sample, and how these differ."""
  folders = dict.fromkeys((run.model.run.samples, run.model.workdir.samples))
  paths = (x for place in folders for x in record.files_of(place, '*.npz'))
  newest = sorted(paths, key=lambda path: path.lstat().st_mtime)[-_FILES:]
  names = record.short(x.stem for x in newest)
  drawn = [optional(x.name, drawn_by, run, x, names[x.stem], data) for x in newest]
  films = [*filter(None, drawn)]
  table = page.differing({name: fields for name, _, fields in films}, APART, as_flag)
  return [*(film for _, film, _ in films), *table]


def drawn_by(
  run: Run, path: Path, name: str, data: np.ndarray | None = None
) -> tuple[str, Film | None, dict]:
  """Returns the name, a picture and the settings of a file of --mode=sample."""
  model, stored = run.model, provenance.read(path).get('sampling', {})
  content = {**(folder.read_config(model.run) or {}), 'sampling': stored}
  one = run.changed(store.stored(content, path)).model
  calls = count_calls(one) if stored and _is_short(stored) else None
  note = f'{calls} calls of the network' if calls else ''
  values = model.facts.x
  is_vector = not values.levels and (len(values.shape) == 1 or values.manifold is not None)
  most, groups = _POINTS if is_vector else 2 * _PICTURES, 1
  by_rows = is_vector and stored.get('context')  # num_samples of each
  x = read_first(model, path, sys.maxsize if by_rows else most)
  if by_rows:
    groups = len(x) // stored['num_samples']
    x = first_of(x, groups, most)
  captions = captions_of(one, npz.read(path, one.draws))[: len(x)] if stored else []
  sheet = drawings.sheet(values, x, columns_of(len(x)), data=data, groups=groups, captions=captions)
  frame = results.about(stored, roles.UNSAID, note), sheet
  film = pictures.film(name, f'{values.noun.title()}: {name}', [frame])
  return name, film, {'calls': calls} | folder.flat({'sampling': stored})


def columns_of(n: int) -> int:
  """Returns the number of columns of n pictures: at most 10, whose rows are full if they can be."""
  few = range(min(n, _PICTURES), _PICTURES // 2, -1)
  return next((columns for columns in few if n % columns == 0), _PICTURES)


def as_flag(field: str, value: object) -> tuple[str, str]:
  """Returns the name and the value of a field as a flag has them: sampling.num_steps, 20."""
  is_choice = field.endswith('.name')
  name = provenance.SHORT.get(field, field)
  return name.removesuffix('.name') if is_choice else name, overrides.as_text(value)


def _is_short(sampling):
  # Whether the sampler of a file, maybe a stranger's, takes few steps.
  free = 'num_samples', 'batch_size', 'seed', 'labels', 'context_row'
  fields = {n: x for n, x in folder.flat(sampling).items() if n not in free}
  counts = [x for x in fields.values() if isinstance(x, int)]
  counts += map(int, re.findall(r'\d+', str(fields.get('grid.steps', ''))))
  return math.prod(max(1, x) for x in counts) <= 10**6


def read_first(model: Model, path: Path, n: int) -> np.ndarray:
  """Returns the first n images of a file, which must have the run's shape."""
  any_shape = not model.facts.x.is_picture
  stored, shape = image_sets.read(path, (), any_shape), model.facts.x.shape
  if stored.shape[1:] != shape:
    raise UserError(f'{path} has images of {stored.shape[1:]}, not {shape}')
  return next(stored.batches(n))


def count_calls(model: Model) -> int | None:
  """Returns how often a sampler calls the network for an image; None for other models.

  Guidance by the condition calls it with and without. None also for a sampler whose
  number of calls follows from what the denoiser returns.
  """
  if model.plan is None or model.noisy is None:
    return None
  key, first_key = jax.random.split(stream(0, 'count_calls'))
  # The values of a learned schedule do not change their number.
  plan = model.plan(model.noisy.process.init(first_key))
  if not plan.denoises:
    return None
  calls = []

  def denoise(x, level):
    jax.debug.callback(lambda: calls.append(1))
    return dj.Prediction(x)

  def draw(x):
    return dj.sample(key, denoise, plan.sampler, plan.levels, x)

  x = jnp.zeros((1, *model.state_shape))
  if ' while[' in str(jax.make_jaxpr(draw)(x)):
    return None
  draw(x)
  jax.effects_barrier()
  guidance = model.config.sampling.get('guidance')
  is_pair = guidance is not None and not guidance.get('run') and guidance.scale != 1.0
  return len(calls) * (2 if is_pair else 1)


def neighbours(run: Run, samples: np.ndarray | None) -> Film | None:
  """Returns a picture of samples and the nearest training examples.

  samples: as files have them; None takes the newest file of samples of these weights.
  Examples with lengths have no distances.
  """
  model, values = run.model, run.model.facts.x
  if model.facts.lengths:
    return None
  if samples is None:
    drawn = provenance.newest(model.run, checksums.of_arrays(run.checkpoint[0]))
    samples = next((read_first(model, path, _PICTURES) for path in drawn), None)
  source = datasets.source_of(model.config)
  size = len(source) * math.prod(source.facts.x.shape)
  has_no_distance = values.kinds or values.tokens or values.manifold or model.facts.gaps
  if samples is None or size > _MOST_PIXELS or has_no_distance:
    return None  # How near the rows of a table are is a metric, copies; tokens are not near.
  samples = samples[:_PICTURES]
  x = values.written.encode(samples)
  nearest, distances = nearest_examples(values, x, source)
  pairs = np.concatenate([samples, nearest])
  picture = drawings.sheet(values, pairs, len(samples), 64, each=True)
  unit = 'in [-1, 1]' if values.levels else 'in standard deviations'
  label = f'mean distance (root mean square, {unit}) of {len(samples)} samples '
  label += f'{np.mean(distances):.3g}'
  with contextlib.suppress(UserError):  # The test split may be missing.
    test = datasets.source_of(model.config, 'test')
    index = np.arange(min(len(test), _TEST_IMAGES))
    real = values.encode(test.read(index)['x'])
    _, distances = nearest_examples(values, real, source)
    label += f'; of {len(index)} test {values.noun} {np.mean(distances):.3g}'
  return pictures.film(
    f'Above: samples. Below: the nearest of {len(source):,} training {values.noun}',
    'Samples, each above the nearest in the training data',
    [(label, picture)],
  )
