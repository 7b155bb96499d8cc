"""Models of discrete states by config: bounds, samples, texts, edits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds.rules import CONFLICTS, lines
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.errors import UserError
from diffusion_jax.metrics import state_bits
from diffusion_jax.runtime.run_folder import RunFolder
from tests.app.conftest import DIGITS, arrays_of, normal_params, trial, untrained
from tests.app.fields import within
from tests.rows import slow

FEW = within('sampling', num_samples=3, batch_size=3, num_steps=4)
FEW |= within('evaluation', num_images=20, batch_size=20)
FEW |= {'states.features': 4}
UNIFORM = {'transitions': 'uniform', 'objective': 'd3pm'}
UNIFORM |= {'states.output': 'logistic', 'schedule': 'alpha_bar'}
TEXT = FEW | {'data.length': 16}


def states(name='digits_masked', argument='', **changes):
  return trial(name, argument, small=True, **FEW | changes)


def made(*names, **changes) -> Any:
  return make_model(states(*names, **changes), RunFolder.at('nowhere'))


@pytest.mark.parametrize(
  'name, changes, calls',
  [
    ('digits_masked', {'evaluation.elbo.num_times': 64}, 64),
    ('digits_d3pm', {'schedule.schedule.num_steps': 20}, 20),
  ],
)
def test_a_network_that_knows_nothing_needs_all_bits(name, changes, calls):
  """The bound of uniform data is tight at logits of 0: all bits are needed."""
  model = made(name, **changes)
  params = normal_params(model, deviation=0)
  x = DIGITS.x.encode(datasets.source_of(model.config, 'test').read(np.arange(21))['x'])
  metric = model.config.evaluation.elbo.make()
  measure = jax.jit(metric.measure(model.measured))
  bits = measure(params, jax.random.split(jax.random.key(0), 21), x, {})
  total = np.asarray(bits['total'])
  spread = max(total.std() / 21**0.5, 0.01)
  assert abs(total.mean() - np.log2(17)) < 4 * spread < 0.5
  assert calls in (64, *(value.shape[-1] for value in bits.values()))


def test_states_and_images_are_inverses():
  model = made()
  x = DIGITS.x.encode(datasets.source_of(model.config).read(np.arange(5))['x'])
  latents = model.latents
  assert_allclose(latents.decode(None, latents.encode(None, x)), x)
  masked = latents.decode(None, np.full((1, 8, 8, 1), 17))
  assert_array_equal(masked, 0.0)
  # The draw from NaN, which --mode=sample refuses.
  assert np.isnan(latents.decode(None, np.full((1, 8, 8, 1), -1))).all()


def test_texts_are_written_as_texts_and_as_pictures(tmp_path):
  config = trial(
    'text_masked', small=True, **TEXT, **within('sampling', trajectory=True, name='samples')
  )
  text_run = untrained(config, tmp_path / 'text')
  MODES['sample'](config, text_run)
  samples = arrays_of(text_run)['arr_0']
  assert samples.shape == (3, 16)
  text = (text_run / 'samples' / 'samples.txt').read_text()
  expected = [x.tobytes().decode(errors='replace') for x in samples]
  assert text == ''.join(f'--- {i}\n{x}\n' for i, x in enumerate(expected))
  film: Any = Image.open(text_run / 'samples' / 'samples.gif')
  with film:
    assert film.n_frames == 5  # noise and four steps
    first = np.asarray(film.convert('L'))
  assert (first == 96).mean() > 0.15  # masked cells


@pytest.mark.slow
def test_unmasked_bytes_stay():
  """A byte that is unmasked is the same at all later steps of the ancestral sampler."""
  model: Any = make_model(trial('text_masked', small=True, **TEXT), RunFolder.at('nowhere'))
  params = normal_params(model, deviation=0)
  keys = jax.random.split(jax.random.key(0), 3)
  draw = jax.jit(lambda params, keys: model.plan(params).film(keys, {}))
  _, x, _ = draw(params, keys)
  x = np.asarray(x).swapaxes(0, 1)
  assert x.shape == (5, 3, 16) and (x[0] == 256).all() and (x[-1] < 256).all()
  kept = x[:-1] != 256
  assert_array_equal(x[1:][kept], x[:-1][kept])
  counts = kept.mean(axis=(1, 2))
  assert (np.diff(counts) > 0).all() and counts[2] > 0.2


BLOCKS = {**TEXT, 'objective.levels.size': 4, 'network.causal': 4}
BLOCKS |= within('network', channels=16, num_blocks=1, num_heads=2)


def test_blocks_of_bytes_are_unmasked_one_after_another():
  """Four blocks of 4 bytes in 4 steps each: 16 steps; a byte stays once its block is written."""
  model: Any = make_model(trial('text_masked', 'blocks', **BLOCKS), RunFolder.at('nowhere'))
  params = normal_params(model, deviation=0)
  keys = jax.random.split(jax.random.key(0), 3)
  levels = model.plan(params).levels
  assert levels.t.shape == (17, 1, 16)
  _, x, _ = jax.jit(lambda params, keys: model.plan(params).film(keys, {}))(params, keys)
  x = np.asarray(x).swapaxes(0, 1)
  masked = (x == 256).reshape(len(x), 3, 4, 4).any(axis=(1, 3))
  for frame in masked:
    assert_array_equal(frame, np.sort(frame))  # The blocks that are left are the last ones.
  assert masked[0].all() and not masked[-1].any() and 0 < masked.sum() < masked.size


# Every order of each network; the default row has an order that takes levels of elements.
@pytest.mark.parametrize(
  'argument, orders',
  [
    ('blocks', ['left_to_right']),
    slow('uniform', ['together', 'left_to_right']),
    slow('blocks', ['together', 'right_to_left']),
    slow('uniform', ['right_to_left']),
  ],
)
def test_the_bits_of_a_text_follow_an_order(argument, orders):
  """A network of logits 0 has log2(256) bits in every order, which needs levels of elements."""
  changes = BLOCKS if argument == 'blocks' else TEXT
  model: Any = make_model(
    trial('text_masked', argument, small=argument == 'uniform', **changes),
    RunFolder.at('nowhere'),
  )
  params = normal_params(model, deviation=0)
  x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 16)) / 127.5 - 1.0)
  keys = jax.random.split(jax.random.key(0), 64)
  for order in orders:
    metric = state_bits.state_elbo(64, order)
    measure = metric.measure(model.measured)
    if argument == 'uniform' and order != 'together':
      with pytest.raises(ValueError, match=f'order={order}: the network has one level'):
        jax.eval_shape(measure, params, keys, x, {})
      continue
    bits = np.asarray(jax.jit(measure)(params, keys, x, {})['total'])
    assert abs(bits.mean() - 8.0) < 4.5 * bits.std() / 8 < 1.5


@pytest.mark.parametrize(
  'argument, changes, text',
  [
    ('blocks', {'sampling.sampler': 'first_hitting'}, 'sampler=first_hitting has one level'),
    ('blocks', {'sampling.sampler': 'confidence'}, 'sampler=confidence has one level'),
    ('blocks', {'objective.levels': None}, 'the network has one level for all'),
    ('blocks', {'objective.levels.size': 5}, 'does not divide the 16 elements'),
    ('uniform', {'transitions': 'absorbing'}, 'noise is any of the states'),
    ('uniform', {'schedule': 'alpha_bar'}, 'the schedule has steps'),
  ],
)
def test_what_does_not_fit_an_order_is_refused(argument, changes, text):
  config = trial('text_masked', argument, **{**TEXT, **changes})
  with pytest.raises((UserError, ValueError), match=text):
    model = make_model(config, RunFolder.at('nowhere'))
    for line in lines(model.refusals, config, 'sample', None, model.facts):
      raise UserError(line)
    model.objective()


@pytest.mark.parametrize(
  'changes',
  [
    {'sampling.sampler': 'first_hitting', 'sampling.top_p': 0.9},
    {'sampling.sampler': 'confidence', 'sampling.remasking': 0.3},
    UNIFORM,
  ],
)
def test_all_samplers_can_be_traced(changes):
  model = made('digits_masked', 'labels', **changes)
  guided = made('digits_masked', 'labels', **changes | {'sampling.guidance.scale': 2.0})
  for each in (model, guided):
    x = jax.eval_shape(
      lambda params, keys, label, each=each: each.plan(params).from_noise(keys, {'label': label}),
      each.shapes(),
      jax.random.split(jax.random.key(0), 3),
      np.zeros(3, int),
    )
    assert x.shape == (3, 8, 8, 1) and x.dtype == np.int32


def test_guidance_moves_the_logits_away_from_the_unconditional_ones():
  """A scale of 0 is the network without its condition."""
  plain, none = (
    made('digits_masked', 'labels', **{'sampling.guidance.scale': scale}) for scale in (2.0, 0.0)
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape), plain.shapes())
  x, level = np.full((2, 8, 8, 1), 17), plain.noisy.schedule()(0.5)
  cond = {'label': np.array([3, 8])}

  @jax.jit
  def logits(cond, drop):
    of = plain.measured.denoiser
    functions = of(params, cond), of(params, cond | {'drop': drop})
    guided = [m.plan(params).step_function(cond) for m in (plain, none)]
    return [f(x, level) for f in (*functions, *guided)]

  conditional, hidden, guided, unconditional = logits(cond, np.ones(2, bool))
  assert_allclose(unconditional, hidden, rtol=1e-5, atol=1e-4)
  assert_allclose(guided, 2 * conditional - hidden, rtol=1e-5, atol=1e-3)
  assert np.abs(conditional - hidden)[..., :17].max() > 0.1


def test_known_pixels_stay_in_an_edit(tmp_path):
  files = {f'edit.{x}': tmp_path / f'{x}.png' for x in ('image', 'mask')}
  config = states(**within('edit', num_samples=2, output='edit'), **files)
  workdir = untrained(config, tmp_path / 'run')
  picture = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
  mask = np.repeat(np.array([255, 0], np.uint8), 32).reshape(8, 8)
  for name, x in (('image', picture), ('mask', mask)):
    Image.fromarray(x).save(files[f'edit.{name}'])
  MODES['edit'](config, workdir)
  results = arrays_of(workdir, 'edit', 'edits')['arr_0'][..., 0]
  assert_array_equal(results[:, :4], [picture[:4]] * 2)
  assert (results[0, 4:] != results[1, 4:]).any()


def tokens(folder, **changes):
  """Returns the config of masked tokens of a vocabulary of 700 words, one of which is 600."""
  np.savez(folder / 'a.npz', x=np.arange(600, 616, dtype=np.uint16).reshape(2, 8))
  data = {'data': 'npz', 'data.path': str(folder / 'a.npz'), 'data.vocabulary': 700}
  return trial('text_masked', small=True, **FEW | data | changes)


def test_tokens_are_written_as_they_are(tmp_path):
  config = tokens(tmp_path, **within('sampling', name='samples', num_samples=30, batch_size=30))
  run = untrained(config, tmp_path / 'run')
  MODES['sample'](config, run)
  samples = arrays_of(run)['arr_0']
  assert samples.dtype == np.uint16 and samples.shape == (30, 8) and samples.max() < 700
  # A network that knows nothing draws all of them: 240 draws, of which 63 % are above 255.
  assert 0.5 < (samples > 255).mean() < 0.76
  assert not (run / 'samples' / 'samples.txt').exists()


@pytest.mark.parametrize(
  'changes, text',
  [
    (UNIFORM, 'states.output=logistic is a distribution of levels in their order'),
    ({'transitions': 'gaussian', 'objective': 'd3pm'}, 'near levels first, and tokens have no'),
  ],
)
def test_an_order_of_tokens_is_refused(tmp_path, changes, text):
  config = tokens(tmp_path, **changes)
  with pytest.raises(UserError, match=text):
    model = make_model(config, RunFolder.at('nowhere'))
    raise UserError('\n'.join(lines(model.refusals, config, 'train', None, model.facts)))


def test_numbers_of_tokens_are_not_diffused(tmp_path):
  path = tokens(tmp_path)['data']['path']
  config = trial('vectors', **{'data': 'npz', 'data.path': path})
  facts = datasets.facts_of(config)
  assert any(
    'tokens [8] without a context, which have no' in x
    for x in lines(CONFLICTS, config, 'train', None, facts)
  )
