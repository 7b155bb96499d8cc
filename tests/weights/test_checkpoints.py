"""Checkpoints bring a state back, on other devices too, and the right ones are kept."""

import jax
import jax.numpy as jnp
import optax
import pytest
from numpy.testing import assert_array_equal

from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.training.loss_aware import init_loss_history
from diffusion_jax.training.state import init_state
from diffusion_jax.weights import checkpoints, checksums, load
from tests.damage import cut

ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def state_of(width=3, step=0, value=1.0, optimizer=ADAM):
  kernel, bias = jnp.full((2, width), value), jnp.arange(float(width))
  params = {'network': {'layer': {'kernel': kernel, 'bias': bias}}}
  state = init_state(params, optimizer)
  ema = jax.tree.map(lambda p: 10 * p, params)
  return state._replace(step=jnp.array(step), ema_params=ema)


def saved(tmp_path, *states, losses=None, **kw):
  with checkpoints.open_manager(tmp_path, **kw) as manager:
    for i, state in enumerate(states):
      metrics = losses and {checkpoints.CRITERION: losses[i]}
      checkpoints.save(manager, state, {'seed': 3, 'sizes': [1, 2]}, metrics)


def restored(tmp_path, target, **kw):
  """Returns the newest state; closes the manager also after an error."""
  with checkpoints.open_manager(tmp_path, **kw) as manager:
    return checkpoints.restore_latest(manager, target)


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(assert_array_equal, a, b)


def test_a_state_comes_back_as_itself(tmp_path):
  """A step that is saved twice is the first one."""
  history = init_loss_history(3)._replace(count=jnp.arange(3))
  other, state = (state_of(step=7, value=x) for x in (5.0, 1.0))
  state = state._replace(objective_state=history)
  assert restored(tmp_path, state) is None
  saved(tmp_path, state, other._replace(objective_state=history))
  equal(restored(tmp_path, jax.tree.map(jnp.zeros_like, state)), state)
  for which, expected in (('average', state.ema_params), ('raw', state.params)):
    params, config, step = load.open(tmp_path, which)
    equal(params, expected)
    assert config == {'seed': 3, 'sizes': [1, 2]} and step == 7
    # Later versions of Orbax take a checkpoint without it, as on gcsfuse, for unfinished.
    assert (tmp_path / 'checkpoints/7/commit_success.txt').is_file()
    assert len(jax.tree.leaves(params)[0].sharding.device_set) == 1


def test_every_mth_and_the_best_are_kept_besides_the_latest(tmp_path):
  states = [state_of(step=i, value=float(i)) for i in range(1, 9)]
  losses = [9.0, 1.0, 8.0, 7.0, 2.0, 6.0, 5.0, 4.0]
  options = dict(keep=1, keep_every=3, keep_best=2)
  saved(tmp_path, *states[:4], losses=losses[:4], **options)
  saved(tmp_path, *states[4:], losses=losses[4:], **options)  # a restart
  folders = (tmp_path / 'checkpoints').iterdir()
  assert sorted(int(path.name) for path in folders) == [2, 3, 5, 6, 8]

  def kernel(step='latest'):
    params = load.open(tmp_path, 'raw', step).params
    return params['network']['layer']['kernel'][0, 0]

  assert kernel() == 8.0
  assert kernel('best') == 2.0
  assert kernel(5) == 5.0
  with pytest.raises(FileNotFoundError, match='checkpoint 4 but 2, 3, 5, 6, 8'):
    kernel(4)


def test_further_averages_are_restored_by_name(tmp_path):
  state = state_of(step=1)
  times = lambda n: jax.tree.map(lambda p: n * p, state.params)
  state = state._replace(more_ema_params={'0.5': times(2), '0.999': times(3)})
  saved(tmp_path, state, more_emas=['0.5', '0.999'])
  equal(load.open(tmp_path, '0.999').params, times(3))
  with pytest.raises(FileNotFoundError, match="'0.9' .* but 0.5, 0.999"):
    load.open(tmp_path, '0.9')
  equal(restored(tmp_path, state, more_emas=['0.5', '0.999']), state)


def test_a_checkpoint_of_eight_devices_restores_on_one_and_back(tmp_path):
  mesh = make_mesh(8)
  P = jax.sharding.PartitionSpec
  spread = lambda x: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, P('data') if x.ndim else P())
  )
  params = {'network': {'w': jnp.arange(16.0).reshape(8, 2)}}
  state = jax.tree.map(spread, init_state(params, optax.adam(1e-3)))
  saved(tmp_path, state._replace(step=spread(jnp.array(1))))
  equal(load.open(tmp_path).params, params)
  again = restored(tmp_path, state)
  assert len(again.params['network']['w'].sharding.device_set) == 8


OTHER = {'network': {'conv': {'kernel': jnp.ones((2, 3))}}}
BIAS = r'network/layer/bias is \[3\] there, \[4\] here'
STATE = state_of(step=1)
MORE = STATE._replace(more_ema_params={'0.5': STATE.params})


@pytest.mark.parametrize('call, error, message', [
  (lambda run: load.open(run / 'none'), FileNotFoundError,
   'no checkpoint: train first'),
  (lambda run: load.open(run, step='best'), FileNotFoundError,
   'has a metric: train with --config'),
  (lambda run: load.open(run, target=state_of(4).params), ValueError, BIAS),
  (lambda run: load.open(run, target=OTHER), ValueError,
   'conv/kernel is missing there'),
  (lambda run: restored(run, MORE, more_emas=['0.5']), ValueError,
   'no ema_params_0.5: .*set the EMA ra'),
  (lambda run: restored(run, state_of(4)), ValueError,
   f'another network: {BIAS}'),
  (lambda run: restored(run, state_of(optimizer=optax.sgd(1.0))), ValueError,
   'of another optimizer'),
])  # fmt: skip
def test_what_a_run_has_not_is_named(call, error, message, tmp_path):
  """A network or optimizer that is not the run's is named by its first parameter."""
  saved(tmp_path, STATE)
  with pytest.raises(error, match=message):
    call(tmp_path)


@pytest.mark.parametrize('save', [saved, lambda run, x: checkpoints.save_params(run, 1, x, {})])
def test_what_an_interrupted_save_left_is_removed(save, tmp_path):
  left = tmp_path / 'checkpoints' / '3.orbax-checkpoint-tmp'
  (left / 'params').mkdir(parents=True)
  save(tmp_path, STATE if save is saved else STATE.params)
  assert not left.exists()


def test_a_checkpoint_without_sums_that_is_cut_is_named_in_one_line(tmp_path):
  """Orbax raises a plain Exception, whose text is long."""
  saved(tmp_path, state_of(width=400, step=1))
  folder = tmp_path / 'checkpoints' / '1'
  (folder / checksums.NAME).unlink()
  cut(max((folder / 'params').rglob('d/*'), key=lambda path: path.stat().st_size))
  with pytest.raises(ValueError, match='checkpoint 1 in .* cannot be read: .*Move it') as error:
    load.open(tmp_path, 'raw')
  assert '\n' not in str(error.value) and len(str(error.value)) < 600
