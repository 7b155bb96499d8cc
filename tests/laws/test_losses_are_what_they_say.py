"""Law: a number that is called a loss is that loss, whatever the levels, weights, parts and steps.

A constant loss prints its value in every number, for each objective of the tables. A held-out
loss of equal weights is one number at any step and with any state, without which
`checkpoints.best` and `held_out.patience` compare numbers of different losses. It is the loss that
is trained, after its warm-up. Its random numbers have a key each.

Planted faults: `by_quarter` whose count is the number of rows; `means` without the weight; a term
of `hybrid` times its weight; `loss_quarter_k` of `vdm` of the diffusion part; `at_the_end` with the
step of the training, or with its state; the test loss of a VAE with beta = 1.
"""

import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import diffusion_jax as dj
from diffusion_jax import joint
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.choices import TIMES
from diffusion_jax.app.train.step_log import average
from diffusion_jax.autoencoders import objectives as vaes
from diffusion_jax.bridges import objective as bridges
from diffusion_jax.core.arguments import expand_to
from diffusion_jax.discrete import objectives as states
from diffusion_jax.few_steps import average_velocity, consistency, distillation, level_pairs
from diffusion_jax.few_steps.losses import pseudo_huber
from diffusion_jax.joint import cell_clocks, label_objective, variables as joint_variables
from diffusion_jax.training import classifier, objectives, vdm
from diffusion_jax.training.loss_aware import init_loss_history
from diffusion_jax.training.objectives import AT_THE_END, Context, Network, make_condition
from diffusion_jax.training.state import init_state
from diffusion_jax.training.step import make_eval_step, make_train_step
from tests.rows import slow

STEPS, SIZE = 8, 16  # of the schedule; examples of a batch
SCHEDULE = dj.DiscreteSchedule.from_betas(dj.linear_betas(STEPS, 1e-3, 0.5))
PATH, BOUNDED = dj.RectifiedFlowSchedule(), dj.CosineSchedule(-5.0, 5.0)
TEACHER = {'teacher': lambda frozen, cond: lambda xt, level: dj.Prediction(0.5 * xt)}
OWN = {'schedule_steps': STEPS, 'num_levels': 17}
NATS = 4 * np.log(2.0)  # of an example of 4 numbers, which is a bit for each of them


def skewed(key, batch_size, schedule):
  """Draws t = u^2 with the weight that its density 1 / (2 sqrt(t)) needs, times 3."""
  level, _ = dj.uniform_times(key, batch_size, schedule)
  return schedule(level.t**2), 6.0 * level.t


def linear(params, x, noise, cond, *, key=None, outputs=1):
  out = params['w'] * jnp.asarray(x, float) + 0.1 * expand_to(noise, x)
  for name in sorted(cond or {}):
    out += 0.1 * expand_to(jnp.asarray(cond[name], float), x)
  return jnp.tile(out, outputs)


def network(apply=linear, **options) -> Any:
  return Network(apply, dj.time_input(1.0), condition=make_condition(dropout=0.5), **options)


def logits(params, x, noise, cond, *, key=None, outputs=3):
  return jnp.stack([i * linear(params, x, noise, cond) for i in range(outputs)], axis=-1)


def classes(params, x, noise, cond, *, key=None):
  return params['w'] * x.reshape(len(x), -1)


def of_states(make, process, **given):
  outputs = len(process(3).prior)
  axes = 2 if 'levels' in given else 1
  return lambda: make(
    network(functools.partial(logits, outputs=outputs), level_axes=axes),
    process(3),
    BOUNDED,
    **given,
  )


def learned(make, **given):
  twice = functools.partial(linear, outputs=2)
  return lambda: make(network(twice, learned_variance=True), SCHEDULE, **OWN, **given)


def of_pairs(pairs, **given):
  path = dj.KarrasSchedule(sigma_max=20.0)
  return lambda: consistency.consistency_training(network(), path, pairs=pairs, **given)


def of_cells():
  variables = {
    'numbers': joint.gaussian(BOUNDED, level_axes=2),
    'categories': joint.states(dj.masking_process(3), dj.PolynomialMasking(), level_axes=2),
  }

  def apply(params, x, noise, cond, *, key=None):
    hot = jax.nn.one_hot(x['categories'], 4)
    return {'numbers': params['w'] * x['numbers'], 'categories': params['w'] * hot}

  def arrays(batch):
    flat = {'numbers': batch['x'], 'categories': batch['states']}
    return {name: a.reshape(len(a), -1) for name, a in flat.items()}

  return cell_clocks.cells(
    joint.JointNetwork(apply, variables),
    arrays,
    {'numbers': 4, 'categories': 4},
    levels=cell_clocks.given_cells(0.0),
  )


