"""What the pages of docs/ print runs as printed (pytest -m docs)."""

import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

import diffusion_jax as dj
from diffusion_jax.app import smoke
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.diffusion import SCHEMA
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.core.keys import as_one_key
from diffusion_jax.networks.functional import network_fn
from diffusion_jax.networks.mlp import MLP
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.sampling.grids import SPACINGS, STEP_CHOICES
from diffusion_jax.training import objectives
from diffusion_jax.training.objectives import Context
from tests.app import test_cli
from tests.app.conftest import SMALL
from tests.rows import slow
from tests.test_readme import EXAMPLE, ROOT, check_means, run

pytestmark = pytest.mark.docs
command = test_cli.command  # a fixture


def page_examples(name):
  return EXAMPLE.findall((ROOT / 'docs' / name).read_text())


def page_example(name, word=''):
  (code,) = [code for code in page_examples(name) if word in code]
  return code


def numbers(name, word, capsys):
  printed = run(page_example(name, word), capsys)
  return [float(x) for x in re.findall(r'-?\d+\.?\d*(?:e-?\d+)?', printed)]


SIGNAL = np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:100])
SIGNAL *= np.var(np.linspace(-1, 1, 64)) / (1 - SIGNAL)
CORRELATION = (SIGNAL / (SIGNAL + 1)) ** 0.5
# (page, a word of the example) => (the numbers that it prints, their error).
PRINTED = {
  # corr(x_0, x_t) = alpha std(x_0) / sqrt(alpha^2 var(x_0) + sigma^2), three
  # standard errors of the correlation of 64 pairs
  ('index.md', ''): ([CORRELATION], 3 * (1 - CORRELATION**2) / 8),
  ('few_steps.md', ''): ([1, 0.8, 0.8, 1.5], 0.1),
  ('posterior.md', 'repaint_levels'): ([0.61, 0.83, 0.90], 0.04),
  # A short training, and the exact network of a variable of the reader's own
  ('joint.md', 'optax'): ([0.3, -0.1, 2.0, 0.5, 0.19], 0.15),
  ('joint.md', 'def born'): ([0.3, 2.0, 9.0], 0.25),
}


@pytest.mark.parametrize('page, word', PRINTED)
def test_an_example_prints_its_numbers(page, word, capsys):
  expected, error = PRINTED[page, word]
  assert numbers(page, word, capsys) == pytest.approx(expected, abs=error)


def test_the_library_page_runs_as_printed(capsys, monkeypatch):
  """Eq. 7, sampling, modules of NNX and Equinox, and imported weights."""
  monkeypatch.chdir(ROOT)
  first, second, modules, weights = page_examples('library.md')[:4]
  lines = run(first, capsys).splitlines()
  assert [line.split()[0] for line in lines[:3]] == ['1', '3', '5']
  assert lines[3] == 'True'
  check_means(run(second, capsys))
  assert run(modules, capsys).splitlines() == ['(4, 2)'] * 2
  assert run(weights, capsys).strip() == '(2, 4, 4, 1)'


@pytest.mark.parametrize('page, word', [('library', 'open_run'), ('networks', 'encode_context')])
def test_an_example_prints_its_last_comment(page, word, digits_run, tmp_path, capsys, monkeypatch):
  shutil.copytree(digits_run, tmp_path / 'runs/digits-smoke')
  monkeypatch.chdir(tmp_path)
  code = page_example(f'{page}.md', word).replace(
    'num_steps=20', f"num_steps=20, allow=['{SMALL}']"
  )
  # A slow machine first prints what it compiles, so only the end is compared.
  assert run(code, capsys).strip().endswith(code.rpartition('  # ')[2].strip())


@pytest.mark.parametrize('ways', [1, slow(3)])
def test_the_loops_on_several_devices_give_the_numbers_of_one(ways, capsys):
  code = page_example('library.md', 'jax.shard_map')
  mesh = "jax.make_mesh((n,), ('data',))"
  first = code.partition('# 2. ')[0]  # The other ways, on one device, are the same.
  one = run(
    first.replace(mesh, f'{mesh[:-1]}, devices=jax.devices()[:1])').replace(
      'n = jax.device_count()', 'n = 1'
    ),
    capsys,
  )
  printed = [
    np.fromstring(line.strip('[]'), sep=' ')
    for line in (run(code if ways == 3 else first, capsys) + one).splitlines()
  ]
  assert len(printed) == ways + 1 and jax.device_count() == 8
  for line in printed[:-1]:
    assert_allclose(line, printed[-1], rtol=1e-3, atol=1e-7)


def test_the_sampler_of_the_library_page_is_of_second_order(capsys):
  lines = run(page_example('library.md', 'midpoint'), capsys).splitlines()
  errors = [float(line.split()[1]) for line in lines[:3]]
  assert 3.3 < errors[0] / errors[1] < 4.7
  assert 3.3 < errors[1] / errors[2] < 4.7


