"""Two large programs are compiled before the first step: the first state, and the step.

Held-out losses, previews and losses of exact denoisers wait until it has been taken. Planted
faults in `Loop.advance`, before the step is compiled: the programs of the hooks are compiled there,
and 40 sines of other shapes are computed one by one.
"""

import jax
import pytest

from diffusion_jax.app.modes import MODES
from diffusion_jax.app.train import mode
from tests.app.conftest import SEEN, smoke

LARGE = 'make_arrays', 'train_step'
LATER = 'eval_step', 'images', 'compute'  # held-out losses, previews, exact denoisers
SMALL = 20  # of some operations each: keys, facts, options that XLA has


class Taken(Exception):
  """The first step has been taken."""


@pytest.fixture
def compiled():
  """Yields the names of the programs that are compiled, or read from the cache."""
  names = []

  def listen(event, duration, fun_name='', **_):
    if event == '/jax/core/compile/backend_compile_duration':
      names.append(fun_name.removeprefix('jit(').removesuffix(')'))

  jax.clear_caches()  # of a test before
  jax.monitoring.register_event_duration_secs_listener(listen)
  yield names
  jax.monitoring.unregister_event_duration_listener(listen)


def test_two_large_programs_come_before_the_first_step(compiled, tmp_path, monkeypatch):
  def advance(self, *args, advance=mode.Loop.advance):
    advance(self, *args)
    raise Taken

  monkeypatch.setattr(mode.Loop, 'advance', advance)
  fields = SEEN | {'training.machine.compile_ahead': False}
  with pytest.raises(Taken):
    MODES['train'](smoke(**fields), tmp_path)
  assert sorted(x for x in compiled if x in LARGE) == [*LARGE]
  assert not {*compiled} & {*LATER}
  assert len(compiled) <= len(LARGE) + SMALL, compiled
