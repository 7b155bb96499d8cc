"""Images of a model, on all devices of a run, within its box, and on sheets."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Params, PyTree
from diffusion_jax.app.config.tree import from_config
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.inputs.conditions import takes_labels
from diffusion_jax.app.kinds import other_runs
from diffusion_jax.app.kinds.model import Guides, Model, effort
from diffusion_jax.app.kinds.sampling import FILM, of_numbers
from diffusion_jax.core.denoiser import Prediction
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.core.step_schedules import num_steps_of
from diffusion_jax.data import drawings
from diffusion_jax.data.classes import word_for
from diffusion_jax.data.sources import some_of
from diffusion_jax.data.spec import without_padding
from diffusion_jax.errors import UserError, place_of, reason_of
from diffusion_jax.runtime.compiling import program
from diffusion_jax.runtime.per_example import PerExample, per_example, rows
from diffusion_jax.runtime.sharding import replicate
from diffusion_jax.sampling.grids import count_steps, level_grid
from diffusion_jax.sampling.rejection import redraw_outside
from diffusion_jax.sampling.sampler import sample, spread_levels
from diffusion_jax.sampling.solvers import heun_deviation

ATTEMPTS = 500  # how often a sample outside the user's bounds is drawn again
_MOST = 2000  # training examples, and points of a sheet
# Of `heun_deviation`. On the digits' cosine it is 2.4 in 30 steps, whose FD of 200 samples is
# 5.1, 1.04 in 100 steps (0.5, as DDIM), and at even log-SNRs 2.05 in 8 steps (1.3) and 1.6 in
# 10 (0.8; DDIM 1.2).
TOO_WIDE = 2.2
FEW = 10  # draws per sample, for a model that may still be untrained


def generate(
  model: Model,
  mesh: Mesh,
  size: int = 0,
  draw: Callable[..., PyTree] | None = None,
  root: jax.Array | None = None,
  guides: Guides | None = None,
) -> PerExample:
  """Returns (params, index [n], inputs) -> what `draw` returns, by one program.

  Image i of a seed is the same in every batch and on any devices. size: batch
  size, as in `per_example`. draw: as `Model.draw`, the default; root:
  the key from which each image's key is made; guides: the runs that guide it,
  by default those that config.sampling names.
  """
  if model.plan is None:
    model.check('sample')  # A model without a plan cannot draw: this raises and says why.
  if guides is None:
    named = conditions.is_guided_by_runs(model.config.sampling)
    guides = other_runs.guides_of(model) if named else {}
  check_plan(model)
  return per_example(
    draw or model.draw,
    mesh,
    model.root() if root is None else root,
    size,
    'the sampler',
    effort(model.config),
    others=(replicate(mesh, guides),),
  )


def frames_of(model: Model, mesh: Mesh, params: Params, states: PyTree) -> dict[int, np.ndarray]:
  """Returns the first images after some steps, {number of steps: [m, ...]}.

  states: of `Model.draw`; {} for a model that takes no steps.
  """
  plan = model.plan
  if states is None:
    return {}
  assert plan is not None
  decode = program('the decoder', model.latents.decoded, mesh, effort(model.config)).start
  levels = jax.eval_shape(lambda params: plan(params).levels, params)
  steps = spread_levels(len(jax.tree.leaves(levels)[0]) - 1, FILM[0]).tolist()
  frames = [decode(params, rows(states, (slice(None), i))) for i in range(len(steps))]
  return dict(zip(steps, jax.device_get(frames), strict=True))


def check_plan(model: Model) -> None:
  """Raises UserError for mistakes in the plan, before anything is compiled.

  Prints a note if more levels are visited than the schedule has steps, or if its steps
  are longer than the sampler can take.
  """
  plan, noisy = model.plan, model.noisy
  if plan is None or noisy is None:
    return
  learned = noisy.process.is_learned
  shapes = jax.eval_shape(model.init, abstract_key()) if learned else {}
  jax.eval_shape(lambda params: plan(params).levels, shapes)
  c = model.config.sampling
  if learned:
    return
  sampler, number = c.get('sampler'), c.grid.get('number')
  if sampler and ':' in sampler.name:
    _rehearse(sampler, plan, noisy.state_shape)
  if sampler and sampler.declared.averages_ends:
    _check_width(sampler.name, plan(), number)
  if number is None:
    return
  visited = c.get('schedule')
  total = num_steps_of(noisy.schedule() if visited is None else visited.make())
  if total is not None and number > total:
    steps, others = count_steps(of_numbers(plan().levels), total)
    print(
      f'note: sampling.num_steps={number} is more than the {total:,} '
      f'steps of the schedule: {steps:,} distinct steps are visited, and '
      f'{others:,} levels between steps'
    )


def _check_width(name, plan, number):
  # Prints a note if the steps are too long for Heun's method. number: of a grid that has a spacing.
  width = heun_deviation(of_numbers(plan.levels))
  if width <= TOO_WIDE:
    return
  remedy = 'take more steps'
  if number and heun_deviation(level_grid(plan.schedule, number, 'logsnr')) <= TOO_WIDE:
    remedy = 'set sampling.grid.spacing=logsnr'
  print(
    f'note: the steps are too long for sampling.sampler={name}: it would draw standard normal '
    f'data {width:,.1f} times too wide: {remedy}'
  )


def _rehearse(section, plan, shape):
  # One step of the user's own sampler. What keys of images cannot draw is known
  # only when it is lowered.
  def run(key):
    own = plan()
    if not own.denoises:
      return None
    keys, x = jax.random.split(key, 2), jnp.zeros((2, *shape))
    sampler = section.make({'schedule': own.schedule})
    levels = of_numbers(own.levels).take(slice(2))
    return sample(keys, lambda x, level: Prediction(x), sampler, levels, x)

  with from_config('sampling.sampler'):
    try:
      jax.jit(run).lower(abstract_key())
    except (ArithmeticError, LookupError):  # What draws images reports it.
      return
    except TypeError as error:
      raise ValueError(f'{reason_of(error)}{place_of(error)}') from error


def in_box(
  model: Model,
  inputs: conditions.Conditions,
  drawing: Callable[..., tuple],
  params: Params,
  index: np.ndarray,
  x: np.ndarray,
  attempts: int = ATTEMPTS,
) -> tuple[np.ndarray, int]:
  """Returns drawn x in the user's units, and how many draws were outside.

  drawing: the function of `generate`, which draws these again; index: of
  the samples [n]; x: the first draw [n, ...]. After ATTEMPTS outside a sample
  raises UserError, after fewer `attempts` it stays outside. What pads a sample is NaN, or
  the level 0.
  """

  def decode(index, x):
    x = model.facts.x.decode(x)
    return conditions.with_known(model, inputs, index, x)

  def again(index, key):
    return decode(index, drawing(params, key, rows(inputs.cond, index))[0])

  first = decode(index, x)
  if not model.facts.x.low:  # the data have no box
    return conditions.to_their_lengths(inputs, index, first), 0
  inside = model.facts.x.inside
  samples, num_outside, left = redraw_outside(again, inside, first, index, attempts)
  if len(left) and attempts >= ATTEMPTS:
    raise UserError(
      f'sample {index[left[0]]}: {ATTEMPTS} draws in a row were outside '
      'data.bounds, the box of this run: train longer, or train a new run '
      'with wider data.bounds'
    )
  return conditions.to_their_lengths(inputs, index, samples), num_outside


def check_numbers(model: Model, x: np.ndarray) -> None:
  """Raises UserError for NaN, which would look like black pictures."""
  if problem := problem_of(model, x):
    raise UserError(problem)


def problem_of(model: Model, x: np.ndarray) -> str:
  """Returns how many samples x [n, ...] have NaN, and why; '' if none has."""
  count = int(np.isnan(x).reshape(len(x), -1).any(axis=1).sum())
  if not count:
    return ''
  sampler = model.config.sampling.get('sampler')
  name = f'sampling.sampler={sampler.name}' if sampler else 'the model'
  which = 'the samples are' if count == len(x) else f'{count} of {len(x)} samples are'
  return (
    f'{which} nan: {name} may not allow these levels (docs/samplers.md), or the training '
    'has diverged'
  )


def training_examples(model: Model) -> np.ndarray | None:
  """Returns training examples [n, ...] to be drawn behind samples.

  Only vectors and sequences of real numbers are drawn so. None if they are not
  in memory, cannot be read, or if the command names other data than the run's.
  Of a simulator they are the first 1,000. What pads a sequence is NaN.
  """
  x, config = model.facts.x, model.config
  if x.levels or len(x.shape) > 2 or config.data is None:
    return None
  if datasets.another_set(config, 'train'):
    return None
  if 'num_examples' in config.data:  # some of the run's simulations are missing
    count = min(config.data.num_examples, 1000)
    config = config.replace(data=config.data.replace(num_examples=count))
    config = datasets.of_training(config)  # `of_training` compares the data itself
  try:
    source = datasets.source_of(config)
  except (UserError, OSError):  # Samples need no data.
    return None
  if not source.in_memory:
    return None
  arrays = source.read(some_of(source, _MOST))
  return without_padding(arrays[model.ends[1]], arrays.get('length'), np.nan)


def draw_sheet(
  model: Model,
  samples: np.ndarray,
  stored: Mapping[str, np.ndarray] = MappingProxyType({}),
  groups: int = 1,
  data: np.ndarray | None = None,
  drawn: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> np.ndarray:
  """Draws the first samples, as files have them, on one sheet.

  Columns are classes or prompts, if these are in turn. stored: of `Conditions`; each
  picture is drawn between its condition and the original, if they are there. groups:
  see `drawings.sheet`. data: `training_examples`; drawn: what a model draws with the samples,
  whose labels are written below the pictures.
  """
  values, threes = model.facts.x, 'originals' in stored
  limit = 400 if values.levels or len(values.shape) > 1 else _MOST
  if threes:
    parts = zip(stored['conditions'], samples, stored['originals'], strict=False)
    samples = np.concatenate([np.stack(three) for three in parts])
    limit = 399  # whole threes
  samples = first_of(samples, groups, limit)
  columns = sheet_columns(model, len(samples), threes, stored.get('labels'))
  captions = captions_of(model, drawn)[: len(samples)]
  return drawings.sheet(
    values, samples, columns, data=data, each=threes, groups=groups, captions=captions
  )


def captions_of(model: Model, drawn: Mapping[str, np.ndarray]) -> list[str]:
  """Returns the class of each sample in words, if its label is drawn and not given.

  A label that is still masked, on the way, has none.
  """
  if 'labels' not in drawn or takes_labels(model):
    return []
  facts, labels = model.facts, drawn['labels'].tolist()
  return [str(word_for(i, facts.class_names)) if i < facts.num_classes else '' for i in labels]


def first_of(samples: np.ndarray, groups: int, most: int) -> np.ndarray:
  """Returns the first samples of each group, at most `most` in all."""
  each = max(1, most // groups)
  parts = samples.reshape(groups, -1, *samples.shape[1:])[:, :each]
  return parts.reshape(-1, *samples.shape[1:])[:most]


def sheet_columns(model: Model, n: int, threes: bool, labels: np.ndarray | None = None) -> int:
  """Returns the number of columns; each class or prompt has its own, if these are in turn.

  threes: three pictures at a time belong together. labels: of the pictures.
  """
  c, columns = model.config.sampling, int(np.ceil(n**0.5))
  if threes:
    return 3 * max(1, columns // 3)
  group = (c.prompt or '').count('|') + 1
  if group == 1 and takes_labels(model):
    group = len(c.labels) or model.facts.num_classes
    if labels is not None and not np.array_equal(labels, np.resize(labels[:group], len(labels))):
      group = 1
  # A sheet is as near to a square as multiples of the group are.
  return group * max(1, round(columns / group)) if group <= 20 else 20
