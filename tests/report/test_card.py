"""The card of shared weights names sets of the Hub, and its tables survive any value."""

from diffusion_jax.data.sources import pictures
from diffusion_jax.report import card


def test_a_card_names_only_sets_of_the_hub():
  for name, expected in ('mnist', ['ylecun/mnist']), ('folder', None), ('csv', None):
    config = {'objective': {'name': 'x'}, 'data': {'name': name}}
    about = card.About('a', 'b', pictures((8, 8, 1)), True, False, config, 1, 4, '', [])
    assert card.metadata(about).get('datasets') == expected


def test_a_bar_in_a_value_ends_no_cell():
  config = {'training': {'batch_size': 4}, 'objective': {'name': 'x'}, 'network': {'name': 'a|b'}}
  facts = pictures((8, 8, 1), 10)
  about = card.About('digits', 'a model', facts, True, False, config, 1234, 4, '', [])
  text = card.card(about)
  assert 'a\\|b' in text and '| images | 8x8x1, 10 classes |' in text and '1,234' in text
