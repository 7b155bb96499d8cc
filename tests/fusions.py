"""Programs at users' sizes, whose numbers XLA:CPU's fusions must not change.

python -m tests.fusions numbers.npz functions|kinds, for tests/core/test_products.py
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import diffusion_jax as dj
from diffusion_jax.app.modes import MODES
from diffusion_jax.core import couplings, operators
from diffusion_jax.core.measurements import Measurement
from diffusion_jax.discrete import oracles as discrete_oracles
from diffusion_jax.networks.context import mean_of_words
from diffusion_jax.testing import (
  bridges,
  oracles,
)
from diffusion_jax.training.augmentation import augment
from diffusion_jax.weights.checkpoints import RAW
from tests import calls
from tests.app import conftest as app
from tests.app.fields import within
from tests.app.kinds.test_few_steps import CASES as FEW_STEPS, TAUGHT

ROWS, D = 40_001, 3  # of a table: jaxlib 0.10.2 fails at 32,769 to 43,690 rows
RNG = np.random.default_rng(0)
LEVEL = dj.CosineSchedule()(0.4)
STEPS = jnp.array([0.2, 0.6])


def normal(*shape):
  return RNG.standard_normal(shape).astype(np.float32)


X, OTHER, KEY = normal(ROWS, D), normal(ROWS, D), jax.random.key(0)
MATRIX, WIDE = normal(D, D), normal(8, D)
COV = MATRIX @ MATRIX.T + 0.1 * np.eye(D)
GAUSSIAN = oracles.gaussian(MATRIX[0], COV)
MIXTURE = oracles.mixture([0.3, 0.5, 0.2], MATRIX, [COV, np.eye(D), 0.2 * COV])
PICTURES = normal(64, 32, 32, 3)

# Operators and networks of a user, of one example and of all.
FORWARDS = {
  'one': jax.vmap(lambda r: MATRIX @ r),
  'all': lambda x: x @ WIDE.T,
  'left': jax.vmap(lambda r: r @ WIDE.T),
}


def linear(x, level):
  return dj.Prediction(FORWARDS['one'](x))


def planted():
  """Yields patterns that XLA:CPU is known to compile wrongly."""
  e, c = normal(16, 64, 32), normal(16)
  spread = lambda c: jnp.broadcast_to(c[:, None, None], (16, 32, 32))
  yield 'square', jax.vmap(lambda r: jnp.sum((MATRIX @ r) ** 2)), X
  yield 'rows', jax.vmap(lambda r: jnp.sum(jnp.sum(MATRIX * r[None], axis=1) ** 2)), X
  yield 'broadcast', lambda e, c: jnp.sum((e @ spread(c)) * e, axis=(1, 2)), e, c


def of_oracles():
  for name, oracle in {'gaussian': GAUSSIAN, 'mixture': MIXTURE}.items():
    for method in ('log_prob', 'score', 'denoise', 'class_log_prob', 'covariance', 'velocity'):
      value = functools.partial(getattr(oracle, method), level=LEVEL)
      yield f'{name}_{method}', value, X
      yield f'{name}_{method}_each', jax.vmap(lambda r, f=value: f(r[None])), X
    slope = jax.vmap(jax.grad(lambda r, o=oracle: o.log_prob(r[None], LEVEL)[0]))
    yield f'{name}_slope', slope, X
    total = lambda x, o=oracle: jnp.sum(o.denoise(x, LEVEL).x0 ** 2, axis=1)
    yield f'{name}_square', total, X
    yield f'{name}_moments', lambda o=oracle: (o.mean, o.cov, o.sample(KEY, ROWS))
    given = lambda x, o=oracle: o.denoiser_given(X[0], 0.5)(x, LEVEL)
    yield f'{name}_given', given, X
  yield 'gaussian_map', lambda x: GAUSSIAN.ode_map(x, LEVEL, dj.CosineSchedule()(0.2)), X
  bridge = bridges.schrodinger_bridge(GAUSSIAN, oracles.gaussian(MATRIX[1], np.eye(D)), 0.5)
  yield 'bridge', lambda x: bridge.predict(x, 0.3), X
  process = dj.gaussian_process(8, np.linspace(0.02, 0.3, 10))
  table = discrete_oracles.table(RNG.uniform(size=(8, 8)))
  states = RNG.integers(0, 8, (ROWS, 2))
  at = dj.DiscreteSchedule.from_betas(np.linspace(0.02, 0.3, 10)).at_step(4)
  yield 'table', lambda x: table.denoiser(process)(x, at), states
  probs = RNG.dirichlet(np.ones(8), (ROWS, 2)).astype(np.float32)
  many = lambda p: process.multiply(p, dj.clean_level(), at)
  yield 'transitions', many, probs
  yield 'transitions_total', lambda p: jnp.sum(many(p), axis=(1, 2)), probs


def of_core():
  y = WIDE
  yield 'distances', couplings.squared_distances, X, y
  least = lambda x, y: jnp.min(couplings.squared_distances(x, y), axis=1)
  yield 'nearest', least, X, y
  plan = lambda x, y: couplings.sinkhorn(couplings.squared_distances(x, y), 2.0, 10)
  yield 'sinkhorn', plan, X, y
  for name, forward in FORWARDS.items():
    out = np.asarray(forward(X[:1]))
    m = Measurement(out, forward, 0.5)
    for method in ('log_prob', 'distance', 'residual'):
      value = getattr(m, method)
      yield f'{name}_{method}', value, X
      yield f'{name}_{method}_slope', jax.grad(lambda x, f=value: jnp.sum(f(x) ** 2)), X
    target = normal(ROWS, out.shape[1])
    yield f'{name}_simple', lambda x, t, f=forward: dj.simple_loss(t, f(x)), X, target
    total = lambda x, t, f=forward: jnp.sum(dj.simple_loss(t, f(x)))
    yield f'{name}_simple_slope', jax.grad(total), X, target
    counts = dj.poisson_log_prob(jnp.ones_like(out), lambda x, f=forward: jnp.tanh(f(x)), 9.0)
    yield f'{name}_poisson', counts, X
  for name in ('gaussian_blur', 'motion_blur'):
    of = Measurement(PICTURES, getattr(operators, name)(), 0.5)
    yield name, of.log_prob, PICTURES
    yield f'{name}_slope', jax.grad(lambda x, m=of: jnp.sum(m.distance(x))), PICTURES
  yield (
    'luminance',
    lambda x: Measurement(operators.luminance(x[:1]), operators.luminance, 0.5).log_prob(x),
    PICTURES,
  )
  mask = RNG.uniform(size=(2048, 20)) < 0.7
  yield 'words', lambda w, m: jnp.sum(mean_of_words(w, m) ** 2, axis=1), normal(2048, 20, 16), mask
  yield 'augment', lambda x: augment(KEY, x, 0.5), PICTURES


def of_sampling():
  pair = lambda x, level: (linear(x, level), dj.Prediction(FORWARDS['one'](x**3)))
  for name, forward in FORWARDS.items():
    m = Measurement(np.asarray(forward(OTHER)), forward, 0.5)
    for denoise in (GAUSSIAN.denoise, linear):
      kind = f'{name}_{denoise.__name__}'
      guided = dj.observation_guided(denoise, forward, m.y, num_iterations=2, std=0.5)
      yield f'{kind}_observed', lambda x, f=guided: f(x, LEVEL), X
      guided = dj.twist_guided(denoise, lambda x0, level, m=m: m.log_prob(x0))
      yield f'{kind}_twist', lambda x, f=guided: f(x, LEVEL), X
      guided = dj.pseudoinverse_guided(denoise, m, 2)
      yield f'{kind}_pseudoinverse', lambda x, f=guided: f(x, LEVEL), X
  yield 'projected', lambda x: dj.adaptive_projected(pair, 2.0, max_norm=1.0)(x, LEVEL), X
  yield 'zero_star', lambda x: dj.cfg_zero_star(pair, 2.0)(x, LEVEL), X
  composed = dj.gauss_composed(
    lambda y: lambda x, level: dj.Prediction(FORWARDS['one'](x) + y[None]),
    normal(4, D),
    GAUSSIAN.denoise,
    np.stack([COV * s for s in (0.3, 0.4, 0.5, 0.6)]),
    COV,
  )
  yield 'composed', lambda x: composed(x, LEVEL), X
  square = lambda x: jnp.sum(composed(x, LEVEL).x0 ** 2, axis=1)
  yield 'composed_square', square, X
  for exact in (False, True):
    options = {'exact_trace': exact, 'rtol': 1e-2, 'atol': 1e-2}
    likelihood = lambda x, o=options: dj.log_likelihood(
      None if o['exact_trace'] else KEY, GAUSSIAN.denoise, dj.CosineSchedule(), x, **o
    )
    yield f'likelihood_{exact}', likelihood, X


class Run(NamedTuple):
  """A field's value: the folder of an untrained run of a config."""

  config: str
  variant: str = ''


