"""Law: XLA:CPU's fusions change no number of any kind of model and of any public function.

tests/core/test_products.py compares them with and without these fusions, in programs of
tests/fusions.py at users' sizes (slow). Here: nothing is left out of that table. Planted:
a call less in tests/calls.py, a row less in `fusions.KINDS`.
"""

import inspect
import re
from pathlib import Path

import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from tests import calls, fusions
from tests.app.conftest import trial

# Without numbers of their own: they open runs, or make classes and levels.
NO_NUMBERS = {'open_run', 'training_step', 'pytree_dataclass', 'clean_level'}


def test_every_public_function_is_called_on_many_rows():
  source = ''.join(Path(module.__file__).read_text() for module in (calls, fusions))
  called = {*re.findall(r'\bdj\.(\w+)', source), *calls.SAMPLERS}
  public = {name for name, x in vars(dj).items() if inspect.isfunction(x) and name[0] != '_'}
  schedules = {name for name in vars(dj) if re.search(r'\w(Schedule|Masking)$', name)}
  assert public | schedules <= called | NO_NUMBERS


def test_every_kind_network_and_objective_is_trained_and_sampled():
  rows = set()
  for config, _, changes in fusions.KINDS.values():
    chosen = {name: x for name, x in changes.items() if not isinstance(x, fusions.Run)}
    row = trial(config, **chosen)
    rows |= {row.schema.kind, row.network.name, row.objective.name}
  for kind in store.KINDS:
    missing = {kind.kind, *kind.tables['network'], *kind.tables['objective']} - rows
    assert not missing, kind.kind
