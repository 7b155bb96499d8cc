"""The sampler of several variables: its calls, its keys, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffusion_jax as dj
from diffusion_jax import joint
from tests.rows import normal

PROCESS, MASKED = dj.masking_process(3), dj.PolynomialMasking()
VARIABLES = {
  'x': joint.gaussian(dj.CosineSchedule(-10.0, 10.0)),
  'c': joint.states(PROCESS, MASKED),
}
LEVELS = joint.level_grids(VARIABLES, 6)
B = 4
START = {'x': normal(B, 2), 'c': np.full(B, 3)}
STATES = dj.ancestral_states(PROCESS)


def denoise(x, level):
  """Estimates that depend on both variables and on both levels."""
  shift = jnp.sin(x['c'] + level['c'].t)
  logits = jnp.stack([jnp.sum(x['x'], 1) * i + level['x'].t for i in range(4)], 1)
  return {
    'x': dj.Prediction(0.5 * x['x'] + shift[:, None]),
    'c': dj.posterior_logits(logits, x['c'], PROCESS, level['c']),
  }


def calls_of(**samplers):
  """Returns the variables that are not at the start of the step, in each call of a step."""
  calls = []

  def counted(x, level):
    calls.append({name for name, own in level.items() if own.t is not t[name].t})
    return denoise(x, level)

  sampler = joint.joint_sampler(samplers)
  t, s = ({n: own.take(i) for n, own in LEVELS.items()} for i in (1, 2))
  jax.eval_shape(
    lambda x: sampler.step(jax.random.key(0), x, sampler.init(x), counted, level_s=s, level_t=t),
    START,
  )
  return calls


CALLS = {
  'ddim': (dj.ddim(), 1),
  'dpm_solver_pp': (dj.dpm_solver_pp(), 1),
  'heun': (dj.heun(), 2),
  'velocity_heun': (dj.velocity_heun(VARIABLES['x'].schedule), 2),
}


@pytest.mark.parametrize('name', CALLS)
def test_variables_that_ask_at_the_start_share_a_call(name):
  sampler, count = CALLS[name]
  calls = calls_of(x=sampler, c=STATES)
  assert calls == [set(), {'x'}][:count]


def test_a_sampler_that_asks_elsewhere_has_calls_of_its_own():
  calls = calls_of(x=dj.ddim(), c=dj.first_hitting(PROCESS, MASKED))
  assert calls[0] == set() and {'c'} in calls and {'x'} not in calls


@jax.jit
def drawn(keys, x):
  sampler = joint.joint_sampler({'x': dj.dpm_solver_pp_sde(), 'c': STATES})
  return dj.sample(keys, denoise, sampler, LEVELS, x)


def test_rows_depend_on_their_own_keys():
  keys = jax.random.split(jax.random.key(3), B)
  whole, some = drawn(keys, START), drawn(keys[1:3], jax.tree.map(lambda a: a[1:3], START))
  assert_array_equal(whole['c'][1:3], some['c'])
  assert_allclose(whole['x'][1:3], some['x'], atol=2e-6)
  assert len({*np.asarray(whole['x'][:, 0]).tolist()}) == B


def test_steps_take_one_key_too():
  """Wrappers call it without keys of steps."""
  sampler = joint.joint_sampler({'x': dj.ddim(1.0), 'c': STATES})
  t, s = ({n: own.take(i) for n, own in LEVELS.items()} for i in (1, 2))
  x, _ = sampler.step(jax.random.key(0), START, sampler.init(START), denoise, level_s=s, level_t=t)
  assert x['x'].shape == (B, 2) and np.isfinite(x['x']).all()


def test_the_order_of_names_changes_nothing():
  turned = lambda tree: dict(reversed([*tree.items()]))
  samplers = {'x': dj.ddim(1.0), 'c': STATES}
  one, other = (
    dj.sample(jax.random.key(0), denoise, joint.joint_sampler(f(samplers)), f(LEVELS), f(START))
    for f in (dict, turned)
  )
  for name in START:
    assert_array_equal(one[name], other[name])


def test_a_trajectory_has_all_variables():
  sampler = joint.joint_sampler({'x': dj.ddim(), 'c': STATES})
  path = dj.trajectory(jax.random.key(0), denoise, sampler, LEVELS, START)
  last = dj.sample(jax.random.key(0), denoise, sampler, LEVELS, START)
  for name in START:
    assert_array_equal(path[name][0], START[name])
    assert_array_equal(path[name][-1], last[name])
  masked = (path['c'] == 3).mean(1)
  assert masked[0] == 1.0 and masked[-1] == 0.0 and (np.diff(masked) <= 0.0).all()


def test_levels_of_elements_and_a_state_that_holds_levels():
  """2M keeps the levels of the step before, here one for each element."""
  levels = {'x': dj.staggered(LEVELS['x'], [0, 2]), 'c': LEVELS['c'].take(np.r_[:7, 6, 6])}
  sampler = joint.joint_sampler({'x': dj.dpm_solver_pp(), 'c': STATES})
  of = lambda x, level: denoise(x, {**level, 'x': level['x'].take(0).take(0)})
  x = dj.sample(jax.random.key(0), of, sampler, levels, START)
  assert np.isfinite(x['x']).all()


def test_a_grid_of_examples_is_of_examples_where_there_are_as_many_elements():
  two = jax.tree.map(lambda a: a[:2], START)
  sampler = joint.joint_sampler({'x': dj.ddim(), 'c': STATES})
  levels = joint.held(LEVELS, given={'x': np.array([True, False])})
  x = dj.sample(jax.random.key(0), denoise, sampler, levels, two)
  assert_array_equal(x['x'][0], two['x'][0])
  assert (x['x'][1] != two['x'][1]).all()


REFUSED = {
  'levels are of': (LEVELS, START['x'], dj.ddim()),
  r"levels are of \['x'\], and x of \['c', 'x'\]": (
    {'x': LEVELS['x']},
    START,
    joint.joint_sampler({'x': dj.ddim(), 'c': STATES}),
  ),
  'all must have as many': (
    {**LEVELS, 'c': joint.level_grids(VARIABLES, 3)['c']},
    START,
    joint.joint_sampler({'x': dj.ddim(), 'c': STATES}),
  ),
  r"x has the variables \['c', 'x'\], and samplers are of \['x'\]": (
    LEVELS,
    START,
    joint.joint_sampler({'x': dj.ddim()}),
  ),
}


@pytest.mark.parametrize('words', REFUSED)
def test_names_that_do_not_fit_are_refused(words):
  levels, x, sampler = REFUSED[words]
  with pytest.raises(ValueError, match=words) as error:
    dj.sample(jax.random.key(0), denoise, sampler, levels, x)
  assert '\n' not in str(error.value)


def test_what_is_no_sampler_is_refused():
  with pytest.raises((TypeError, ValueError), match='samplers'):
    joint.joint_sampler([dj.ddim()])
