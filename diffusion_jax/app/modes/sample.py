"""Implements --mode=sample: draws images from a trained run."""

import shutil
from pathlib import Path

import numpy as np

from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.inputs.conditions import Compared, Conditions
from diffusion_jax.app.kinds.model import Model
from diffusion_jax.app.kinds.sampling import few_particles
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.drawing import check_numbers, draw_sheet, frames_of, generate, in_box
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import drawings, mixed, tables
from diffusion_jax.data.text import decode_bytes
from diffusion_jax.data.text_files import printable
from diffusion_jax.errors import UserError
from diffusion_jax.runtime import files, processes, profiling
from diffusion_jax.runtime.per_example import join_parts, rows, write_parts

_SAMPLES = Path('samples')
_PRINTED = 4  # texts
_FILM = 'film.gif'
_OUTSIDE = 'outside'  # the array of the draws outside data.bounds, a batch's in its first row


def main(run: Run) -> None:
  """Writes <name>.png, <name>.npz and, with trajectories, <name>.gif.

  They are in samples/; <name> is sampling.name, or see `provenance.making`. For a
  network that reads texts, <name>.txt has one text per line; for a table,
  <name>.csv has its columns. <name>.parts/ keeps the batches until all are drawn.
  """
  draw(run, _SAMPLES)


def draw(
  run: Run, below: Path, rows: np.ndarray | None = None, compared: Compared | None = None
) -> Path:
  """Writes the samples into a folder of the run; returns the npz file's path.

  below: the folder's path in the run; rows: contexts in place of sampling.context;
  compared: see `conditions.choose`.
  """
  run.check('sample')
  model, inputs = run.model, conditions.choose(run.model, rows=rows, compared=compared)
  check_film(model, inputs)
  conditions.warn_if_far(model, inputs)
  conditions.note_equal_starts(model, inputs)
  read = inputs.stored | model.shown()
  read |= {name: x for name, x in inputs.cond.items() if name == 'start'}
  read.pop('conditions', None)  # computed of the originals
  settings = provenance.of_sampling(run, read)
  given, is_traced = model.config.sampling.name, model.config.sampling.profile
  name = below / (given or provenance.name_of(model))
  # What is drawn for other results has no name of the user's.
  field = 'sampling.name' * (below == _SAMPLES)
  with provenance.drawing(model.workdir, name, settings, field, bool(given)) as place:
    if is_traced or not place.done:
      inputs = conditions.encoded(model, run.checkpoint[0], inputs)
    if is_traced:
      trace_a_batch(run, inputs, place.path.stem)
    if not place.done:
      paths = draw_parts(run, inputs, place.parts)
      if processes.is_first():
        made_of = provenance.as_array(place.finished())
        write(run, inputs, paths, place.path, made_of)
        shutil.rmtree(place.parts)
  return place.path


def check_film(model: Model, inputs: Conditions) -> None:
  """Raises UserError for a film of a window that moves, which has none."""
  known = inputs.cond.get('known')
  if not model.config.sampling.trajectory or known is None:
    return
  if known.shape[1] > model.state_shape[0]:
    raise UserError(
      f'config.sampling.trajectory: the rows of sampling.context have {known.shape[1]} elements, '
      f'and a window of {model.state_shape[0]} that moves has no film: leave trajectory out'
    )


def trace_a_batch(run: Run, inputs: Conditions, name: str) -> None:
  """Draws the first batch twice, to compile the program and to trace it."""
  index = np.arange(min(run.model.config.sampling.batch_size, len(inputs.rows)))
  drawing, cond = generate(run.model, run.mesh), rows(inputs.cond, index)
  drawing(run.on_devices, index, cond)
  with profiling.trace(run.model.workdir, name):
    drawing(run.on_devices, index, cond)


def draw_parts(run: Run, inputs: Conditions, parts: Path) -> list[Path]:
  """Draws the batches that are missing in `parts`; returns all files."""
  model, params, n = run.model, run.on_devices, len(inputs.rows)
  c = model.config.sampling
  drawing = generate(model, run.mesh, min(c.batch_size, n))

  def start(index):
    fetch = drawing.start(params, index, rows(inputs.cond, index))

    def finish():
      x, states, others = fetch()
      check_numbers(model, x)
      if c.trajectory and not index[0]:
        write_film(run, inputs, frames_of(model, run.mesh, params, states), parts)
      samples, outside = in_box(model, inputs, drawing, params, index, x)
      counts = {_OUTSIDE: np.append(outside, np.zeros(len(index) - 1, int))}
      return {'arr_0': samples} | counts | others

    return finish

  return write_parts(start, n, c.batch_size, parts, 'sampling')


