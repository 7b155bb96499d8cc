"""The card of shared weights names sets of the Hub, and its tables survive any value."""

import pytest

from diffusion_jax.data.sources import pictures
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.report import card
from diffusion_jax.runtime.files import make_folder, write_summed

UNSAID = {'sampling': {'num_samples', 'checkpoint', 'seed'}}


def test_a_card_names_only_sets_of_the_hub():
  for name, expected in ('mnist', ['ylecun/mnist']), ('folder', None), ('csv', None):
    config = {'objective': {'name': 'x'}, 'data': {'name': name}}
    about = card.About(
      'a',
      'b',
      pictures((8, 8, 1)),
      draws=True,
      reads_text=False,
      config=config,
      parameters=1,
      step=4,
      caption='',
      scores=[],
    )
    assert card.metadata(about).get('datasets') == expected


def test_a_bar_in_a_value_ends_no_cell():
  config = {'training': {'batch_size': 4}, 'objective': {'name': 'x'}, 'network': {'name': 'a|b'}}
  facts = pictures((8, 8, 1), 10)
  about = card.About(
    'digits',
    'a model',
    facts,
    draws=True,
    reads_text=False,
    config=config,
    parameters=1234,
    step=4,
    caption='',
    scores=[],
  )
  text = card.card(about)
  assert 'a\\|b' in text and '| images | 8x8x1, 10 classes |' in text and '1,234' in text


@pytest.mark.parametrize(
  'x, noun, task',
  [
    (ArraySpec((8, 8, 1), 256), 'images', 'unconditional-image-generation'),
    (ArraySpec((64,), 256), 'texts', 'text-generation'),
    (ArraySpec((2,)), 'examples', None),
  ],
)
def test_a_card_calls_its_data_what_they_are(x, noun, task, tmp_path):
  metrics = {'elbo': {'value': 2.0, 'error': 0.1, 'note': 'bits/dim'}}
  content = {'metrics': metrics, 'split': 'test', 'examples': 16, 'settings': {'weights': 1}}
  path = tmp_path / 'evaluation' / 'elbo-test' / 'result.json'
  path.parent.mkdir(parents=True)
  write_summed(path, content)
  [score] = card.scores_of(tmp_path, 1, x.noun, UNSAID)
  assert score.about == f'elbo-test: 16 test {noun}; bits/dim'
  config = {'training': {'batch_size': 4}, 'objective': {'name': 'x'}, 'data': {'name': 'a'}}
  about = card.About(
    'a',
    'b',
    Facts(x),
    draws=True,
    reads_text=False,
    config=config,
    parameters=1,
    step=4,
    caption='',
    scores=[score],
  )
  assert f'| 4 steps, 4 {noun} each |' in card.card(about)
  assert card.metadata(about).get('pipeline_tag') == task


STRANGE = (
  {'protocol': [], 'metrics': [1], 'settings': 5},
  {'metrics': {'elbo': {'value': 2.0}}, 'protocol': [], 'settings': {'weights': 1}},
  {'metrics': {'elbo': {'value': 2.0}}, 'protocol': {'samples': [1]}},
  {'metrics': {'a': 5}, 'settings': {'weights': 1}},
  {'metrics': {'a': {'value': 'x', 'error': {}}}, 'settings': {'sampling': []}},
  {'metrics': {'a': {'value': 1.0, 'note': [2]}}, 'settings': {'weights': 1}},
)


@pytest.mark.parametrize('content', STRANGE)
def test_the_result_of_a_stranger_is_left_out(content, tmp_path, capsys):
  """The good one is on the card."""
  good = {
    'metric': 'elbo',
    'metrics': {'elbo': {'value': 2.5}},
    'split': 'test',
    'examples': 16,
    'settings': {'weights': 1},
  }
  for name, one in ('good', good), ('x', content):
    write_summed(make_folder(tmp_path, f'evaluation/{name}') / 'result.json', one)
  assert [score.value for score in card.scores_of(tmp_path, 1, 'images', UNSAID)] == [2.5]
  assert 'left out: evaluation x' in capsys.readouterr().err