ROUTED = within('network', registers=1, value_residual=True, routing=0.5, routing_ends=1)
TEACHER = Run('digits_flow', 'unscaled')
# The kinds of models, each network and each objective: a config, the rows of a batch
# and of a draw, more fields (tests/laws/test_compiled_rightly.py).
IN_BLOCKS = {'network.causal': 16, 'objective.levels': 'in_turn', 'objective.levels.size': 16}
IN_BLOCKS |= {'sampling.order': 'blocks', 'sampling.num_steps': 4}
KINDS = {
  'diffusion': ('two_moons', ROWS, {'network.channels': 128}),
  'bridge': ('moons_bridge', ROWS, {'network.channels': 128, 'objective.coupling': None}),
  'unet': ('digits', 64, {}),
  'dit': ('digits_dit', 64, {'network.channels': 64}),
  'routed': ('digits_dit', 64, {'network.channels': 64, 'network.num_blocks': 3, **ROUTED}),
  'flow_map': ('digits_meanflow', 64, {'training.start': None}),
  'states': ('digits_masked', 64, {}),
  'vae': ('digits_vae', 64, {}),
  'hvae': ('digits_hvae', 64, {}),
  'classifier': ('digits_classifier', 64, {}),
  'autoencoder': ('digits_autoencoder', 64, {}),
  'latent': ('digits_latent', 64, {'latent.run': Run('digits_autoencoder')}),
  'hybrid': ('digits_improved', 64, {}),
  'vlb': ('digits_improved', 64, {'objective': 'vlb'}),
  'vdm': ('digits_vdm', 64, {}),
  'ddpmpp': ('digits_edm', 64, {}),
  'edm2': ('digits_edm2', 64, {}),
  'd3pm': ('digits_d3pm', 64, {}),
  'perceptron': ('digits_vae', 64, {'network': 'perceptron'}),
  'joint': ('joint', ROWS, {}),
  'regression': ('regression', 64, {}),
  'text': ('text_masked', 16, {}),
  'blocks': ('text_masked', 16, IN_BLOCKS),
  'random_bytes': ('text_masked', 16, {'transitions': 'uniform', 'objective': 'uniform'}),
  'words': ('shapes_text', 16, {}),
  'sequences': ('gp_sequences', 64, {}),
  'volumes': ('volumes', 8, {}),
  'rows': ('table', 64, {}),
  'directions': ('directions', 64, {'data.kind': 'rotations'}),
  'labelled': ('digits_joint', 64, {}),
  **{
    name: (
      'digits_distilled',
      64,
      changes | {'training.start': None, 'training.teacher': TEACHER if name in TAUGHT else ''},
    )
    for name, changes in FEW_STEPS.items()
  },
}
# Adam with this eps takes a step of the gradient, without dividing rounding by rounding.
ONE_STEP = within('training', num_steps=1, checkpoints__every=1, log_every=1)
ONE_STEP |= within('optimizer', learning_rate=1.0, warmup_steps=0, eps=1.0)


