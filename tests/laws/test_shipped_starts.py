"""Every config and variant starts a training of any length.

Planted faults that it catches: optax's cosine, whose last rates are 0 in
float32, in `learning_rate_schedule` (cifar10_vae at its own length), and a
warm-up that `warmup_within` does not shorten.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import roles, store
from diffusion_jax.app.run import drawing
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import hooks, mode, setup
from diffusion_jax.data.sources import ArraySource, pictures
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.training.optimizer import ENDING
from tests.app.config.test_overrides import ALL
from tests.app.conftest import read

LENGTHS = 1, 2, 99, 101, 30_000, 1_000_000
NAMES = [':'.join(filter(None, name)) for name in ALL]
NUMBERS = ArraySpec((2,), 0, 2 * (0.0,), 2 * (1.0,))
# Of data that the user has. Data to be downloaded state their facts.
UNREAD = {
  'folder': pictures((64, 64, 3)),
  'npz': Facts(NUMBERS, 0, NUMBERS),
  'binarized': Facts(ArraySpec((28, 28, 1), 2), 10),  # of MNIST
}
_source = datasets._source


def faked(config, split):
  """Returns a few examples with the facts of data that may not be here."""
  facts = datasets.stated_facts(config.data) or UNREAD.get(config.data.name)
  if facts is None:
    return _source(config, split)
  rng, count, classes = np.random.default_rng(0), 64, facts.num_classes

  def draw(spec):
    size = count, *spec.shape
    return (
      rng.integers(spec.levels, size=size, dtype=np.uint8) if spec.levels else rng.normal(size=size)
    )

  return ArraySource(
    draw(facts.x),
    np.arange(count, dtype=np.int32) % classes if classes else None,
    classes,
    facts.x.levels,
    facts.context and draw(facts.context),
  )


def write_predecessors(config):
  """Writes the config.json of each run that a training needs, which is read for shapes."""
  for field in roles.PREDECESSORS:
    run = Path(config.at(field) or '')
    if run.name and not run.exists():
      model = make_model(read(run.name.replace('-', ':')), RunFolder.at(run))
      write_predecessors(model.config)
      run.mkdir(parents=True)
      folder.write_config(RunFolder.at(run), model.config, model.facts)
      trust.allow([str(run)])


def start(name, num_steps=None):
  """Prepares a training as --mode=train; returns its parts."""
  flags = [('training.machine.mesh', '1,1')]
  flags += [('training.num_steps', str(num_steps))] if num_steps else []
  config = read(name)
  if 'num_examples' in config.data:  # of a simulator
    flags += [('data.num_examples', '200')]
  config = store.with_flags(config, flags)
  write_predecessors(config)
  parts = setup.prepare(config, RunFolder.at(Path('work', name)))
  mode.announce(parts, 0)
  assert len(parts.rates) == parts.config.training.num_steps
  assert parts.rates.min() >= 0.0
  assert num_steps == 1 or parts.rates[-1] > 0.0  # A warm-up begins at 0.
  return parts


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(datasets, '_source', faked)


def without_shapes(model, mesh):
  """Makes the parts of `setup.state_maker` that depend on the length."""
  del mesh
  c = model.config
  optimizer, _ = c.optimizer.make({'total_steps': c.training.num_steps})
  setup.averages_of(c)
  return model.objective(), optimizer, lambda: None, setup.TrainState(0, {}, {}, (), (), {})


@pytest.fixture
def untraced(monkeypatch):
  """Traces no network."""
  monkeypatch.setattr(setup, 'state_maker', without_shapes)
  monkeypatch.setattr(hooks.Hook, 'rehearse', lambda *_: None)


@pytest.mark.parametrize('name', NAMES)
def test_every_config_starts_at_its_own_length_and_at_another(name, untraced, monkeypatch, capsys):
  """A warm-up of the file that is too long is shortened, and said.

  Variants have the rates of their file: they start at every length below.
  """
  start(name)
  assert 'the warm-up takes' not in capsys.readouterr().out
  if ':' in name:
    return
  monkeypatch.setattr(drawing, 'check_plan', lambda *_: None)  # It depends on no length.
  c = start(name, LENGTHS[NAMES.index(name) % len(LENGTHS)]).config
  too_long = c.optimizer.decay in ENDING and c.optimizer.warmup_steps >= c.training.num_steps
  assert ('the warm-up takes' in capsys.readouterr().out) == too_long


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_every_config_starts_at_every_length(name, untraced):
  for num_steps in LENGTHS:
    start(name, num_steps)


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_the_first_step_of_every_config_traces(name):
  """The step, the held-out loss and the other programs of a training trace for every config."""
  parts = start(name)
  jitted, shapes = setup.abstract_step(parts.config, parts.mesh, parts.workdir)
  state, _ = jax.eval_shape(jitted, *shapes)
  assert jax.tree.structure(state) == jax.tree.structure(parts.shapes)
