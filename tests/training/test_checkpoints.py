import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.training import checkpoints, stored_weights
from diffusion_jax.training.state import init_state

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
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_state_comes_back_as_itself(tmp_path):
  state = state_of(step=7)
  assert restored(tmp_path, state_of()) is None
  saved(tmp_path, state)
  equal(restored(tmp_path, state_of()), state)


def test_every_mth_and_the_best_are_kept_besides_the_latest(tmp_path):
  states = [state_of(step=i, value=float(i)) for i in range(1, 9)]
  losses = [9.0, 1.0, 8.0, 7.0, 2.0, 6.0, 5.0, 4.0]
  options = dict(keep=1, keep_every=3, keep_best=2)
  saved(tmp_path, *states[:4], losses=losses[:4], **options)
  saved(tmp_path, *states[4:], losses=losses[4:], **options)  # a restart
  folders = (tmp_path / 'checkpoints').iterdir()
  assert sorted(int(path.name) for path in folders) == [2, 3, 5, 6, 8]

  def kernel(**kw):
    params, _ = stored_weights.restore_params(tmp_path, False, **kw)
    return params['network']['layer']['kernel'][0, 0]

  assert kernel() == 8.0
  assert kernel(checkpoint='best') == 2.0
  assert kernel(checkpoint=5) == 5.0
  with pytest.raises(FileNotFoundError, match='checkpoint 4 but 2, 3, 5, 6, 8'):
    kernel(checkpoint=4)


def test_without_metrics_there_is_no_best(tmp_path):
  saved(tmp_path, state_of(step=1))
  with pytest.raises(FileNotFoundError, match='has a metric: train with keep'):
    stored_weights.restore_params(tmp_path, checkpoint='best')


def test_further_averages_are_restored_by_name(tmp_path):
  state = state_of(step=1)
  times = lambda n: jax.tree.map(lambda p: n * p, state.params)
  state = state._replace(more_ema_params={'0.5': times(2), '0.999': times(3)})
  saved(tmp_path, state, more_emas=['0.5', '0.999'])
  params, _ = stored_weights.restore_params(tmp_path, '0.999')
  equal(params, times(3))
  with pytest.raises(FileNotFoundError, match="'0.9' .* but 0.5, 0.999"):
    stored_weights.restore_params(tmp_path, '0.9')
  equal(restored(tmp_path, state, more_emas=['0.5', '0.999']), state)


def test_other_ema_rates_cannot_continue_a_run(tmp_path):
  state = state_of(step=1)
  saved(tmp_path, state)
  more = state._replace(more_ema_params={'0.5': state.params})
  with pytest.raises(ValueError, match='no ema_params_0.5: .*set the EMA ra'):
    restored(tmp_path, more, more_emas=['0.5'])


def test_saving_a_step_twice_leaves_the_first(tmp_path):
  saved(tmp_path, state_of(step=1), state_of(step=1, value=5.0))
  params, _ = stored_weights.restore_params(tmp_path, ema=False)
  assert params['network']['layer']['kernel'][0, 0] == 1.0


def test_restore_params_takes_one_copy_and_the_config(tmp_path):
  state = state_of(step=1)
  saved(tmp_path, state)
  for ema, expected in ((True, state.ema_params), (False, state.params)):
    params, config = stored_weights.restore_params(tmp_path, ema)
    equal(params, expected)
    assert config == {'seed': 3, 'sizes': [1, 2]}
    assert len(jax.tree.leaves(params)[0].sharding.device_set) == 1


def test_a_checkpoint_of_eight_devices_restores_on_one_and_back(tmp_path):
  mesh = make_mesh(8)
  P = jax.sharding.PartitionSpec
  spread = lambda x: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, P('data') if x.ndim else P())
  )
  params = {'network': {'w': jnp.arange(16.0).reshape(8, 2)}}
  state = jax.tree.map(spread, init_state(params, optax.adam(1e-3)))
  saved(tmp_path, state._replace(step=spread(jnp.array(1))))
  found, _ = stored_weights.restore_params(tmp_path)
  equal(found, params)
  again = restored(tmp_path, state)
  assert len(again.params['network']['w'].sharding.device_set) == 8


def test_a_folder_without_a_run_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint: train first'):
    stored_weights.restore_params(tmp_path / 'none')


def test_another_network_or_optimizer_is_named_by_its_first_parameter(tmp_path):
  saved(tmp_path, state_of(width=3, step=1))
  message = r'network/layer/bias is \[3\] there, \[4\] here'
  with pytest.raises(ValueError, match=f'another network: {message}'):
    restored(tmp_path, state_of(width=4))
  with pytest.raises(ValueError, match=message):
    stored_weights.restore_params(tmp_path, target=state_of(width=4).params)
  other = {'network': {'conv': {'kernel': jnp.ones((2, 3))}}}
  with pytest.raises(ValueError, match='conv/kernel is missing there'):
    stored_weights.restore_params(tmp_path, target=other)

  with pytest.raises(ValueError, match='of another optimizer'):
    restored(tmp_path, state_of(optimizer=optax.sgd(1.0)))