def of_angles():
  network = joint.JointNetwork(
    lambda params, x, noise, cond, *, key=None: {'x': params['w'] * x['x'][..., 0]},
    {'x': joint.directions(joint.circle())},
  )
  return joint.geodesic_flow(network)


def of_labels():
  variables = {
    'x': joint.gaussian(BOUNDED),
    'label': joint.states(dj.masking_process(3), dj.PolynomialMasking()),
  }

  def apply(params, x, noise, cond, *, key=None):
    hot = jax.nn.one_hot(x['label'], 4)
    return {'x': params['w'] * x['x'], 'label': params['w'] * hot}

  return label_objective.labelled(
    joint.JointNetwork(apply, variables),
    lambda batch: {'x': batch['x'], 'label': jnp.asarray(batch['label'])},
    4,
    clocks=joint.common_clock,
    label_weight=1.0,
  )


def unweighted(a, b):
  return jnp.ones(len(a))


RNG = np.random.default_rng(0)
X0 = RNG.choice(np.linspace(-1, 1, 17), (SIZE, 2, 2, 1)).astype(np.float32)
BATCH = {'x': X0, 'label': np.arange(SIZE) % 3, 'context': X0[::-1]}
BATCH['states'] = RNG.integers(0, 3, X0.shape)
PARAMS = {'network': {'w': jnp.float32(0.3)}}


def autoencoder(make, **given):
  """Returns an objective of a small VAE, whose KL and likelihood depend on its weight."""
  split = lambda h: dj.Normal(h, 1.0 + jnp.square(h))
  encode = lambda params, t, z, key=None: split(params['w'] * z)
  decode = lambda params, t, z, key=None: 0.5 * z if t == 1 else split(params['w'] * z)
  likelihood = lambda output, x: -jnp.square(output - x).sum(axis=(1, 2, 3))
  return lambda: make(encode, decode, likelihood, beta=0.5, kl_warmup=100, **given)


LEVELS = {name: make(STEPS) if name == 'steps' else make() for name, make in TIMES.items()}
# Every objective of the tables, and others of the same constructors.
OBJECTIVES = {
  **{
    ('denoising', name): lambda times=times: objectives.denoising(
      network(parametrization='v'), SCHEDULE, times=times, weight=dj.min_snr_weight()
    )
    for name, times in {**LEVELS, 'skewed': skewed}.items()
  },
  ('denoising', 'uncertainty'): lambda: objectives.denoising(
    network(), SCHEDULE, times=skewed, uncertainty=lambda params, level: 0.0 * level.t
  ),
  ('hybrid', ''): learned(objectives.hybrid),
  ('hybrid', 'loss_aware'): learned(objectives.hybrid, loss_aware=True, vlb_weight=1.0),
  ('vlb', ''): learned(objectives.vlb),
  ('vlb', 'loss_aware'): learned(objectives.vlb, loss_aware=True),
  ('vdm', ''): lambda: vdm.vdm(network(), lambda _: BOUNDED, num_levels=17),
  ('progressive_distillation', ''): lambda: distillation.progressive_distillation(
    network(), BOUNDED, num_steps=4, solver=dj.ddim(), **TEACHER
  ),
  ('reflow', ''): lambda: distillation.reflow(
    network(), PATH, times=skewed, teacher_steps=2, **TEACHER
  ),
  **{
    (make.__name__, ''): lambda make=make, given=given: make(network(), PATH, **given)
    for make, given in {
      average_velocity.mean_flow: {},
      average_velocity.lagrangian: {},
      average_velocity.progressive: {},
      average_velocity.shortcut: {'num_steps': 8},
    }.items()
  },
  ('consistency_training', 'improved'): of_pairs(level_pairs.improved_pairs(3000)),
  ('consistency_training', 'easy'): of_pairs(level_pairs.easy_pairs(400, dj.log_normal_times())),
  ('consistency_training', 'grid'): of_pairs(level_pairs.grid_pairs(), distance=unweighted),
  ('consistency_distillation', ''): lambda: consistency.consistency_distillation(
    network(),
    dj.KarrasSchedule(),
    pairs=level_pairs.improved_pairs(3000),
    solver=dj.heun(),
    distance=pseudo_huber(),
    **TEACHER,
  ),
  ('continuous_consistency', ''): lambda: consistency.continuous_consistency(
    network(), BOUNDED, times=skewed, warmup_steps=1000
  ),
  ('bridge', ''): lambda: bridges.bridge(
    network(functools.partial(linear, outputs=2)), PATH, times=skewed
  ),
  ('classifier', ''): lambda: classifier.classifier(
    Network(classes, dj.time_input()), SCHEDULE, times=skewed
  ),
  ('d3pm', ''): of_states(states.d3pm, dj.uniform_process, num_steps=4),
  ('masked', ''): of_states(states.masked, dj.masking_process),
  ('masked', 'in_turn'): of_states(states.masked, dj.masking_process, levels=dj.levels_in_turn()),
  ('uniform', ''): of_states(states.uniform, dj.uniform_process),
  ('uniform', 'independent'): of_states(
    states.uniform, dj.uniform_process, levels=dj.independent_levels()
  ),
  ('cells', ''): of_cells,
  ('geodesic_flow', ''): of_angles,
  ('labelled', ''): of_labels,
  ('vae', ''): autoencoder(vaes.vae),
  ('vae', 'free_bits'): autoencoder(vaes.vae, free_bits=0.1),
  ('hvae', ''): autoencoder(vaes.hvae, num_latents=2),
}


