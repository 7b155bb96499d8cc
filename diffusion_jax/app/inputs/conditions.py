"""What samples are conditioned on: labels, texts, images, real numbers."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffusion_jax.aliases import Params
from diffusion_jax.app.config import own
from diffusion_jax.app.config.errors import from_config, near
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.model import Model
from diffusion_jax.core.keys import abstract_key, stream
from diffusion_jax.data import npz
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError, refuse
from diffusion_jax.runtime.per_example import per_example

Shapes = dict[str, jax.ShapeDtypeStruct]


class ImageConditions(NamedTuple):
  """Images of the test split, and conditions made of them, [N, ...].

  originals: uint8 [N, H, W, C]; image: cond['image']; shown: `image` as a
  picture, in the shape of the originals; labels: the labels of the images, if
  the network takes labels.
  """

  originals: np.ndarray
  shown: np.ndarray
  image: np.ndarray
  labels: np.ndarray | None


class Conditions(NamedTuple):
  """What N samples are conditioned on: cond, arrays [N, ...], and its origins.

  context: real numbers [K, ...] in the user's units; rows: the row of each
  sample, [N]. Rows that give x have NaN where x is drawn.
  """

  cond: dict[str, np.ndarray]
  texts: list[str] | None
  images: ImageConditions | None
  context: np.ndarray | None
  rows: np.ndarray

  def stored(self) -> dict[str, np.ndarray]:
    """Returns the arrays [N, ...] that are stored with the samples."""
    images, texts = self.images, self.texts
    arrays = {
      'labels': self.cond.get('label'),
      'conditions': images and images.shown,
      'originals': images and images.originals,
      'texts': np.array(texts) if texts else None,
      'context': self.context,
    }
    return {name: x for name, x in arrays.items() if x is not None}


def stored_names(model: Model) -> set[str]:
  """Returns the names of the arrays that samples of a model are stored with."""
  names = {'labels'} if takes_labels(model) else set()
  if datasets.text_length(model.config):
    names.add('texts')
  if model.conditioning.image is not None:
    names |= {'conditions', 'originals'}
  if model.conditioning.context is not None or model.config.sampling.context:
    names.add('context')
  return names


def count(model: Model) -> int:
  """Returns how many samples are drawn: num_samples of each row of context."""
  rows = given_context(model)
  return model.config.sampling.num_samples * (1 if rows is None else len(rows))


def choose(model: Model, n: int, mesh: Mesh) -> Conditions:
  """Chooses what the first n samples are conditioned on."""
  pictures = choose_images(model, n, mesh)
  labels = choose_labels(model, n) if pictures is None else pictures.labels
  texts, (context, rows) = choose_texts(model, n), choose_context(model, n)
  cond = {'label': labels, 'image': pictures and pictures.image}
  cond |= encode_texts(model, texts)
  name, values = context_of(model)
  if context is not None and values is not None:
    cond[name] = values.encode(context)[rows]
  cond = {name: x for name, x in cond.items() if x is not None}
  return Conditions(cond, texts, pictures, context, rows)


def given(model: Model, n: int, values: dict[str, Any]) -> Conditions:
  """Returns what n samples are conditioned on, from what the user gives.

  values: all that the network takes, by name: label and text, context in the
  data's units, image as the network sees it. They are taken in turn.
  """
  name, facts = context_of(model)
  needed = shapes(model, 1).keys() - {'text_mask'}
  needed = {'context' if x == 'known' else x for x in needed}
  if values.keys() != needed:
    raise UserError(
      f'{model.workdir}: its network takes {", ".join(needed) or "nothing"}, '
      f'and {", ".join(values) or "nothing"} is given'
    )
  cond, context, index = {**values}, None, np.arange(n)
  if 'label' in cond:
    labels = np.ravel(cond['label']).tolist()
    cond['label'] = repeat_labels(model, labels, n, 'sampling.labels')
  if 'text' in cond:
    cond |= encode_texts(model, np.resize(cond.pop('text'), n).tolist())
  if 'context' in cond and facts is not None:
    context = np.asarray(cond.pop('context'), np.float64)
    context = check_rows('it', context, facts, name == 'known')
    index %= len(context)
    cond[name] = facts.encode(context)[index]
  return Conditions(cond, None, None, context, index)


def choose_labels(model: Model, n: int) -> np.ndarray | None:
  """Returns int32 [n]: the labels of config.sampling, or all, in turn."""
  labels = model.config.sampling.labels
  if not labels and not takes_labels(model):
    return None
  labels = labels or range(model.facts.num_classes)
  return repeat_labels(model, labels, n, 'sampling.labels')


def repeat_labels(model: Model, labels: Sequence[int | str], n: int, path: str) -> np.ndarray:
  """Returns labels, numbers or names, in turn, int32 [n]; path: their field."""
  classes, names = model.facts.num_classes, model.facts.class_names
  if not takes_labels(model):
    raise UserError(
      f'config.{path}: the network of this run takes no labels '
      '(conditioning.labels): set sampling.classifier.run, or leave it out'
    )
  numbers = [names.index(x) if x in names else x for x in labels]
  for label in numbers:
    if isinstance(label, str) or label >= classes:
      also = f', {", ".join(names[:10])}' if names else ''
      raise UserError(
        f'config.{path}={label}{near(label, names)} is out of range, the '
        f'classes are 0..{classes - 1}{also}'
      )
  return np.resize(np.array(numbers, np.int32), n)


def choose_texts(model: Model, n: int) -> list[str] | None:
  """Returns n texts: the prompts in turn, or texts of `datasets.unseen`.

  Returns None if the network reads no text.
  """
  prompt = model.config.sampling.prompt
  if not datasets.text_length(model.config):
    if prompt is not None:
      raise UserError(
        'config.sampling.prompt: the network of this run reads no text (conditioning.text)'
      )
    return None
  if prompt is None:
    return _held_out(model, 'text', np.arange(n)).tolist()
  prompts = [part.strip() for part in prompt.split('|')]
  return [prompts[i % len(prompts)] for i in range(n)]


def _held_out(model, name, index):
  source = datasets.unseen(model.config)
  with from_config('data'):
    return source.read(index % len(source))[name]


def encode_texts(model: Model, texts: list[str] | None) -> dict[str, np.ndarray]:
  """Encodes N texts as {'text': [N, L], 'text_mask': [N, L]}; {} for None."""
  if texts is None:
    return {}
  with from_config('sampling.prompt'):
    tokens, mask = encode(texts, datasets.text_length(model.config))
  return {'text': tokens, 'text_mask': mask}


def choose_images(model: Model, n: int, mesh: Mesh) -> ImageConditions | None:
  """Returns n conditions made from test images, or None."""
  config, facts = model.config, model.facts
  condition = model.conditioning.image
  if condition is None:
    return None
  if config.sampling.labels:
    raise UserError(
      'config.sampling.labels: the samples of this run continue test images '
      '(conditioning.image), and have the labels of these'
    )
  source = datasets.source_of(config, 'test')
  index = np.arange(n)
  with from_config('data'):
    arrays = source.read(index % len(source))
  x0 = facts.x.encode(arrays['x'])
  root = stream(config.sampling.seed, 'sampling_images')
  compute = per_example(lambda _, keys, x0: condition(keys, x0), mesh, root, what='the conditions')
  image = compute((), index, x0)
  labels = arrays.get('label') if model.conditioning.labels else None
  # The picture in cond['image'], unknown pixels grey.
  shape = *image.shape[:-1], facts.x.shape[-1]
  visible = np.broadcast_to(image[..., : shape[-1]], shape)
  pictures = facts.x.decode(x0), facts.x.decode(visible)
  return ImageConditions(*pictures, image, labels)


def choose_context(model: Model, n: int) -> tuple[np.ndarray | None, np.ndarray]:
  """Returns (context [K, ...] of the first n samples or None, their rows [n]).

  They are rows of sampling.context, of num_samples each, or else of held-out
  examples, of one each; nothing is known of x without rows.
  """
  index, size = np.arange(n), model.config.sampling.num_samples
  context = given_context(model)
  if context is not None:
    context = context[: -(-n // size)]
    return context, index // size % len(context)
  if model.conditioning.context is None:
    return None, index
  return _held_out(model, 'context', index), index


def context_of(model: Model) -> tuple[str, ArraySpec | None]:
  """Returns the entry of cond that sampling.context becomes, and its values.

  None: nothing is read.
  """
  c = model.conditioning
  if c.known is not None:
    return 'known', model.facts.x
  return 'context', c.context and model.facts.context


def with_known(model: Model, inputs: Conditions, index: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Returns samples [n, ...] in the user's units, exact where x is known."""
  if inputs.context is None or model.conditioning.known is None:
    return x
  known = inputs.context[inputs.rows[index]]
  return np.where(np.isnan(known), x, known).astype(x.dtype)