def test_the_sampler_of_the_bench_page_is_certified(capsys):
  """Euler's method is of first order."""
  last = run(page_example('bench.md', 'certify'), capsys).splitlines()[-1]
  assert last.startswith('converges: the order of the path is 1.0')


def test_the_likelihood_of_the_evaluation_page_is_the_truth(capsys):
  first, second = run(page_example('evaluation.md', 'log_likelihood'), capsys).splitlines()
  found, truth = map(float, first.split())
  assert found == pytest.approx(truth, abs=0.1)
  assert second == '(64, 2)'


def test_the_page_of_discrete_states_meets_entropy_and_law(capsys):
  """The table's probabilities are 0.4, 0.2, 0.1 and six times 0.05."""
  entropy, bound, truth, share = numbers('discrete.md', 'weights = ', capsys)
  p = np.array([0.4, 0.2, 0.1] + 6 * [0.05])
  assert entropy == pytest.approx(-np.sum(p * np.log(p)))
  assert bound == pytest.approx(entropy, abs=0.06)
  # eight steps lose some of what the two variables have in common
  assert truth == pytest.approx(0.4) and share == pytest.approx(0.4, abs=0.04)


def test_the_bound_of_discrete_states_is_the_same_on_every_path(capsys):
  lines = run(page_example('discrete.md', 'staggered'), capsys).splitlines()
  assert len(lines) == 3
  for line in lines:
    bound, entropy = (float(x) for x in line.rpartition(']')[2].split())
    assert bound == pytest.approx(entropy, abs=0.1)


def test_the_loop_of_discrete_states_learns_its_strings(capsys):
  """25 exp(-bound) is the least share, by Jensen's inequality."""
  bound, entropy, inside, different = numbers('discrete.md', 'words', capsys)
  assert entropy == pytest.approx(np.log(25))
  assert entropy - 0.1 < bound < entropy + 0.5
  share = 25 * np.exp(-bound)
  assert inside / 200 > share - 4.5 * (share * (1 - share) / 200) ** 0.5
  assert different > 20


def test_the_draws_of_the_evaluation_page_are_calibrated(capsys):
  lines = run(page_example('evaluation.md', 'rank_levels'), capsys).splitlines()
  assert [line.split()[0] for line in lines] == ['ranks', 'intervals', 'balls']
  numbers = [float(x) for x in re.findall(r'\d\.[\de-]+', ' '.join(lines))]
  *p_values, fraction = numbers[-2:]  # of the balls
  assert p_values[0] > 1e-3 and fraction == pytest.approx(0.9, abs=0.06)


def test_the_composition_of_the_evaluation_page_is_the_posterior(capsys):
  out = run(page_example('evaluation.md', 'gauss_composed'), capsys)
  found = np.array([float(x) for x in re.findall(r'-?\d+\.\d+', out)])
  means, exact, variances = found.reshape(3, 2)
  assert_allclose(means, exact, atol=0.05)
  assert_allclose(variances, 1 / 9, rtol=0.2)


def test_the_bound_of_the_evaluation_page_is_of_17_levels(capsys):
  """At least log2 17 bits; x_0 given x_1 is N(x_0, beta-tilde_2), binned."""
  code = page_example('evaluation.md', 'decoder')
  fewer = code.replace('jnp.tile(grey, (20, 1))', 'jnp.tile(grey, (4, 1))')
  assert fewer != code
  lines = run(fewer, capsys).splitlines()
  (least, ddpm, vdm), (wrong,) = (map(float, line.split()) for line in lines)
  assert least == pytest.approx(np.log2(17))
  assert least < ddpm < least + 0.4
  assert vdm == pytest.approx(ddpm, abs=1e-3)
  betas = np.linspace(1e-4, 0.02, 1000)[:2]
  one, two = 1 - np.cumprod(1 - betas)
  inside = norm.cdf(1 / 255 / ((betas[1] * one / two) ** 0.5))
  excess = -(15 * np.log2(2 * inside - 1) + 2 * np.log2(inside)) / 17
  assert wrong - ddpm == pytest.approx(excess, abs=2e-3)


def test_the_guidance_page_guides_as_printed(capsys):
  lines = run(page_example('guidance.md'), capsys).splitlines()
  for line, expected in zip(lines, (0.0, 1.0, None), strict=True):
    _, *found = map(float, line.split())
    for mean in found:
      assert mean > 1.05 if expected is None else abs(mean - expected) < 0.1


