"""What samples are conditioned on: labels, texts, images, real numbers."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax.aliases import Params
from diffusion_jax.app.config.tree import Node, from_config
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.model import Model, make_mesh
from diffusion_jax.core.keys import abstract_key
from diffusion_jax.data import mixed, spec, tables
from diffusion_jax.data.classes import number_of
from diffusion_jax.data.set_files import say_once
from diffusion_jax.data.sources import check_lengths_of, labels_of, read_labels
from diffusion_jax.data.spec import ArraySpec, valid_of
from diffusion_jax.data.text import encode
from diffusion_jax.errors import UserError, as_user_error, refuse
from diffusion_jax.runtime.per_example import per_example
from diffusion_jax.runtime.streams import stream

Arrays = dict[str, np.ndarray]
Shapes = dict[str, jax.ShapeDtypeStruct]


class Conditions(NamedTuple):
  """What N samples are conditioned on.

  cond: arrays [N, ...] of the network; stored: the arrays that are stored with
  the samples. Its context, [K, ...], is in the user's units, with NaN where x
  is drawn. rows: the row of each sample in it, [N]; numbers: what the user
  calls this row, as sampling.context_row does, [N].
  """

  cond: Arrays
  stored: Arrays
  rows: np.ndarray
  numbers: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCondition(abc.ABC):
  """A kind of condition, as a model has it; names: of its stored arrays."""

  model: Model
  names: ClassVar[tuple[str, ...]]
  name = ''  # the key of the condition in `cond`

  @abc.abstractmethod
  def rows(self, values: Any, what: str) -> np.ndarray:
    """Returns what the user gives, [K, ...]; UserError begins with `what`."""

  def encode(self, rows: np.ndarray, index: np.ndarray) -> Arrays:
    """Returns cond of rows [K, ...]; index: of each sample's row."""
    return {self.name: rows[index % len(rows)]}

  @abc.abstractmethod
  def shapes(self, size: int) -> Shapes:
    """Returns the shapes of cond; {} if the model has no such condition."""


class Labels(ModelCondition):
  """Classes: the labels of config.sampling, or all classes, in turn."""

  name, names = 'label', ('labels',)

  def choose(self, n: int, compared: np.ndarray | None = None) -> tuple[Arrays, Arrays]:
    """Returns the labels of n samples; compared: those of samples that are compared, [n]."""
    labels = self.model.config.sampling.labels
    is_of_images = self.model.conditioning.image is not None
    if is_of_images and labels:
      raise UserError(
        'config.sampling.labels: the samples of this run continue test images '
        '(conditioning.image), and have the labels of these'
      )
    if is_of_images or not (labels or takes_labels(self.model)):
      return {}, {}
    if compared is None:
      compared = np.resize(self.in_turn(), n)
    return {'label': compared}, {'labels': compared}

  def in_turn(self) -> np.ndarray:
    """Returns the labels [K] of config.sampling, or of all classes."""
    labels = self.model.config.sampling.labels
    if labels:  # A config has texts: a number of it is a word.
      return self.rows([*map(str, labels)], 'config.sampling.labels')
    return np.arange(self.model.facts.num_classes, dtype=np.int32)

  def rows(self, values: Any, what: str) -> np.ndarray:
    """Returns labels [K] of numbers or names; see `classes.number_of`."""
    facts = self.model.facts
    without = 'takes no labels (conditioning.labels): set sampling.classifier.run, or leave it out'
    _check_taken(takes_labels(self.model), what, without)
    array = np.asarray(values, object)  # numbers and names
    if array.size != len(np.atleast_1d(array)) or not array.size:
      raise UserError(f'{what} has the shape {[*array.shape]}, and one label or [K] is needed')
    words = {repr(x): x for x in array.ravel().tolist()}
    with as_user_error(f'{what}='):
      labels = {n: number_of(x, facts.num_classes, facts.class_names) for n, x in words.items()}
    return np.array([labels[repr(x)] for x in array.ravel().tolist()], np.int32)

  def shapes(self, size: int) -> Shapes:
    shape = jax.ShapeDtypeStruct((size,), jnp.int32)
    return {'label': shape} if takes_labels(self.model) else {}


