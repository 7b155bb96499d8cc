import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from diffusion_jax.runtime.sharding import make_mesh
from diffusion_jax.training import checkpoints, checksums, shared, stored_weights
from diffusion_jax.training.loss_aware import init_loss_history
from diffusion_jax.training.state import init_state
from tests import damage
from tests.refusals import one_line

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
  """A step that is saved twice is the first one."""
  history = init_loss_history(3)._replace(count=jnp.arange(3))
  other, state = (state_of(step=7, value=x) for x in (5.0, 1.0))
  state = state._replace(objective_state=history)
  assert restored(tmp_path, state) is None
  saved(tmp_path, state, other._replace(objective_state=history))
  equal(restored(tmp_path, jax.tree.map(jnp.zeros_like, state)), state)
  for ema, expected in ((True, state.ema_params), (False, state.params)):
    params, config = stored_weights.restore_params(tmp_path, ema)
    equal(params, expected)
    assert config == {'seed': 3, 'sizes': [1, 2]}
    assert len(jax.tree.leaves(params)[0].sharding.device_set) == 1


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


OTHER = {'network': {'conv': {'kernel': jnp.ones((2, 3))}}}
BIAS = r'network/layer/bias is \[3\] there, \[4\] here'
STATE, restore = state_of(step=1), stored_weights.restore_params
MORE = STATE._replace(more_ema_params={'0.5': STATE.params})


@pytest.mark.parametrize('call, error, message', [
  (lambda run: restore(run / 'none'), FileNotFoundError,
   'no checkpoint: train first'),
  (lambda run: restore(run, checkpoint='best'), FileNotFoundError,
   'has a metric: train with keep'),
  (lambda run: restore(run, target=state_of(4).params), ValueError, BIAS),
  (lambda run: restore(run, target=OTHER), ValueError,
   'conv/kernel is missing there'),
  (lambda run: restored(run, MORE, more_emas=['0.5']), ValueError,
   'no ema_params_0.5: .*set the EMA ra'),
  (lambda run: restored(run, state_of(4)), ValueError,
   f'another network: {BIAS}'),
  (lambda run: restored(run, state_of(optimizer=optax.sgd(1.0))), ValueError,
   'of another optimizer'),
])  # fmt: skip
def test_what_a_run_has_not_is_named(call, error, message, tmp_path):
  """Another network or optimizer is named by its first parameter."""
  saved(tmp_path, STATE)
  with pytest.raises(error, match=message):
    call(tmp_path)


PARAMS = {
  'network': {'dense': {'kernel': np.float32([[0, 1, 2], [3, 4, 5]])}},
  'scale': np.float32(3.0),
}
SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'config.json').write_text('{"seed": 3}')
  shared.write(tmp_path, PARAMS, 70)
  return tmp_path


def test_the_weights_are_read_as_a_checkpoint(folder):
  with safetensors.safe_open(folder / shared.NAME, 'numpy') as file:
    assert {*file.keys()} == {'network/dense/kernel', 'scale'}
    assert file.metadata() == {'step': '70'}
  for step in ('latest', 70):
    assert stored_weights.find_step(folder, step) == 70
    params, config = stored_weights.restore_params(folder, True, SHAPES, step)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    assert config == {'seed': 3}


FEW = {'network': {}, 'scale': SHAPES['scale']}
LOST = 'the weights of step 70, and no checkpoint'


@pytest.mark.parametrize(
  'arguments, error, message',
  [
    ((False, None, 'latest'), FileNotFoundError, 'has one set of weights'),
    (('0.99', None, 'latest'), FileNotFoundError, 'has one set of weights'),
    ((True, None, 'best'), FileNotFoundError, f'{LOST} best'),
    ((True, None, 3), FileNotFoundError, f'{LOST} 3'),
    ((True, FEW), ValueError, r'/dense/kernel is \[2, 3\] there'),
  ],
)
def test_there_are_no_other_weights(arguments, error, message, folder):
  with pytest.raises(error, match=message):
    stored_weights.restore_params(folder, *arguments)


ONE, STEP = np.zeros(1), {'step': '1'}
store = safetensors.numpy.save_file
DAMAGED = {
  'cut': damage.cut,
  'flip': lambda path: damage.flip(path, -1),  # of a number behind the header
  'pickle': lambda path: path.write_bytes(b'\x80\x04\x95' + bytes(64)),
  'zip': lambda path: path.write_bytes(b'PK\x03\x04' + bytes(64)),  # torch's
  'contradiction': lambda path: store({'a': ONE, 'a/b': ONE}, path, STEP),
  'no step': lambda path: store({'a': ONE}, path),
  'pipe': lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize('sums', [True, False])
@pytest.mark.parametrize('how', DAMAGED)
def test_a_damaged_file_is_one_line(how, sums, folder, capsys):
  DAMAGED[how](folder / shared.NAME)
  if not sums:
    (folder / 'SHA256SUMS').unlink()
  if how == 'flip' and not sums:  # Only the sums can tell.
    shared.read(folder)
    assert 'has no SHA256SUMS: it is read unchecked' in capsys.readouterr().err
    return
  with one_line('model.safetensors'):
    stored_weights.restore_params(folder)


def test_sums_without_a_line_of_the_weights_are_no_sums_of_them(folder):
  checksums.write_sums(folder, {'config.json': '0' * 64})
  with pytest.raises(ValueError, match='safetensors is not what was written'):
    shared.read(folder)


def test_checkpoints_come_first(folder):
  (folder / 'checkpoints').mkdir()
  assert not shared.exist(folder)
