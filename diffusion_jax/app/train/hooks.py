"""Hooks: what a training does at intervals: log, measure, draw, save."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node, check_one_of, from_config
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import conditions, datasets, stored_latents
from diffusion_jax.app.inputs.conditions import Compared
from diffusion_jax.app.inputs.datasets import held_out
from diffusion_jax.app.kinds import rules
from diffusion_jax.app.kinds.model import Model, effort, make_encode
from diffusion_jax.app.kinds.training import Generated, held_out_batches
from diffusion_jax.app.run.drawing import (
  FEW,
  draw_sheet,
  frames_of,
  generate,
  in_box,
  problem_of,
  training_examples,
)
from diffusion_jax.app.train import floors
from diffusion_jax.app.train.step_log import StepLog, average
from diffusion_jax.data import drawings, pipeline
from diffusion_jax.data.splits import NoTestSplit
from diffusion_jax.errors import UserError, place_of, refuse
from diffusion_jax.report.record import NUM_SAMPLES
from diffusion_jax.runtime import compiling, processes, sessions
from diffusion_jax.runtime.compiling import Program
from diffusion_jax.runtime.files import read_json_lines
from diffusion_jax.runtime.per_example import PerExample, one_ahead, rows
from diffusion_jax.runtime.sharding import local_rows, to_global
from diffusion_jax.runtime.streams import stream
from diffusion_jax.training.state import TrainState
from diffusion_jax.training.step import make_eval_step
from diffusion_jax.weights import averages, checkpoints

Act = Callable[[int, TrainState, Params, StepLog], None]


class Hook(NamedTuple):
  """Work that a training does at multiples of `every`, and at its end.

  act(step, state, frozen, log) writes into the files of the log, and may add to
  log.results; frozen: parameters that are not trained. program: what it
  computes, of inputs(state, frozen), which may be shapes. what: its name in
  messages, and the setting that switches it off. test_images: their number.
  saves: whether it writes the checkpoint. prepare: computes what it needs,
  once the training can begin. done(step): whether the run folder has what it
  does after a step, if it has the checkpoint of this step.
  """

  every: tuple[int, ...]
  act: Act
  program: Program | PerExample | None = None
  inputs: Callable[[TrainState, Params], tuple] = lambda state, frozen: ()
  what: tuple[str, str] = '', ''
  test_images: int = 0
  saves: bool = False
  prepare: Callable[[], object] = lambda: None
  done: Callable[[int], bool] = lambda step: True

  def rehearse(self, state: TrainState, frozen: Params) -> None:
    """Traces the program on shapes, to find its errors before the first step.

    Nothing is compiled or computed. Raises UserError for errors of the library
    and of the user's own parts.
    """
    if self.program is None:
      return
    start, (what, field) = self.program.start, self.what

    def trace(state, frozen):
      start(*self.inputs(state, frozen))

    try:
      jax.eval_shape(trace, state, frozen)
    except Exception as error:
      place = place_of(error)
      known = place or isinstance(error, (ValueError, TypeError))
      if isinstance(error, UserError) or not known:
        raise
      kind = f'{type(error).__name__}: ' if place else ''
      raise UserError(
        f'{what} cannot be computed: {kind}{error}{place}. --config.{field} trains without it'
      ) from error


def due(config: Node, hooks: list[Hook], step: int) -> list[Hook]:
  """Returns the hooks that act after a step; after the last step, all hooks."""
  if step == config.training.num_steps:
    return hooks
  return [x for x in hooks if any(step % n == 0 for n in x.every)]


def left(model: Model, hooks: list[Hook], step: int) -> list[Hook]:
  """Returns the hooks of a step that an interruption kept from acting.

  The run has the checkpoint of this step, unless it is 0.
  """
  if not step:
    return []
  *_, last = [{}, *sessions.read(model.workdir)]
  if (last.get('event'), last.get('step')) == ('end', step):
    return []
  here = [hook.done(step) for hook in hooks]  # The first process writes the files.
  return [hook for hook, done in zip(hooks, processes.broadcast(here), strict=True) if not done]


def traced(config: Node) -> tuple[int, ...]:
  """Returns the first and the last step of training.machine.trace; () without."""
  trace, total = config.training.machine.trace, config.training.num_steps
  return (trace.first, min(trace.first + trace.steps - 1, total)) if trace else ()


def trace_that_is_over(config: Node, step: int) -> str:
  """Returns a note if a training continues after the steps of its trace, or ''."""
  if not config.training.machine.trace or step < traced(config)[1]:
    return ''
  return f'note: no trace is written: step {step} is after training.machine.trace'


def end_of_call(config: Node, hooks: list[Hook], step: int) -> int:
  """Returns the last step of the call that begins after `step`.

  The call has training.steps_per_call steps, or fewer if a hook is due or a
  trace begins or ends earlier.
  """
  c = config.training
  ends = [(step // n + 1) * n for hook in hooks for n in hook.every]
  first, last = traced(config) or (0, 0)
  ends += [end for end in (first - 1, last) if end > step]
  return min(step + c.steps_per_call, c.num_steps, *ends)


def make_hooks(model: Model, mesh: Mesh) -> list[Hook]:
  """Returns the hooks of a config, in the order in which they act.

  Raises UserError if samples cannot be measured or drawn.
  """
  c = model.config.training
  every = c.checkpoints.every or c.num_steps  # 0: only the last
  best = every if c.checkpoints.best else 0  # each is compared
  by_loss = best_by(model.config) == held_out_loss(model.config)
  losses = intervals(c.held_out and c.held_out.every, best if by_loss else 0)
  scores = intervals(c.metrics and c.metrics.every, 0 if by_loss else best)
  previews = intervals(c.sample_every)
  saved = saving(model, (every,))
  # Steps are saved before hooks that may fail, but after the compared metric.
  hooks = [
    Hook(intervals(c.log_every), write_line),
    keeping(model),
    None if best else saved,
    evaluating(model, mesh, losses) if losses else None,
    measuring(model, mesh, scores) if scores else None,
    Hook((*losses, *scores), write_results, done=has_results(model)),
    saved if best else None,
    drawing(model, mesh, previews) if previews else None,
  ]
  return [hook for hook in hooks if hook is not None and hook.every]


def intervals(*every: int | None) -> tuple[int, ...]:
  """Returns the intervals that are not 0 or None, which mean never."""
  return tuple(x for x in every if x)


def write_line(step: int, state, frozen, log: StepLog) -> None:
  """Writes a line with the mean loss, the learning rate and the speed."""
  log.write_line(step)


def write_results(step: int, state, frozen, log: StepLog) -> None:
  """Writes the results of the hooks at this step."""
  if log.results:
    log.write(step, log.results)


def has_results(model: Model) -> Callable[[int], bool]:
  """Returns whether metrics.jsonl has the results of hooks at a step."""

  def done(step):
    lines = read_json_lines(model.workdir.metrics)
    return any(x.get('step') == step and 'learning_rate' not in x for x in lines)

  return done


def keeping(model: Model) -> Hook:
  """Returns the hook that writes snapshots, before the checkpoint."""
  c, workdir = model.config.training, model.workdir
  kept = c.average.make({'batch_size': c.batch_size, 'total_steps': c.num_steps})

  def act(step, state, frozen, log):
    averages.write(workdir, step, {kept.width: state.ema_params, **state.more_ema_params})
    averages.thin(workdir, step, kept.every, kept.keep)

  return Hook(intervals(kept.every), act)


def saving(model: Model, every: tuple[int, ...]) -> Hook:
  """Returns the hook that saves, with the number that decides on the best."""

  def act(step, state, frozen, log):
    log.save(state, with_criterion(model, log.results))

  return Hook(every, act, saves=True)


def held_out_loss(config: Node) -> str:
  """Returns the name in metrics.jsonl of the loss that a training measures."""
  return f'{held_out(config)}_loss'


def best_by(config: Node) -> str:
  """Returns what chooses the best checkpoint: this loss, or a metric."""
  return config.at('training.checkpoints.best.by') or held_out_loss(config)


def best_of_few(config: Node, step: int = 0) -> str:
  """Returns a note if the best checkpoint is chosen among few of the losses, or ''."""
  c = config.training
  every, saved = c.held_out.every if c.held_out else 0, c.checkpoints.every or c.num_steps
  by_loss = c.checkpoints.best and best_by(config) == held_out_loss(config)
  if not by_loss or not every % saved:
    return ''
  return (
    f'note: training.checkpoints.best chooses among checkpoints, {saved} steps '
    f'apart, and not among all losses of training.held_out.every={every}'
  )


def with_criterion(model: Model, results: dict) -> dict | None:
  """Returns the metrics of a checkpoint, with the one that is compared."""
  name = best_by(model.config)
  if name not in results:
    return results or None
  higher = name != held_out_loss(model.config) and scorers.higher_is_better(model)[name]
  sign = -1.0 if higher else 1.0
  return results | {checkpoints.CRITERION: sign * results[name]}


def evaluating(model: Model, mesh: Mesh, every: tuple[int, ...]) -> Hook:
  """Returns the hook that measures the losses on held-out examples.

  Their noise is fixed, and there is neither dropout nor augmentation.
  """
  config, split = model.config, held_out(model.config)
  try:
    images = datasets.source_of(config, split)
  except UserError as error:
    if not isinstance(error.__cause__, NoTestSplit):
      raise
    raise UserError(f'{error}; or set training.held_out=None') from error.__cause__
  source, facts = images, model.facts
  if config.at('latent.path'):
    source, facts = stored_latents.examples_of(config, facts, images, split)
  loss = make_eval_step(model.objective(test=True))
  loss = compiling.program(f'the {split} loss', loss, mesh, effort(config))
  size = config.training.batch_size  # also of fewer examples, for any number of devices
  local, length = local_rows(mesh, size), datasets.text_length(config)
  encode = make_encode(model, mesh)
  # The seed of the config is not used, so that runs can be compared.
  key, latents_key = stream(0, 'test_loss'), stream(0, 'test_latents')

  def drawn(i, rows=pipeline.ALL):
    with from_config('data'):
      batch = pipeline.batch_at(source, size, 0, i, rows=rows, text_length=length, facts=facts)
    return jax.random.fold_in(key, i), batch

  def inputs(state, frozen, i=0):
    key, batch = drawn(i, local)
    return state, encode(frozen, to_global(mesh, batch), latents_key, i), key, frozen

  # Exact losses need no other process. They are computed once in a start, after
  # the first steps.
  notes = floors.beside(model, mesh, split, size, drawn)

  def act(step, state, frozen, log):
    batches = range(held_out_batches(config.training))
    means = average([loss.start(*inputs(state, frozen, i)) for i in batches])
    log.results |= {f'{split}_{name}': x for name, x in means.items()}
    if processes.is_first():
      log.notes |= notes()

  what = f'the loss of {split} images', 'training.held_out=None'
  return Hook(every, act, loss, inputs, what, len(source), done=has_results(model))


def first_samples(
  model: Model, mesh: Mesh, n: int, compared: Compared | None = None
) -> tuple[PerExample, Callable[..., tuple], Callable[[tuple, np.ndarray], np.ndarray], dict]:
  """Returns the program of the first n samples, and functions of its calls.

  These are (state, frozen, first=0) -> the inputs of a batch, and (inputs, x)
  -> its samples in the user's units. The last are the stored conditions. compared: see
  `conditions.choose`.
  """
  chosen = conditions.choose(model, n, compared=compared)
  size = min(model.config.sampling.batch_size, n)
  drawing = generate(model, mesh, size)

  def inputs(state, frozen, first=0):
    index = np.arange(first, min(first + size, n))
    return state.ema_params | frozen, index, rows(chosen.cond, index)

  def boxed(call, x):
    params, index, _ = call
    return in_box(model, chosen, drawing, params, index, x, attempts=FEW)[0]

  return drawing, inputs, boxed, chosen.stored


def measuring(model: Model, mesh: Mesh, every: tuple[int, ...]) -> Hook:
  """Returns the hook that measures generated images by evaluation.metrics."""
  c, model = model.config.training, scorers.chosen(model)
  refuse(rules.lines([rules.OF_VALID], model.config, 'evaluate', None, model.facts))
  names = scorers.higher_is_better(model)
  if not names:
    raise UserError(
      'training.metrics and training.checkpoints.best.by measure generated '
      'images: name a metric of them in config.evaluation.metrics, as fid'
    )
  if apart := scorers.by_evaluate_alone(model):
    print(f'no {", ".join(apart)} while it trains: --mode=evaluate measures them')
  if c.checkpoints.best:
    known = held_out_loss(model.config), *names
    check_one_of(known, 'training.checkpoints.best.by', best_by(model.config))
  n, size = (c.metrics or Generated()).images, model.config.sampling.batch_size
  compared = scorers.compared(model, scorers.classes_of(model))
  drawing, inputs, boxed, stored = first_samples(model, mesh, n, compared)
  prepare, score = scorers.scorer(model, compared)

  def act(step, state, frozen, log):
    calls = (inputs(state, frozen, first) for first in range(0, n, size))
    started = one_ahead(lambda call: drawing.start(*call), calls)
    drawn = [(call, x, others) for call, (x, _, others) in started]
    if problem := problem_of(model, np.concatenate([x for _, x, _ in drawn])):
      tqdm.write(f'step {step}: no metrics: {problem}')
      return
    parts = [boxed(call, x) for call, x, _ in drawn]
    more = {name: np.concatenate([others[name] for *_, others in drawn]) for name in model.draws}
    log.results |= {**score({'values': np.concatenate(parts), **stored, **more}), NUM_SAMPLES: n}

  what = 'a sample', 'training.metrics=None'
  return Hook(every, act, drawing, inputs, what, prepare=prepare, done=has_results(model))


def drawing(model: Model, mesh: Mesh, every: tuple[int, ...]) -> Hook | None:
  """Returns the hook that draws the first samples of --mode=sample.

  After the last step log.film has the `Frames` of the images.
  """
  if model.plan is None:
    print(f'no samples while it trains: {model.schema.kind} makes no images')
    return None
  c = model.config.sampling
  drawing, inputs, boxed, stored = first_samples(model, mesh, min(c.num_samples, c.batch_size))
  examples = functools.cache(lambda: training_examples(model))

  def path_of(step):
    return model.workdir.samples / f'step_{step:08d}.png'

  def act(step, state, frozen, log):
    call = inputs(state, frozen)
    x, states, others = drawing(*call)
    others = {name: others[name] for name in model.draws}
    sheet = draw_sheet(model, boxed(call, np.nan_to_num(x)), stored, 1, examples(), others)
    if problem := problem_of(model, x):
      sheet = drawings.crossed(sheet)
      tqdm.write(f'step {step}: the preview is crossed out: {problem}')
    if step == model.config.training.num_steps and states is not None:
      log.film = functools.partial(frames_of, model, mesh, call[0], states)
    if processes.is_first():
      drawings.write_png(path_of(step), sheet)
    log.writer.write_images(step, {'samples': sheet})

  what = 'the preview', 'training.sample_every=0'
  return Hook(every, act, drawing, inputs, what, done=lambda step: path_of(step).exists())
