"""The exercises: statements, closed forms in float64, and misprints of lecture notes.

A formula is a function of the numbers that it names: arguments of the exercise, what its `also`
returns, and beta = β_t, alpha = α_t, alpha_s = α_{t−1}, bar = ᾱ_t and bar_s = ᾱ_s, where s is t − 1
unless it is an argument. A misprint is a formula, or what it puts for numbers of the right one:
another number's name, a function of the number, or a value.
"""

import numpy as np
from numpy import log, sqrt

from diffusion_jax.testing.exercises import formulas as f
from diffusion_jax.testing.exercises.inputs import Exercise

_BY_ALPHA = {'you divide by α_t: it is √α_t': {'alpha': np.square}}
_BY_BAR = {'you divide by √ᾱ_t: it is √α_t, for one step and not for t': {'alpha': 'bar'}}
_REVERSED = {
  'you computed KL(p ‖ q): it is KL(q ‖ p), a mean under q': {
    'mean_q': 'mean_p',
    'var_q': 'var_p',
    'mean_p': 'mean_q',
    'var_p': 'var_q',
  }
}
_ONCE = {'the part of the variances is there once: it counts for each of D numbers': f.kl_once}
EXERCISES = (
  Exercise(
    'forward_step(x_prev, eps, t, betas)',
    """Take one step of the noising process: return the draw x_t of q(x_t | x_{t−1}), [D], with
the noise eps. The added noise has the variance β_t, and data of variance 1 keep theirs.""",
    lambda x_prev, eps, alpha, beta: sqrt(alpha) * x_prev + sqrt(beta) * eps,
    {
      """your step has no noise: that the encoder is fixed means that nothing in it is learnt,
and it is random, + √β_t ε""": {'eps': 0},
      'β_t is the variance of the noise: its factor is √β_t': {'beta': np.square},
      'the mean is √(1 − β_t) x_{t−1}: yours lacks the root': {'alpha': np.square},
      'you do not shrink x_{t−1}: its factor is √(1 − β_t)': {'alpha': 1},
    },
  ),
  Exercise(
    'noise_photo(photo, noises, betas)',
    """Scale a photo linearly from [0, 255] to [−1, 1], take all T = 500 steps of exercise 1, and
say how far x_T is from fresh white noise n ~ N(0, I): return the expectation over n of the mean
of (n − x_T)² over all numbers of the photo, a number. It needs no draws of n.""",
    lambda x: 1 + np.mean(x**2),
    {
      'you did not scale the photo: it is from [0, 255] to [−1, 1]': {'x': 'unscaled'},
      'you scaled the photo to [0, 1]: it is from [0, 255] to [−1, 1]': {'x': 'positive'},
      "fresh noise's own variance is missing: E|n − x|² = |x|² + D": lambda x: np.mean(x**2),
      'you compare x_T with the last noise, which is part of it: fresh noise is independent': (
        lambda x, noises: np.mean((noises[-1] - x) ** 2)
      ),
    },
    f.noise_photo,
    steps=(500,),
  ),
  Exercise(
    'alpha_bar(t, betas)',
    """Return DDPM's ᾱ_t, a number: the share of x_t's variance that comes from data of
variance 1, after t steps of exercise 1.""",
    lambda bar: bar,
    {
      'you multiply the β_s: it is Π(1 − β_s)': lambda t, betas: np.prod(betas[:t]),
      'you return √ᾱ_t, the factor of x_0': {'bar': np.sqrt},
    },
  ),
  Exercise(
    'q_sample(x0, eps, t, betas)',
    'Return the draw x_t of q(x_t | x_0), [D], in one step from x_0, with the noise eps.',
    f.q_sample,
    {
      'your draw has no noise: it is random, + √(1 − ᾱ_t) ε': {'eps': 0},
      '1 − ᾱ_t is the variance of the noise: its factor is √(1 − ᾱ_t)': (
        lambda x0, eps, bar: sqrt(bar) * x0 + (1 - bar) * eps
      ),
      'the factor of x_0 is √ᾱ_t: yours lacks the root': (
        lambda x0, eps, bar: bar * x0 + sqrt(1 - bar) * eps
      ),
    },
  ),
  Exercise(
    'density(z, weights, means, variances, t, betas)',
    'The data are numbers x_0 from a mixture of K Gaussians. Return the density of x_t at z.',
    f.density,
    {
      """yours is the density of √ᾱ_t x_0: it is convolved with the noise's, which adds 1 − ᾱ_t
to each variance""": {'added': 0},
      "your modes have the noise's variance alone: add ᾱ_t times their own": {'own': 0},
      'your modes stay where they are: noising shrinks their means by √ᾱ_t': {'m': 'means'},
    },
    lambda means, variances, bar: {
      'm': sqrt(bar) * means,
      'own': bar * variances,
      'added': 1 - bar,
    },
  ),
  Exercise(
    'kl(mean_q, var_q, mean_p, var_p)',
    'Return KL(q ‖ p) of two Gaussians of D independent numbers, summed over D, in nats, a number.',
    f.kl_of,
    _REVERSED
    | {
      'you took variances for standard deviations': {'var_q': np.square, 'var_p': np.square},
      'the logarithm is missing: it has − ½ log(var_q / var_p)': (
        lambda mean_q, var_q, mean_p, var_p: (
          f.kl_of(mean_q, var_q, mean_p, var_p) + np.sum(log(var_q / var_p)) / 2
        )
      ),
    },
  ),
  Exercise(
    'best_gaussian(weights, means, variances)',
    """q is a mixture of K Gaussians of one number. Return the pair (m, v), the mean and variance of
the Gaussian N(m, v) for which KL(q ‖ N(m, v)) is least.""",
    lambda m, within, between: (m, within + between),
    {
      'your variance lacks the spread of the means: Var = E[v] + Var[m]': {'between': 0},
      'you return the second moment: subtract the square of the mean': (
        lambda m, within, between: (m, within + between + m**2)
      ),
    },
    f.moments,
  ),
  Exercise(
    'vae_elbo(pixels, decoded, decoder_var, mean_q, var_q)',
    """The encoder is q(z | x) = N(mean_q, var_q), the prior N(0, I). A Bernoulli decoder returns
each pixel's probability of 1, a Gaussian decoder its mean. Return the ELBO in nats, summed over
the D pixels: a number. Take the mean over the L draws for the expectation of the first term, and
the closed form of the KL.""",
    lambda log_px, kl: np.mean(log_px) - kl,
    {
      'the logarithm is missing: the first term is E_q[log p(x | z)]': {'log_px': np.exp},
      'your logarithm is outside the expectation: the first term is E_q[log p(x | z)]': (
        lambda log_px, kl: log(np.mean(np.exp(log_px))) - kl
      ),
      'you add the KL: the ELBO is E_q[log p(x | z)] − KL': {'kl': np.negative},
      'your Gaussian lacks its constant, − ½ log(2π variance) for each pixel': {'log_px': 'bare'},
    },
    f.decode,
  ),
  Exercise(
    'elbo_gap(x0, a, variance, mean_q, var_q)',
    """p(z) = N(0, I) and p(x | z) = N(a z, variance I), so that p(z | x) is known. For x = x0 and
the encoder q(z | x) = N(mean_q, var_q) return log p(x) − ELBO in nats, a number.""",
    f.kl_of,
    _REVERSED
    | {
      "you took the KL to the prior: the gap is q's KL to the posterior p(z | x)": {
        'mean_p': 0,
        'var_p': 1,
      }
    },
    lambda x0, a, variance: {
      'mean_p': a * x0 / (a**2 + variance),
      'var_p': variance / (a**2 + variance),
    },
  ),
  Exercise(
    'hierarchical_elbo(x, zs, a, variance, betas)',
    """A chain of T latents: q(z_t | z_{t−1}) is exercise 1 with z_0 = x, p(z_T) = N(0, 1), and all
p(z_{t−1} | z_t), also p(x | z_1), are N(a z_t, variance). Return a pair in nats. The first is
log p(x, z_1 … z_T) − log q(z_1 … z_T | x). The second is the ELBO rearranged into log p(x | z_1),
KLs of q(z_{t−1} | z_t, x), t = 2 … T, at the given z_t, and a KL of q(z_T | x).""",
    lambda log_px, log_p, prior, log_q, kls: (log_p + prior - log_q, log_px - kls),
    {
      'L_0 = −log p(x | z_1) has the wrong sign: −ELBO = L_T + Σ L_{t−1} + L_0': {
        'log_px': np.negative
      },
      """your product of p(z_{t−1} | z_t) starts at t = 1, which is p(x | z_1) and counts twice:
it is t > 1""": {'log_p': 'twice'},
      'you took p for q in the chain: the encoder is Π q(z_t | z_{t−1})': {'log_q': 'by_p'},
      'the prior log p(z_T) is missing in the first number': {'prior': 0},
    },
    f.chain_terms,
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
      'you swapped the factors of x_0 and x_t': {'x0': 'xt', 'xt': 'x0'},
    },
  ),
  Exercise(
    'posterior_variance(t, betas)',
    'Return the variance of q(x_{t−1} | x_t, x_0), a number. At t = 1 it is 0.',
    f.posterior_variance,
    {
      'β_t and the bars are missing: it is (1 − ᾱ_{t−1}) / (1 − ᾱ_t) β_t': (
        lambda beta, alpha_s: (1 - alpha_s) / beta
      ),
      'the factor β_t is missing': {'beta': 1},
      'you return β_t, the variance of q(x_t | x_{t−1})': lambda beta: beta,
    },
  ),
  Exercise(
    'posterior_mean_by_eps(xt, eps, t, betas)',
    'Return the mean of q(x_{t−1} | x_t, x_0), [D], from x_t and the noise eps in it, without x_0.',
    f.mean_by_eps,
    _BY_ALPHA | _BY_BAR | {'you add the noise: it is subtracted': {'eps': np.negative}},
  ),
  Exercise(
    'x0_from_eps(xt, eps, t, betas)',
    'Return x_0, [D], from x_t and the noise eps in it.',
    f.x0_of,
    {'you divide by ᾱ_t: it is √ᾱ_t': lambda xt, eps, bar: f.x0_of(xt, eps, bar) / sqrt(bar)},
  ),
  Exercise(
    'prior_loss(x0, betas)',
    'Return L_T = KL(q(x_T | x_0) ‖ p(x_T)), p(x_T) = N(0, I), summed over D, in nats, a number.',
    f.kl_of,
    _REVERSED
    | _ONCE
    | {
      'the part of the variances is missing, − ½ (ᾱ_T + log(1 − ᾱ_T)) for each number': {
        'var_q': np.ones_like
      }
    },
    lambda x0, bar: {
      'mean_q': sqrt(bar) * x0,
      'var_q': (1 - bar) * np.ones(3),
      'mean_p': np.zeros(3),
      'var_p': np.ones(3),
    },
  ),
  Exercise(
    'transition_loss(x0, xt, mean_p, t, betas)',
    """Return L_{t−1} = KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for t ≥ 2, summed over D, in
nats: a number. p(x_{t−1} | x_t) is N(mean_p, β_t I).""",
    f.kl_of,
    _REVERSED
    | _ONCE
    | {
      'your q(x_{t−1} | x_t) lacks x_0, and is known for data from N(0, I) only': {
        'mean_q': 'free',
        'var_q': 'var_p',
      },
      "you left out the variances: q's is β̃_t and p's β_t": {'var_q': 'var_p'},
    },
    lambda x0, xt, beta, alpha, bar, bar_s: {
      'mean_q': f.posterior_mean(x0, xt, beta, alpha, bar, bar_s),
      'var_q': f.posterior_variance(beta, bar, bar_s) * np.ones(3),
      'var_p': beta * np.ones(3),
      'free': sqrt(alpha) * xt,
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
      'your outer bins end: those of 0 and 255 reach to infinity': {'open_ends': False},
      'your bins are too wide: levels are 2/255 apart, so that a bin is ± 1/255': {'half': 2 / 255},
      'you took the density: a grey level has a probability, the mass of its bin': (
        lambda grey, grey_mean, std: -np.sum(f.log_normal(grey, grey_mean, std**2))
      ),
      'you took the standard deviation for the variance': {'std': np.sqrt},
    },
  ),
  Exercise(
    'loss_weight(variance, t, betas)',
    """p(x_{t−1} | x_t) has the given variance, and its mean is that of q(x_{t−1} | x_t, x_0) with
eps_hat for eps. Return w_t, a number: L_{t−1} = w_t |eps − eps_hat|² + a constant, where |.| is
the Euclidean norm.""",
    lambda variance, beta, alpha, bar: beta**2 / (2 * variance * alpha * (1 - bar)),
    {
      'you dropped (1 − α_t)² / (α_t (1 − ᾱ_t)): |μ̃ − μ|² is that times |ε − ε̂|²': (
        lambda variance: 1 / (2 * variance)
      ),
      'you divide by ᾱ_t: it is α_t': {'alpha': 'bar'},
      'your β_t is not squared': {'beta': np.sqrt},
    },
  ),
  Exercise(
    'simple_loss(model, x0, eps, t, betas)',
    """Return L_simple of one example, a number: noise x_0 to step t with the noise eps, ask the
model for the noise, and take the mean over D of the squared error.""",
    lambda eps, hat: np.mean((eps - hat) ** 2),
    {
      'your square is outside the mean: it is mean(|ε − ε̂|²), not |mean(ε − ε̂)|²': (
        lambda eps, hat: np.mean(eps - hat) ** 2
      ),
      'your norm is not squared': lambda eps, hat: sqrt(np.sum((eps - hat) ** 2)),
      'your model sees x_0: it must see x_t': {'hat': 'of_x0'},
    },
    lambda model, x0, eps, t, bar: {
      'hat': model(f.q_sample(x0, eps, bar), t),
      'of_x0': model(x0, t),
    },
  ),
  Exercise(
    'ancestral_step(xt, eps_hat, noise, t, betas)',
    """Take one step of DDPM's sampler (Algorithm 2) with the variance β_t: return x_{t−1}, [D].
The last step, t = 1, adds no noise.""",
    f.mean_by_eps,
    _BY_ALPHA
    | _BY_BAR
    | {
      'you add noise at t ≥ 1: it is t > 1, so that x_0 is the mean': {'added': 'each'},
      'the noise has the variance β_t: its factor is √β_t': {'added': 'by_beta'},
      'your noise has the variance β̃_t of q(x_{t−1} | x_t, x_0): here it is β_t': {
        'added': 'small'
      },
    },
    lambda eps_hat, noise, t, beta, bar, bar_s: {
      'eps': eps_hat,
      'each': sqrt(beta) * noise,
      'small': sqrt(f.posterior_variance(beta, bar, bar_s)) * noise,
      'added': (t > 1) * sqrt(beta) * noise,
      'by_beta': (t > 1) * beta * noise,
    },
  ),
  Exercise(
    'ddim_step(xt, eps_hat, t, s, betas)',
    """Take one deterministic step of DDIM's sampler (eta = 0) from step t to any step s < t:
return x_s, [D]. At s = 0 it is the estimate of x_0.""",
    lambda hat, eps_hat, bar_s, rest: sqrt(bar_s) * hat + sqrt(rest) * eps_hat,
    {
      'your estimate of x_0 is not divided by √ᾱ_t': {'hat': 'whole'},
      'your second term keeps √(1 − ᾱ_t): it is √(1 − ᾱ_s)': {'rest': 'before'},
      'the factor of ε̂ is √(1 − ᾱ_s): yours lacks the root': {'rest': np.square},
    },
    lambda xt, eps_hat, bar, bar_s: {
      'hat': f.x0_of(xt, eps_hat, bar),
      'whole': sqrt(bar) * f.x0_of(xt, eps_hat, bar),
      'rest': 1 - bar_s,
      'before': 1 - bar,
    },
  ),
  Exercise(
    'reverse_gap(z, weights, means, variances, t, betas)',
    """The data are numbers from a mixture of K Gaussians. The exact reverse step is
q(x_{t−1} | x_t = z), without x_0. Return its total variation ½ ∫ |q − g| dx from the Gaussian g
with the same mean and variance, a number, to 2e-5: a grid of 2,000 points over ± 8 standard
deviations will do. T is 5, 50 or 1000, and the distance falls with T (Feller 1949).""",
    f.reverse_gap,
    {
      'your components keep the weights of the data: multiply by the density of x_t = z': {
        'w': 'weights'
      },
      "your Gaussian's variance lacks the spread of the components' means": {'spread': 0},
    },
    f.reverse_law,
    steps=(5, 50, 1000),
    error=2e-5,
  ),
  Exercise(
    'aggregate(mean, variance, t, betas)',
    """The data are numbers with the law N(mean, variance). Average q(x_t | x_0) over them: return
three numbers, the mean and the variance of this aggregate, and its KL in nats from the prior
N(0, 1), KL(aggregate ‖ prior).""",
    lambda m, v: (m, v, f.kl_of(m, v)),
    {
      "your variance is that of q(x_t | x_0) alone: add ᾱ_t times the data's": {'v': 'added'},
      'your variance is β_t alone, even where t = 1 it lacks that of the data': {'v': 'beta'},
      'you averaged KL(q(x_t | x_0) ‖ p), which is L_T: average q first': (
        lambda m, v, added: (m, v, f.kl_of(m, added) + (v - added) / 2)
      ),
    },
    lambda mean, variance, bar: {
      'm': sqrt(bar) * mean,
      'v': bar * variance + 1 - bar,
      'added': 1 - bar,
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
    lambda noise, named, drawn: (noise, named, drawn),
    {
      """your scale counts from 0 (Ho & Salimans): here w = 1 is the conditional model,
ε_u + w (ε_c − ε_u)""": {'noise': 'from_0'},
      'guidance does not draw the law that the scale names: solve the ODE': {'drawn': 'named'},
      'you averaged variances: the precision of the law is w / var_c + (1 − w) / var_u': {
        'named': 'averaged'
      },
    },
    lambda eps_c, eps_u, w, var_c, var_u: {
      'noise': eps_u + w * (eps_c - eps_u),
      'from_0': eps_c + w * (eps_c - eps_u),
      'named': 1 / (w / var_c + (1 - w) / var_u),
      'averaged': w * var_c + (1 - w) * var_u,
      'drawn': var_c**w * var_u ** (1 - w),
    },
  ),
)
