"""The card of a shared folder."""

import yaml
from PIL import Image

from diffusion_jax.app import models
from diffusion_jax.app.run import model_card, sharing
from tests.app.conftest import of_run


def test_the_card_is_what_the_hub_reads(shared):
  _, head, text = (shared / 'README.md').read_text().split('---\n', 2)
  head = yaml.safe_load(head)
  assert head['license'] == 'unknown' and head['datasets'] == ['digits']
  assert head['library_name'] == 'diffusion_jax'
  assert head['pipeline_tag'] == 'unconditional-image-generation'
  [index] = head['model-index']
  assert index['name'] == 'digits-small'
  [result] = index['results']
  assert result['dataset'] == {'type': 'digits', 'name': 'digits'}
  found = {x['type']: x['value'] for x in result['metrics']}
  assert found == {'bits_per_dim': 3.14159, 'fid': 12.5}
  assert '| bits per dim | 3.142\xa0±\xa00.020 | elbo-test: 1,000 test' in text
  assert '| FID | 12.5 | samples: 50 of checkpoint None, seed 0; of 50 |' in text
  assert '![samples](samples.png)' in text and '## Licence' in text
  with Image.open(shared / 'samples.png') as image:
    assert image.size[0] > 8 * 10


def test_scores_of_other_weights_are_left_out(evaluated, capsys):
  assert not [*model_card.scores(evaluated, 1)]
  said = capsys.readouterr().out.splitlines()
  assert len(said) == 2 and 'elbo-test is of other weights' in said[0]


def test_a_bar_in_a_value_ends_no_cell(evaluated):
  model = models.make(of_run(evaluated), evaluated)
  stored = sharing.config_of(model) | {'network': {'name': 'a|b'}}
  about = model_card.About('digits', model, stored, 1, 4, '', [])
  assert 'a\\|b' in model_card.text(about)