def of_kinds(names=KINDS):
  """Yields a step of the training of each kind of model, and a draw after it."""
  with tempfile.TemporaryDirectory() as folder:
    for name in names:
      config, rows, changes = KINDS[name]
      workdir = Path(folder, name)
      for field, run in changes.items():
        if isinstance(run, Run):
          run = app.untrained(app.trial(*run), Path(folder, name, field), 0.1)
          changes = changes | {field: run}
      changes = changes | ONE_STEP | {'training.batch_size': rows}
      if name != 'classifier':
        changes |= within('sampling', num_samples=rows, batch_size=rows)
      trial = app.trial(config, **changes)
      MODES['train'](trial, workdir)
      yield f'{name}/params', app.params_of(workdir, RAW)
      yield f'{name}/loss', app.lines_of(workdir, 'loss')
      if name != 'classifier':
        MODES['sample'](trial, workdir)
        yield f'{name}/drawn', app.arrays_of(workdir)['arr_0']


def of_public_functions():
  """Yields the calls of tests/calls.py on as many rows as users may have."""
  batch = calls.batch_of(ROWS)
  for name, function in calls.ROWS.items():
    yield name, function, batch


FUNCTIONS = planted, of_oracles, of_core, of_sampling, of_public_functions


def cases():
  """Yields (name, function, arrays) of all functions."""
  for group in FUNCTIONS:
    for name, function, *arrays in group():
      yield f'{group.__name__}/{name}', function, arrays


def computed():
  for name, function, arrays in cases():
    yield name, jax.jit(function)(*arrays)


def main(path, part):
  found = {}
  for name, tree in {'functions': computed, 'kinds': of_kinds}[part]():
    for i, leaf in enumerate(jax.tree.leaves(tree)):
      found[f'{name}/{i}'] = np.asarray(leaf)
  np.savez(path, **found)


if __name__ == '__main__':
  main(*sys.argv[1:])