def given_context(model: Model) -> np.ndarray | None:
  """Returns the rows of sampling.context or .context_row, [K, ...], or None.

  Raises UserError for another shape, numbers that are not finite, and a row
  that does not exist.
  """
  path, row = (model.config.sampling[n] for n in ('context', 'context_row'))
  if not path and row is None:
    return None
  own.check_paths('sampling.context', path)
  name, facts = context_of(model)
  if facts is None:
    raise UserError(
      f'config.sampling.context{"" if path else "_row"}: the network of this '
      'run takes no context (conditioning.context, conditioning.known)'
    )
  joint = name == 'known'
  if path:
    with from_config('sampling.context'):
      rows = npz.read_array(path, 'context')
    rows = check_rows(path, rows, facts, joint)
    return rows if row is None else rows[[_checked_row(row, rows, path)]]
  if joint:
    raise UserError(
      'config.sampling.context_row: no rows are given; sampling.context is '
      'their file, with NaN for what is drawn'
    )
  source = datasets.unseen(model.config)
  index = np.array([_checked_row(row, source, 'the held-out split')])
  with from_config('data'):
    return source.read(index)['context']


def _checked_row(row, rows, what):
  if row >= len(rows):
    raise UserError(
      f'config.sampling.context_row={row} is out of range: {what} has the rows 0..{len(rows) - 1}'
    )
  return row