class Texts(ModelCondition):
  """Texts: the prompts in turn, or texts of `datasets.unseen`."""

  names = ('texts',)

  def choose(self, n: int, mixed: bool = False) -> tuple[Arrays, Arrays]:
    prompt, index = self.model.config.sampling.prompt, np.arange(n)
    if not self._length:
      without = 'reads no text (conditioning.text)'
      _check_taken(prompt is None, 'config.sampling.prompt', without)
      return {}, {}
    if prompt is None:
      texts = np.array(_held_out(self.model, 'text', index, mixed).tolist())
    else:
      texts = np.resize([part.strip() for part in prompt.split('|')], n)
    return self.encode(self.rows(texts, 'config.sampling.prompt'), index), {'texts': texts}

  def rows(self, values: Any, what: str) -> np.ndarray:
    """Returns the tokens [K, L] of texts."""
    texts = np.ravel(np.asarray(values, object)).tolist()
    if not texts or not all(isinstance(x, str) for x in texts):
      raise UserError(f'{what}={values!r:.60} is neither text nor a list of texts')
    with as_user_error(f'{what}: '):
      return encode(texts, self._length)[0]

  def encode(self, rows: np.ndarray, index: np.ndarray) -> Arrays:
    tokens = rows[index % len(rows)]
    return {'text': tokens, 'text_mask': tokens > 0}

  def shapes(self, size: int) -> Shapes:
    types = {'text': jnp.int32, 'text_mask': jnp.bool_} if self._length else {}
    return {n: jax.ShapeDtypeStruct((size, self._length), x) for n, x in types.items()}

  @property
  def _length(self):
    return datasets.text_length(self.model.config)


class Lengths(ModelCondition):
  """Lengths: sampling.lengths in turn, or drawn as the training examples have them."""

  name, names = 'valid', ('lengths',)

  def choose(self, n: int, least: np.ndarray | None = None) -> tuple[Arrays, Arrays]:
    """Returns also the lengths of n samples; least: of what is known of each, [n]."""
    given = self.model.config.sampling.lengths
    without = 'is of data whose examples have one length'
    _check_taken(bool(self.model.facts.lengths) or not given, 'config.sampling.lengths', without)
    if not self.model.facts.lengths:
      return {}, {}
    least = np.ones(n, int) if least is None else least
    if given:
      lengths = np.resize(self.rows(given, 'config.sampling.lengths'), n)
      check_long_enough('config.sampling.lengths', lengths, least)
    else:
      lengths = self._drawn(n, least)
    return self.encode(lengths, np.arange(n)), {'lengths': lengths}

  def _drawn(self, n, least):
    # The length of sample i follows from the seed and i, and is at least `least`.
    counts = np.asarray(self.model.facts.lengths, np.float64)
    root = stream(self.model.config.sampling.seed, 'sampling_lengths')
    keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(np.arange(n))
    u = np.asarray(jax.vmap(jax.random.uniform)(keys), np.float64)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    first = below[least - 1]
    place = np.searchsorted(below, first + u * (below[-1] - first), side='right')
    # A beginning that is longer than all training examples is the whole sample.
    return np.where(first < below[-1], place, least).astype(np.int32)

  def rows(self, values: Any, what: str) -> np.ndarray:
    lengths, size = np.ravel(np.asarray(values)), self.model.facts.x.shape[0]
    with as_user_error(f'{what}: '):
      check_lengths_of(lengths, len(lengths), size)
    return lengths.astype(np.int32)

  def encode(self, rows: np.ndarray, index: np.ndarray) -> Arrays:
    return {self.name: valid_of(rows[index % len(rows)], self.model.facts.x.shape[0])}

  def shapes(self, size: int) -> Shapes:
    facts = self.model.facts
    shape = jax.ShapeDtypeStruct((size, facts.x.shape[0]), jnp.bool_)
    return {self.name: shape} if facts.lengths else {}


