"""Pictures of a page, step by step."""

from typing import Any

import pytest

from diffusion_jax.app.drawing import emerging
from diffusion_jax.app.modes import serve
from diffusion_jax.app.run.weights import Run
from tests.app.conftest import SMALL, smoke, trial, untrained
from tests.app.small_network import SmallAutoencoder

VAE = f'{SmallAutoencoder.__module__}:SmallAutoencoder'


TINY = {'network.channels': 8, 'network.num_heads': 1, 'network.num_blocks': 1}
SIZE = {'serve.num_images': 4, 'sampling.num_steps': 3}


@pytest.mark.parametrize(
  'name, changes, names',
  [
    ('digits_vae', {'network': VAE, 'sampling.checkpoint': 'latest'}, 'seed'),
    ('digits_meanflow', {'network': SMALL}, 'labels num_steps seed'),
    (
      'digits_masked',
      {'conditioning.labels': True, 'conditioning.dropout': 0.1} | TINY,
      'labels sampler num_steps guidance.scale seed',
    ),
  ],
)
def test_other_kinds_of_models_are_drawn(name, changes, names, tmp_path):
  config = trial(name, **{'serve.num_images': 2}, **changes)
  run = untrained(config, tmp_path / 'run')
  opened = Run.open(config, run)
  emerge = emerging.emerging(opened)
  assert [field['name'] for field in serve.fields(opened.model)] == names.split()
  flags = [('sampling.guidance.scale', '2')] if 'guidance' in names else []
  *_, last = emerge([('sampling.seed', '1'), *flags])
  assert last.step == last.total and last.sheet.shape == (60, 114, 1)


def test_a_sampler_that_compiles_says_so_and_ends_with_its_user(tmp_path):
  """Each step is an event; a drawing that is closed makes no more steps."""
  run = untrained(smoke(**SIZE), tmp_path / 'run', deviation=0.5)
  emerge = emerging.emerging(Run.open(smoke(**SIZE), run))
  flags = [('sampling.sampler', 'lms'), ('sampling.num_steps', '15')]
  first = [frame.compiles for frame in emerge(flags)]
  assert first == [True, True, *[False] * 15]
  again: Any = emerge(flags)
  assert not any(next(again).compiles for _ in range(5))
  again.close()
  shown = [frame.sheet is not None for frame in emerge(flags)]
  assert sum(shown) == emerging.NUM_FRAMES and shown[-1]
