"""Equations of diffusion models as pure functions in JAX.

`import diffusion_jax as dj` only loads jax and numpy. Import the submodules for
networks, data, training and evaluation by name.
"""

from diffusion_jax.autoencoders.bounds import (
  free_bits as free_bits,
  hierarchical_elbo as hierarchical_elbo,
  importance_weighted_elbo as importance_weighted_elbo,
  kl_warmup as kl_warmup,
  rearranged_elbo as rearranged_elbo,
  reparameterize as reparameterize,
  vae_elbo as vae_elbo,
  vae_log_weight as vae_log_weight,
)
from diffusion_jax.core.arguments import pytree_dataclass as pytree_dataclass
from diffusion_jax.core.decoders import (
  bernoulli_log_prob as bernoulli_log_prob,
  discretized_logistic_log_prob as discretized_logistic_log_prob,
)
from diffusion_jax.core.denoiser import (
  Denoiser as Denoiser,
  Network as Network,
  Prediction as Prediction,
  at_training_levels as at_training_levels,
  clip_denoised as clip_denoised,
  dynamic_threshold as dynamic_threshold,
  edm_input as edm_input,
  log_sigma_input as log_sigma_input,
  logsnr_input as logsnr_input,
  step_input as step_input,
  time_input as time_input,
)
from diffusion_jax.core.elbo import (
  categorical_nll as categorical_nll,
  diffusion_kl as diffusion_kl,
  prior_kl as prior_kl,
  reconstruction_nll as reconstruction_nll,
  variational_bound as variational_bound,
)
from diffusion_jax.core.levels import (
  NoiseLevel as NoiseLevel,
  Schedule as Schedule,
  clean_level as clean_level,
)
from diffusion_jax.core.losses import (
  antithetic_times as antithetic_times,
  denoising_loss as denoising_loss,
  edm_weight as edm_weight,
  flow_weight as flow_weight,
  independent_levels as independent_levels,
  levels_in_turn as levels_in_turn,
  log_normal_times as log_normal_times,
  logit_normal_times as logit_normal_times,
  min_flow_weight as min_flow_weight,
  min_snr_weight as min_snr_weight,
  simple_loss as simple_loss,
  snr_weight as snr_weight,
  step_times as step_times,
  subset_levels as subset_levels,
  truncated_snr_weight as truncated_snr_weight,
  uniform_times as uniform_times,
  v_weight as v_weight,
  weighted_eps_loss as weighted_eps_loss,
)
from diffusion_jax.core.measurements import (
  Measurement as Measurement,
  poisson_log_prob as poisson_log_prob,
)
from diffusion_jax.core.normal import (
  Normal as Normal,
  bits_per_dim as bits_per_dim,
  discretized_log_prob as discretized_log_prob,
  kl as kl,
  log_prob as log_prob,
)
from diffusion_jax.core.parametrization import (
  eps_from_x0 as eps_from_x0,
  error_scale as error_scale,
  score_from_x0 as score_from_x0,
  target as target,
  to_x0 as to_x0,
)
from diffusion_jax.core.path_bound import path_bound as path_bound
from diffusion_jax.core.process import (
  forward_step as forward_step,
  p_reverse as p_reverse,
  q_posterior as q_posterior,
  q_sample as q_sample,
  reverse_variance as reverse_variance,
  sde_coefficients as sde_coefficients,
)
from diffusion_jax.core.schedules import (
  CosineSchedule as CosineSchedule,
  GeometricVESchedule as GeometricVESchedule,
  KarrasSchedule as KarrasSchedule,
  LearnedSchedule as LearnedSchedule,
  LinearVPSchedule as LinearVPSchedule,
  RectifiedFlowSchedule as RectifiedFlowSchedule,
  ShiftedSchedule as ShiftedSchedule,
  SigmoidSchedule as SigmoidSchedule,
  SubVPSchedule as SubVPSchedule,
)
from diffusion_jax.core.step_schedules import (
  DiscreteSchedule as DiscreteSchedule,
  constant_betas as constant_betas,
  cosine_betas as cosine_betas,
  linear_betas as linear_betas,
  quadratic_betas as quadratic_betas,
  reciprocal_betas as reciprocal_betas,
  rescaled_linear_betas as rescaled_linear_betas,
  scaled_linear_betas as scaled_linear_betas,
  sigmoid_betas as sigmoid_betas,
  warmup_betas as warmup_betas,
  zero_terminal_snr as zero_terminal_snr,
)
from diffusion_jax.core.vdm import (
  vdm_diffusion_loss as vdm_diffusion_loss,
  vdm_weight as vdm_weight,
)
from diffusion_jax.discrete.equations import (
  StateDenoiser as StateDenoiser,
  draw_states as draw_states,
  logistic_logits as logistic_logits,
  logistic_network as logistic_network,
  make_state_denoiser as make_state_denoiser,
  p_reverse_states as p_reverse_states,
  posterior_logits as posterior_logits,
  prior_kl_states as prior_kl_states,
  q_posterior_states as q_posterior_states,
  q_sample_states as q_sample_states,
  q_states as q_states,
  state_bound as state_bound,
  state_kl as state_kl,
  state_nll as state_nll,
  states_of as states_of,
  transition_kl_states as transition_kl_states,
  values_of as values_of,
)
from diffusion_jax.discrete.masked import (
  masked_bound as masked_bound,
  masked_weight as masked_weight,
)
from diffusion_jax.discrete.samplers import (
  ancestral_states as ancestral_states,
  confidence_ordered as confidence_ordered,
  first_hitting as first_hitting,
  guided_states as guided_states,
  keep_known as keep_known,
  prior_sample_states as prior_sample_states,
  remasked as remasked,
  top_p as top_p,
)
from diffusion_jax.discrete.schedules import (
  AlphaBarSchedule as AlphaBarSchedule,
  CosineMasking as CosineMasking,
  PolynomialMasking as PolynomialMasking,
)
from diffusion_jax.discrete.transitions import (
  MatrixProcess as MatrixProcess,
  ReplacementProcess as ReplacementProcess,
  StateProcess as StateProcess,
  gaussian_matrix as gaussian_matrix,
  gaussian_process as gaussian_process,
  masking_process as masking_process,
  transition_matrix as transition_matrix,
  uniform_process as uniform_process,
)
from diffusion_jax.discrete.uniform import (
  jump_nats as jump_nats,
  uniform_bound as uniform_bound,
  uniform_weight as uniform_weight,
)
from diffusion_jax.few_steps.maps import (
  FlowMap as FlowMap,
  make_flow_map as make_flow_map,
)
from diffusion_jax.few_steps.sampler import sample_map as sample_map
from diffusion_jax.posteriors.heuristics import (
  likelihood_guided as likelihood_guided,
  red_diff as red_diff,
  renoised as renoised,
)
from diffusion_jax.posteriors.particles import (
  Particles as Particles,
  feynman_kac as feynman_kac,
  one_of as one_of,
  pick as pick,
  steered as steered,
)
from diffusion_jax.posteriors.reconstruction import (
  observation_guided as observation_guided,
  proximal as proximal,
  pseudoinverse_guided as pseudoinverse_guided,
  reconstruction_guided as reconstruction_guided,
  unexplained as unexplained,
)
from diffusion_jax.posteriors.splitting import (
  decoupled as decoupled,
  gaussian_draw as gaussian_draw,
  langevin_draw as langevin_draw,
  ode_estimate as ode_estimate,
  split_gibbs as split_gibbs,
)
from diffusion_jax.posteriors.twists import (
  Twist as Twist,
  pseudoinverse_twist as pseudoinverse_twist,
  spread_twist as spread_twist,
  tempered_twist as tempered_twist,
  twist_guided as twist_guided,
)
from diffusion_jax.runs import open_run as open_run, training_step as training_step
from diffusion_jax.sampling.ancestral import (
  ancestral as ancestral,
  ddim as ddim,
  ddim_invert as ddim_invert,
)
from diffusion_jax.sampling.brownian import path_noise as path_noise
from diffusion_jax.sampling.composition import bridged as bridged, gauss_composed as gauss_composed
from diffusion_jax.sampling.correctors import (
  annealed_langevin as annealed_langevin,
  churn as churn,
  churn_gamma as churn_gamma,
  langevin as langevin,
  with_ancestral_noise as with_ancestral_noise,
  with_corrector as with_corrector,
)
from diffusion_jax.sampling.editing import (
  interpolate as interpolate,
  noise_image as noise_image,
  sdedit as sdedit,
  slerp as slerp,
)
from diffusion_jax.sampling.grids import (
  level_grid as level_grid,
  respaced_steps as respaced_steps,
  staggered as staggered,
  step_levels as step_levels,
)
from diffusion_jax.sampling.guidance import (
  classifier_free as classifier_free,
  classifier_guided as classifier_guided,
  log_prob_gradient as log_prob_gradient,
  make_paired_denoiser as make_paired_denoiser,
  paired as paired,
)
from diffusion_jax.sampling.guiders import (
  adaptive_projected as adaptive_projected,
  cfg_plus_plus as cfg_plus_plus,
  cfg_zero_star as cfg_zero_star,
)
from diffusion_jax.sampling.inpainting import (
  repaint as repaint,
  repaint_levels as repaint_levels,
  replace_known as replace_known,
)
from diffusion_jax.sampling.likelihood import (
  Likelihood as Likelihood,
  adaptive_ode as adaptive_ode,
  dequantize as dequantize,
  gaussian_dequantize as gaussian_dequantize,
  log_likelihood as log_likelihood,
  ode_bits_per_dim as ode_bits_per_dim,
  probability_flow as probability_flow,
)
from diffusion_jax.sampling.rollouts import (
  given_known as given_known,
  hold_known as hold_known,
  roll_out as roll_out,
)
from diffusion_jax.sampling.sampler import (
  Sampler as Sampler,
  prior_sample as prior_sample,
  sample as sample,
  sample_with_state as sample_with_state,
  trajectory as trajectory,
)
from diffusion_jax.sampling.sde import (
  euler_maruyama as euler_maruyama,
  reverse_diffusion as reverse_diffusion,
  velocity_sde as velocity_sde,
)
from diffusion_jax.sampling.self_conditioning import self_conditioned as self_conditioned
from diffusion_jax.sampling.solvers import (
  dpm_solver_2 as dpm_solver_2,
  dpm_solver_pp as dpm_solver_pp,
  dpm_solver_pp_2s as dpm_solver_pp_2s,
  dpm_solver_pp_2s_sde as dpm_solver_pp_2s_sde,
  dpm_solver_pp_sde as dpm_solver_pp_sde,
  heun as heun,
  lms as lms,
  unipc as unipc,
  velocity_heun as velocity_heun,
)

__version__ = '0.3.0'


def _missing(name: str) -> None:
  from importlib.util import find_spec

  from diffusion_jax.ranges import near

  module, hint = f'{__name__}.{name}', ''
  if name[0] != '_':  # Those are asked for by tools, such as __test__ by pytest.
    hint = near(name, [public for public in globals() if public[0] != '_'])
    hint = f': import {module}' if find_spec(module) else hint
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}{hint}')


__getattr__: object = _missing  # of a function type checkers would take every name for one
