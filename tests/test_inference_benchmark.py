"""configs/inference.py and benchmarks.inference as typed: tasks, rows, C2ST."""

import functools
import json
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from benchmarks import inference as benchmark
from configs import inference
from diffusion_jax.app.modes import MODES
from diffusion_jax.demos import simulators
from tests.app.conftest import arrays_of, trial

pytestmark = pytest.mark.benchmarks

DIMS = {  # of theta; Lueckmann et al. 2021, appendix T
  'two_moons': 2,
  'gaussian_mixture': 2,
  'gaussian_linear': 10,
  'gaussian_linear_uniform': 10,
  'bernoulli_glm': 10,
  'slcp': 5,
  'sir': 2,
  'lotka_volterra': 4,
}


SLOW = {*inference.VARIANTS} - {'two_moons'}  # Others train and draw in the same way.


@pytest.mark.parametrize(
  'task',
  [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in inference.VARIANTS],
)
def test_every_task_trains_and_draws(task, tmp_path):
  few = {'data.num_examples': 100, 'data.num_test': 100}
  few |= {'training.held_out.every': 4, 'sampling.num_samples': 3}
  config = trial('inference', task, **few)
  MODES['train'](config, tmp_path)
  MODES['sample'](config, tmp_path)
  x = arrays_of(tmp_path)['arr_0']
  assert x.shape == (3, DIMS[task]) and np.isfinite(x).all()


def test_the_budget_contains_the_held_out_simulations():
  for n in (1000, 10_000, 100_000):
    fields = inference.budget(n)
    assert fields['data.num_examples'] + fields['data.num_test'] == n
    steps, every = fields['training.num_steps'], 'training.held_out.every'
    assert steps % fields[every] == 0
    assert fields['training.held_out.patience'] % fields[every] == 0


@pytest.fixture
def fits(monkeypatch):
  """Returns fits(costs) -> configs of trainings, which have the costs in turn."""

  def fits(costs):
    costs, configs = iter(costs), []
    monkeypatch.setattr(benchmark, 'fit', lambda config, _: configs.append(config) or next(costs))
    return configs

  return fits


@pytest.mark.parametrize(
  ('losses', 'best_steps', 'chosen'),
  [
    ([0.5], [2000], 0),  # not over-fitted
    ([0.5, 0.4], [300, 1900], 1),
    ([0.5, 0.6], [300, 2000], 0),  # worse with more decay
    ([0.5, 0.4, 0.3], [300, 600, 900], 2),
  ],
)
def test_an_over_fitted_training_is_repeated_with_more_weight_decay(
  losses, best_steps, chosen, fits, tmp_path
):
  configs = fits(
    {'loss': loss, 'best_step': step, 'train_seconds': 2.0}
    for loss, step in zip(losses, best_steps, strict=True)
  )
  run, row = benchmark.fit_again('sir', 1000, 0, 'data.num_test=50', tmp_path)
  decays = [config.optimizer.weight_decay for config in configs]
  assert decays == [0.2, 1.0, 5.0][: len(losses)]
  assert row['loss'] == losses[chosen]
  assert row['weight_decay'] == decays[chosen]
  assert row['train_seconds'] == 2.0 * len(losses)
  field = f'optimizer.weight_decay={decays[chosen]}'
  assert run.name == f'sir-1000-0-data.num_test=50-{field}'
  fits([{'loss': 1.0, 'best_step': 1, 'train_seconds': 2.0}])
  _, again = benchmark.fit_again('sir', 1000, 0, 'optimizer.weight_decay=0.5', tmp_path)
  assert again['weight_decay'] == 0.5  # as it is given


@pytest.mark.parametrize(
  ('losses', 'last', 'chosen'),
  [
    ([0.4], (1, 1), 2),  # the doubled one ended by patience, or over-fitted
    ([0.4, 0.3], (0, 0), 4),  # at most four times as many
    ([0.6], (0,), 1),  # not lower
    ([], (1,), 1),  # the least loss is before the last step
  ],
)
def test_a_training_with_its_least_loss_at_the_end_is_repeated_for_longer(
  losses, last, chosen, fits, tmp_path
):
  configs = fits(
    {'loss': loss, 'best_step': 2000 * i - 100 * i * n, 'steps': 2000 * i, 'train_seconds': 3.0}
    for i, loss, n in zip((2, 4), losses, last, strict=False)
  )
  best = {'loss': 0.5, 'steps': 2000, 'best_step': 2000 if losses else 1900}
  best |= {'train_seconds': 2.0, 'weight_decay': 1.0}
  run, row = benchmark.fit_longer('sir', 1000, 0, '', tmp_path / 'run', best)
  assert [config.training.num_steps for config in configs] == [4000, 8000][: len(losses)]
  assert run.name == {1: 'run'}.get(chosen, f'run-{chosen}-times')
  assert row['steps'] == 2000 * chosen and row['train_seconds'] == 2.0 + 3.0 * len(losses)


@pytest.fixture
def few_folds(monkeypatch):
  """Trains two classifiers for a score, not five."""
  few = functools.partial(benchmark.classifier_accuracy, num_folds=2)
  monkeypatch.setattr(benchmark, 'classifier_accuracy', few)