def test_each_objective_of_the_tables_is_here():
  every = {name for kind in store.KINDS for name in kind.tables['objective']}
  assert every == {name for name, _ in OBJECTIVES}


# -- a constant loss -----------------------------------------------------------


def ones(x, *_):
  """Returns an error that is 1 for each example."""
  return jnp.ones(len(x))


def of_gap(f, target_f, xt, xr, level_t, level_r, distance):
  """Returns the error whose weighted loss is 1: 1 / weight of the pair."""
  if distance is unweighted:
    return ones(xt)
  t, r = (level.sigma / level.alpha for level in (level_t, level_r))
  return t - r


# What computes the error of an example, by what makes it a constant.
CONSTANT = [
  (Network, 'denoising_loss', lambda self, output, x0, *_: jnp.full(len(x0), x0[0].size, float)),
  (objectives, 'bound_term', lambda x0, *_: NATS / STEPS * ones(x0)),
  (vdm, 'prior_kl', lambda x0, level: NATS * ones(x0)),
  (vdm, 'categorical_nll', lambda x0, *_: NATS * ones(x0)),
  (average_velocity, 'improved_mean_flow_error', lambda u, xt, *_: (ones(xt), ones(xt))),
  (average_velocity, 'lagrangian_error', lambda u, xt, *_: ones(xt)),
  (average_velocity, 'squared_error', ones),
  (consistency, 'squared_error', ones),
  (consistency, 'consistency_error', of_gap),
  (bridges, 'bridge_error', lambda predicted, x0, *_: ones(x0)),
  (classifier, 'label_log_prob', lambda logits, label: -ones(label)),
  (states, 'transition_kl_states', lambda logits, x0, *_: NATS * ones(x0)),
  (states, 'state_nll', lambda logits, x0, *_: NATS * ones(x0)),
  (states, 'jump_nats', lambda logits, x0, *_: jnp.full(x0.shape, np.log(2.0))),
  (states, 'uniform_weight', lambda *_: lambda level: jnp.ones_like(level.t)),
  (states, 'masked_weight', lambda *_: lambda level: jnp.ones_like(level.t)),
  (joint_variables, 'denoising_loss', lambda kind, output, *_, **__: ones(output)),
  (joint_variables, 'state_nll', lambda logits, x0, *_: ones(x0)),
  (sys.modules[joint.directions.__module__], 'sum_data_axes', ones),
  (joint_variables, 'masked_weight', lambda *_: lambda level: jnp.ones_like(level.t)),
  (vaes.bound, 'vae_elbo', lambda keys, x, *_: {'reconstruction': -NATS * ones(x)}),
  (vaes, 'kl', lambda q, p: 0.0 * q.mean),
  (
    vaes.bound,
    'hierarchical_elbo',
    lambda keys, x, *_, **__: {
      'reconstruction': -NATS * ones(x),
      'log_ratio': jnp.zeros((len(x), 2)),
    },
  ),
]
# The sums of these constants that are not 1.
VALUES = {
  ('hybrid', ''): {'loss': 1.001},
  ('hybrid', 'loss_aware'): {'loss': 2.0},
  ('vdm', ''): {'loss': 2 + 1 / np.log(2.0)},
  **{(name, ''): {'loss': 2.0} for name in ('mean_flow', 'lagrangian', 'progressive')},
  ('d3pm', ''): {'loss': 1.001, 'vlb': 4.0},
  ('labelled', ''): {'loss': 1.25},  # A quarter of x, and the label.
  ('masked', 'in_turn'): {'loss': 2.0},  # An element has two of the four numbers.
}
# Means of other things than a loss and its terms.
OTHERS = 'grad_norm', 'accuracy', 'logsnr', 'prior', 'reconstruction', 'diffusion', 'kl', 'beta'
OTHERS += ('tangent',)


