"""The averages of a new state equal its parameters, in buffers of their own."""

import jax
import jax.numpy as jnp
import optax

from diffusion_jax.training.state import init_state


def test_the_first_state():
  """Every average is equal to params and shares no buffer with them."""
  params = {'w': jnp.arange(3.0)}
  adam = optax.adam(0.1)
  state = init_state(params, adam, objective_state=7, more_emas=('0.5', '0.9'))
  assert state.step == 0 and state.step.dtype == jnp.int32
  assert state.objective_state == 7
  assert jax.tree.structure(state.opt_state) == jax.tree.structure(adam.init(params))
  assert list(state.more_ema_params) == ['0.5', '0.9']
  averages = [state.ema_params, *state.more_ema_params.values()]
  buffers = {state.params['w'].unsafe_buffer_pointer()}
  for average in averages:
    assert average['w'].tolist() == [0.0, 1.0, 2.0]
    buffers.add(average['w'].unsafe_buffer_pointer())
  assert len(buffers) == 4