class Images(ModelCondition):
  """What is seen of test images, which the samples continue."""

  name, names = 'image', ('conditions', 'originals')

  def choose(self, n: int, mixed: bool = False) -> tuple[Arrays, Arrays]:
    """Returns also the labels of the images, if the network takes labels."""
    config, values = self.model.config, self.model.facts.x
    condition = self.model.conditioning.image
    if condition is None:
      return {}, {}
    index, source = np.arange(n), datasets.source_of(config, 'test')
    with from_config('data'):
      arrays = source.read(_rows_of(source, index, mixed))
    x0 = values.encode(arrays['x'])
    root, mesh = stream(config.sampling.seed, 'sampling_images'), make_mesh(config)
    compute = per_example(lambda _, *args: condition(*args), mesh, root, what='the conditions')
    image = compute((), index, x0)
    # The picture in cond['image'], unknown pixels grey.
    shape = *image.shape[:-1], values.shape[-1]
    visible = np.broadcast_to(image[..., : shape[-1]], shape)
    stored = {'conditions': values.decode(visible), 'originals': values.decode(x0)}
    if not self.model.conditioning.labels or 'label' not in arrays:
      return {'image': image}, stored
    return {'image': image, 'label': arrays['label']}, stored | {'labels': arrays['label']}

  def rows(self, values: Any, what: str) -> np.ndarray:
    shape = self.shapes(1)['image'].shape[1:]
    return tables.rows_of(values, ArraySpec(shape), what).astype(np.float32)

  def shapes(self, size: int) -> Shapes:
    if self.model.conditioning.image is None:
      return {}
    x0 = jax.ShapeDtypeStruct((size, *self.model.facts.x.shape), jnp.float32)
    keys = jax.eval_shape(functools.partial(jax.random.split, num=size), abstract_key())
    return {'image': jax.eval_shape(self.model.conditioning.image, keys, x0)}


