"""The exercises: statements, closed forms in float64, and misprints that no slip makes.

A formula is a function of the numbers that it names: arguments of the exercise, what its `also`
returns, and beta = β_t, alpha = α_t, bar = ᾱ_t, tilde = β̃_t, or with _s, of s, which is t − 1
unless it is an argument.
"""

import numpy as np
from numpy import log, sqrt

from diffusion_jax.exercises import formulas as f
from diffusion_jax.exercises.inputs import Exercise
from diffusion_jax.exercises.terms import call, named, whole

_log_n = whole(f.log_normal, 'log N')
_kls = whole(f.kl_each, 'KL')
_gap = whole(f.reverse_gap, 'gap', elementwise=False)


def _with_kl(mean, variance):
  return mean, variance, f.kl_prior(mean, variance)


def _narrow(w, m, v):
  return f.total_variation(w, m, v, w @ m, w @ v)


def _latents(x, zs, betas):
  # z_t and z_{t−1}, where t = 2 … T, and what is of the first and of the last step; z_{t−1} of all.
  last = {'z_T': zs[-1], 'alpha_T': 1 - betas[-1], 'bar_T': np.prod(1 - betas)}
  steps = {'z': zs[1:], 'z_s': zs[:-1], 'before': np.append(x, zs[:-1])}
  return last | steps | {'z_1': zs[0], 'alpha_1': 1 - betas[0]}


def _log_p(x, z_1, z_s, z, z_T, a, variance):
  return _log_n(x, a * z_1, variance) + np.sum(_log_n(z_s, a * z, variance)) + _log_n(z_T, 0, 1)


def _log_q(x, z_1, z_s, z, alpha_1, alpha, beta):
  first = _log_n(z_1, sqrt(alpha_1) * x, 1 - alpha_1)
  return first + np.sum(_log_n(z, sqrt(alpha) * z_s, beta))


def _bound(x, z_1, z, a, variance, mean, var, bar_T):
  transitions = np.sum(_kls(mean, var, a * z, variance))
  return _log_n(x, a * z_1, variance) - transitions - _kls(sqrt(bar_T) * x, 1 - bar_T, 0, 1)


def _chain(x, z_1, z_s, z, z_T, a, variance, alpha_1, beta, alpha, bar, bar_s, bar_T):
  mean = named(f.posterior_mean(x, z, beta, alpha, bar, bar_s), 'μ̃_t')
  var = named(f.posterior_variance(beta, bar, bar_s), 'β̃_t')
  log_q = _log_q(x, z_1, z_s, z, alpha_1=alpha_1, alpha=alpha, beta=beta)
  log_ratio = _log_p(x, z_1, z_s, z, z_T=z_T, a=a, variance=variance) - log_q
  return log_ratio, _bound(x, z_1, z, a=a, variance=variance, mean=mean, var=var, bar_T=bar_T)


def _chain_at_once(x, zs, before, a, variance, betas, z_1, z, z_T, beta, alpha, bar, bar_s, bar_T):
  mean = named(f.posterior_mean(x, z, beta, alpha, bar, bar_s), 'μ̃_t')
  var = named(f.posterior_variance(beta, bar, bar_s), 'β̃_t')
  log_p = _log_n(z_T, 0, 1) + np.sum(_log_n(before, a * zs, variance))
  log_q = np.sum(_log_n(zs, sqrt(1 - betas) * before, betas))
  return log_p - log_q, _bound(x, z_1, z, a=a, variance=variance, mean=mean, var=var, bar_T=bar_T)


def _chain_by_p(x, z_1, z_s, z, z_T, a, variance, beta, alpha, bar, bar_s, bar_T):
  mean = named(f.posterior_mean(x, z, beta, alpha, bar, bar_s), 'μ̃_t')
  var = named(f.posterior_variance(beta, bar, bar_s), 'β̃_t')
  log_q = np.sum(f.log_normal(np.append(z_1, z), a * np.append(x, z_s), variance))
  log_ratio = _log_p(x, z_1, z_s, z, z_T=z_T, a=a, variance=variance) - log_q
  return log_ratio, _bound(x, z_1, z, a=a, variance=variance, mean=mean, var=var, bar_T=bar_T)