def test_the_page_of_measurements_meets_the_posterior(capsys):
  out = run(page_example('posterior.md', 'Measurement'), capsys)
  found, exact, estimate, evidence = re.findall(r'\[(.*?)\] \[(.*?)\]\n(\S+) (\S+)', out)[0]
  found, exact = (np.array(x.split(), float) for x in (found, exact))
  assert_allclose(found, exact, atol=0.1)
  # y ~ 0.5 N(0.2, v) + 0.5 N(0.3, v), v = 0.1 |a|^2 + s^2
  density = np.mean(norm.pdf(0.1, [0.2, 0.3], (0.1 * 1.09 + 0.04) ** 0.5))
  assert_allclose(float(evidence), np.log(density), rtol=1e-5)
  # the law of a chain of 100 steps
  assert_allclose(float(estimate), float(evidence), atol=0.15)


def test_the_page_of_samplers_has_every_schedule_and_grid(capsys):
  lines = run(page_example('samplers.md', 'respaced_steps'), capsys).splitlines()
  assert lines[0].startswith('[1000.  900.') and lines[-1] == '51 981'
  page = (ROOT / 'docs' / 'samplers.md').read_text()
  schedules = SCHEMA.tables['schedule']
  continuous = set(schedules) - {n for n in schedules if hasattr(dj, f'{n}_betas')}
  for name in {'linear', *continuous, *SPACINGS, *STEP_CHOICES}:
    assert f'`{name}`' in page, name


def test_the_page_from_vae_to_diffusion_proves_what_it_says(capsys):
  """The page's snippets show in turn ELBO + KL, both forms and their variances, and DDPM."""
  code = ''.join(page_examples('from_vae_to_diffusion.md'))
  printed = run(code, capsys).replace('[', ' ').replace(']', ' ')
  rows = [[float(n) for n in line.split()] for line in printed.splitlines()]
  for row, error in zip(rows[:3], (0.1, 1e-4, 0.02), strict=True):
    assert row[2:] == pytest.approx(row[:2], abs=error)
  forms = {row[0]: (row[1:], other[1:]) for row, other in pairs(rows[3:9])}
  for (mean_a, terms_a, whole_a), (mean_b, terms_b, whole_b) in forms.values():
    assert abs(mean_a - mean_b) < 4 * ((whole_a + whole_b) / 10_000) ** 0.5
    assert terms_b < 0.2 * terms_a
  (_, _, poor_a), (_, _, poor_b) = forms[0.0]
  assert poor_b < 0.1 * poor_a
  (_, _, exact_a), (_, _, exact_b) = forms[1.0]
  assert exact_a < 1e-6 < 1.0 < exact_b
  assert max(max(row) for row in rows[9:]) < 1e-5


def test_the_page_of_exercises_prints_its_sentence(capsys):
  said = run(page_example('exercises.md'), capsys).splitlines()
  assert said[0].startswith('3. alpha_bar(t, betas)')
  assert f'prints `{said[-1]}`' in (ROOT / 'docs' / 'exercises.md').read_text()


def pairs(rows):
  return zip(rows[::2], rows[1::2], strict=True)


@pytest.fixture(scope='module')
def own_parts():
  parts, mine = types.ModuleType('my_parts'), {}
  config, *blocks = page_examples('parts.md')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, 'my_parts', parts)
    exec(compile('\n\n'.join(blocks), 'my_parts.py', 'exec'), vars(parts))
    exec(compile(config, 'mine.py', 'exec'), mine)
    config = smoke.shrunk(store.completed(mine['get_config']()))
    flags = [('network.width', '4'), ('data.size', '4')]
    yield parts, make_model(store.with_flags(config, flags), RunFolder.at(''))


def test_the_network_and_objective_of_own_parts_are_trained(own_parts):
  """Every parameter has a gradient; an output of 0 has the error mean |v|."""
  parts, model = own_parts
  images, labels = datasets.source_of(model.config).read(np.arange(8)).values()
  batch = {'x': np.float32(images / 127.5 - 1), 'label': labels}
  objective, key = model.objective(), jax.random.key(1)
  params = jax.jit(model.init)(jax.random.key(0))
  gradient = jax.jit(jax.value_and_grad(objective.__call__, has_aux=True))
  (loss, (metrics, _)), grads = gradient(params, Context(), key, batch)
  assert_allclose(loss, metrics['loss'].total / metrics['loss'].count)
  for path, leaf in jax.tree.leaves_with_path(grads):
    assert np.any(leaf != 0), path  # the label and the level have an effect
  zeros = dj.Network(
    lambda params, x, noise, cond, *, key=None: jnp.zeros_like(x),
    dj.logsnr_input,
    parametrization='x0',
  )
  plain, _ = parts.objective(zeros, model.noisy.schedule())({'network': {}}, Context(), key, batch)
  assert_allclose(plain, np.abs(batch['x']).mean(dtype=np.float64), rtol=1e-5)