class Contexts(ModelCondition):
  """Arrays in the user's units: a context, a start, or what is known of x."""

  names = ('context',)

  @property
  def name(self) -> str:  # type: ignore[override]
    return 'known' if self.model.takes_known else 'context'

  @property
  def values(self) -> ArraySpec | None:
    """What the numbers are; None: the network takes none."""
    if self.name == 'known' or self.model.given == 'x':
      return self.model.facts.x.written  # as samples are written, which keep these numbers
    reads = self.model.ends[0] or self.model.conditioning.context
    return self.model.facts.context if reads else None

  def held_out(self, index: np.ndarray, mixed: bool = False) -> np.ndarray:
    """Returns rows of held-out examples, of the data where samples start."""
    if self.model.given == 'x':
      x = self.model.facts.x
      return x.decode(x.encode(_held_out(self.model, 'x', index, mixed)))
    return _held_out(self.model, self.model.ends[0] or 'context', index, mixed)

  def read(self) -> np.ndarray | None:
    """Reads sampling.context and .context_row, None without them.

    Raises UserError for unsuitable rows.
    """
    path, row = (self.model.config.sampling[n] for n in ('context', 'context_row'))
    if not path and row is None:
      return None
    without = 'takes no context (conditioning.context, objective.levels, sampling.drawn)'
    field = 'sampling.context' if path else 'sampling.context_row'
    _check_taken(self.values is not None, f'config.{field}', without)
    if path:
      with from_config('sampling.context'):
        assert self.values is not None  # checked above
        if self.values.kinds and tables.is_csv(path, self.values):
          rows = mixed.read_known(path, self.values)
        else:
          rows = tables.read_rows(path, self.values, blank=self.name == 'known')
      rows = self.rows(rows, f'config.sampling.context: {path}')
      _check_row(row, len(rows), path)
      return rows if row is None else rows[[row]]
    if self.name == 'known':
      raise UserError(
        'config.sampling.context_row: no rows are given; sampling.context is '
        'their file, with NaN for what is drawn'
      )
    _check_row(row, len(datasets.unseen(self.model.config)), 'the held-out split')
    return self.held_out(np.array([row]))

  def rows(self, values: Any, what: str) -> np.ndarray:
    """Returns rows in the user's units: arrays, or a table with their columns."""
    kind, joint = self.values, self.name == 'known'
    assert kind is not None  # others take no rows
    rank = len(kind.shape)
    if joint and rank > 1:
      values, kind = _whole_sequences(values, kind)
    with as_user_error():
      given = mixed.texts_of_given(values) if kind.kinds else None
      rows = (
        tables.rows_of(values, kind, what, joint)
        if given is None
        else mixed.known_cells(what, *given, kind)
      )
    if joint and self.model.facts.lengths and kind.shape[0] > self.model.state_shape[0]:
      raise UserError(
        f'{what} has {kind.shape[0]} elements, and samples with lengths have at most '
        f'{self.model.state_shape[0]}, as a training example has'
      )
    refuse(tables.row_problems(what, rows, kind, joint))
    own, most = self.model.facts.x.levels, np.nanmax(rows, initial=0.0)
    if kind.levels > own > most and (joint or self.model.given == 'x'):
      say_once(
        f'note: {what} has numbers up to {most:g}, which are read as levels from 0 to '
        f'{kind.levels - 1}, as files of samples have them; the data have {own} levels, of which '
        f'level i is {(kind.levels - 1) / (own - 1):g} i here'
      )
    if joint and self.model.noisy is not None:
      refuse(_partly_known(what, rows, self.model.noisy.shared))
    return rows

  def encode(self, rows: np.ndarray, index: np.ndarray) -> Arrays:
    assert self.values is not None  # others take no rows
    return super().encode(self.values.encode(rows), index)

  def shapes(self, size: int) -> Shapes:
    if self.values is None:
      return {}
    return {self.name: jax.ShapeDtypeStruct((size, *self.values.shape), jnp.float32)}


def _whole_sequences(values, kind):
  # A sequence may have any length. A shorter one than the model's is its beginning.
  array = np.asarray(values)
  place = array.ndim - len(kind.shape)
  is_sequence = place in (0, 1) and array.dtype.kind in 'fiu' and array.shape[place]
  if not is_sequence or array.shape[place + 1 :] != kind.shape[1:]:
    return values, kind  # `rows_of` says what is wrong
  missing = max(0, kind.shape[0] - array.shape[place])
  if missing:
    widths = [(0, missing * (axis == place)) for axis in range(array.ndim)]
    array = np.pad(array.astype(np.float64), widths, constant_values=np.nan)
  return array, kind._replace(shape=(array.shape[place], *kind.shape[1:]))