def check_rows(what: str, rows: np.ndarray, facts: ArraySpec, joint: bool) -> np.ndarray:
  """Returns rows of a context, [K, ...], of one row or several.

  what: where they come from, for messages; joint: NaN is what is drawn. Raises
  UserError for another shape, and for numbers that are not finite.
  """
  rows = rows[None] if rows.shape == tuple(facts.shape) else rows
  refuse(
    f'config.sampling.context: {problem}' for problem in _row_problems(what, rows, facts, joint)
  )
  return rows


def _row_problems(what, rows, facts, joint):
  if rows.shape[1:] != tuple(facts.shape) or not len(rows):
    wanted = ', '.join(map(str, facts.shape))
    yield (f'{what} has the shape {list(rows.shape)}, and [{wanted}] or [K, {wanted}] is needed')
  if not np.isfinite(rows[~np.isnan(rows)] if joint else rows).all():
    yield f'{what} has numbers that are not finite'
  if not joint:
    return
  full = np.isfinite(rows).all(axis=1)
  if full.any():
    yield (
      f'row {np.argmax(full)} of {what} gives all numbers of x: NaN marks those that are drawn'
    )
  known = rows.copy()
  box = known[:, : len(facts.low)]
  box[:] = np.where(np.isnan(box), facts.low, box)
  outside = ~facts.inside(known)
  if outside.any():
    yield f'row {np.argmax(outside)} of {what} has a number outside data.bounds'


def encoded(model: Model, params: Params, inputs: Conditions) -> dict:
  """Returns cond with the network's codes of a context, computed once a row.

  Networks that other runs guide get the context itself.
  """
  noisy, facts, context = model.noisy, model.facts.context, inputs.context
  c = model.config.sampling
  guided = c.get('classifier') or by_run(c.get('guidance'))
  if context is None or facts is None or noisy is None or guided:
    return inputs.cond
  rows = {'context': facts.encode(context)}
  code = jax.jit(lambda params: noisy.context_code(params, rows))(params)
  if 'context_code' not in code:
    return inputs.cond
  cond = {n: x for n, x in inputs.cond.items() if n != 'context'}
  return cond | {'context_code': np.asarray(code['context_code'])[inputs.rows]}


def by_run(guidance: Node | None) -> bool:
  """Returns whether a section sampling.guidance has the effect of a run."""
  if guidance is None or not guidance.get('run'):
    return False
  return guidance.scale != 1.0


FAR = 6.0  # standard deviations


def warn_if_far(model: Model, context: np.ndarray | None) -> None:
  """Prints which row of a context is far from the training data, if one is."""
  _, values = context_of(model)
  if context is None or values is None:
    return
  z = np.abs(np.nan_to_num(values.encode(context))).reshape(len(context), -1)
  row, entry = np.unravel_index(np.argmax(z), z.shape)
  if z[row, entry] > FAR:
    print(
      f'note: number {entry} of row {row} of the context is '
      f"{z[row, entry]:.3g} standard deviations from the training data's "
      'mean: the network never saw such data, and its samples may be wrong'
    )


def shapes(model: Model, size: int) -> Shapes:
  """Returns the shape of each array that `size` images depend on."""
  arrays = text_shapes(model.config, size)
  if takes_labels(model):
    arrays['label'] = jax.ShapeDtypeStruct((size,), jnp.int32)
  if model.conditioning.context is not None:
    assert model.facts.context is not None  # else it was refused
    shape = (size, *model.facts.context.shape)
    arrays['context'] = jax.ShapeDtypeStruct(shape, jnp.float32)
  x0 = jax.ShapeDtypeStruct((size, *model.facts.x.shape), jnp.float32)
  if model.conditioning.known is not None:
    arrays['known'] = x0
  if model.conditioning.image is not None:
    split = functools.partial(jax.random.split, num=size)
    keys = jax.eval_shape(split, abstract_key())
    arrays['image'] = jax.eval_shape(model.conditioning.image, keys, x0)
  return arrays


def text_shapes(config: Node, size: int) -> Shapes:
  """Returns the shapes of tokens and masks; {} without texts."""
  length = datasets.text_length(config)
  types = {'text': jnp.int32, 'text_mask': jnp.bool_} if length else {}
  shape = size, length
  return {n: jax.ShapeDtypeStruct(shape, x) for n, x in types.items()}


def takes_labels(model: Model) -> bool:
  """Returns whether the network or a classifier is conditioned on labels."""
  classifier = model.config.sampling.get('classifier')
  return model.conditioning.labels or classifier is not None
