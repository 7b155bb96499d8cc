"""Angles, directions and rotations through the program, where the law of samples is known.

The output of the untrained network is 0, so that samples are the uniform points they begin at.
"""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

import diffusion_jax as dj
from diffusion_jax.app.evaluate import scorers
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.data.directional import as_points
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import arrays_of, normal_params, of_run, refused, trial, untrained
from tests.app.fields import within
from tests.data.test_directional import units
from tests.data.test_wrapped import mean_of, means_of_parts

COUNT = 1000
FEW = within('sampling', num_samples=COUNT, batch_size=COUNT, num_steps=3)


def written(folder, **arrays):
  path = folder / 'x.npz'
  np.savez(path, **arrays)
  return path


def run_of(path, **fields):
  fields = {'data': 'npz', 'data.path': path, 'data.test_fraction': 0.2, **fields}
  return untrained(trial('directions', **FEW | fields), path.parent / 'run', deviation=0.0)


def drawn(run, **fields):
  MODES['sample'](of_run(run, **fields), run)
  return arrays_of(run)


def test_angles_are_drawn_in_their_unit(tmp_path, rng):
  """Hours of two clocks, given what each is of; they are evaluated in hours too."""
  x, context = rng.uniform(0.0, 24.0, (60, 2)), rng.normal(size=(60, 1))
  path = written(tmp_path, x=x, context=context, labels=np.arange(60) % 3)
  fields = {'data.period': 24.0, 'data.num_classes': 3, 'conditioning.context': 'if_any'}
  run = run_of(path, **{'data.kind': 'angles'}, **fields)
  samples = drawn(run)
  hours = samples['arr_0']
  assert hours.shape == (COUNT, 2) and np.all((hours >= -12.0) & (hours < 12.0))
  assert kstest(hours.ravel(), 'uniform', (-12.0, 24.0)).pvalue > 1e-5
  assert {*samples['labels']} == {0, 1, 2} and samples['context'].shape[1:] == (1,)
  fields = within('evaluation', metrics='chordal_energy', num_generated=30, reference=path)
  MODES['evaluate'](of_run(run, **fields), run)


def test_the_network_sees_the_level_and_the_class(rng):
  model = make_model(trial('directions', 'labelled'), RunFolder.at('nowhere'))
  params, label = normal_params(model), np.array([0, 1, 2, 0])
  x, t = rng.uniform(-3.0, 3.0, (4, 2)).astype(np.float32), 0.3
  level = dj.RectifiedFlowSchedule()(t)
  velocity = model.plan(params).step_function({'label': label})(x, level)
  seen, noise = np.stack([np.cos(x), np.sin(x)], axis=-1), np.full(4, 1000.0 * t, np.float32)
  output = model.network().apply({'params': params['network']}, seen, noise, {'label': label})
  assert_allclose(velocity, np.asarray(output)[..., 0], rtol=1e-5, atol=1e-6)
  inputs, _ = model.objective(test=True).draw(jax.random.key(0), {'x': x, 'label': label}, None)
  assert_array_equal(inputs.cond['label'], label)


def test_vectors_are_drawn_with_the_length_1(tmp_path, rng):
  x = drawn(run_of(written(tmp_path, x=units(rng, 60, 2, 3)), **{'data.kind': 'directions'}))[
    'arr_0'
  ]
  assert x.shape == (COUNT, 2, 3)
  assert_allclose(np.linalg.norm(x, axis=-1), 1.0, atol=1e-6)
  assert kstest(x[..., 2].ravel(), 'uniform', (-1.0, 2.0)).pvalue > 1e-5


def test_rotations_are_drawn_with_one_sign(tmp_path, rng):
  x = drawn(run_of(written(tmp_path, x=units(rng, 60, 4)), **{'data.kind': 'rotations'}))['arr_0']
  assert_allclose(np.linalg.norm(x, axis=-1), 1.0, atol=1e-6)
  assert np.all(x[:, 0] >= 0.0)
  angle = 2.0 * np.arccos(np.clip(x[:, 0], 0.0, 1.0))
  assert kstest(angle, lambda a: (a - np.sin(a)) / np.pi).pvalue > 1e-5


def checked(config, mode='train'):
  make_model(config, RunFolder.at('nowhere')).check(mode)


def test_what_is_of_numbers_is_refused(tmp_path, rng):
  path = written(tmp_path, x=rng.uniform(-1.0, 1.0, (60, 2)))
  angles = {'data': 'npz', 'data.path': path, 'data.kind': 'angles'}
  message = r'objective=denoising is of numbers, and your data are angles \[2\].*geodesic_flow'
  refused(message, lambda: checked(trial('vectors', **angles)))
  message = r'needs angles, directions or rotations, and your data are real numbers \[2\]'
  refused(message, lambda: checked(trial('directions', **angles | {'data.kind': None})))
  refused(
    'has no effect|random_flip',
    lambda: checked(trial('directions', **{'training.random_flip': True})),
  )
  refused('which have no edits', lambda: checked(trial('directions', **{'edit': 'sdedit'}), 'edit'))
  refused('guidance', lambda: trial('directions', **{'sampling.guidance.scale': 2.0}))
  refused('sampler', lambda: trial('directions', **{'sampling.sampler': 'ddim'}))
  for metric in ('ode', 'energy', 'fid'):
    model = make_model(trial('directions', **{'evaluation.metrics': metric}), RunFolder.at('no'))
    refused(f'a flow of directions has no metric {metric!r}', scorers.named, model)
  refused(
    'row 0 has the angle',
    lambda: checked(trial('directions', **angles | {'data.period': 0.001})),
  )


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['', 'directions', 'rotations', 'labelled'])
def test_a_training_finds_the_law(variant, tmp_path):
  """The mean points of 4,000 samples are the law's, up to sampling and 0.02 of the model."""
  changes = within('training', num_steps=1000) | within('sampling', num_steps=50)
  count = within('sampling', num_samples=4000, batch_size=4000)
  sizes = within('training', batch_size=256) | {'data.num_examples': 10_000}
  network = within('network', channels=128, num_blocks=3)
  config = trial('directions', variant, **changes | count | sizes | network)
  MODES['train'](config, tmp_path)
  MODES['sample'](of_run(tmp_path), tmp_path)
  samples, kind = arrays_of(tmp_path), config.data.kind
  x = as_points(samples['arr_0'], kind, 360.0)
  parts = {None: (mean_of(kind), slice(None))}
  if variant == 'labelled':
    means = means_of_parts(kind)
    parts = {i: (means[i], samples['labels'] == i) for i in range(3)}
  for mean, rows in parts.values():
    error = x[rows].std(axis=0) / len(x[rows]) ** 0.5
    assert np.all(abs(x[rows].mean(axis=0) - mean) < 4.5 * error + 0.02)