def write_film(run: Run, inputs: Conditions, frames: dict[int, np.ndarray], parts: Path) -> None:
  """Writes a GIF of the steps of the first images into the folder of their batches."""
  if processes.is_first():
    path = files.make_folder(parts.parent, parts.name) / _FILM
    drawn = [run.model.facts.x.decode(x) for x in frames.values()]
    drawn = [conditions.to_their_lengths(inputs, np.arange(len(x)), x) for x in drawn]
    drawings.write_gif(path, [draw_sheet(run.model, x, data=run.examples) for x in drawn])


def write(
  run: Run, inputs: Conditions, paths: list[Path], path: Path, settings: np.ndarray
) -> None:
  """Writes the film, the sheet, the table and the prompts of all parts, and last the npz file."""
  model = run.model
  arrays = join_parts(paths)
  samples, outside = arrays['arr_0'], arrays.pop(_OUTSIDE).sum()
  if model.facts.x.low:
    share = outside / (len(samples) + outside)
    print(f'{share:.1%} of the draws were outside data.bounds')
  if 'lowest_ess' in arrays:
    least, count = arrays['lowest_ess'].min(), model.config.sampling.sampler.particles
    warning = few_particles(least, count)
    print(f'least effective number of particles: {least:.3g} of {count}{warning}')
  drawn = {name: arrays[name] for name in model.draws}
  arrays |= {'settings': settings, **inputs.stored}
  arrays |= model.write_more(run.on_devices, path, samples)
  if (film := paths[0].with_name(_FILM)).exists():
    print(f'wrote {film.rename(path.with_suffix(".gif"))}')
  if model.facts.x.kinds:
    table = path.with_suffix('.csv')
    files.write_text(table, tables.as_csv(mixed.texts_of(model.facts.x, samples)))
    print(f'wrote {table}')
  elif model.facts.x.names:
    write_table(path.with_suffix('.csv'), model, inputs, samples)
  sheet, texts = path.with_suffix('.png'), path.with_suffix('.txt')
  groups = len(samples) // model.config.sampling.num_samples  # rows of a given context
  drawings.write_png(sheet, draw_sheet(model, samples, inputs.stored, groups, run.examples, drawn))
  print(f'wrote {sheet}')
  if model.facts.x.is_text:
    write_texts(texts, samples, inputs.stored.get('lengths'))
  if 'texts' in inputs.stored:
    lines = [f'{files.one_line(text)}\n' for text in inputs.stored['texts']]
    files.write_text(texts, ''.join(lines))
    print(f'wrote {texts}: what the images should show, one text a line')
  files.write_npz(path, arrays)
  shape = 'x'.join(map(str, samples.shape[1:]))
  what = 'images' if model.facts.x.is_picture else 'arrays'
  print(f'wrote {path}: {len(samples)} {what} of {shape}')


def write_table(path: Path, model: Model, inputs: Conditions, samples: np.ndarray) -> None:
  """Writes samples of a table, with their numbers, rows, contexts and classes, and a summary.

  <name>-summary.csv has the mean, the deviation and quantiles of each column for each row of the
  context and class, if one has several samples.
  """
  facts, stored, data = model.facts, inputs.stored, model.config.data
  of_rows, of_class = tables.texts_of(facts.x.names, samples), {}
  if 'context' in stored and facts.context is not None and not model.takes_known:
    rows = stored['context'][inputs.rows]
    start = 'from ' if model.ends[0] else ''  # both ends of a bridge have x's names
    names = [f'{start}{name}' for name in facts.context.names]
    of_rows |= tables.texts_of(names, rows)
  if 'labels' in stored and facts.class_names:
    of_class = {
      (data or {}).get('label', 'label'): [facts.class_names[i] for i in stored['labels']]
    }
  sample, row = ('_' * (name in of_rows) + name for name in ('sample', 'row'))
  numbers = {row: inputs.numbers.tolist()} if 'context' in stored else {}
  columns = {sample: range(len(samples)), **numbers, **of_rows, **of_class}
  files.write_text(path, tables.as_csv(columns))
  print(f'wrote {path}')
  groups = numbers | of_class
  if groups and len({*zip(*groups.values(), strict=True)}) < len(samples):
    summary = path.with_name(f'{path.stem}-summary.csv')
    table = tables.summary_of(facts.x.names, samples, groups)
    files.write_text(summary, tables.as_csv(table))
    print(f'wrote {summary}: mean, deviation and quantiles of each row')


def write_texts(path: Path, samples: np.ndarray, lengths: np.ndarray | None = None) -> None:
  """Writes texts, uint8 [n, L], and prints the first ones.

  lengths: [n], where each ends, of texts that are lines; None: each has a line with its number.
  """
  texts = [f'--- {i}\n{x}\n' for i, x in enumerate(decode_bytes(samples))]
  if lengths is not None:
    lines = decode_bytes(x[:length] for x, length in zip(samples, lengths, strict=True))
    texts = [f'{files.one_line(line)}\n' for line in lines]
  print(printable(''.join(texts[:_PRINTED])), end='')
  files.write_text(path, ''.join(texts))
  print(f'wrote {path}: {len(texts)} texts')
