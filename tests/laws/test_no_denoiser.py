"""Law: what takes a network's output for an estimate of x_0 asks whether it is one.

An objective of a user's says `declares(estimates=False)`: a one-step generator was printed at
442,602 bits/dim by an evaluation that nobody had asked for the bound. Metrics are found in their
table, so that a new one asks too; tests/app/kinds/test_estimates.py has edits and parts of the
sampling. Planted faults: `ode` without `needs_denoiser`; `ESTIMATES` without its row of metrics;
`_is_of` without `needs_denoiser`; `clips` without `estimates`; `check_needs` with log_q for every
context.
"""

import json

import jax
import numpy as np
import pytest

from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.evaluate.metrics_of_data import OF_SETS
from diffusion_jax.app.kinds import diffusion, latent, store
from diffusion_jax.app.kinds.estimates import ESTIMATES
from diffusion_jax.app.kinds.network import ConfiguredNetwork
from diffusion_jax.app.kinds.other_runs import guides_of
from diffusion_jax.app.kinds.rules import lines
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.keys import fold_each
from diffusion_jax.declared import declared_by
from diffusion_jax.metrics import table
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import (
  normal_params,
  of_run,
  printed_by,
  refused,
  smoke,
  trial,
  untrained,
  without_config,
)
from tests.app.fields import within
from tests.app.kinds.test_estimates import GENERATOR, WORDS


def model_of(workdir='/none', **fields):
  return make_model(smoke(**GENERATOR | fields), RunFolder.at(workdir))


def test_flow_maps_and_what_makes_no_images_estimate_nothing():
  """Every objective of the tables of denoisers estimates x_0, and no other of vectors does."""
  of_denoisers = diffusion.SCHEMA, latent.SCHEMA
  for kind in store.KINDS:
    estimates = {declared_by(x).estimates for x in kind.tables['objective'].values()}
    of_states = 'a diffusion model of states', 'a diffusion model of labelled examples'
    is_denoiser = kind in of_denoisers or kind.kind in of_states
    assert estimates == {is_denoiser}, kind.kind


def calls_the_denoiser(name, metric, monkeypatch):
  """Returns whether a metric of a model on real examples calls its denoiser."""
  asked = []
  made = ConfiguredNetwork.denoiser
  monkeypatch.setattr(ConfiguredNetwork, 'denoiser', lambda *args: asked.append(1) or made(*args))
  config = trial('rollout') if name == 'order_gap' else smoke()  # of levels of elements
  model = make_model(config, RunFolder.at('nowhere'))
  function = metric.measure(model.measured)
  keys = fold_each(jax.random.key(0), np.arange(2))
  params = model.shapes() | {'log_prob': jax.ShapeDtypeStruct((8, 8, 1, 17), np.float32)}
  x = jax.ShapeDtypeStruct((2, *model.state_shape), np.float32)
  label = jax.ShapeDtypeStruct((2,), np.int32)
  jax.eval_shape(function, params, keys, x, {'label': label})
  return bool(asked)


@pytest.mark.parametrize('name', table.OF_DIFFUSION)
def test_a_metric_that_calls_the_denoiser_needs_one(name, monkeypatch):
  metric = table.OF_DIFFUSION[name]
  needs = declared_by(metric).needs_denoiser
  assert calls_the_denoiser(name, metric(), monkeypatch) == needs
  found = [*lines(ESTIMATES, smoke(**GENERATOR, **{'evaluation.metrics': name}), 'evaluate', None)]
  assert found == [f'config.evaluation.metrics={name} {WORDS} estimates no x_0: take metrics of '
                   'samples, such as fd'] * needs  # fmt: skip


def test_latents_of_no_estimates_have_no_likelihood():
  assert declared_by(table.OF_LATENTS['ode']).needs_denoiser