def _partly_known(what, rows, size):
  # Yields the first element of which only a part is known. size: of neighbours with one level.
  blocks = np.isnan(rows).reshape(len(rows), rows.shape[1] // size, -1)
  partly = blocks.any(axis=-1) & ~blocks.all(axis=-1)
  if partly.any():
    row, block = np.argwhere(partly)[0]
    which = (
      f'element {block}' if size == 1 else f'elements {block * size} to {block * size + size - 1}'
    )
    yield f'row {row} of {what}: {which} must be known or NaN as a whole, as they share a level'


# {name in `given`: the kind of condition}
KINDS = {
  'label': Labels,
  'text': Texts,
  'image': Images,
  'context': Contexts,
  'length': Lengths,
}


def stored_names(model: Model) -> set[str]:
  """Returns the names of the arrays that samples of a model are stored with."""
  names = {name for kind in KINDS.values() if kind(model).shapes(1) for name in kind.names}
  without_rows = model.takes_known and not model.config.sampling.context
  return names - {'context'} if without_rows else names


def shapes(model: Model, size: int) -> Shapes:
  """Returns the shape of each array that `size` images depend on."""
  return {n: x for kind in KINDS.values() for n, x in kind(model).shapes(size).items()}


class Compared(NamedTuple):
  """What samples are conditioned on that are compared with examples, which are a mixture.

  Conditions of held-out examples are in a fixed random order. labels(n) -> the labels of n
  samples, [n]; None without labels. words: which classes these are; in_turn: whether these
  are in turn, and so have other frequencies than the examples. from_examples: whether samples
  start at noised training examples of their classes, and not at noise (`Plan.begin`).
  """

  labels: Callable[[int], np.ndarray] | None = None
  words: str = ''
  in_turn: bool = False
  from_examples: bool = False


def choose(
  model: Model, n: int | None = None, rows: Any = None, compared: Compared | None = None
) -> Conditions:
  """Chooses what the first n samples are conditioned on.

  rows: contexts in place of sampling.context. n: None for sampling.num_samples,
  and as many for each row. Without rows each sample has a held-out context. compared: of
  samples that are compared with examples, which all rows share; None: of others, which
  have the classes in turn and the first held-out conditions.
  """
  context, each = Contexts(model), model.config.sampling.num_samples
  first = (model.config.sampling.context_row or 0) if rows is None else 0
  rows = context.read() if rows is None else context.rows(rows, 'the context')
  count = n or each * (1 if rows is None or compared else len(rows))
  cond, stored, index, mixed, least = {}, {}, np.arange(count), compared is not None, None
  labels = compared.labels(count) if compared and compared.labels else None
  for arrays, kept in (
    Labels(model).choose(count, labels),
    Texts(model).choose(count, mixed),
    Images(model).choose(count, mixed),
  ):
    cond, stored = cond | arrays, stored | kept
  if compared and compared.from_examples:
    cond['start'] = some_examples(model, count, labels)
  if rows is not None:
    if compared:  # in blocks, so that no row has one class only
      index = index * len(rows) // count
    else:
      rows = rows[: -(-count // each)]
      index = index // each % len(rows)
    numbers = first + index
    least = lengths_of_known(rows)[index] if context.name == 'known' else None
  elif context.name == 'context' and context.values is not None:
    rows = context.held_out(index, mixed)
    numbers = _rows_of(datasets.unseen(model.config), index, mixed)
  arrays, kept = Lengths(model).choose(count, least)
  cond, stored = cond | arrays, stored | kept
  if rows is None:
    return Conditions(cond, stored, index, index)
  return Conditions(cond | context.encode(rows, index), stored | {'context': rows}, index, numbers)


def some_examples(model: Model, n: int, labels: np.ndarray | None) -> np.ndarray:
  """Returns x of n random training examples, of the labels [n] if there are some.

  They are each time the same; UserError for a class that no training example has.
  """
  source = datasets.source_of(model.config)
  order = np.random.default_rng(0).permutation(len(source))
  index = np.resize(order, n)
  with from_config('data'):
    theirs = labels_of(source)
    if labels is not None and theirs is not None:
      for label in np.unique(labels):
        own, at = order[theirs[order] == label], labels == label
        if not len(own):
          raise UserError(f'no training example has the class {label}')
        index[at] = np.resize(own, np.count_nonzero(at))
    return model.facts.x.encode(source.read(index)['x'])


def check_long_enough(what: str, lengths: np.ndarray, least: np.ndarray) -> None:
  """Raises UserError for a sample that is shorter than what is known of it; both are [n]."""
  if (lengths < least).any():
    i = int(np.argmax(lengths < least))
    raise UserError(
      f'{what}: sample {i} has the length {lengths[i]}, and its row of the context has {least[i]} '
      'elements: take larger lengths'
    )


def check_not_longer(model: Model) -> None:
  """Raises UserError for rows of sampling.context that are longer than examples of the data."""
  rows = Contexts(model).read() if model.takes_known else None
  if rows is not None and len(rows[0]) > (size := model.facts.x.shape[0]):
    raise UserError(
      f'config.sampling.context={model.config.sampling.context} has {len(rows[0])} elements, and '
      f'examples, which samples are compared with, {size}: give {size} or fewer'
    )


def lengths_of_known(rows: np.ndarray) -> np.ndarray:
  """Returns the place after the last element that is known, at least 1, [K] of rows [K, T, ...]."""
  known = ~np.isnan(rows.reshape(*rows.shape[:2], -1)).all(axis=2)
  return np.maximum(1, (known * (1 + np.arange(rows.shape[1]))).max(axis=1))


def given(model: Model, n: int | None, values: dict[str, Any]) -> Conditions:
  """Returns what n samples are conditioned on, from what the user gives.

  values: all that the network takes, by name: label and text, context in the
  data's units, image as the network sees it; None is not given. They are taken
  in turn. What is known of x need not be given, nor length: n samples have lengths of the
  training examples. n: None for as many samples as the longest has rows.
  """
  kinds = {name: kind(model) for name, kind in KINDS.items() if kind(model).shapes(1)}
  values = {name: x for name, x in values.items() if x is not None}
  for name in kinds.keys() - values.keys():
    if name == 'length' or name == 'context' and model.takes_known:
      kinds.pop(name)
  if values.keys() != kinds.keys():
    others = [name for name in values if name not in KINDS and name in model.config.sampling]
    hint = f': {others[0]} is an argument of dj.open_run' if others else ''
    takes, has = (', '.join(x) or 'nothing' for x in (kinds, values))
    raise UserError(f'{model.run}: its network takes {takes}, and {has} is given{hint}')
  rows = {name: kind.rows(values[name], name) for name, kind in kinds.items()}
  index = np.arange(n or max(map(len, rows.values()), default=1))
  cond = {}
  for name, kind in kinds.items():
    cond |= kind.encode(rows[name], index)
  stored = {'context': rows['context']} if 'context' in rows else {}
  least = np.ones(len(index), int)
  if model.takes_known and 'context' in rows:
    least = np.resize(lengths_of_known(rows['context']), len(index))
  if 'length' in rows:
    stored['lengths'] = np.resize(rows['length'], len(index))
    check_long_enough('length', stored['lengths'], least)
  elif n is not None:
    arrays, kept = Lengths(model).choose(n, least)
    cond, stored = cond | arrays, stored | kept
  index = index % len(stored.get('context', index))
  return Conditions(cond, stored, index, index)


def held_out_labels(model: Model) -> Callable[[int], np.ndarray] | None:
  """Returns (n) -> the labels of the held-out examples whose context or text n samples have.

  None if compared samples have neither of examples. Data are read where labels are asked for.
  """
  c, context = model.config.sampling, Contexts(model)
  is_given = c.context or c.context_row is not None
  of_context = context.name == 'context' and context.values is not None and not is_given
  of_text = datasets.text_length(model.config) and c.prompt is None
  if not (of_context or of_text):
    return None

  def labels(n):
    source = datasets.unseen(model.config)
    with from_config('data'):
      return read_labels(source, _rows_of(source, np.arange(n), True)).astype(np.int32)

  return labels


def _held_out(model, name, index, mixed=False):
  source = datasets.unseen(model.config)
  with from_config('data'):
    return source.read(_rows_of(source, index, mixed))[name]


def _rows_of(source, index, mixed):
  # Returns rows of a source, whose first ones may differ from the rest.
  rows = index % len(source)
  return np.random.default_rng(0).permutation(len(source))[rows] if mixed else rows


def _check_taken(is_taken, what, without):
  if not is_taken:
    raise UserError(f'{what}: the network of this run {without}')


def _check_row(row, count, where):
  if row is not None and row >= count:
    raise UserError(
      f'config.sampling.context_row={row} is out of range: {where} has the rows 0..{count - 1}'
    )


def with_known(model: Model, inputs: Conditions, index: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Returns samples [n, ...] in the user's units, exact where x is known."""
  if 'context' not in inputs.stored or not model.takes_known:
    return x
  known = inputs.stored['context'][inputs.rows[index]]
  return np.where(np.isnan(known), x, known).astype(x.dtype)


def to_their_lengths(inputs: Conditions, index: np.ndarray, x: np.ndarray) -> np.ndarray:
  """Returns samples [n, T, ...] in the user's units, NaN or the level 0 beyond their lengths."""
  lengths = inputs.stored.get('lengths')
  return spec.without_padding(x, None if lengths is None else lengths[index], np.nan)


def encoded(model: Model, params: Params, inputs: Conditions) -> Conditions:
  """Returns inputs with the network's codes of a context, computed once a row.

  Networks that other runs guide get the context itself.
  """
  noisy, facts, context = model.noisy, model.facts.context, inputs.stored.get('context')
  guided = is_guided_by_runs(model.config.sampling)
  if context is None or facts is None or noisy is None or guided or model.given:
    return inputs
  rows = {'context': facts.encode(context)}
  code = jax.jit(lambda params: noisy.context_code(params, rows))(params)
  if 'context_code' not in code:
    return inputs
  cond = {n: x for n, x in inputs.cond.items() if n != 'context'}
  cond['context_code'] = np.asarray(code['context_code'])[inputs.rows]
  return inputs._replace(cond=cond)


def by_run(c: Node) -> str:
  """Returns the section of config.sampling whose run guides: guidance, sampler or ''."""
  guidance, sampler = c.get('guidance'), c.get('sampler')
  if guidance is not None and guidance.get('run') and guidance.scale != 1.0:
    return 'guidance'
  if sampler is not None and sampler.declared.takes_pairs and sampler.get('run'):
    return 'sampler'
  return ''


def is_guided_by_runs(c: Node) -> bool:
  """Returns whether config.sampling names other runs that guide the samples."""
  return bool(c.get('classifier') or by_run(c))


FAR = 6.0  # standard deviations


def warn_if_far(model: Model, inputs: Conditions) -> None:
  """Prints which row of a context is far from the training data, if one is."""
  values, context = Contexts(model).values, inputs.stored.get('context')
  if context is None or values is None or model.ends[0]:
    return
  for i in values.numbers:
    low, high = values.knots[i][0], values.knots[i][-1]
    far = (context[:, i] < low) | (context[:, i] > high)
    if far.any():
      row = int(np.argmax(far))
      print(
        f'note: {values.names[i]!r} of row {row} of the context is {context[row, i]:.10g}, and '
        f'in the training it is {low:.10g} to {high:.10g}: the network reads the nearer of these'
      )
  if values.kinds:
    return
  z = np.abs(np.nan_to_num(values.encode(context))).reshape(len(context), -1)
  row, entry = np.unravel_index(np.argmax(z), z.shape)
  if z[row, entry] > FAR:
    number = repr(values.names[entry]) if values.names else f'number {entry}'
    print(
      f'note: {number} of row {row} of the context is '
      f"{z[row, entry]:.3g} standard deviations from the training data's "
      'mean: the network never saw such data, and its samples may be wrong'
    )


def note_equal_starts(model: Model, inputs: Conditions, first: int = 0) -> None:
  """Prints that samples of a bridge are equal, where the ODE begins at equal points."""
  if not model.ends[0] or model.config.sampling.stochastic:
    return
  arrays = [np.asarray(x)[first:] for x in inputs.cond.values()]
  starts = {b''.join(x.tobytes() for x in row) for row in zip(*arrays, strict=True)}
  if len(starts) < (n := len(arrays[0])):
    print(
      f'note: {n:,} samples begin at {len(starts):,} different points, and the ODE takes equal '
      'points to equal samples: for different ones set sampling.stochastic=True (of a bridge with '
      'objective.diffusion above 0)'
    )


def takes_labels(model: Model) -> bool:
  """Returns whether the network or a classifier is conditioned on labels."""
  classifier = model.config.sampling.get('classifier')
  return model.conditioning.labels or classifier is not None
