"""What takes noise to be independent of x_0 is refused with a coupling, in one line."""

import pytest

from diffusion_jax.app.kinds import couplings, store
from diffusion_jax.app.kinds.rules import lines
from tests.app.conftest import read

RULES = *couplings.COUPLINGS, couplings.NOISY_STEP
PAIRED = [('objective.coupling', 'exact')]
# Mode, config, flag, and what the line names.
ROWS = """
train digits_flow sampling.sampler=ancestral sampling.sampler=ancestral
sample digits_flow sampling.sampler.eta=0.5 sampling.sampler=ddim
sample digits_flow sampling.corrector=langevin sampling.corrector
sample digits_meanflow sampling.stochastic=True sampling.stochastic
evaluate digits_flow evaluation.metrics=elbo evaluation.metrics=elbo
edit digits_flow edit=sdedit edit=sdedit
train digits_flow conditioning.image=colorize conditioning.image
""".strip().splitlines()


@pytest.mark.parametrize('row', ROWS)
def test_what_needs_independent_noise_is_refused_with_a_coupling(row):
  mode, name, flag, what = row.split()
  flags = [tuple(flag.split('='))]
  every = lambda flags: [*lines(RULES, store.with_flags(read(name), flags), mode, None)]
  assert not every(flags)
  (line,) = every(flags + PAIRED)
  assert line.startswith(f'config.{what}') and 'objective.coupling=exact' in line


@pytest.mark.parametrize('mode', ['train', 'sample'])
@pytest.mark.parametrize('name', ['digits_flow', 'digits_meanflow'])
def test_steps_of_the_ode_take_any_coupling(name, mode):
  config = store.with_flags(read(name), PAIRED)
  assert not [*lines(RULES, config, mode, None)]