def _chain_backwards(whole_chain):
  # The encoder is q(z_{t−1} | z_t), t = 2 … T, or as printed q(z_t | z_{t+1}), t = 2 … T − 1.
  def formula(x, z_1, z_s, z, z_T, a, variance, alpha_1, beta, alpha, bar, bar_s, bar_T):
    first, now = _log_n(z_1, sqrt(alpha_1) * x, 1 - alpha_1), slice(None if whole_chain else -1)
    to, start = (z_s, z) if whole_chain else (z[:-1], z[1:])
    log_q = first + np.sum(_log_n(to, sqrt(alpha[now]) * start, beta[now]))
    mean, var = f.posterior_mean(x, z, beta, alpha, bar, bar_s), (1 - bar_s) / (1 - bar) * beta
    log_ratio = _log_p(x, z_1, z_s, z, z_T=z_T, a=a, variance=variance) - log_q
    return log_ratio, _bound(x, z_1, z, a=a, variance=variance, mean=mean, var=var, bar_T=bar_T)

  return formula


def _chain_without_x0(x, z_1, z_s, z, z_T, a, variance, alpha_1, beta, alpha, bar_T):
  log_q = _log_q(x, z_1, z_s, z, alpha_1=alpha_1, alpha=alpha, beta=beta)
  log_ratio = _log_p(x, z_1, z_s, z, z_T=z_T, a=a, variance=variance) - log_q
  return log_ratio, _bound(
    x, z_1, z, a=a, variance=variance, mean=sqrt(alpha) * z, var=beta, bar_T=bar_T
  )


def _factors(x, z_s, z, z_T, beta, alpha, bar, bar_s, bar_T):
  mean = f.posterior_mean(x, z, beta, alpha, bar, bar_s)
  rest = np.sum(_log_n(z_s, mean, f.posterior_variance(beta, bar, bar_s)))
  return _log_n(z_T, sqrt(bar_T) * x, 1 - bar_T), rest


def _factors_of_chain(x, z_1, z_s, z, alpha_1, beta, alpha):
  last = f.log_normal(z[-1], sqrt(alpha[-1]) * z_s[-1], beta[-1])
  return last, _log_q(x, z_1, z_s, z, alpha_1=alpha_1, alpha=alpha, beta=beta) - last


