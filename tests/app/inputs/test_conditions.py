"""What samples and edits are conditioned on: texts, labels, images."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from diffusion_jax.app.edit import mode as edit
from diffusion_jax.app.inputs import conditions, datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.data.text import decode
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, as_flags, read, refused, trial, untrained
from tests.app.fields import within


def text_config(**changes):
  fewer = within('network', multipliers=(1,), attention_resolutions=())
  fewer |= within('conditioning.text', layers=1)
  return trial('shapes_text', **fewer | changes)


def text_model(**changes) -> Any:
  return make_model(text_config(**changes), RunFolder.at('nowhere'))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """Makes a run with normal parameters, without a training."""
  return untrained(text_config(), tmp_path_factory.mktemp('runs') / 'shapes')


def samples(run, name, **changes):
  fields = within('sampling', num_samples=4, batch_size=4, name=name)
  MODES['sample'](text_config(**fields | changes), run)
  arrays = arrays_of(run, name)
  lines = (run / 'samples' / f'{name}.txt').read_text().splitlines()
  assert lines == arrays['texts'].tolist()
  return arrays['arr_0'], lines


OF_RUN = within('sampling.guidance', 'autoguidance', run='a')


@pytest.mark.parametrize(
  'guided, flags',
  [
    (False, {}),
    (False, OF_RUN | {'sampling.guidance.scale': 1.0}),
    (True, OF_RUN | {'sampling.guidance.scale': 2.0}),
    (True, {'sampling.classifier.run': 'a', 'sampling.classifier.scale': 2.0}),
  ],
)
def test_networks_of_other_runs_get_the_context_itself(guided, flags):
  """Networks of guides have encoders of their own; at a scale of 1 no guide is needed."""
  config = store.with_flags(read('digits'), [*as_flags(flags)])
  values = ArraySpec((2,), 0, (0.0, 0.0), (1.0, 2.0))
  code = lambda params, cond: {'context_code': 10.0 * cond['context']}
  model: Any = SimpleNamespace(
    noisy=SimpleNamespace(context_code=code),
    facts=SimpleNamespace(context=values),
    config=config,
    given='',
  )
  context, rows = np.array([[1.0, 4.0], [3.0, 8.0]]), np.array([0, 1, 1])
  given = {'context': values.encode(context)[rows]}
  inputs = conditions.Conditions(given, {'context': context}, rows, rows)
  cond = conditions.encoded(model, {}, inputs).cond
  assert [*cond] == ['context' if guided else 'context_code']
  found = cond['context'] if guided else cond['context_code'] / 10.0
  assert_array_equal(found, [[1.0, 2.0], [3.0, 4.0], [3.0, 4.0]])


def test_prompts_are_taken_in_turn_and_each_makes_its_picture(run):
  prompts = ['a red circle above a blue square', 'a white cross']
  two, lines = samples(run, 'two', **{'sampling.prompt': ' | '.join(prompts)})
  assert lines == prompts * 2
  one, lines = samples(run, 'one', **{'sampling.prompt': prompts[0]})
  assert lines == prompts[:1] * 4
  assert_array_equal(one[::2], two[::2])  # image i: seed, i, prompt
  assert (one[1::2] != two[1::2]).any()


def test_without_a_prompt_the_texts_of_the_test_split_are_shown():
  model = text_model(**{'data.num_pictures': 200})
  test: Any = datasets.source_of(model.config, 'test')
  texts = conditions.Texts(model).choose(4)[1]['texts'].tolist()
  assert texts == test.read(np.arange(4))['text'].tolist()
  again = conditions.Texts(model).choose(len(test) + 2)[1]['texts'].tolist()
  assert again[-2:] == texts[:2]


def test_an_edit_is_conditioned_on_the_prompt():
  prompt = {'edit.num_samples': 3, 'sampling.prompt': 'a|b'}
  for fields, texts in ((prompt, ['a', 'b', 'a']), ({}, None)):  # the null text
    model = text_model(**fields)
    section = model.config.edit.make()
    cond = edit.choose_cond(model, section, section.count())
    assert decode(cond['text']) == texts if fields else cond == {}


def test_a_broken_test_split_is_not_replaced_by_the_training_split(tmp_path):
  for split in ('train', 'test'):
    (tmp_path / split).mkdir()
    Image.new('RGB', (16, 16)).save(tmp_path / split / '0.png')
  line = json.dumps({'file_name': '0.png', 'text': 'black'})
  (tmp_path / 'train' / 'metadata.jsonl').write_text(line)
  fields = within('data', 'folder', path=str(tmp_path), image_shape=(16, 16, 3))
  model = text_model(**fields, **{'training.batch_size': 4})
  refused('test', conditions.Texts(model).choose, 1)


def test_examples_at_which_samples_start_have_their_classes():
  """They are training examples, each class in a random order of its own, as models see them."""
  model: Any = make_model(trial('digits'), RunFolder.at('nowhere'))
  source = datasets.source_of(model.config)
  every = source.read(np.arange(len(source)))
  rows = {x.tobytes(): i for i, x in enumerate(model.facts.x.encode(every['x']))}
  wanted = np.array([3, 3, 9, 0] * 150)
  found = [rows[x.tobytes()] for x in conditions.some_examples(model, 600, wanted)]
  assert_array_equal(every['label'][found], wanted)
  count = np.count_nonzero(every['label'] == 3)
  of_three = np.array(found)[wanted == 3]
  assert len({*of_three[:count]}) == count and count < 300  # all of them, before they repeat
  free = [rows[x.tobytes()] for x in conditions.some_examples(model, 600, None)]
  assert len({*free}) == 600 and free != sorted(free)
  assert len({*every['label'][free]}) == 10
  refused(
    'no training example has the class 11', conditions.some_examples, model, 1, np.array([11])
  )


def test_a_number_beyond_those_of_the_training_is_said(capsys):
  """A table's numbers go by their quantiles, so the network sees the nearest that was seen."""
  model: Any = make_model(trial('table'), RunFolder.at('nowhere'))
  x = model.facts.x
  rows = np.full((2, len(x.names)), np.nan)
  age, _ = x.names.index('age'), capsys.readouterr()
  low, high = x.knots[age][0], x.knots[age][-1]
  for number in low, high, low - 9, high + 9:
    said = '' if low <= number <= high else f"'age' of row 1 of the context is {number:g}"
    rows[1, age] = number
    conditions.warn_if_far(model, conditions.Conditions({}, {'context': rows}, rows[:, 0], rows))
    printed = capsys.readouterr().out
    assert said in printed and bool(said) == bool(printed)
  assert f'in the training it is {low:g} to {high:g}' in printed
