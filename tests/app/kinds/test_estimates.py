"""Edits and parts of the sampling that compute with estimates of x_0 are refused without them."""

import pytest

from diffusion_jax.app.kinds import diffusion, store
from diffusion_jax.app.kinds.estimates import ESTIMATES
from diffusion_jax.app.kinds.rules import lines
from tests.app.conftest import smoke
from tests.app.fields import within

GENERATOR = {'objective': 'tests.app.toy_parts:generator', 'conditioning.dropout': 0}
# What an evaluation, an edit or a sampling cannot do with a network that estimates no x_0.
WORDS = 'needs a denoiser, and the network of objective=tests.app.toy_parts:generator'


@pytest.mark.parametrize('name', diffusion.SCHEMA.tables['edit'])
def test_edits_that_compute_with_estimates_are_refused(name):
  """The sampler does the work of the others: it takes what the network makes."""
  config = store.with_flags(smoke(**GENERATOR), [('edit', name)])
  found = [*lines(ESTIMATES, config, 'edit', None)]
  assert bool(found) == (name not in ('inpaint', 'sdedit'))
  assert all(f'edit={name} {WORDS}' in line for line in found)
  by_estimates = store.with_flags(config, [('edit', 'inpaint'), ('edit.method', 'reconstruction')])
  assert [*lines(ESTIMATES, by_estimates, 'edit', None)]
  assert not [*lines(ESTIMATES, store.with_flags(smoke(), [('edit', name)]), 'edit', None)]


@pytest.mark.parametrize('part', ['classifier', 'corrector'])
@pytest.mark.parametrize('mode', ['train', 'sample', 'evaluate', 'edit', 'serve'])
def test_parts_of_the_sampling_that_take_a_score_are_refused(part, mode):
  choice = {'classifier': 'run', 'corrector': 'langevin'}[part]
  with_part = within('sampling', **{part: choice})
  (line,) = [*lines(ESTIMATES[:1], smoke(**GENERATOR, **with_part), mode, None)]
  assert line == f'config.sampling.{part} {WORDS} estimates no x_0: set it to None'
  assert not [*lines(ESTIMATES[:1], smoke(**with_part), mode, None)]