EXERCISES = (
  Exercise(
    'forward_step(x_prev, eps, t, betas)',
    """Take one step of the noising process: return the draw x_t of q(x_t | x_{t−1}), [D], with
the noise eps. The added noise has the variance β_t, and data of variance 1 keep theirs.""",
    lambda x_prev, eps, alpha, beta: sqrt(alpha) * x_prev + sqrt(beta) * eps,
    forms=(lambda x_prev, eps, beta: sqrt(1 - beta) * x_prev + sqrt(beta) * eps,),
  ),
  Exercise(
    'noise_photo(photo, noises, betas)',
    """Scale a photo linearly from [0, 255] to [−1, 1], take all T = 500 steps of exercise 1, and
say how far x_T is from fresh white noise n ~ N(0, I): return the expectation over n of the mean
of (n − x_T)² over all numbers of the photo, a number. It needs no draws of n.""",
    lambda photo, noises, betas, rest, bar: np.mean(
      1 + f.noised_photo(photo, noises, betas, rest, bar) ** 2
    ),
    {
      'you compare x_T with the last noise, which is part of it: fresh noise is independent': (
        lambda photo, noises, betas, rest, bar: np.mean(
          (noises[-1] - f.noised_photo(photo, noises, betas, rest, bar)) ** 2
        )
      ),
      'you scaled the photo to [0, 1]: it is from [0, 255] to [−1, 1]': (
        lambda photo, noises, betas, rest, bar: np.mean(
          1 + f.noised_photo(photo / 2 + 127.5, noises, betas, rest, bar) ** 2
        )
      ),
      'you did not scale the photo: it is from [0, 255] to [−1, 1]': (
        lambda photo, noises, betas, rest, bar: np.mean(
          1 + f.noised_photo(127.5 * (photo + 1), noises, betas, rest, bar) ** 2
        )
      ),
    },
    forms=(
      lambda photo, noises, betas, rest, bar: (
        1 + np.mean(f.noised_photo(photo, noises, betas, rest, bar) ** 2)
      ),
    ),
    also=lambda betas: {'rest': np.append(np.cumprod((1 - betas)[:0:-1])[::-1], 1.0)},
    steps=(500,),
    closed='E(n − x_T)² = 1 + x_T² for each number, since E n = 0 and E n² = 1',
  ),
  Exercise(
    'alpha_bar(t, betas)',
    """Return DDPM's ᾱ_t, a number: the share of x_t's variance that comes from data of
variance 1, after t steps of exercise 1.""",
    lambda bar: bar,
  ),
  Exercise(
    'q_sample(x0, eps, t, betas)',
    'Return the draw x_t of q(x_t | x_0), [D], in one step from x_0, with the noise eps.',
    f.q_sample,
  ),
  Exercise(
    'density(z, weights, means, variances, t, betas)',
    'The data are numbers x_0 from a mixture of K Gaussians. Return the density of x_t at z.',
    f.density,
    {
      """you put q(√ᾱ_t x) / √ᾱ_t for the density of √ᾱ_t x_0 at √ᾱ_t x: at y it is
q(y / √ᾱ_t) / √ᾱ_t""": (
        lambda z, weights, means, variances, bar: f.density(z, weights, means, variances, bar) / bar
      ),
    },
  ),
  Exercise(
    'density_step(z, weights, means, variances, t, betas)',
    """The recursion of densities: let x_{t−1}, not the data, be from a mixture of K Gaussians, and
return the density of x_t at z. (N(0, 1) is its fixed point.)""",
    f.density_step,
    {
      """you put q(√α_t x) / √α_t for the density of √α_t x_{t−1} at √α_t x: at y it is
q(y / √α_t) / √α_t""": (
        lambda z, weights, means, variances, alpha, beta: (
          weights @ f.normal(z, means, variances + beta) / alpha
        )
      ),
    },
  ),
  Exercise(
    'kl(mean_q, var_q, mean_p, var_p)',
    'Return KL(q ‖ p) of two Gaussians of D independent numbers, summed over D, in nats, a number.',
    f.kl_of,
    {
      'you computed KL(p ‖ q): it is KL(q ‖ p), a mean under q': (
        lambda mean_q, var_q, mean_p, var_p: f.kl_of(mean_p, var_p, mean_q, var_q)
      ),
    },
    forms=(lambda mean_q, var_q, mean_p, var_p: np.sum(f.kl_each(mean_q, var_q, mean_p, var_p)),),
  ),
  Exercise(
    'best_gaussian(weights, means, variances)',
    """q is a mixture of K Gaussians of one number. Return the pair (m, v), the mean and variance of
the Gaussian N(m, v) for which KL(q ‖ N(m, v)) is least.""",
    f.moments,
    forms=(
      lambda weights, means, variances: (
        weights @ means,
        weights @ (variances + means**2) - (weights @ means) ** 2,
      ),
    ),
  ),
  Exercise(
    'vae_elbo(pixels, decoded, decoder_var, mean_q, var_q)',
    """The encoder is q(z | x) = N(mean_q, var_q), the prior N(0, I). A Bernoulli decoder returns
each pixel's probability of 1, a Gaussian decoder its mean. Return the ELBO in nats, summed over
the D pixels: a number. Take the mean over the L draws for the expectation of the first term, and
the closed form of the KL.""",
    lambda pixels, decoded, var, bernoulli, mean_q, var_q: (
      np.mean(np.sum(f.log_likelihood(pixels, decoded, var, bernoulli), 1))
      - f.kl_prior(mean_q, var_q)
    ),
    also=lambda decoder_var: {'bernoulli': decoder_var is None, 'var': decoder_var or 1.0},
    closed='the KL of two Gaussians needs no draws',
  ),
  Exercise(
    'elbo_gap(x0, a, variance, mean_q, var_q)',
    """p(z) = N(0, I) and p(x | z) = N(a z, variance I), so that p(z | x) is known. For x = x0 and
the encoder q(z | x) = N(mean_q, var_q) return log p(x) − ELBO in nats, a number.""",
    lambda x0, a, variance, mean_q, var_q: f.kl_of(
      mean_q, var_q, a * x0 / (a**2 + variance), variance / (a**2 + variance)
    ),
    {
      "you took the KL to the prior: the gap is q's KL to the posterior p(z | x)": (
        lambda mean_q, var_q: f.kl_prior(mean_q, var_q)
      ),
      'you computed KL(p ‖ q): it is KL(q ‖ p), a mean under q': (
        lambda x0, a, variance, mean_q, var_q: f.kl_of(
          a * x0 / (a**2 + variance), variance / (a**2 + variance), mean_q, var_q
        )
      ),
    },
    closed='it is a KL of two Gaussians, which needs no draws',
  ),
  Exercise(
    'aggregate_posterior(mean, variance, a, var_z)',
    """The data are numbers from N(mean, variance), the encoder is q(z | x) = N(a x, var_z). Return
three numbers: the mean and the variance of the aggregate posterior ∫ q(z | x) q(x) dx, and its KL
in nats from the prior N(0, 1). A VAE is consistent if the last is 0.""",
    lambda mean, variance, a, var_z: _with_kl(a * mean, a**2 * variance + var_z),
    {
      'you averaged KL(q(z | x) ‖ p): average q first': (
        lambda mean, variance, a, var_z: (
          a * mean,
          a**2 * variance + var_z,
          f.kl_prior(a * mean, var_z) + a**2 * variance / 2,
        )
      ),
    },
  ),
  Exercise(
    'model_marginal(mean, var_x, a, variance)',
    """The other consistency: p(z) = N(0, 1) and p(x | z) = N(a z, variance), and the data are
numbers from N(mean, var_x). Return two numbers: the variance of p(x) = ∫ p(z) p(x | z) dz, and
KL(data ‖ p) in nats.""",
    lambda mean, var_x, a, variance: (
      a**2 + variance,
      f.kl_of(mean, var_x, 0, a**2 + variance),
    ),
    {
      'you computed KL(p ‖ data): it is KL(data ‖ p), a mean under the data': (
        lambda mean, var_x, a, variance: (
          a**2 + variance,
          f.kl_of(0, a**2 + variance, mean, var_x),
        )
      ),
    },
  ),
  Exercise(
    'hierarchical_elbo(x, zs, a, variance, betas)',
    """A chain of T latents: q(z_t | z_{t−1}) is exercise 1 with z_0 = x, p(z_T) = N(0, 1), and all
p(z_{t−1} | z_t), also p(x | z_1), are N(a z_t, variance). Return a pair in nats. The first is
log p(x, z_1 … z_T) − log q(z_1 … z_T | x). The second is the ELBO rearranged into log p(x | z_1),
KLs of q(z_{t−1} | z_t, x), t = 2 … T, at the given z_t, and a KL of q(z_T | x).""",
    _chain,
    {
      'you took p for q in the chain: the encoder is Π q(z_t | z_{t−1})': _chain_by_p,
      'q(z_t | z_{t+1}) where q(z_t | z_{t−1}) belongs: the encoder goes from x to z_T': (
        _chain_backwards(whole_chain=False)
      ),
      'q(z_{t−1} | z_t) where q(z_t | z_{t−1}) belongs: the encoder goes from x to z_T': (
        _chain_backwards(whole_chain=True)
      ),
      'your q(z_{t−1} | z_t) lacks x, and is known for data from N(0, I) only': _chain_without_x0,
    },
    forms=(_chain_at_once,),
    also=_latents,
    each_step=2,
  ),
  Exercise(
    'factors(x, zs, betas)',
    """log q(z_1 … z_T | x) = log q(z_T | x) + Σ log q(z_{t−1} | z_t, x), t = 2 … T, where
q(z_t | z_{t−1}) is exercise 1 with z_0 = x. Return a pair, the first term and the sum, in nats.""",
    _factors,
    {
      'you return the factors of the chain, log q(z_T | z_{T−1}) and the rest': _factors_of_chain,
    },
    also=_latents,
    each_step=2,
  ),
  Exercise(
    'pair_mean(x, a, t, betas)',
    """q(z_1 … z_T | x) is exercise 1 with z_0 = x. Return E[(z_{t−1} − a z_t)²], a number: the
other latents integrate to 1, and a mean over the pair is left, q(z_{t−1} | x) q(z_t | z_{t−1}).""",
    f.pair_mean,
    forms=(
      lambda x, a, alpha, beta, bar_s: (
        ((1 - a * sqrt(alpha)) * sqrt(bar_s) * x) ** 2
        + (1 - a * sqrt(alpha)) ** 2 * (1 - bar_s)
        + a**2 * beta
      ),
    ),
    closed='z_{t−1} − a z_t is a Gaussian, and its mean square is mean² + variance',
  ),
  Exercise(
    'posterior_mean(x0, xt, t, betas)',
    'q(x_{t−1} | x_t, x_0) is a Gaussian. Return its mean, [D]. At t = 1 it is x_0.',
    f.posterior_mean,
    {
      """your roots are over β_t and 1 − α_t, and the bars are missing: the factors are
√ᾱ_{t−1} β_t / (1 − ᾱ_t) and √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)""": (
        lambda x0, xt, beta, alpha, alpha_s: (
          (sqrt(alpha_s * beta) * x0 + sqrt(alpha * (1 - alpha_s)) * xt) / beta
        )
      ),
    },
    forms=(
      lambda x0, xt, beta, alpha, bar, bar_s: (
        sqrt(bar_s) * beta / (1 - bar) * x0 + sqrt(alpha) * (1 - bar_s) / (1 - bar) * xt
      ),
      lambda x0, xt, beta, alpha, bar: f.mean_by_eps(
        xt, (xt - sqrt(bar) * x0) / sqrt(1 - bar), beta, alpha, bar
      ),
    ),
  ),
  Exercise(
    'posterior_variance(t, betas)',
    'Return the variance of q(x_{t−1} | x_t, x_0), a number. At t = 1 it is 0.',
    f.posterior_variance,
    {
      'β_t is the variance of q(x_t | x_{t−1}): here x_t and x_0 are known, and less is left': (
        lambda beta: beta
      ),
    },
  ),
  Exercise(
    'variance_ratio(t, betas)',
    """Return the variance of q(x_{t−1} | x_t, x_0) over that of q(x_t | x_{t−1}), a number that is
near 1 but for the first steps.""",
    lambda bar, bar_s: (1 - bar_s) / (1 - bar),
  ),
  Exercise(
    'posterior_mean_by_eps(xt, eps, t, betas)',
    'Return the mean of q(x_{t−1} | x_t, x_0), [D], from x_t and the noise eps in it, without x_0.',
    f.mean_by_eps,
    forms=(
      lambda xt, eps, beta, alpha, bar, bar_s: f.posterior_mean(
        f.x0_of(xt, eps, bar), xt, beta, alpha, bar, bar_s
      ),
    ),
  ),
  Exercise(
    'x0_from_eps(xt, eps, t, betas)',
    'Return x_0, [D], from x_t and the noise eps in it.',
    f.x0_of,
    forms=(lambda xt, eps, bar: xt / sqrt(bar) - sqrt(1 / bar - 1) * eps,),
  ),
  Exercise(
    'prior_loss(x0, betas)',
    'Return L_T = KL(q(x_T | x_0) ‖ p(x_T)), p(x_T) = N(0, I), summed over D, in nats, a number.',
    lambda x0, bar: f.kl_prior(sqrt(bar) * x0, 1 - bar),
    {
      'you computed KL(p ‖ q): it is KL(q ‖ p), a mean under q': (
        lambda x0, bar: f.kl_of(0, 1, sqrt(bar) * x0, 1 - bar)
      ),
    },
  ),
  Exercise(
    'transition_loss(x0, xt, mean_p, t, betas)',
    """Return L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for t ≥ 2, summed over D, in
nats: a number. p(x_{t−1} | x_t) is N(mean_p, β_t I).""",
    lambda x0, xt, mean_p, beta, alpha, bar, bar_s: f.kl_of(
      f.posterior_mean(x0, xt, beta, alpha, bar, bar_s),
      f.posterior_variance(beta, bar, bar_s),
      mean_p,
      beta,
    ),
    {
      'you computed KL(p ‖ q): it is KL(q ‖ p), a mean under q': (
        lambda x0, xt, mean_p, beta, alpha, bar, bar_s: f.kl_of(
          mean_p,
          beta,
          f.posterior_mean(x0, xt, beta, alpha, bar, bar_s),
          f.posterior_variance(beta, bar, bar_s),
        )
      ),
      'the terms of the variances are missing: they are β̃_t and β_t, and not equal': (
        lambda x0, xt, mean_p, beta, alpha, bar, bar_s: (
          np.sum((f.posterior_mean(x0, xt, beta, alpha, bar, bar_s) - mean_p) ** 2) / (2 * beta)
        )
      ),
      'your q(x_{t−1} | x_t) lacks x_0, and is known for data from N(0, I) only': (
        lambda xt, mean_p, alpha, beta: f.kl_of(sqrt(alpha) * xt, beta, mean_p, beta)
      ),
    },
    first=2,
  ),
  Exercise(
    'grey_loss(grey, grey_mean, std)',
    """Return L_0 = −log p(x_0 | x_1) of DDPM's discrete decoder, summed over D, in nats: a number.
The probability of a grey level is the mass of N(grey_mean, std²) in its bin, which reaches half
a level to either side; the two outer bins reach to infinity.""",
    f.grey_nll,
    {
      'your outer bins end, or have a density times 2/255: those of 0 and 255 reach to infinity': (
        lambda grey, grey_mean, std: -np.sum(log(f.mass(grey, grey_mean, std)))
      ),
      'you took the density: a grey level has a probability, the mass of its bin': (
        lambda grey, grey_mean, std: -np.sum(f.log_normal(grey, grey_mean, std**2))
      ),
    },
  ),
  Exercise(
    'loss_weight(variance, t, betas)',
    """p(x_{t−1} | x_t) has the given variance, and its mean is that of q(x_{t−1} | x_t, x_0) with
eps_hat for eps. Return w_t, a number: L_{t−1} = w_t |eps − eps_hat|² + a constant, where |.| is
the Euclidean norm.""",
    lambda variance, beta, alpha, bar: beta**2 / (2 * variance * alpha * (1 - bar)),
    {
      'you dropped (1 − α_t)² / (α_t (1 − ᾱ_t)), as if |μ̃ − μ|² were |ε − ε̂|²': (
        lambda variance: 1 / (2 * variance)
      ),
    },
  ),
  Exercise(
    'bound_weights(betas)',
    """Return [T], the weights w_t of |eps − eps_hat|² in L_{t−1}, t = 1 … T, if p(x_{t−1} | x_t)
has the variance β_t. L_simple has the same weight at each t, so that early steps weigh less.""",
    lambda beta, alpha, bar: beta / (2 * alpha * (1 - bar)),
    forms=(lambda beta, alpha, bar: beta**2 / (2 * beta * alpha * (1 - bar)),),
    each_step=1,
  ),
  Exercise(
    'simple_loss(model, x0, eps, t, betas)',
    """Return L_simple of one example, a number: noise x_0 to step t with the noise eps, ask the
model for the noise, and take the mean over D of the squared error.""",
    lambda model, x0, eps, t, bar: np.mean(
      (eps - call(model, named(f.q_sample(x0, eps, bar), 'x_t'), t)) ** 2
    ),
    {
      'your model sees x_0: it must see x_t': (
        lambda model, x0, eps, t: np.mean((eps - model(x0, t)) ** 2)
      ),
    },
  ),
  Exercise(
    'ancestral_step(xt, eps_hat, noise, t, betas)',
    """Take one step of DDPM's sampler (Algorithm 2) with the variance β_t: return x_{t−1}, [D].
The last step, t = 1, adds no noise.""",
    lambda xt, eps_hat, noise, t, beta, alpha, bar: (
      f.mean_by_eps(xt, eps_hat, beta, alpha, bar) + (t > 1) * sqrt(beta) * noise
    ),
  ),
  Exercise(
    'ddim_step(xt, eps_hat, t, s, betas)',
    """Take one deterministic step of DDIM's sampler (eta = 0) from step t to any step s < t:
return x_s, [D]. At s = 0 it is the estimate of x_0.""",
    lambda xt, eps_hat, bar, bar_s: (
      sqrt(bar_s) * f.x0_of(xt, eps_hat, bar) + sqrt(1 - bar_s) * eps_hat
    ),
  ),
  Exercise(
    'reverse_gap(z, weights, means, variances, t, betas)',
    """The data are numbers from a mixture of K Gaussians. The exact reverse step is
q(x_{t−1} | x_t = z), without x_0. Return its total variation ½ ∫ |q − g| dx from the Gaussian g
with the same mean and variance, a number, to 2e-5: a grid of 2,000 points over ± 8 standard
deviations will do. T is 5, 50 or 1000, and the distance falls with T (Feller 1949).""",
    lambda z, weights, means, variances, bar, bar_s: _gap(
      *f.reverse_law(z, weights, means, variances, bar, bar_s)
    ),
    {
      'your components keep the weights of the data: multiply by the density of x_t = z': (
        lambda z, weights, means, variances, bar, bar_s: f.reverse_gap(
          weights, *f.reverse_law(z, weights, means, variances, bar, bar_s)[1:]
        )
      ),
      "your Gaussian's variance lacks the spread of the components' means": (
        lambda z, weights, means, variances, bar, bar_s: _narrow(
          *f.reverse_law(z, weights, means, variances, bar, bar_s)
        )
      ),
    },
    steps=(5, 50, 1000),
    error=2e-5,
    singly=True,
  ),
  Exercise(
    'aggregate(mean, variance, t, betas)',
    """The data are numbers with the law N(mean, variance). Average q(x_t | x_0) over them: return
three numbers, the mean and the variance of this aggregate, and its KL in nats from the prior
N(0, 1), KL(aggregate ‖ prior).""",
    lambda mean, variance, bar: _with_kl(sqrt(bar) * mean, bar * variance + (1 - bar)),
    {
      'you averaged KL(q(x_t | x_0) ‖ p), which is L_T: average q first': (
        lambda mean, variance, bar: (
          sqrt(bar) * mean,
          bar * variance + 1 - bar,
          f.kl_prior(sqrt(bar) * mean, 1 - bar) + bar * variance / 2,
        )
      ),
      'you computed KL(prior ‖ aggregate): it is KL(aggregate ‖ prior)': (
        lambda mean, variance, bar: (
          sqrt(bar) * mean,
          bar * variance + 1 - bar,
          f.kl_of(0, 1, sqrt(bar) * mean, bar * variance + 1 - bar),
        )
      ),
    },
  ),
  Exercise(
    'guidance(eps_c, eps_u, w, var_c, var_u)',
    """Return three numbers. First, the noise of classifier-free guidance with the scale w, where
w = 1 is the conditional model. For the others let x_0 be from N(0, var_c) given the condition and
from N(0, var_u) without. Second, the variance of the law that the scale names, proportional to
p_c^w p_u^(1 − w). Third, the variance that is drawn: x_σ = x_0 + σ n has the scores s_c and
s_u, and dx / dσ = −σ (w s_c + (1 − w) s_u) is solved from x ~ N(0, σ²) at σ → ∞
down to σ = 0.""",
    lambda eps_c, eps_u, w, var_c, var_u: (
      eps_u + w * (eps_c - eps_u),
      1 / (w / var_c + (1 - w) / var_u),
      var_c**w * var_u ** (1 - w),
    ),
    {
      """your scale counts from 0 (Ho & Salimans): here w = 1 is the conditional model,
ε_u + w (ε_c − ε_u)""": (
        lambda eps_c, eps_u, w, var_c, var_u: (
          eps_c + w * (eps_c - eps_u),
          1 / (w / var_c + (1 - w) / var_u),
          var_c**w * var_u ** (1 - w),
        )
      ),
      'guidance does not draw the law that the scale names: solve the ODE': (
        lambda eps_c, eps_u, w, var_c, var_u: (
          eps_u + w * (eps_c - eps_u),
          1 / (w / var_c + (1 - w) / var_u),
          1 / (w / var_c + (1 - w) / var_u),
        )
      ),
      'you averaged variances: the precision of the law is w / var_c + (1 − w) / var_u': (
        lambda eps_c, eps_u, w, var_c, var_u: (
          eps_u + w * (eps_c - eps_u),
          w * var_c + (1 - w) * var_u,
          var_c**w * var_u ** (1 - w),
        )
      ),
    },
    forms=(
      lambda eps_c, eps_u, w, var_c, var_u: (
        (1 - w) * eps_u + w * eps_c,
        1 / (w / var_c + (1 - w) / var_u),
        var_c**w * var_u ** (1 - w),
      ),
    ),
  ),
)