def references(folder):
  """Writes observations and draws of the posteriors in closed form."""
  rng, arrays = np.random.default_rng(0), {}
  for i in (1, 2):
    y = rng.normal(0.0, 0.2**0.5, 10)
    draws = y / 2 + 0.05**0.5 * rng.normal(size=(100, 10))
    arrays |= {f'gaussian_linear/{i}/observation': y}
    arrays |= {f'gaussian_linear/{i}/reference': draws}
    arrays |= {f'two_moons/{i}/observation': y[:2]}
    arrays |= {f'two_moons/{i}/reference': draws[:, :2]}
  np.savez(folder / 'observations_1_to_2.npz', **arrays)
  (folder / 'published_c2st.csv').write_text(
    'task,num_simulations,algorithm,mean_of_observations_1_to_5\ngaussian_linear,100,NPE,0.8125\n'
  )


@pytest.mark.usefixtures('few_folds')
def test_rows_as_typed_are_kept(tmp_path, capsys, monkeypatch):
  """A second command trains nothing; an unknown task or number is refused."""
  references(tmp_path)
  small = 'network.channels=8 network.num_blocks=1 training.num_steps=50 '
  small += 'training.batch_size=32 optimizer.warmup_steps=0 sampling.num_samples=100 '
  small += 'sampling.batch_size=100 sampling.num_steps=4 training.machine.mesh=1,1'

  def typed(**others):
    flags = {'references': tmp_path, 'out': tmp_path / 'out', 'flags': small}
    flags |= {'tasks': 'gaussian_linear', 'simulations': 100}
    flags |= {'observations': '1,2', **others}
    args = [f'--{name}={value}' for name, value in flags.items() if value]
    args += ['--joint'] if flags['tasks'] == 'two_moons' else []
    monkeypatch.setattr(sys, 'argv', ['inference', *args])
    benchmark.main()
    return capsys.readouterr().out

  out = typed()
  row = json.loads((tmp_path / 'out' / 'rows.jsonl').read_text())
  assert len(row['c2st']) == 2 and 0.5 < min(row['c2st']) <= 1.0
  assert row['steps'] == 50 and row['train_seconds'] > 0.0
  mean = np.mean(row['c2st'])
  line = f'| gaussian_linear | 100 | {mean:.3f} | {min(row["c2st"]):.3f}, '
  assert line in out and '| 0.812 | — | — | — | 0.2 | 0.0 % |' in out
  assert '| two_moons, joint | 100 | ' in typed(tasks='two_moons')
  monkeypatch.setattr(benchmark, 'measure', None)
  assert line in typed()
  with pytest.raises(SystemExit, match='no observation 3 of gaussian_linear'):
    typed(observations=3)
  with pytest.raises(SystemExit, match='slpc is not one of two_moons, gauss'):
    typed(tasks='slpc')


PEER = """#!{python}
import sys
import numpy as np
_, script, given, method, seed, out = sys.argv
assert (script[-17:], method, seed) == ('inference_peer.py', 'NPE', '0')
with np.load(given) as file:
  assert file['theta'].shape == file['x'].shape == (100, 10)
  assert file['low'].shape == file['high'].shape == (0,)
  y = file['contexts'][:, None]
draws = y / 2 + 0.05**0.5 * np.random.default_rng(1).normal(size=(2, 100, 10))
np.savez(out, draws=draws, train_seconds=3.0, draw_seconds=1.25, epochs=7)
"""


@pytest.mark.usefixtures('few_folds')
def test_a_peer_is_another_process_with_the_same_simulations(tmp_path, capsys, monkeypatch):
  references(tmp_path)
  python = tmp_path / 'python'
  python.write_text(PEER.format(python=sys.executable))
  python.chmod(0o755)
  monkeypatch.setattr(benchmark, 'measure', lambda *args, **options: OURS)
  args = f'--references={tmp_path} --out={tmp_path} --tasks=gaussian_linear'
  args += f' --simulations=100 --observations=1,2 --peers=NPE --sbi={python}'
  monkeypatch.setattr(sys, 'argv', ['inference', *args.split()])
  benchmark.main()
  line = capsys.readouterr().out.splitlines()[-1].split(' | ')
  # Draws of the posterior in closed form: 4 standard errors of 2 x 200.
  assert abs(float(line[2]) - 0.5) < 4 * 0.5 / 400**0.5
  assert line[0] == '| gaussian_linear, sbi NPE'
  assert line[-2:] == ['3', '1.2 |']
  for given, message in {
    args.replace('NPE', 'NPA'): '--peers: NPA is not one of NPE, NPSE, FMPE',
    args.replace('NPE', 'NPSE'): 'an environment with the package sbi',
  }.items():
    monkeypatch.setattr(sys, 'argv', ['inference', *given.split()])
    with pytest.raises(SystemExit, match=message):
      benchmark.main()


OURS = {'c2st': [0.5], 'train_seconds': 1.0, 'draw_seconds': 1.0, 'steps': 1}
OURS |= {'weight_decay': 0.2, 'outside': 0.0, 'best_step': 1}


def test_units_of_the_benchmark_are_those_of_its_tables():
  """Rates by exp; populations and the last nine counts by logarithms."""
  y = np.arange(1.0, 11.0)
  assert_array_equal(benchmark.context_of('slcp', y), y)
  assert_allclose(np.expm1(benchmark.context_of('sir', y - 1)), y[1:] - 1)
  assert_allclose(np.exp(benchmark.context_of('lotka_volterra', y)), y)
  for task in ('sir', 'lotka_volterra'):
    x = simulators.BENCHMARK[task](np.random.default_rng(0), 4000)['x']
    median = np.median(benchmark.parameters_of(task, x), axis=0)
    known = {'sir': [0.4, 0.125], 'lotka_volterra': np.exp([-0.125, -3] * 2)}
    assert_allclose(median, known[task], rtol=0.06)
