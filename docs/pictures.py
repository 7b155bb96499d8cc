"""Draws the pictures of the guides into docs/images.

  python docs/pictures.py                 # all of them; trains what is missing
  python docs/pictures.py noise guidance  # some of them

Five runs of the digits and one of points are needed, in runs/ of the current
folder, and are trained if they are missing: minutes each on two CPU cores.
"""

import functools
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image
from scipy.special import logsumexp

import diffusion_jax as dj
from benchmarks import couplings as benchmark, memorised as curves, order_gap as gaps
from diffusion_jax.app.inputs import datasets
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.bridges import BridgeSampling
from diffusion_jax.app.kinds.bridges.model import plan_of
from diffusion_jax.app.run import weights
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.autoencoders.objectives import mean_and_log_scale
from diffusion_jax.data import drawings, images
from diffusion_jax.data.spec import ArraySpec
from diffusion_jax.exercises import formulas
from diffusion_jax.metrics.judges import digits_judge
from diffusion_jax.runtime.run_folder import RunFolder
from diffusion_jax.testing import oracles
from diffusion_jax.training import conditions

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / 'docs' / 'images'
RUNS = {  # run -> (config, further flags)
  'digits-long': ('digits.py:long', ()),
  'digits-inpainting': ('digits.py:inpainting', ()),
  'digits_vae': ('digits_vae.py', ()),
  'digits_flow-unscaled': ('digits_flow.py:unscaled', ()),
  'moons_bridge': ('moons_bridge.py', ()),
  'digits_distilled': ('digits_distilled.py', ('--config.training.num_steps=1000',)),
}


@functools.cache
def run(name):
  """Returns the model of a run and its averaged parameters; trains it first."""
  config, flags = RUNS[name]
  if not Path('runs', name, 'checkpoints').exists():
    launch = sys.executable, str(ROOT / 'launch.py')
    subprocess.run([*launch, f'--config=configs/{config}', *flags], check=True)
  run = RunFolder.at(f'runs/{name}', written=False)
  model = make_model(store.open_run(run), run)
  return model, weights.restore(model)[0]


def save(figure, name):
  """Writes a figure as a PNG of 64 colours, below 100 kB."""
  file = io.BytesIO()
  figure.savefig(file, dpi=110, bbox_inches='tight', facecolor='white')
  plt.close(figure)
  picture = Image.open(file).convert('RGB')
  picture = picture.quantize(64, dither=Image.Dither.NONE)
  path = FOLDER / f'{name}.png'
  picture.save(path, 'PNG', optimize=True)
  assert path.stat().st_size < 100_000, path
  print(path)


def crisp(batch, columns=10):
  """Returns a sheet of small pictures whose pixels are large, so that their edges stay sharp."""
  return drawings.grid(batch, columns, 6)


