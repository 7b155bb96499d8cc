import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout

from diffusion_jax.runtime import layouts
from diffusion_jax.runtime.sharding import make_mesh, replicated


def test_a_state_takes_the_layouts_of_its_program_and_keeps_them():
  """Columns come first, as a GPU might choose; results do not change.

  Other programs and NumPy can read such arrays.
  """
  place = replicated(make_mesh(devices=jax.devices()[:1]))
  columns = Format(Layout(major_to_minor=(1, 0)), place)
  x = np.arange(4.0, dtype=np.float32).reshape(2, 2)

  def step(state, x):
    return {'w': 0.5 * state['w'] + x @ state['w']}, jnp.sum(state['w'])

  jitted = jax.jit(
    step,
    donate_argnums=0,
    in_shardings=({'w': columns}, None),
    out_shardings=({'w': columns}, place),
  )
  state = {'w': jax.device_put(np.eye(2, dtype=np.float32), place)}
  shape = jax.ShapeDtypeStruct((2, 2), jnp.float32, sharding=place)
  run = layouts.in_place(jitted, {'w': shape})
  expected = np.eye(2)
  for _ in range(2):
    state, total = run(state, x)
    assert total == expected.sum()
    expected = 0.5 * expected + x @ expected
    assert state['w'].format.layout.major_to_minor == (1, 0)
    np.testing.assert_array_equal(state['w'], expected)
  doubled = jax.jit(lambda state: 2.0 * state['w'])(state)
  np.testing.assert_array_equal(doubled, 2.0 * expected)


def test_only_on_gpus_xla_chooses_the_layouts(monkeypatch):
  mesh = make_mesh(devices=jax.devices()[:1])
  place = replicated(mesh)
  shapes = {'w': jax.ShapeDtypeStruct((2, 2), jnp.float32, sharding=place)}
  assert layouts.places_of(mesh, shapes) == {'w': place}
  monkeypatch.setattr(layouts, 'platform_of', lambda mesh: 'gpu')
  found = layouts.places_of(mesh, shapes)['w']
  assert isinstance(found, Format) and found.layout is Layout.AUTO
