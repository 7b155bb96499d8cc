import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusion_jax.training import checkpoints
from diffusion_jax.training.state import init_state

ADAM = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))


def state_of(width=3, step=0, value=1.0, optimizer=ADAM):
  params = {
    'network': {
      'layer': {
        'kernel': jnp.full((2, width), value),
        'bias': jnp.arange(float(width)),
      }
    }
  }
  state = init_state(params, optimizer)
  ema = jax.tree.map(lambda p: 10 * p, params)
  return state._replace(step=jnp.array(step), ema_params=ema)


def saved(tmp_path, *states, losses=None, **kw):
  manager = checkpoints.open_manager(tmp_path, **kw)
  for i, state in enumerate(states):
    metrics = losses and {'test_loss': losses[i]}
    checkpoints.save(manager, state, {'seed': 3, 'sizes': [1, 2]}, metrics)
  manager.close()


def steps(tmp_path):
  return sorted(int(p.name) for p in (tmp_path / 'checkpoints').iterdir())


def equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_state_comes_back_as_itself(tmp_path):
  state = state_of(step=7)
  saved(tmp_path, state)
  manager = checkpoints.open_manager(tmp_path)
  equal(checkpoints.restore_latest(manager, state_of()), state)
  manager.close()


def test_nothing_there_is_none(tmp_path):
  manager = checkpoints.open_manager(tmp_path)
  assert checkpoints.restore_latest(manager, state_of()) is None
  manager.close()


def test_the_latest_are_kept(tmp_path):
  states = [state_of(step=i, value=float(i)) for i in (1, 2, 3, 4)]
  saved(tmp_path, *states, keep=2)
  manager = checkpoints.open_manager(tmp_path)
  assert manager.all_steps() == [3, 4]
  equal(checkpoints.restore_latest(manager, state_of()), states[-1])
  manager.close()


def test_every_mth_and_the_best_are_kept_beside_the_latest(tmp_path):
  states = [state_of(step=i, value=float(i)) for i in range(1, 9)]
  losses = [9.0, 1.0, 8.0, 7.0, 2.0, 6.0, 5.0, 4.0]
  options = dict(keep=1, keep_every=3, keep_best=2)
  saved(tmp_path, *states[:4], losses=losses[:4], **options)
  saved(tmp_path, *states[4:], losses=losses[4:], **options)  # a restart
  assert steps(tmp_path) == [2, 3, 5, 6, 8]
  kernel = lambda **kw: checkpoints.restore_params(tmp_path, False, **kw)[0][
    'network'
  ]['layer']['kernel'][0, 0]
  assert kernel() == 8.0
  assert kernel(checkpoint='best') == 2.0
  assert kernel(checkpoint=5) == 5.0
  with pytest.raises(
    FileNotFoundError, match='no checkpoint 4 in .* but 2, 3, 5, 6, 8'
  ):
    kernel(checkpoint=4)


def test_without_metrics_there_is_no_best(tmp_path):
  saved(tmp_path, state_of(step=1))
  with pytest.raises(FileNotFoundError, match='knows how good it is'):
    checkpoints.restore_params(tmp_path, checkpoint='best')


def test_further_averages_are_restored_by_name(tmp_path):
  state = state_of(step=1)
  times = lambda n: jax.tree.map(lambda p: n * p, state.params)
  state = state._replace(more_ema_params={'0.5': times(2), '0.999': times(3)})
  saved(tmp_path, state, more_emas=['0.5', '0.999'])
  params, _ = checkpoints.restore_params(tmp_path, '0.999')
  equal(params, times(3))
  with pytest.raises(
    FileNotFoundError, match="average '0.9' .* but 0.5, 0.999"
  ):
    checkpoints.restore_params(tmp_path, '0.9')
  manager = checkpoints.open_manager(tmp_path, more_emas=['0.5', '0.999'])
  equal(checkpoints.restore_latest(manager, state), state)
  manager.close()


def test_other_ema_rates_cannot_continue_a_run(tmp_path):
  saved(tmp_path, state_of(step=1))
  manager = checkpoints.open_manager(tmp_path, more_emas=['0.5'])
  state = state_of(step=1)
  more = state._replace(more_ema_params={'0.5': state.params})
  with pytest.raises(ValueError, match='no ema_params_0.5.*other EMA rates'):
    checkpoints.restore_latest(manager, more)
  manager.close()


def test_saving_a_step_twice_leaves_the_first(tmp_path):
  saved(tmp_path, state_of(step=1), state_of(step=1, value=5.0))
  params, _ = checkpoints.restore_params(tmp_path, ema=False)
  assert params['network']['layer']['kernel'][0, 0] == 1.0


@pytest.mark.parametrize('ema', [True, False])
def test_restore_params_takes_one_copy_and_the_config(tmp_path, ema):
  state = state_of(step=1)
  saved(tmp_path, state)
  params, config = checkpoints.restore_params(tmp_path, ema)
  equal(params, state.ema_params if ema else state.params)
  assert config == {'seed': 3, 'sizes': [1, 2]}
  assert len(jax.tree.leaves(params)[0].sharding.device_set) == 1


def test_a_checkpoint_of_eight_devices_restores_on_one_and_back(tmp_path):
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  P = jax.sharding.PartitionSpec
  spread = lambda x: jax.device_put(
    x, jax.sharding.NamedSharding(mesh, P('data') if x.ndim else P())
  )
  params = {'network': {'w': jnp.arange(16.0).reshape(8, 2)}}
  state = jax.tree.map(spread, init_state(params, optax.adam(1e-3)))
  saved(tmp_path, state._replace(step=spread(jnp.array(1))))
  found, _ = checkpoints.restore_params(tmp_path)
  equal(found, params)
  manager = checkpoints.open_manager(tmp_path)
  again = checkpoints.restore_latest(manager, state)
  assert len(again.params['network']['w'].sharding.device_set) == 8
  manager.close()


def test_a_folder_without_a_run_says_what_to_do(tmp_path):
  with pytest.raises(FileNotFoundError, match='no checkpoint in .*train first'):
    checkpoints.restore_params(tmp_path / 'none')


def test_another_network_is_named_by_its_first_parameter(tmp_path):
  saved(tmp_path, state_of(width=3, step=1))
  message = r'network/layer/bias is \[3\] there, \[4\] here'
  manager = checkpoints.open_manager(tmp_path)
  with pytest.raises(ValueError, match=f'another network: {message}'):
    checkpoints.restore_latest(manager, state_of(width=4))
  manager.close()
  with pytest.raises(ValueError, match=message):
    checkpoints.restore_params(tmp_path, target=state_of(width=4).params)
  other = {'network': {'conv': {'kernel': jnp.ones((2, 3))}}}
  with pytest.raises(ValueError, match='conv/kernel is missing there'):
    checkpoints.restore_params(tmp_path, target=other)


def test_another_optimizer_is_named_too(tmp_path):
  saved(tmp_path, state_of(step=1))
  manager = checkpoints.open_manager(tmp_path)
  with pytest.raises(ValueError, match='of another optimizer'):
    checkpoints.restore_latest(manager, state_of(optimizer=optax.sgd(1.0)))
  manager.close()