def sheet(name, rows, titles, width):
  """Draws rows of pictures, {label: [a batch for each title]}."""
  shape = len(rows), len(titles)
  figure, axes = plt.subplots(*shape, figsize=(width, 10), squeeze=False)
  height = 0.0
  for label, line, batches in zip(rows, axes, rows.values(), strict=True):
    for axis, title, batch in zip(line, titles, batches, strict=True):
      picture = crisp(batch, len(batch))
      axis.imshow(picture, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
      axis.set(xticks=[], yticks=[])
      if axis in axes[0]:
        axis.set_title(title, fontsize=9)
    ratio = sum(crisp(b, len(b)).shape[1] for b in batches)
    height += (width + 1) * len(picture) / ratio
    line[0].set_ylabel(label, rotation=0, ha='right', va='center', fontsize=9)
  figure.set_size_inches(width, height * 1.1 + 0.3)
  figure.subplots_adjust(wspace=0.03, hspace=0.06)
  save(figure, name)


def grey(x):
  """Returns samples of digits as uint8 [N, 8, 8, 1]."""
  return ArraySpec((8, 8, 1), 17).decode(x)


def noise():
  """Draws the log-SNR of schedules, and a photo noised along three of them."""
  vp = dj.DiscreteSchedule.from_betas(dj.linear_betas(1000))
  schedules = {
    'linear (DDPM)': vp,
    'cosine': dj.CosineSchedule(),
    'shifted by 4': dj.ShiftedSchedule(dj.CosineSchedule(), 4.0),
    'flow': dj.RectifiedFlowSchedule(),
    'karras (EDM)': dj.KarrasSchedule(),
  }
  figure = plt.figure(figsize=(10, 3.2))
  left, right = figure.subfigures(1, 2, width_ratios=(1, 1.25))
  axis, t = left.subplots(), np.linspace(0.002, 0.998, 300)
  for name, schedule in schedules.items():
    axis.plot(t, schedule(jnp.asarray(t)).logsnr, label=name)
  axis.set(xlabel='t', ylabel='log-SNR', ylim=(-14, 14))
  axis.grid(alpha=0.3)
  axis.legend(fontsize=7)
  photo = images.fit(images.read_image(images.photo_path('china.jpg')), 64)
  x0 = jnp.asarray(images.PICTURES.encode(photo))
  eps = jax.random.normal(jax.random.key(0), x0.shape)
  shown = ('linear (DDPM)', 'cosine', 'flow')
  times = (0.0, 0.2, 0.4, 0.6, 0.8)
  for line, name in zip(right.subplots(3, 5), shown, strict=True):
    for axis, t in zip(line, times, strict=True):
      x = dj.q_sample(x0, eps, schedules[name](t))
      axis.imshow(images.PICTURES.decode(x))
      axis.set(xticks=[], yticks=[])
      if name == shown[0]:
        axis.set_title(f't = {t:g}', fontsize=8)
    line[0].set_ylabel(name.split()[0], fontsize=8)
  right.subplots_adjust(wspace=0.05, hspace=0.05, right=0.99, left=0.05)
  save(figure, 'schedules')


def paths():
  """Draws paths of samples of a mixture, whose denoiser is exact."""
  means = [[-1.5, 0.0], [0.8, 1.2], [1.0, -1.2]]
  data = oracles.mixture([0.4, 0.3, 0.3], means, [0.05 * np.eye(2)] * 3)
  levels = dj.level_grid(dj.CosineSchedule(), 60)
  x = dj.prior_sample(jax.random.key(3), (40, 2), levels.take(0))
  figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
  samplers = {'dj.ddim()': dj.ddim(), 'dj.ddim(eta=1.0)': dj.ddim(1.0)}
  for axis, (name, sampler) in zip(axes, samplers.items(), strict=True):
    key = jax.random.key(1)
    xs = dj.trajectory(key, data.denoise, sampler, levels, x)
    time = np.linspace(0, 1, len(xs))
    colours = plt.get_cmap('tab10')(np.asarray(xs[-1] @ jnp.ones(2) > 0) * 3)
    for i, colour in enumerate(colours):
      axis.plot(time, xs[:, i, 0], color=colour, lw=0.7, alpha=0.8)
    axis.set(title=name, xlabel='noise → data')
    axis.grid(alpha=0.3)
  axes[0].set_ylabel('first coordinate')
  save(figure, 'paths')


def samplers():
  """Draws the same noise by four samplers with 5, 10, 25 and 50 calls."""
  model, params = run('digits-long')
  schedule, labels = model.noisy.schedule(params), jnp.arange(10) % 10
  denoise = dj.clip_denoised(model.noisy.denoiser(params, {'label': labels}))
  kinds = {
    'ancestral': (dj.ancestral('fixed_small'), 'uniform'),
    'DDIM': (dj.ddim(), 'uniform'),
    'DPM-Solver++(2M)': (dj.dpm_solver_pp(2), 'logsnr'),
    'UniPC-2': (dj.unipc(2), 'logsnr'),
  }
  calls, rows = (5, 10, 25, 50), {}
  for name, (sampler, spacing) in kinds.items():

    def draw(n, sampler=sampler, spacing=spacing):
      levels = dj.level_grid(schedule, n, spacing)
      x = dj.prior_sample(jax.random.key(0), (10, 8, 8, 1), levels.take(0))
      return dj.sample(jax.random.key(1), denoise, sampler, levels, x)

    rows[name] = [grey(jax.jit(functools.partial(draw, n))()) for n in calls]
  sheet('samplers', rows, [f'{n} calls' for n in calls], 11)


def guidance():
  """Draws the same noise with four scales of classifier-free guidance."""
  model, params = run('digits-long')
  labels = jnp.arange(20) % 10
  pair = dj.make_paired_denoiser(model.noisy.given(), params['network'], {'label': labels})
  levels = dj.level_grid(model.noisy.schedule(params), 100)
  x = dj.prior_sample(jax.random.key(2), (20, 8, 8, 1), levels.take(0))

  @jax.jit
  def draw(scale):
    guided = dj.clip_denoised(dj.classifier_free(pair, scale))
    return dj.sample(jax.random.key(3), guided, dj.ddim(1.0), levels, x)

  scales = 0.0, 1.0, 2.0, 4.0
  rows = {f'w = {scale:g}': [grey(draw(scale))] for scale in scales}
  sheet('guidance', rows, ['the same noise and classes 0 to 9, twice'], 10)


def guidance_law():
  """Draws the law that a scale names, and what guidance and particles draw."""
  means, covs = [[2.4], [-0.8], [1.2]], [[[0.5]], [[0.15]], [[0.3]]]
  data = oracles.mixture([0.4, 0.3, 0.3], means, covs)
  laws = oracles.mixture([0.5, 0.5], means[1:], covs[1:]), data
  pair = dj.paired(*(law.denoise for law in laws))
  levels = dj.level_grid(dj.LinearVPSchedule(), 200, 'logsnr')
  grid = jnp.linspace(-3.0, 4.0, 701)[:, None]
  logs = [law.log_prob(grid, dj.clean_level()) for law in laws]

  @jax.jit
  def drawn(scale):
    x = dj.prior_sample(jax.random.key(0), (50_000, 1), levels.take(0))
    guided = dj.classifier_free(pair, scale)
    return dj.sample(jax.random.key(1), guided, dj.ddim(1.0), levels, x)[:, 0]

  @functools.partial(jax.jit, static_argnums=0)
  def corrected(scale):
    x = dj.prior_sample(jax.random.key(0), (1, 50_000, 1), levels.take(0))
    sampler = dj.feynman_kac((scale, 1.0 - scale))
    x, state = dj.sample_with_state(jax.random.key(1), pair, sampler, levels, x)
    return x[0, :, 0], jax.nn.softmax(state.log_weights[0])

  figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
  bins = {'bins': 70, 'range': (-3.0, 4.0), 'density': True, 'histtype': 'step'}
  for axis, scale in zip(axes, (2.0, 4.0), strict=True):
    named = np.exp(scale * logs[0] + (1.0 - scale) * logs[1])
    named /= named.sum() * 0.01
    axis.fill_between(grid[:, 0], named, color='0.85', label='named: $p_c^w\\, p_u^{1-w}$')
    x, weights = corrected(scale)
    axis.hist(drawn(scale), **bins, color='C1', label='guidance')
    axis.hist(x, weights=weights, **bins, color='C0', label='corrected')
    axis.set(title=f'w = {scale:g}', xlabel='$x_0$', yticks=[])
  axes[0].legend(fontsize=8)
  save(figure, 'guidance_law')


def inpainting():
  """Draws the states of three methods that complete half a digit."""
  model, params = run('digits-long')
  known = images.PICTURES.encode(digits_judge.real('test')[[3, 9]])
  mask = jnp.arange(8)[None, :, None, None] < 4  # the upper half is known
  drop = {'label': jnp.zeros(2, int), 'drop': jnp.ones(2, bool)}
  raw = model.noisy.denoiser(params, drop)
  denoise = dj.clip_denoised(raw)
  guided = dj.reconstruction_guided(raw, known, mask, num_iterations=3)
  levels = dj.level_grid(model.noisy.schedule(params), 100)
  walk = dj.repaint_levels(levels, num_resamples=10, jump=10)
  replaced = dj.replace_known(dj.ddim(1.0), known, mask)
  repainted = dj.repaint(dj.ddim(1.0), known, mask)
  methods = {
    'replacement': (denoise, replaced, levels),
    'RePaint(10)': (denoise, repainted, walk),
    'reconstruction': (dj.clip_denoised(guided), dj.ddim(1.0), levels),
  }
  hidden = grey(np.where(mask, known, -0.5))
  times, rows = (0.99, 0.8, 0.6, 0.4, 0.2, 0.0), {}
  for name, (denoise, sampler, levels) in methods.items():

    @jax.jit
    def draw(denoise=denoise, sampler=sampler, levels=levels):
      x = dj.prior_sample(jax.random.key(4), known.shape, levels.take(0))
      return dj.trajectory(jax.random.key(5), denoise, sampler, levels, x)

    xs, t = draw(), np.asarray(levels.t)
    last = [np.flatnonzero(t >= time - 1e-6)[-1] for time in times[:-1]]
    states = [grey(xs[i]) for i in [*last, len(xs) - 1]]
    rows[name] = [hidden, *states, grey(known)]
  titles = ['known', *(f't = {t:g}' for t in times[:-1]), 'result', 'truth']
  sheet('inpainting', rows, titles, 9)


def few_steps():
  """Draws one call of a distilled network, and calls of its teacher."""
  labels = jnp.arange(20) % 10
  noise = jax.random.normal(jax.random.key(6), (20, 8, 8, 1))

  def draw(name, n):
    model, params = run(name)
    denoise = model.noisy.denoiser(params, {'label': labels})
    levels = dj.level_grid(model.noisy.schedule(params), n)
    key = jax.random.key(0)
    sample = jax.jit(functools.partial(dj.sample, key, denoise, dj.ddim()))
    return [grey(sample(levels, noise))]

  teacher = 'digits_flow-unscaled'
  rows = {
    'teacher, 50 calls': draw(teacher, 50),
    '4 calls': draw(teacher, 4),
    '1 call': draw(teacher, 1),
    'student, 1 call': draw('digits_distilled', 1),
  }
  sheet('few_steps', rows, ['the same noise and classes'], 10)


def bound():
  """Draws the terms of the variational bound of the digits' network."""
  model, params = run('digits-long')
  real = digits_judge.real('test')[:32]
  x0 = jnp.asarray(images.PICTURES.encode(real))
  labels = jnp.asarray(digits_judge.real_labels('test')[:32])
  denoise = dj.clip_denoised(model.noisy.denoiser(params, {'label': labels}))
  schedule = model.noisy.schedule(params)
  decoder = functools.partial(dj.reconstruction_nll, num_levels=17)

  @jax.jit
  def terms(key):
    return dj.variational_bound(key, denoise, schedule, x0, num_steps=1000, decoder=decoder)

  bits = jax.tree.map(
    lambda x: np.asarray(dj.bits_per_dim(x, (8, 8, 1)).mean(0)), terms(jax.random.key(7))
  )
  # Entry 0 of `diffusion` is L_0, and the rest are L_1 .. L_{T-1}.
  steps = np.concatenate([bits['reconstruction'][None], bits['diffusion'][1:]])
  print({n: float(x) for n, x in bits.items() if x.ndim == 0})
  figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
  t = np.arange(1, 1001)
  axes[0].loglog(t, steps, lw=1)
  axes[0].set(xlabel='step t', ylabel='bits per dimension of one step')
  axes[1].semilogx(t, np.cumsum(steps), lw=1)
  axes[1].set(xlabel='step t', ylabel='bits of steps 1 to t')
  for axis in axes:
    axis.grid(alpha=0.3)
  save(figure, 'bound')


def bridge():
  """Draws paths between eight Gaussians and two moons, both ways."""
  model, params = run('moons_bridge')
  points = datasets.source_of(model.config, 'test').read(np.arange(120))
  figure, axes = plt.subplots(1, 4, figsize=(10, 2.9), sharex=True, sharey=True)
  for axis, (back, noisy) in zip(axes, itertools.product((False, True), repeat=2), strict=True):
    c = BridgeSampling(reverse=back, stochastic=noisy)
    plan = plan_of(model.noisy, c, params)
    x = model.facts.x.encode(points[c.ends[0]])
    denoise = plan.step_function({})
    path = dj.trajectory(jax.random.key(0), denoise, plan.sampler, plan.levels, x)
    xs = model.facts.x.decode(path)
    axis.plot(xs[:, :, 0], xs[:, :, 1], color='C0', lw=0.5, alpha=0.4)
    axis.scatter(*xs[0].T, color='gray', s=5)
    axis.scatter(*xs[-1].T, color='black', s=5, zorder=3)
    way = 'moons → Gaussians' if back else 'Gaussians → moons'
    axis.set_title(f'{way}, {"diffusion" if noisy else "ODE"}', fontsize=9)
    axis.set(aspect='equal', xticks=[], yticks=[])
  figure.subplots_adjust(wspace=0.04)
  save(figure, 'bridge')


def posterior_errors():
  """Draws the table of mixtures: errors against the calls of the network."""
  page = (ROOT / 'docs' / 'results.md').read_text().split('## Speed against')[0]
  rows = [x.split('|') for x in page.split('## Mixtures')[1].splitlines()]
  rows = [x for x in rows if len(x) == 6 and '**0.' in x[-2]]
  (exact, *rows) = rows
  figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
  for axis, column, title in zip(
    axes, (3, 4), ('A: D = 2, 3 modes', 'D: D = 16, 5 modes'), strict=True
  ):
    for i, row in enumerate(rows):
      calls = int(row[2].split(',')[0])
      error = float(row[column].split('**')[1])
      name = re.sub('[`*]', '', row[1]).strip()
      look = {'marker': 'os^'[i // 7], 'color': f'C{i % 7}', 'ls': 'none'}
      axis.loglog(calls * 1.02 ** (i % 7), error, **look, ms=6, label=name)
    floor = float(exact[column].split('**')[1])
    axis.axhline(floor, color='gray', lw=1, ls=':', label='exact draws')
    axis.set(xlabel='calls of the network, a sample', title=title)
    axis.grid(alpha=0.3, which='both')
  axes[0].set_ylabel('sliced W2 to the posterior')
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(handles, labels, fontsize=7, loc='center left', bbox_to_anchor=(0.91, 0.5))
  save(figure, 'posterior_errors')


def couplings():
  """Draws flows from eight Gaussians to two moons, trained on two couplings."""
  figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True)
  y = benchmark.gaussians(jax.random.key(0), 120)
  for axis, method in zip(axes, ('independent', 'exact'), strict=True):
    params, _ = benchmark.train(method, benchmark.gaussians, False, seed=0, steps=2000)
    way = benchmark.paths(params, y, jnp.zeros(len(y), int), 50)
    axis.plot(*np.moveaxis(way, 2, 0), color='C7', lw=0.6)
    axis.plot(*y.T, 'o', color='C0', ms=3, label='source')
    axis.plot(*way[-1].T, 'o', color='C3', ms=3, label='samples')
    axis.set(title=f'coupling: {method}', aspect='equal')
    axis.grid(alpha=0.3)
  axes[0].legend(fontsize=7)
  save(figure, 'couplings')


def feller():
  """Draws exact reverse steps of a mixture for three T, and their distance from a Gaussian."""
  weights, means, variances = np.array([0.4, 0.6]), np.array([-1.0, 1.0]), np.full(2, 0.05)

  def step(num_steps, time=0.4, z=0.2):
    bars = [np.exp(-0.1 * u - 9.95 * u**2) for u in (time, time - 1 / num_steps)]
    return formulas.reverse_law(z, weights, means, variances, *bars)

  figure, axes = plt.subplots(1, 4, figsize=(11, 2.5))
  for axis, num_steps in zip(axes, (5, 50, 1000), strict=False):
    w, m, v = step(num_steps)
    mean, variance = formulas.moments(w, m, v)
    x = mean + np.sqrt(variance) * np.linspace(-4, 4, 401)
    axis.plot(x, np.exp(formulas.log_normal(x[:, None], m, v)) @ w, label='exact')
    axis.plot(x, np.exp(formulas.log_normal(x, mean, variance)), 'k--', lw=1, label='Gaussian')
    axis.set(xlabel='$z_{t-1}$', yticks=[], title=f'T = {num_steps}')
  axes[0].set(ylim=(None, 1.45 * axes[0].get_ylim()[1]))  # room above the curves
  axes[0].legend(fontsize=7, loc='upper left', frameon=False)
  figure.subplots_adjust(wspace=0.25)
  counts = np.array([5, 10, 20, 50, 100, 200, 500, 1000])
  gaps = [formulas.reverse_gap(*step(n)) for n in counts]
  print(dict(zip(counts.tolist(), gaps, strict=True)))
  axes[3].loglog(counts, gaps, 'o-', ms=3)
  axes[3].set(xlabel='T', title='total variation')
  axes[3].grid(alpha=0.3)
  save(figure, 'feller')


def levels():
  """Weights of the bound, the two variances of the reverse step, and what targets leave unknown."""
  betas = np.linspace(1e-4, 0.02, 1000)
  bars = np.append(1.0, np.cumprod(1 - betas))
  bar, before, steps = bars[1:], bars[:-1], np.arange(1, 1001)
  figure, axes = plt.subplots(1, 3, figsize=(11, 2.8))
  axes[0].loglog(steps, betas / (2 * (1 - betas) * (1 - bar)), label='bound, $w_t$')
  axes[0].axhline(1, color='k', ls='--', lw=1, label='$L_{simple}$')
  axes[1].semilogx(steps, (1 - before) / (1 - bar))
  unknown = {'$x_0$': 1 - bar, '$\\varepsilon$': bar, '$v$': np.ones(1000)}
  unknown['$\\tilde\\mu_t$'] = before * betas**2 / (1 - bar)
  for name, variance in unknown.items():
    axes[2].loglog(steps, variance, label=name)
  titles = 'weight of $\\varepsilon$', '$\\tilde\\beta_t / \\beta_t$', 'variance given $x_t$'
  for axis, title in zip(axes, titles, strict=True):
    axis.set(xlabel='t', title=title)
    axis.grid(alpha=0.3)
  axes[0].legend(fontsize=8)
  axes[2].legend(fontsize=8)
  save(figure, 'levels')


def chains():
  """Draws latents and arrows of a VAE, a hierarchical VAE and DDPM."""
  latents = '$z$', '$z_1$', '$z_2$', '$z_{T-1}$', '$z_T$'
  rows = {
    'VAE': (['$x$', latents[0]], ['$q(z|x)$'], ['$p(x|z)$'], []),
    'hierarchical VAE': (
      ['$x$', latents[1], latents[2], '…', latents[4]],
      ['$q(z_1|x)$', '$q(z_2|z_1)$', '', '$q(z_T|z_{T-1})$'],
      ['$p(x|z_1)$', '$p(z_1|z_2)$', '', '$p(z_{T-1}|z_T)$'],
      [(2, 1, '$q(z_1|z_2,x)$')],
    ),
    'DDPM': (
      ['$x_0$', '…', '$x_{t-1}$', '$x_t$', '…', '$x_T$'],
      ['', '', '$q(x_t|x_{t-1})$', '', ''],
      ['', '', '$p(x_{t-1}|x_t)$', '', ''],
      [(3, 2, '$q(x_{t-1}|x_t,x_0)$')],
    ),
  }
  colours = {'q': 'C0', 'p': 'C3', 'posterior': 'C2'}
  figure, axes = plt.subplots(3, 1, figsize=(11, 5.2))
  for axis, (title, (nodes, up, down, posteriors)) in zip(axes, rows.items(), strict=True):
    axis.set(xlim=(-0.6, 17.1), ylim=(-1.3, 1.3), aspect='equal')
    axis.axis('off')
    axis.text(-0.9, 0, title, ha='right', va='center', fontsize=10)
    place = 3.3 * np.arange(len(nodes))

    def arrow(start, end, bend, colour, style, place=place, axis=axis):
      look = {'arrowstyle': '-|>', 'mutation_scale': 10, 'color': colour, 'ls': style}
      curve = {'connectionstyle': f'arc3,rad={bend}', 'shrinkA': 15, 'shrinkB': 15}
      axis.annotate('', (place[end], 0), (place[start], 0), arrowprops=look | curve)

    for i, node in enumerate(nodes):
      if node != '…':
        seen = i == 0
        axis.add_patch(plt.Circle((place[i], 0), 0.42, fc='0.85' if seen else 'white', ec='k'))
      axis.text(place[i], 0, node, ha='center', va='center', fontsize=9)
    for i in range(len(nodes) - 1):
      arrow(i, i + 1, -0.32, colours['q'], '-')
      arrow(i + 1, i, -0.32, colours['p'], '--')
      middle = place[i : i + 2].mean()
      axis.text(middle, 0.6, up[i], color=colours['q'], ha='center', va='bottom', fontsize=8)
      axis.text(middle, -0.6, down[i], color=colours['p'], ha='center', va='top', fontsize=8)
    for start, end, label in posteriors:
      arrow(start, end, 0.0, colours['posterior'], ':')
      middle = place[[start, end]].mean()
      axis.text(middle, 0.08, label, color=colours['posterior'], ha='center', fontsize=8)
  save(figure, 'chains')


def latents_of(model, params, split):
  """Returns the mean and the variance of q(z | x), [N, D], of the digits of a split."""
  x = images.PICTURES.encode(digits_judge.real(split))
  q = jax.jit(functools.partial(model.measured.encode, params['network'], 1))(x)
  return [np.float64(a).reshape(len(x), -1) for a in q]


def drawn_pixels(model, params, z):
  """Draws x ~ p(x | z), [N, 64] in [-1, 1], of z [N, D]."""
  autoencoder, rng = model.measured, np.random.default_rng(1)
  z = np.float32(z).reshape(-1, *autoencoder.latent_shape())
  output = jax.jit(lambda z: autoencoder.decode(params['network'], 1, z))(z)
  mean, log_scale = map(np.asarray, mean_and_log_scale(output))
  x = mean + np.exp(log_scale) * rng.logistic(size=mean.shape)
  return np.clip(np.round(8 * x) / 8, -1, 1).reshape(len(z), -1)  # 17 grey levels


def two_consistencies(model, params, draws=10_000):
  """Measures a VAE of digits: {name: number}, and draws of z and x.

  q(z) is the average of q(z | x) over the training digits; its KL from N(0, I)
  is by Monte Carlo, in nats. The distances of mean and covariance of the pixels
  from the training digits' are relative to the size of the digits' own: of draws
  of p(x), of draws that start at q(z), and of the test digits, which is chance.
  """
  mean, variance = latents_of(model, params, 'train')
  rng = np.random.default_rng(0)
  chosen = rng.integers(len(mean), size=draws)
  noise = rng.normal(size=(2, draws, mean.shape[1]))
  z = mean[chosen] + variance[chosen] ** 0.5 * noise[0]

  def log_ratio(z):  # of q(z) and N(0, I)
    apart = (z - mean) ** 2 / variance + np.log(variance)
    return logsumexp(-apart.sum(axis=1) / 2) - np.log(len(mean)) + (z**2).sum() / 2

  ratios = np.array([log_ratio(row) for row in z[:4000]])
  each = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1)
  numbers = {'mean of KL(q(z|x) | p(z))': each.mean(), 'KL(q(z) | p(z))': ratios.mean()}
  numbers['its standard error'] = ratios.std() / len(ratios) ** 0.5
  spread = np.sqrt(mean.var(axis=0) + variance.mean(axis=0))
  numbers |= {'least deviation of z': spread.min(), 'largest': spread.max()}
  real, test = (
    images.PICTURES.encode(digits_judge.real(split)).reshape(-1, 64) for split in ('train', 'test')
  )
  x = {'p(z)': drawn_pixels(model, params, noise[1]), 'q(z)': drawn_pixels(model, params, z)}
  size = np.linalg.norm(np.std(real, axis=0)), np.linalg.norm(np.cov(real.T))
  for name, y in (*x.items(), ('test digits', test)):
    numbers[f'mean, {name}'] = np.linalg.norm(y.mean(axis=0) - real.mean(axis=0)) / size[0]
    numbers[f'covariance, {name}'] = np.linalg.norm(np.cov(y.T) - np.cov(real.T)) / size[1]
  return {name: float(number) for name, number in numbers.items()}, z, x, real


def consistencies():
  """Draws the aggregate posterior of a VAE and its prior, and pixels of p(x) and of digits."""
  numbers, z, x, real = two_consistencies(*run('digits_vae'))
  print(numbers)
  figure, axes = plt.subplots(1, 3, figsize=(11, 2.6), width_ratios=(1, 1, 1.5))
  figure.subplots_adjust(wspace=0.4)
  grid = np.linspace(-4, 4, 200)
  for i in range(z.shape[1]):
    label = {'label': '$q(z_i)$'} if i == 0 else {}
    look = {'bins': 60, 'range': (-4, 4), 'density': True, 'histtype': 'step'}
    axes[0].hist(z[:, i], **look, color='C0', alpha=0.5, **label)
  axes[0].plot(grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), 'k--', lw=1.5, label='$p(z_i)$')
  axes[0].set_title('16 coordinates of z', fontsize=10)
  axes[0].set(yticks=[])
  for name, points in {'train': real, 'p(x)': x['p(z)']}.items():
    label = 'digits' if name == 'train' else '$\\int p(x|z)\\,p(z)\\,dz$'
    axes[1].semilogy(np.maximum(np.linalg.eigvalsh(np.cov(points.T))[::-1], 1e-4), label=label)
  axes[1].set_title('eigenvalues of cov(x)', fontsize=10)
  for axis in axes[:2]:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
  rows = [points[:10].reshape(10, 8, 8, 1) for points in (x['p(z)'], x['q(z)'], real)]
  picture = np.concatenate([crisp(grey(np.float32(row))) for row in rows])
  axes[2].imshow(picture, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
  height = len(picture) / 3
  axes[2].set(xticks=[], yticks=height * (np.arange(3) + 0.5))
  axes[2].set_yticklabels(['z ~ p(z)', 'z ~ q(z)', 'digits'])
  save(figure, 'consistencies')


def variances():
  """Draws the same noise by both variances of the reverse step, with 10, 50 and 1000 steps."""
  model, params = run('digits-long')
  schedule, labels = model.noisy.schedule(params), jnp.arange(10)
  denoise = dj.clip_denoised(model.noisy.denoiser(params, {'label': labels}))
  counts, rows = (10, 50, 1000), {}
  for name, variance in (('$\\tilde\\beta_t$', 'fixed_small'), ('$\\beta_t$', 'fixed_large')):

    def draw(n, variance=variance):
      levels, sampler = dj.level_grid(schedule, n), dj.ancestral(variance)
      x = dj.prior_sample(jax.random.key(0), (10, 8, 8, 1), levels.take(0))
      return dj.sample(jax.random.key(1), denoise, sampler, levels, x)

    rows[name] = [grey(jax.jit(functools.partial(draw, n))()) for n in counts]
  sheet('variances', rows, [f'{n} steps' for n in counts], 11)


def edge(x):
  """Returns how far row 4 is from its regression on the rows above, and the error of this.

  Root mean squares of pixels in [-1, 1]. The linear regression is of the training
  digits, so draws of the truth given the upper half are as far as the digits are.
  """

  def parts(x):
    flat = np.float64(x).reshape(len(x), 64)
    return np.append(flat[:, :32], np.ones((len(x), 1)), axis=1), flat[:, 32:40]

  above, row = parts(images.PICTURES.encode(digits_judge.real('train')))
  slope = np.linalg.lstsq(above, row, rcond=None)[0]
  above, row = parts(x)
  squares = np.square(row - above @ slope).mean(axis=1)
  root = squares.mean() ** 0.5
  return float(root), float(squares.std() / len(squares) ** 0.5 / (2 * root))


def jump(x):
  """Returns the root mean square difference of rows 3 and 4, pixels in [-1, 1]."""
  return float(np.sqrt(np.mean(np.square(np.float64(x[:, 4] - x[:, 3])))))


def lower_halves(count=200):
  """Fills in the lower halves of test digits by three methods, {method: [count, 8, 8, 1]}."""
  known = jnp.asarray(images.PICTURES.encode(digits_judge.real('test')[:count]))
  mask = jnp.broadcast_to(jnp.arange(8)[None, :, None, None] < 4, known.shape)
  model, params = run('digits-long')
  trained, of_trained = run('digits-inpainting')
  drop = {'label': jnp.zeros(count, int), 'drop': jnp.ones(count, bool)}
  denoise = dj.clip_denoised(model.noisy.denoiser(params, drop))
  levels = dj.level_grid(model.noisy.schedule(params), 100)
  walk = dj.repaint_levels(levels, num_resamples=10, jump=10)
  shown = {'image': conditions.known_pixels(known, mask)}
  palette = dj.clip_denoised(trained.noisy.denoiser(of_trained, shown))
  replaced = dj.replace_known(dj.ddim(1.0), known, mask)
  methods = {
    'replacement': (denoise, replaced, levels),
    'RePaint(10)': (denoise, dj.repaint(dj.ddim(1.0), known, mask), walk),
    'trained (Palette)': (palette, dj.ddim(1.0), levels),
  }
  results = {'digits': known}
  for name, (denoise, sampler, levels) in methods.items():
    x = dj.prior_sample(jax.random.key(4), known.shape, levels.take(0))
    draw = functools.partial(dj.sample, jax.random.key(5), denoise, sampler, levels)
    results[name] = jnp.where(mask, known, jax.jit(draw)(x))
  return {name: np.asarray(x) for name, x in results.items()}


def edges():
  """Draws lower halves of digits by replacement, RePaint and a network trained for it."""
  results = lower_halves()
  print({name: (*edge(x), jump(x)) for name, x in results.items()})
  figure, axes = plt.subplots(4, 1, figsize=(9, 4.2))
  for axis, (name, x) in zip(axes, results.items(), strict=True):
    picture = crisp(grey(x[:12]), 12)
    axis.imshow(picture, cmap='gray', vmin=0, vmax=255, interpolation='nearest')
    axis.axhline(len(picture) / 2 - 0.5, color='C1', lw=0.8)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(f'{name}\n{edge(x)[0]:.2f}', rotation=0, ha='right', va='center', fontsize=9)
  save(figure, 'edges')


def memorising():
  """Draws the losses of a large network on few digits, between those of exact denoisers."""
  figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), sharey=True)
  for axis, size in zip(axes, curves.SIZES, strict=True):
    curve = curves.learn(size)
    axis.loglog(curve.steps, curve.train, 'o-', ms=3, label='training digits')
    axis.loglog(curve.steps, curve.test, 'o-', ms=3, label='test digits')
    axis.axhline(curve.memorised, color='C0', ls='--', lw=1, label='memorised: the least on them')
    axis.axhline(curve.linear, color='C1', ls='--', lw=1, label='linear, of all digits')
    axis.set(xlabel='step', title=f'{size:,} digits: closer = {curve.closer:.2f}')
    axis.grid(alpha=0.3)
  axes[0].set(ylabel='loss of ε')
  axes[2].legend(fontsize=7)
  save(figure, 'memorising')