def history(objective):
  """Returns the state of an objective whose steps are drawn by unequal probabilities."""
  state = objective.init()
  if not jax.tree.leaves(state):
    return state
  probs = np.arange(1.0, STEPS + 1) / (STEPS * (STEPS + 1) / 2)
  return init_loss_history(STEPS)._replace(probs=jnp.asarray(probs, jnp.float32))


def printed(objective, fixed):
  """Returns the metrics of each way to compute a loss, by the way."""
  sgd = optax.sgd(0.0)
  state = init_state(PARAMS, sgd, history(objective))
  context = Context(0, PARAMS, (), history(objective))
  cuts = ['accumulate', 'fixed_parts'][: 1 + fixed] * objective.separable
  steps = {cut: make_train_step(objective, sgd, lambda step: 0.1, **{cut: 2}) for cut in cuts}

  def numbers(key):
    return {
      'call': objective(PARAMS, context, key, BATCH)[1][0],
      'held out': make_eval_step(objective)(state, BATCH, key),
      **{cut: step(state, BATCH, key)[1] for cut, step in steps.items()},
    }

  found = jax.jit(lambda keys: jax.lax.map(numbers, keys))(jax.random.split(jax.random.key(0)))
  batches = [jax.tree.map(lambda x, i=i: x[i], jax.device_get(found)) for i in range(2)]
  return {way: average([metrics[way] for metrics in batches]) for way in found}


@pytest.fixture
def constant(monkeypatch):
  for module, name, function in CONSTANT:
    monkeypatch.setattr(module, name, function)


# With `loss_aware` the objectives have all that they have without; the quarters of `skewed`
# and `steps` are uneven, as those of the other levels. The pairs `improved` have levels as `easy`.
RARE = [('hybrid', ''), ('vlb', ''), ('consistency_training', 'easy')]
RARE += [('denoising', x) for x in LEVELS if x not in ('steps', 'uniform')]


def rows(names):
  return [(slow if x in RARE else pytest.param)(x, id='-'.join(x)) for x in names]


@pytest.mark.parametrize('name', rows(x for x in OBJECTIVES if x[1] != 'free_bits'))
def test_a_constant_loss_prints_its_value(name, constant):
  objective = OBJECTIVES[name]()
  for way, numbers in printed(objective, fixed=name[1] in ('skewed', 'loss_aware')).items():
    for number, value in numbers.items():
      term = number.partition('_quarter_')[0]
      right = VALUES.get(name, {}).get(term, 1.0)
      if not term.startswith(OTHERS) and np.isfinite(value):
        assert_allclose(value, right, rtol=1e-4, err_msg=f'{way}: {number}')
    assert np.isfinite(numbers['loss'])


# -- random numbers ------------------------------------------------------------


@pytest.mark.parametrize('name', rows(OBJECTIVES))
def test_no_key_is_used_twice(name):
  objective = OBJECTIVES[name]()
  context = Context(0, PARAMS, (), objective.init())
  with jax.debug_key_reuse(True):
    jax.eval_shape(objective.draw, jax.random.key(0), BATCH, context)


# -- a held-out loss -----------------------------------------------------------


# Levels do not change by steps.
ONCE = [
  name for name in OBJECTIVES if name[0] != 'denoising' or name[1] in ('steps', 'uncertainty')
]


@pytest.mark.parametrize('name', rows(ONCE))
def test_a_held_out_loss_of_equal_weights_is_one_number(name):
  """Its program reads no step and no state; it is the loss of a training after all warm-ups."""
  objective = OBJECTIVES[name]()
  state = init_state(PARAMS, optax.sgd(0.0), objective.init())
  evaluate = make_eval_step(objective)

  def held_out(step, rest, batch, key):
    return evaluate(state._replace(step=step, objective_state=rest), batch, key)

  def later(step, rest, batch, key):
    return objective(PARAMS, Context(step, PARAMS, (), objective.init()), key, batch)[1][0]

  def last(step, *others):
    return later(jnp.int32(AT_THE_END), *others)

  first, rest, key = jnp.int32(1), state.objective_state, jax.random.key(0)
  found, right, program = (
    jax.make_jaxpr(f)(first, rest, BATCH, key) for f in (held_out, last, later)
  )
  assert str(found) == str(right)
  assert str(found.consts) == str(right.consts)

  step = program.jaxpr.invars[0]
  if any(x is step for equation in program.eqns for x in equation.invars):
    loss_at = jax.jit(later)
    numbers = [average([jax.device_get(loss_at(i, rest, BATCH, key))]) for i in (10**6, AT_THE_END)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, nan_ok=True)