def test_the_alignment_of_own_parts_trains_its_head(own_parts):
  """Its error alone is that of denoising; h and the head come to agree with the average's h."""
  parts, model = own_parts
  module = MLP(16, 2, out_channels=1)
  network = dj.Network(network_fn(module), dj.logsnr_input, parametrization='v')
  schedule, key = model.noisy.schedule(), jax.random.key(1)
  images, _ = datasets.source_of(model.config).read(np.arange(16)).values()
  batch = {'x': np.float32(images / 127.5 - 1)}
  objective, plain = (
    parts.aligned(network, schedule, at=1, channels=16, share=share) for share in (1.0, 0.0)
  )
  first = {'network': module.init(key, batch['x'], np.ones(16))['params']}
  params, optimizer = first | objective.parameters(key), optax.adam(3e-3)
  usual = objectives.denoising(network, schedule, times=dj.uniform_times, weight=dj.v_weight)

  @jax.jit
  def losses(params):
    context = Context(ema_params=first)
    return plain(params, context, key, batch)[0], usual(params, context, key, batch)[0]

  @jax.jit
  def step(params, state, key):
    of = lambda params: objective(params, Context(ema_params=params), key, batch)
    slopes, (metrics, _) = jax.grad(of, has_aux=True)(params)
    change, state = optimizer.update(slopes, state)
    return optax.apply_updates(params, change), state, metrics['apart']

  assert_allclose(*losses(params), rtol=1e-5)
  state, head, apart = optimizer.init(params), params['head'], []
  for number in range(100):
    params, state, mean = step(params, state, jax.random.fold_in(key, number))
    apart.append(mean.total / mean.count)
  assert apart[0] > 0.6 and np.mean(apart[-10:]) < 0.3
  assert np.abs(params['head'] - head).max() > 0.01


def test_the_schedule_of_own_parts_and_its_inverse(own_parts):
  schedule = own_parts[1].noisy.schedule()
  levels = schedule(np.linspace(0, 1, 5))
  angle = 0.05 + np.linspace(0, 1, 5) * (np.pi / 2 - 0.1)
  assert_allclose(levels.snr, np.tan(angle) ** -2, rtol=1e-5)
  assert_allclose(schedule.from_logsnr(levels.logsnr).t, levels.t, atol=1e-6)


def test_the_sampler_of_own_parts_draws_for_each_image(own_parts):
  """Without fresh noise it is DDIM; with it the level's variance is kept."""
  parts, model = own_parts
  s, t = model.noisy.schedule()(0.4), model.noisy.schedule()(0.6)
  denoise = lambda x, level: dj.Prediction(jnp.zeros_like(x))
  keys = jax.random.split(jax.random.key(0), 400)
  x = t.sigma * jax.random.normal(jax.random.key(1), (400, 16))

  def step(sampler, keys, x):
    take = lambda keys, x: sampler.step(
      as_one_key(keys), x, sampler.init(x), denoise, level_s=s, level_t=t
    )
    return jax.jit(take)(keys, x)[0]

  old = step(dj.ddim(), keys, x)
  assert_allclose(step(parts.sampler(), keys, x), old, atol=1e-6)
  new = step(parts.sampler(0.3), keys, x)
  assert_allclose(step(parts.sampler(0.3), keys[3:4], x[3:4])[0], new[3], atol=1e-6)
  error = (2 / x.size) ** 0.5  # of a sample variance of normal numbers
  assert np.var(new) / s.sigma**2 == pytest.approx(1, abs=5 * error)
  correlation = np.corrcoef(np.ravel(old), np.ravel(new))[0, 1]
  assert correlation == pytest.approx((1 - 0.3**2) ** 0.5, abs=0.01)


def test_own_parts_are_trained_sampled_and_evaluated(command, tmp_path, monkeypatch):
  monkeypatch.delitem(sys.modules, 'my_parts', raising=False)
  config, *blocks = page_examples('parts.md')
  (tmp_path / 'my_parts.py').write_text('\n\n'.join(blocks))
  (tmp_path / 'mine.py').write_text(config)
  few = ('data.num_pictures=24', 'evaluation.elbo.num_steps=3', 'training.num_steps=2')
  usual = ['--config=mine.py:smoke', '--workdir=run', *(f'--config.{field}' for field in few)]

  def launch(*arguments):
    done = command(*usual, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

  said = [launch(f'--mode={mode}') for mode in ('train', 'sample', 'evaluate')]
  assert 'elbo' in said[-1] and 'brightness' in said[-1]
  assert [*tmp_path.glob('run/samples/samples-*.npz')]
  steer = '--config.edit=steer', '--config.edit.reward=my_parts:symmetric'
  assert 'reward' in launch('--mode=edit', *steer, '--config.edit.label=1')
