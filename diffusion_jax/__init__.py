"""Equations of diffusion models as pure functions in JAX.

`import diffusion_jax as dj` loads jax and numpy only. Networks, data, training
and evaluation are submodules to import by name.
"""

from diffusion_jax.core.betas import (
  constant_betas,
  cosine_betas,
  linear_betas,
  quadratic_betas,
  reciprocal_betas,
  rescaled_linear_betas,
  scaled_linear_betas,
  sigmoid_betas,
  warmup_betas,
  zero_terminal_snr,
)
from diffusion_jax.core.decoders import (
  bernoulli_log_prob,
  discretized_logistic_log_prob,
)
from diffusion_jax.core.denoiser import (
  Denoiser,
  Prediction,
  at_training_levels,
  edm_input,
  log_sigma_input,
  logsnr_input,
  make_denoiser,
  network_output,
  step_input,
  time_input,
)
from diffusion_jax.core.discrete import DiscreteSchedule
from diffusion_jax.core.discrete_states import (
  StateDenoiser,
  draw_states,
  logistic_logits,
  make_state_denoiser,
  p_reverse_states,
  posterior_logits,
  prior_kl_states,
  q_posterior_states,
  q_sample_states,
  q_states,
  state_bound,
  state_kl,
  state_nll,
  states_of,
  transition_kl_states,
)
from diffusion_jax.core.elbo import (
  categorical_nll,
  diffusion_kl,
  prior_kl,
  reconstruction_nll,
  variational_bound,
)
from diffusion_jax.core.flow_map import FlowMap, make_flow_map
from diffusion_jax.core.levels import NoiseLevel, Schedule, clean_level
from diffusion_jax.core.losses import (
  antithetic_times,
  denoising_loss,
  edm_weight,
  flow_weight,
  log_normal_times,
  logit_normal_times,
  min_flow_weight,
  min_snr_weight,
  simple_loss,
  snr_weight,
  step_times,
  truncated_snr_weight,
  uniform_times,
  weighted_eps_loss,
)
from diffusion_jax.core.masked import masked_bound, masked_weight
from diffusion_jax.core.normal import (
  Normal,
  bits_per_dim,
  discretized_log_prob,
  kl,
  log_prob,
)
from diffusion_jax.core.parametrization import (
  eps_from_x0,
  error_scale,
  score_from_x0,
  target,
  to_x0,
)
from diffusion_jax.core.process import (
  forward_step,
  p_reverse,
  q_posterior,
  q_sample,
  reverse_variance,
  sde_coefficients,
)
from diffusion_jax.core.pytree import pytree_dataclass
from diffusion_jax.core.schedules import (
  CosineSchedule,
  GeometricVESchedule,
  KarrasSchedule,
  LearnedSchedule,
  LinearVPSchedule,
  RectifiedFlowSchedule,
  ShiftedSchedule,
  SigmoidSchedule,
  SubVPSchedule,
)
from diffusion_jax.core.state_schedules import (
  AlphaBarSchedule,
  CosineMasking,
  PolynomialMasking,
)
from diffusion_jax.core.transitions import (
  MatrixProcess,
  ReplacementProcess,
  StateProcess,
  gaussian_matrix,
  gaussian_process,
  masking_process,
  transition_matrix,
  uniform_process,
)
from diffusion_jax.core.vae import (
  free_bits,
  hierarchical_elbo,
  importance_weighted_elbo,
  kl_warmup,
  rearranged_elbo,
  reparameterize,
  vae_elbo,
  vae_log_weight,
)
from diffusion_jax.core.vdm import vdm_diffusion_loss, vdm_weight
from diffusion_jax.sampling.ancestral import ancestral, ddim, ddim_invert
from diffusion_jax.sampling.correctors import (
  annealed_langevin,
  churn,
  churn_gamma,
  langevin,
  with_corrector,
)
from diffusion_jax.sampling.discrete import (
  ancestral_states,
  confidence_ordered,
  first_hitting,
  guided_states,
  keep_known,
  prior_sample_states,
  remasked,
  top_p,
)
from diffusion_jax.sampling.editing import (
  interpolate,
  noise_image,
  sdedit,
  slerp,
)
from diffusion_jax.sampling.grids import (
  level_grid,
  respaced_steps,
  step_levels,
)
from diffusion_jax.sampling.guidance import (
  classifier_free,
  classifier_guided,
  clip_denoised,
  dynamic_threshold,
  log_prob_gradient,
  make_paired_denoiser,
  paired,
)
from diffusion_jax.sampling.inpainting import (
  repaint,
  repaint_levels,
  replace_known,
)
from diffusion_jax.sampling.likelihood import (
  Likelihood,
  dequantize,
  gaussian_dequantize,
  log_likelihood,
  ode_bits_per_dim,
  probability_flow,
)
from diffusion_jax.sampling.map_sampler import sample_map
from diffusion_jax.sampling.reconstruction import (
  observation_guided,
  reconstruction_guided,
)
from diffusion_jax.sampling.sampler import (
  Sampler,
  prior_sample,
  sample,
)
from diffusion_jax.sampling.sde import (
  euler_maruyama,
  reverse_diffusion,
  velocity_sde,
)
from diffusion_jax.sampling.self_conditioning import self_conditioned
from diffusion_jax.sampling.solvers import (
  dpm_solver_pp,
  dpm_solver_pp_2s,
  dpm_solver_pp_sde,
  heun,
  unipc,
  velocity_heun,
)

__version__ = '0.2.0'