def test_auto_compares_samples(tmp_path):
  """In the program: what a run prints without a word of the user's, and what it refuses."""
  run = untrained(smoke(**GENERATOR), tmp_path / 'run')
  few = within('evaluation', num_generated=16, num_images=4)
  out = printed_by(MODES['evaluate'], of_run(run, **few), run)
  assert f'evaluation.metrics={",".join(OF_SETS)}' in out and 'bits' not in out
  files = [json.loads(path.read_text()) for path in run.glob('evaluation/*/result.json')]
  assert {x['metric'] for x in files} == {*OF_SETS}
  refused(f'elbo {WORDS}', MODES['evaluate'], of_run(run, **{'evaluation.metrics': 'elbo'}), run)
  refused('is your own', MODES['evaluate'], of_run(run, **{'evaluation.metrics': 'loss'}), run)


@pytest.mark.parametrize('bound', ['auto', 'clip', 'None'])
def test_auto_does_not_clip_what_is_no_estimate(bound):
  """A chosen bound is the user's word."""
  largest = {}
  for name, fields in {'denoiser': {}, 'generator': GENERATOR}.items():
    model = make_model(smoke(**fields, **{'sampling.bound': bound}), RunFolder.at('nowhere'))
    params = normal_params(model, deviation=2.0)
    x, label = 9.0 * np.ones((2, 8, 8, 1), np.float32), np.zeros(2, np.int32)

    @jax.jit
    def x0(params, x, model=model, label=label):
      plan = model.plan(params)
      return plan.step_function({'label': label})(x, plan.levels.take(1)).x0

    largest[name] = np.abs(x0(params, x)).max()
  assert (largest['denoiser'] <= 1.0) == (bound != 'None')
  assert (largest['generator'] <= 1.0) == (bound == 'clip')


def of_moons(objective, noise_input, **fields):
  """Returns a config of pairs of two moons, of a kind that its objective decides."""
  network = within('network', 'mlp', channels=8, num_blocks=1)
  given = within('conditioning', context='vector', labels=False)
  data = within('data', 'two_moons', num_examples=100, num_test=16)
  return without_config(
    **network, **given, **data, objective=objective, noise_input=noise_input, **fields
  )


@pytest.mark.parametrize(
  'objective, noise_input, has',
  [
    ('denoising', 'edm', True),
    (GENERATOR['objective'], 'edm', False),
    ('consistency_training', 'edm', False),
    ('mean_flow', 'time', False),
  ],
)
def test_the_density_of_a_model_is_of_a_denoiser(objective, noise_input, has, tmp_path):
  """density_coverage reads log q: the ODE of a flow map printed one, or was a traceback."""
  scored = within('evaluation', metrics='density_coverage')
  config = of_moons(objective, noise_input, schedule='karras', **scored)
  model = make_model(config, RunFolder.at(tmp_path))
  scored = scorers.of_samples(model)
  if has:
    scorers.check_needs(model, scored)
  else:
    refused("needs the model's log density", scorers.check_needs, model, scored)


def test_a_teacher_is_a_denoiser(tmp_path):
  run = str(untrained(smoke(**GENERATOR), tmp_path / 'run'))
  student = within('objective', 'progressive_distillation', num_steps=4)
  config = smoke(**student, **{'training.teacher': run, 'conditioning.dropout': 0})
  message = f'a teacher is a denoiser, and the network of the run in {run} estimates no x_0'
  refused(message, make_model(config, RunFolder.at(tmp_path / 'new')).objective)


def test_a_guide_is_what_it_guides(tmp_path):
  """Predictions of two kinds have no difference that guides."""
  run = str(untrained(smoke(**GENERATOR), tmp_path / 'run'))
  guided = within('sampling.guidance', 'autoguidance', scale=2.0, run=run)
  message = 'estimates x_0 and the other one does not'
  refused(message, guides_of, make_model(smoke(**guided), RunFolder.at(tmp_path / 'new')))
  both = make_model(smoke(**GENERATOR, **guided), RunFolder.at(tmp_path / 'new'))
  assert {*guides_of(both)} == {'guidance'}
