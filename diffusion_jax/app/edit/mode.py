"""Implements --mode=edit: edits the user's picture with a trained run."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.edit.methods import Batch
from diffusion_jax.app.edit.pictures import Edit, EncodeImages, Made, Pictures, Shown
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import other_runs
from diffusion_jax.app.kinds.model import Guides, Model
from diffusion_jax.app.run import provenance
from diffusion_jax.app.run.drawing import check_numbers, generate
from diffusion_jax.app.run.weights import Run
from diffusion_jax.data import drawings, images
from diffusion_jax.data.classes import listed
from diffusion_jax.errors import UserError
from diffusion_jax.runtime.files import write_npz
from diffusion_jax.runtime.per_example import join_parts, rows, write_parts
from diffusion_jax.runtime.streams import stream


class EditInputs(NamedTuple):
  """What the user gives for an edit; cond: of its results."""

  edit: Edit
  cond: dict[str, np.ndarray]
  guides: Guides
  pictures: Pictures


def main(run: Run) -> None:
  """Writes <name>.png, <name>.npz and single pictures into edits/.

  <name> is edit.output, or see `provenance.making`.
  """
  run.check('edit')
  inputs = inputs_of(run.model)
  read = inputs.pictures | inputs.cond
  fields = provenance.edit_fields(run.model)
  settings = provenance.of_sampling(run, read, edit=fields)
  given = run.model.config.edit.output
  name = Path('edits', given or provenance.name_of_edit(run.model))
  workdir = run.model.workdir
  with provenance.drawing(workdir, name, settings, 'edit.output', bool(given)) as place:
    if not place.done:
      draw(run, inputs, place)


def draw(run: Run, inputs: EditInputs, place: provenance.Place) -> None:
  """Draws the results that are missing, and writes all files, the npz file last."""
  model, (edit, _, _, pictures), (path, parts, *_) = run.model, inputs, place
  size = model.config.sampling.batch_size
  paths = write_parts(drawing(run, inputs), edit.count(), size, parts, 'editing')
  numbers = join_parts(paths)
  x = numbers['x']
  if edit.loses and not any(np.isfinite(one).all() for one in x):
    check_numbers(model, x)
  results = model.facts.x.decode(np.nan_to_num(x))
  mask = pictures.get('mask')
  if mask is not None:  # exact, also with other grey levels than the run's
    results = np.where(mask[None], pictures['image'][None], results)
  shown = edit.show(model, Made(results, numbers, pictures, run.examples))
  write(shown, path.with_suffix(''))
  settings = provenance.as_array(place.finished())
  arrays = {'arr_0': results} | numbers | pictures | {'settings': settings}
  del arrays['x']
  write_npz(path, arrays)
  what = 'images' if model.facts.x.is_picture else 'arrays'
  print(f'wrote {path}: {len(results)} {what} of {model.facts.x.shape}')
  shutil.rmtree(parts)


def write(shown: Shown, path: Path) -> None:
  """Writes the pictures of an edit, and prints what it says; path: of the sheet, no suffix."""
  for line in shown.said:
    print(line)
  for end, picture in shown.files.items():
    drawings.write_png(path.with_name(f'{path.name}{end}.png'), picture)
  *each, sheet = shown.files
  if each:
    print(f'wrote {path}{each[0]}.png' + (len(each) > 1) * f' to {each[-1]}.png')
  print(f'wrote {path}{sheet}.png' + (shown.about and f': {shown.about}'))


def inputs_of(model: Model) -> EditInputs:
  """Reads and checks what the user gives for an edit."""
  edit: Edit = model.config.edit.make({'shape': model.facts.x.shape})
  with from_config('edit'):
    n = edit.count()
  cond = choose_cond(model, edit, n)
  guides = check_guidance(model, cond)
  with from_config('edit'):
    return EditInputs(edit, cond, guides, edit.read(model))


def drawing(run: Run, inputs: EditInputs) -> Callable[[np.ndarray], Callable]:
  """Returns what `write_parts` starts: it makes x, [n, H, W, C], and numbers [n].

  As in --mode=sample, batches are split over the devices, and image i depends
  on sampling.seed and i only.
  """
  model, (edit, cond, guides, pictures) = run.model, inputs
  n, plan, params = edit.count(), model.plan, run.on_devices
  assert plan is not None  # other models refuse
  arrays = {'cond': cond, 'weight': np.linspace(0.0, 1.0, n, dtype=np.float32)}
  arrays |= edit.inputs(encoder(model, params), pictures)

  def draw(params, guides, keys, inputs):
    decode = functools.partial(model.latents.decoded, params)
    batch = Batch(plan(params, guides), keys, inputs['cond'], inputs, decode)
    results = edit.results(model, batch)
    return results | {'x': decode(results['x'])}

  root = stream(model.config.sampling.seed, 'edit')
  size = min(model.config.sampling.batch_size, n)
  program = generate(model, run.mesh, size, draw, root, guides)

  def start(index):
    fetch = program.start(params, index, rows(arrays, index))

    def finish():
      results = fetch()
      if not edit.loses:
        check_numbers(model, results['x'])
      return results

    return finish

  return start


def encoder(model: Model, params: Params) -> EncodeImages:
  """Returns the function of a picture or mask -> what the model diffuses.

  Pictures uint8 [H, W, C] become x in [-1, 1], or means of z [h, w, c]. Masks
  are True where all pixels of a latent are known.
  """
  encode = jax.jit(model.latents.encode)
  autoencoder = params.get('autoencoder')

  def encoded(x):
    if x.dtype == bool:
      return model.latents.shrink_mask(x)
    return np.asarray(encode(autoencoder, images.PICTURES.encode(x)[None])[0])

  return encoded


def choose_cond(model: Model, edit: Edit, n: int) -> dict[str, np.ndarray]:
  """Returns the cond of n results: edit.label, sampling.prompt and .context."""
  c, context, cond = model.conditioning, conditions.Contexts(model), {}
  if edit.label is not None:
    labels = conditions.Labels(model)
    cond = labels.encode(labels.rows(str(edit.label), 'config.edit.label'), np.arange(n))
  elif c.labels:
    facts = model.facts
    check_optional(model, 'edit.label', f'a class: {listed(facts.num_classes, facts.class_names)}')
  rows = context.read()
  if rows is not None:
    if len(rows) != 1:
      raise UserError(f'config.sampling.context: {len(rows)} rows are given, and an edit needs one')
    cond |= context.encode(rows, np.zeros(n, int))
  elif c.context is not None:
    check_optional(model, 'sampling.context', 'a context')
  if c.text is not None and model.config.sampling.prompt is None:
    check_optional(model, 'sampling.prompt', 'a text')
    return cond
  return cond | conditions.Texts(model).choose(n)[0]


def check_optional(model: Model, field: str, what: str) -> None:
  """Raises UserError if the network always needs the condition of a field."""
  if not model.conditioning.dropout:
    raise UserError(
      f'config.{field}: the network of this run needs {what} (it was trained '
      'without conditioning.dropout)'
    )


def check_guidance(model: Model, cond: dict) -> Guides:
  """Returns the runs that guide an edit; raises UserError without a condition."""
  c = model.config.sampling
  guidance = c.get('guidance')
  if guidance is not None and guidance.scale != 1.0 and not cond:
    needed = 'a text: give --config.sampling.prompt'
    if model.conditioning.text is None:
      needed = 'a class: give --config.edit.label'
    raise UserError(f'config.sampling.guidance.scale={guidance.scale} needs {needed}')
  return other_runs.guides_of(model)