def order_gap():
  """Draws the order gap of a perceptron during its training, beside what its bound lacks."""
  figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.8), sharey=True)
  for axis, (name, each) in zip(axes, gaps.LEVELS.items(), strict=True):
    curves_of_seeds = [gaps.learn(each, seed) for seed in range(gaps.SEEDS)]
    steps = curves_of_seeds[0].steps
    lines = {
      order.replace('_', ' '): [c.gaps[order] for c in curves_of_seeds]
      for order in curves_of_seeds[0].gaps
    }
    lines['together, less the exact one'] = [c.lacks for c in curves_of_seeds]
    for label, values in lines.items():
      error = np.std(values, axis=0, ddof=1) / len(values) ** 0.5
      axis.errorbar(steps, np.mean(values, axis=0), error, fmt='o-', ms=3, lw=1, label=label)
    axis.axhline(0.0, color='0.5', lw=0.8)
    axis.set(xscale='log', xlabel='step', title=name)
    axis.grid(alpha=0.3)
  axes[0].set(ylabel='nats per number')
  axes[0].legend(fontsize=7)
  save(figure, 'order_gap')


def rollout(count=24, given=8, num_steps=10, frames=40):
  """Draws a film of three orders of an AR(1) that is continued, by its exact denoiser."""
  place = np.arange(count)
  law = oracles.gaussian(np.zeros(count), np.exp(-0.25 * np.abs(place[:, None] - place)))
  beginning = law.sample(jax.random.key(3), 1)
  known = jnp.where(jnp.asarray(place < given), beginning, jnp.nan).repeat(4, axis=0)
  levels = dj.level_grid(dj.RectifiedFlowSchedule(), num_steps)
  orders = {'together': 0 * place, 'pyramid': 2 * place, 'one after another': num_steps * place}
  films = []
  for starts in orders.values():
    path = dj.staggered(levels, np.maximum(starts - starts[given], 0))
    grid, x = dj.hold_known(path, jax.random.normal(jax.random.key(1), known.shape), known)
    states = dj.trajectory(jax.random.key(2), law.denoise, dj.dpm_solver_pp(2), grid, x)
    moves = np.linspace(0, len(states) - 1, frames).round().astype(int)
    films.append(np.asarray(states)[moves])
  h = np.arange(1, count - given + 1)
  mean = np.asarray(beginning)[0, given - 1] * np.exp(-0.25 * h)
  std = np.sqrt(1.0 - np.exp(-0.5 * h))
  pages = []
  for frame in range(frames):
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 2.2), sharey=True)
    for axis, title, film in zip(axes, orders, films, strict=True):
      axis.fill_between(place[given:], *(mean + 1.96 * e * std for e in (-1, 1)), color='0.9')
      axis.plot(place[given - 1 :], film[frame][:, given - 1 :].T, '.-', ms=3, lw=0.7)
      axis.plot(place[:given], np.asarray(beginning)[0, :given], 'k.-', ms=4, lw=1.0)
      axis.set(title=title, ylim=(-3.6, 3.6), xticks=[0, 8, 16, 23], yticks=[-2, 0, 2])
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, dpi=65, facecolor='white')
    plt.close(figure)
    pages.append(Image.open(file).convert('RGB').quantize(12, dither=Image.Dither.NONE))
  path = FOLDER / 'rollout.gif'
  times = [120] * (frames - 1) + [2500]
  pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0)
  print(path)


PICTURES = noise, paths, samplers, guidance, inpainting, few_steps, bound
PICTURES += posterior_errors, guidance_law, couplings, bridge, feller, levels
PICTURES += chains, consistencies, variances, edges, memorising, order_gap, rollout


if __name__ == '__main__':
  names = sys.argv[1:] or [picture.__name__ for picture in PICTURES]
  for picture in PICTURES:
    if picture.__name__ in names:
      picture()
