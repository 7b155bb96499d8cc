"""Law: a word means one class, and the same one wherever a class is called.

PLACES has every field that takes a class, and the doors of Python and of the page. Planted faults:
`Labels.choose` with `labels` in place of their texts, so that a config's number is an index;
`convert.null_or_class` by `int`; `classes.number_of` without its case of names that are numbers.
"""

import functools
from typing import get_args, get_origin

import numpy as np
import pytest

from diffusion_jax.app.config.schema import annotation_of, parameters
from diffusion_jax.app.config.tree import Node
from diffusion_jax.app.edit import mode as edit
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.inputs import conditions
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import convert, serve
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.classes import number_of
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import losses
from diffusion_jax.ranges import Count
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, read, smoke
from tests.data.test_classes import NAMED
from tests.laws.test_two_ways_agree import NAMES

NOWHERE = RunFolder.at('nowhere')
WORDS = ('0', '1', '2', '3', '01', '1.0', '-1', '#0', '#2', '#3', 'cat', 'NA', 'x', '1e0', '10', '')


@functools.cache
def usual():
  return smoke(**{'edit': 'sdedit'})


def model_of(names, **fields):
  facts = DIGITS._replace(num_classes=3, class_names=names)
  config = store.with_flags(usual(), [*fields.items()])
  return make_model(config, NOWHERE, facts)


# Places: (names of the classes, a word) -> the number of the class.


def by_sampling(names, word):
  model = model_of(names, **{'sampling.labels': word})
  if not model.config.sampling.labels:  # '' are all classes
    raise UserError('none')
  return conditions.choose(model, 1).cond['label'][0]


def by_file(names, word):
  """Gives the number that a config file may have in place of its text."""
  tree = usual().to_dict()
  tree['sampling'] |= {'labels': (int(word) if word.isdecimal() else word,)}
  model = make_model(
    store.completed(tree), NOWHERE, DIGITS._replace(num_classes=3, class_names=names)
  )
  return conditions.choose(model, 1).cond['label'][0]


def by_edit(names, word):
  model = model_of(names, **{'edit.label': word})
  return edit.choose_cond(model, model.config.edit.make(), 1)['label'][0]


def by_convert(names, word):
  return convert.null_or_class(model_of(names, **{'convert.label': word}))


def by_python(names, word):
  return conditions.given(model_of(names), 1, {'label': word}).cond['label'][0]


PLACES = {'sampling.labels': by_sampling, 'edit.label': by_edit, 'convert.label': by_convert}
DOORS = {**PLACES, 'a file': by_file, 'dj.open_run': by_python}


def of_classes(kind):
  """Returns whether an annotation takes names and numbers of classes."""
  args = get_args(kind)
  return str in args and Count in args or get_origin(kind) is tuple and of_classes(args[0])


def test_every_field_of_a_class_is_a_place():
  found = set()

  def scan(path, fields):
    names = (name for name, x in fields.items() if of_classes(annotation_of(x)))
    found.update(f'{path}.{name}' for name in names)

  for name in NAMES:
    config = read(name)
    for path in ('', *config.paths()):
      node = config.at(path)
      if isinstance(node, Node):
        scan(path, node.signature)
    for constructor in config.schema.table('edit').values():
      scan('edit', parameters(constructor))
  assert found == {*PLACES}


@pytest.mark.parametrize('names', [names for names, _ in NAMED.values()], ids=NAMED)
@pytest.mark.parametrize('place', DOORS)
def test_a_word_is_the_same_class_everywhere(place, names):
  for word in WORDS:
    is_number = place == 'a file' and word.isdecimal()
    try:
      expected = number_of(str(int(word)) if is_number else word, 3, names)
    except ValueError:
      with pytest.raises(UserError):
        DOORS[place](names, word)
    else:
      assert DOORS[place](names, word) == expected, word


@pytest.mark.parametrize('names', [names for names, _ in NAMED.values()], ids=NAMED)
def test_the_page_offers_each_class_by_its_word(names):
  (field, *_) = serve.fields(model_of(names))
  _, *words = field['choices']
  assert [by_sampling(names, word) for word in words] == [0, 1, 2]


def test_labels_that_a_file_of_samples_has_are_numbers():
  """Numbers that may be names are refused, so that no label is another class."""
  labels = np.array([0, 1, 2, 1], np.int32)
  for names in ((), ('cat', 'dog', 'owl'), ('0', '1', '2')):
    cond = conditions.given(model_of(names), None, {'label': labels}).cond
    assert cond['label'].tolist() == labels.tolist()
  with pytest.raises(UserError, match='label=0: the names of these classes are numbers'):
    conditions.given(model_of(('1', '2', '3')), None, {'label': labels})


@pytest.mark.parametrize('names', [names for names, _ in NAMED.values()], ids=NAMED)
def test_results_call_a_class_by_its_word(names, tmp_path):
  """The losses of each class, whose names the metric does not know."""
  values = {f'{x}{end}': np.ones(3) for x in ('total', 'count') for end in ('', '_2')}
  arrays = {f'loss {name}': x for name, x in values.items()} | {'label': np.arange(3)}
  _, *of_classes = (x for x in losses.report(arrays, tmp_path)['losses']['loss'] if 't ' not in x)
  words = [x.removeprefix('class ') for x in of_classes]
  assert [number_of(word, 3, names) for word in words] == [0, 1, 2]


@pytest.mark.parametrize('names', [names for names, _ in NAMED.values()], ids=NAMED)
def test_an_evaluation_asks_for_the_classes_that_sampling_draws(names):
  """Where frequencies are not known, and of a number in a config."""
  for model in (model_of(names), *(model_of(names, **{'sampling.labels': x}) for x in names[:1])):
    drawn = conditions.choose(model, 6).cond['label']
    assert scorers.compared(model, None).labels(6).tolist() == drawn.tolist()


def test_the_null_class_has_a_word_of_its_own():
  assert by_convert(('-1', '0', '1'), '-1') == 0
  assert by_convert(('-1', '0', '1'), '#null') == -1
