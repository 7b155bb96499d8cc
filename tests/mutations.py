"""Mutations of the package; a cheap test must catch each.

`python -m tests.mutations` tries all of them, one by one, in a copy of the
tree; with a word, those that contain it. It prints what was caught and what
survived. The exit code is 1 where one survives, where its text is not in the
file exactly once, and where pytest ends otherwise.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_tests(tree, files, keyword):
  """Returns the exit code of pytest and what it printed."""
  command = [sys.executable, '-m', 'pytest', '-x', '-q', '-n', '0']
  command += ['-k', keyword, *(f'tests/{file}' for file in files)]
  # Bytecode of a file of the same size and second would be taken for its own.
  env = os.environ | {'PYTHONDONTWRITEBYTECODE': '1'}
  result = subprocess.run(command, cwd=tree, env=env, capture_output=True)
  return result.returncode, result.stdout.decode()


def attempt(tree, file, text, replacement, test, keyword):
  """Returns what becomes of a mutation; the file is restored."""
  path = tree / 'diffusion_jax' / file
  original = path.read_text()
  if original.count(text) != 1:
    return f'is there {original.count(text)} times'
  path.write_text(original.replace(text, replacement))
  code, _ = run_tests(tree, [test], keyword)
  path.write_text(original)
  return {0: 'survived', 1: 'caught'}.get(code, f'pytest ends with {code}')


def main(word=''):
  """Tries the mutations with a word; returns the exit code."""
  chosen = [m for m in MUTATIONS if word in ' '.join(m)]
  if not chosen:
    sys.exit(f'No mutation contains {word!r}.')
  with tempfile.TemporaryDirectory() as folder:
    tree = Path(folder)
    for name in ('configs', 'diffusion_jax', 'tests'):
      shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / 'pyproject.toml', tree)
    tests, keywords = ({m[i] for m in chosen} for i in (3, 4))
    code, printed = run_tests(tree, tests, ' or '.join(keywords))
    if code:
      sys.exit(f'Tests fail without a mutation:\n{printed}')
    caught = 0
    for mutation in chosen:
      outcome = attempt(tree, *mutation)
      caught += outcome == 'caught'
      print(outcome, mutation[0], *map(repr, mutation[1:3]), flush=True)
  print(f'{caught} of {len(chosen)} caught')
  return int(caught < len(chosen))


# (file, exact text, replacement, test file, keyword of the tests in it)
MUTATIONS = [
  # Few steps.
  (
    'core/flow_losses.py',
    'compound = u + expand_to(t - s, xt) * sg(du)',
    'compound = u + expand_to(t - s, xt) * du',
    'training/test_flow_maps.py',
    'improved_mean_flow_literally',
  ),
  (
    'core/flow_losses.py',
    'sg(v - expand_to(t - s, xt) * du)',
    'v - expand_to(t - s, xt) * du',
    'training/test_flow_maps.py',
    'test_mean_flow_literally',
  ),
  (
    'core/flow_losses.py',
    'sg(0.5 * (first + u_fn(x_middle, middle, t - d)))',
    '0.5 * (first + u_fn(x_middle, middle, t - d))',
    'training/test_flow_maps.py',
    'shortcut_literally',
  ),
  (
    'core/flow_losses.py',
    'distance(f_fn(xt, level_t), sg(target))',
    'distance(f_fn(xt, level_t), target)',
    'training/test_consistency.py',
    'consistency_training_literally',
  ),
  (
    'core/flow_losses.py',
    'return sg(output), sg(g)',
    'return sg(output), g',
    'training/test_consistency.py',
    'continuous_consistency_literally',
  ),
  (
    'core/flow_map.py',
    '1.001 * sigma_min * level_s.alpha',
    'sigma_min * level_s.alpha',
    'core/test_flow_map.py',
    'maps_to_the_clean_end',
  ),
  (
    'training/flow_maps.py',
    'sg(guided_velocity(v, own, null, omega, kappa))',
    'guided_velocity(v, own, null, omega, kappa)',
    'training/test_flow_maps.py',
    'improved_mean_flow_literally',
  ),
  (
    'training/flow_maps.py',
    't = a if second else jnp.maximum(a, b)',
    't = jnp.maximum(a, b)',
    'training/test_flow_maps.py',
    'two_times_have_the_masses',
  ),
  (
    'training/flow_maps.py',
    'jax.random.permutation(order_key, b)',
    'b',
    'training/test_flow_maps.py',
    'two_times_of_antithetic_draws',
  ),
  (
    'training/flow_maps.py',
    'context.ema_params if ema_target else params',
    'params',
    'training/test_flow_maps.py',
    'shortcut_literally',
  ),
  (
    'training/level_pairs.py',
    'randint(key, (batch_size,), 1, num_scales)',
    'randint(key, (batch_size,), 1, num_scales - 1)',
    'training/test_level_pairs.py',
    'every_pair_of_a_grid',
  ),
  (
    'training/level_pairs.py',
    'weight / (sigma - r)',
    '1.0 / (sigma - r)',
    'training/test_level_pairs.py',
    'easy_pairs_by_hand',
  ),
  (
    'training/level_pairs.py',
    'step // steps_per_stage, num_stages - 1',
    'step // steps_per_stage, num_stages',
    'training/test_level_pairs.py',
    'easy_pairs_by_hand',
  ),
  (
    'training/level_pairs.py',
    'jnp.clip(i, 0, count - 2)',
    'jnp.clip(i, 0, count - 1)',
    'training/test_level_pairs.py',
    'a_law_beyond_the_grid',
  ),
  (
    'training/consistency.py',
    'jnp.minimum(context.step / warmup_steps, 1.0)',
    '(context.step / warmup_steps)',
    'training/test_consistency.py',
    'continuous_consistency_literally',
  ),
  (
    'training/consistency.py',
    'inputs.time_weight * losses',
    'losses',
    'training/test_consistency.py',
    'continuous_consistency_literally',
  ),
  (
    'training/distillation.py',
    'eps = eps_from_x0(x0, xt, level_t)',
    'eps = inputs.eps',
    'training/test_distillation.py',
    'optimum_of_progressive_distillation',
  ),
  (
    'training/distillation.py',
    'schedule(1.0).sigma * inputs.eps',
    'inputs.eps',
    'training/test_distillation.py',
    'the_teacher_of_reflow',
  ),
  (
    'sampling/map_sampler.py',
    '(ratio * clean.sigma) ** 2',
    'clean.sigma**2',
    'sampling/test_map_sampler.py',
    'multistep_consistency_sampling',
  ),
  (
    'sampling/map_sampler.py',
    'np.diff(t, append=-1.0) < 0.0',
    'np.diff(t, append=-1.0) <= 0.0',
    'sampling/test_map_sampler.py',
    'whose_last_call_would_do_nothing',
  ),
  # Objectives and the training step.
  (
    'training/objectives.py',
    "cond | {'x0': jax.lax.stop_gradient(first)}",
    "cond | {'x0': first}",
    'training/test_denoising.py',
    'no_gradient_flows_through',
  ),
  (
    'training/objectives.py',
    'output if weight is None else jax.lax.stop_gradient(output)',
    'output',
    'training/test_hybrid.py',
    'the_bound_trains_the_variance',
  ),
  (
    'training/objectives.py',
    'jnp.where(step == 1, clean, s)',
    'jnp.where(step == 0, clean, s)',
    'training/test_hybrid.py',
    'the_pure_bound_trains',
  ),
  (
    'training/objectives.py',
    "jax.random.normal(eps_key, batch['image'].shape)",
    'inputs.eps',
    'training/test_vdm.py',
    'the_two_noises_of_an_image',
  ),
  (
    'training/loss_aware.py',
    'rank >= jnp.sum(same, axis=1) - length',
    'rank < length',
    'training/test_loss_aware.py',
    'eq_18_probabilities',
  ),
  (
    'training/conditions.py',
    'bernoulli(drop_key, dropout, size)',
    'bernoulli(drop_key, 1.0 - dropout, size)',
    'training/test_conditions.py',
    'dropped_with_the_probability',
  ),
  (
    'training/augmentation.py',
    'jax.random.split(value_key, 7)',
    '[value_key] * 7',
    'training/test_augmentation.py',
    'no_two_values_of_a_change',
  ),
  (
    'training/step.py',
    'good = jnp.isfinite(loss) & jnp.isfinite(norm)',
    'good = jnp.isfinite(norm)',
    'training/test_step.py',
    'a_step_that_is_not_finite',
  ),
  (
    'training/step.py',
    'lambda k: jax.random.fold_in(k, index), keys',
    'lambda k: k, keys',
    'training/test_objectives.py',
    'dropout_of_their_own',
  ),
  (
    'training/optimizer.py',
    '-jnp.expm1(power * jnp.log1p(-1.0 / t))',
    '1.0 - jnp.exp(power * jnp.log1p(-1.0 / t))',
    'training/test_power_ema.py',
    'a_late_step_moves_the_average',
  ),
  # Equations.
  (
    'core/process.py',
    'alpha_ratio(s, t) * ratio * ratio',
    'alpha_ratio(s, t) * ratio',
    'papers/test_ddpm.py',
    'eq_6_and_7_posterior',
  ),
  (
    'core/process.py',
    '-(sigma**2) * slopes[1]',
    '-sigma * slopes[1]',
    'papers/test_samplers.py',
    'euler_maruyama_of_the_vp_sde',
  ),
  (
    'core/parametrization.py',
    'return a - b * level.alpha / level.sigma',
    'return a + b * level.alpha / level.sigma',
    'core/test_losses.py',
    'every_parametrization_has',
  ),
  (
    'core/losses.py',
    'jnp.arange(batch_size) / batch_size',
    'jnp.arange(batch_size) / (batch_size + 1)',
    'core/test_losses.py',
    'antithetic_times_are_evenly',
  ),
  (
    'core/losses.py',
    'randint(key, (batch_size,), 1, num_steps + 1)',
    'randint(key, (batch_size,), 1, num_steps)',
    'core/test_losses.py',
    'step_times_are_all',
  ),
  (
    'core/losses.py',
    'schedule(jnp.ones(batch_size)), jnp.ones(batch_size)',
    'schedule(jnp.ones(batch_size)), drawn[1]',
    'core/test_losses.py',
    'part_of_times_is_at_the_start',
  ),
  (
    'core/elbo.py',
    'where(level_s.sigma == 0.0, decoder',
    'where(level_s.t == 0.0, decoder',
    'core/test_elbo.py',
    'a_step_to_noise_at_time_0',
  ),
  (
    'core/elbo.py',
    'expected[drawn - 2]',
    'expected[drawn - 1]',
    'papers/test_bound.py',
    'eq_5_every_term or some_of_the_steps',
  ),
  (
    'core/elbo.py',
    '/ (1.0 + snr[1:])',
    '/ (1.0 + snr[:-1])',
    'core/test_elbo.py',
    'each_step_is_drawn',
  ),
  (
    'core/elbo.py',
    'points / steps * ends[-1]',
    'points / (steps + 1) * ends[-1]',
    'core/test_elbo.py',
    'each_step_is_drawn',
  ),
  (
    'core/vdm.py',
    'jnp.expm1(level_s.logsnr - level.logsnr)',
    '(level_s.logsnr - level.logsnr)',
    'papers/test_vdm.py',
    'eq_13_and_14_finite',
  ),
  (
    'core/vae.py',
    'jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples)',
    'jnp.mean(log_weights, axis=0)',
    'papers/test_vae.py',
    'importance_weighted_bound',
  ),
  (
    'core/keys.py',
    'jax.vmap(lambda k: distribution(k, x.shape[1:], x.dtype))(key)',
    'distribution(key[0], x.shape, x.dtype)',
    'core/test_keys.py',
    'bit_for_bit_in_any_batch',
  ),
  # Samplers.
  (
    'sampling/grids.py',
    'np.cumsum([0.0] + [stride] * (count - 1))',
    'np.arange(count) * stride',
    'sampling/test_grids.py',
    'respaced_sections',
  ),
  (
    'sampling/solvers.py',
    'values[0] + 0.5 * h * table[0]',
    'values[0] + h * table[0]',
    'papers/test_samplers.py',
    'dpm_solver_pp_2m_algorithm_2',
  ),
  (
    'sampling/solvers.py',
    'h**k / total - k * moments[-1]',
    'h**k / total - moments[-1]',
    'papers/test_samplers.py',
    'unipc',
  ),
  (
    'sampling/solvers.py',
    '2.0 * eta * _lambda_difference(s, t)',
    'eta * _lambda_difference(s, t)',
    'papers/test_samplers.py',
    'sde_dpm_solver_pp_2m',
  ),
  (
    'sampling/sde.py',
    'drift -= 0.5 * w * score',
    'drift -= w * score',
    'sampling/test_sde.py',
    'the_step_of_sit',
  ),
  (
    'sampling/correctors.py',
    'size = 2.0 * snr**2',
    'size = snr**2',
    'papers/test_samplers.py',
    'corrector_algorithms_4_and_5',
  ),
  (
    'sampling/guidance.py',
    'jnp.tile(jnp.array([False, True]), size)',
    'jnp.repeat(jnp.array([False, True]), size)',
    'sampling/test_guidance.py',
    'one_call_for_two',
  ),
  (
    'sampling/inpainting.py',
    'jnp.where(mask, _noisy_known(known, eps, level_s), x)',
    'jnp.where(mask, _noisy_known(known, eps, level_t), x)',
    'sampling/test_inpainting.py',
    'known_pixels_come_back',
  ),
  (
    'sampling/likelihood.py',
    'probes / math.sqrt(num_probes)',
    'probes / num_probes',
    'sampling/test_likelihood.py',
    'hutchinson_is_unbiased',
  ),
  (
    'sampling/editing.py',
    'round(strength * num_steps)',
    'int(strength * num_steps)',
    'sampling/test_editing.py',
    'no_strength_is_no_change',
  ),
  # Networks.
  (
    'networks/blocks.py',
    "norm(h, 'norm_2') * (1.0 + scale) + shift",
    "norm(h, 'norm_2') * scale + shift",
    'networks/test_blocks.py',
    'resnet_block_literally',
  ),
  (
    'networks/attention.py',
    "{'new': 0, 'legacy': 1, 'interleaved': 2}",
    "{'new': 1, 'legacy': 0, 'interleaved': 2}",
    'networks/test_attention.py',
    'fused_attention_is_openais',
  ),
  (
    'networks/rotary.py',
    '[a * cos - b * sin, b * cos + a * sin]',
    '[a * cos + b * sin, b * cos - a * sin]',
    'networks/test_rotary.py',
    'pairs_are_turned',
  ),
  (
    'networks/magnitude.py',
    '((1.0 - t) * a + t * b)',
    '(t * a + (1.0 - t) * b)',
    'networks/test_magnitude.py',
    'sum_of_independent_inputs',
  ),
  (
    'networks/transformer_block.py',
    'y = x + gate_1 * out',
    'y = x + gate_2 * out',
    'networks/test_transformer_block.py',
    'dits_block',
  ),
  (
    'networks/text.py',
    'return words, mask | drop[:, None]',
    'return words, mask',
    'networks/test_text.py',
    'dropped_text',
  ),
  # Metrics.
  (
    'metrics/estimates.py',
    'np.std(draws, ddof=1)',
    'np.std(draws)',
    'metrics/test_estimates.py',
    'divides_by_the_draws',
  ),
  (
    'metrics/fid.py',
    '(count * len(rows) / total)',
    'len(rows)',
    'metrics/test_fid.py',
    'statistics_of_the_whole',
  ),
  (
    'metrics/manifolds.py',
    'coverage=mean(inside(closest, radius))',
    'coverage=mean(inside_or_on(closest, radius))',
    'metrics/test_manifolds.py',
    'points_on_a_line',
  ),
  (
    'metrics/manifolds.py',
    'precision=mean(_in_manifold(samples, reference, k))',
    'precision=mean(_in_manifold(reference, samples, k))',
    'metrics/test_manifolds.py',
    'points_on_a_line',
  ),
  (
    'metrics/memorisation.py',
    'FRACTION = 0.01',
    'FRACTION = 0.02',
    'metrics/test_memorisation.py',
    'below_the_first_percentile',
  ),
  (
    'metrics/memorisation.py',
    'np.var(rank_a) / len(a) + np.var(rank_b) / len(b)',
    'np.var(rank_a) / len(a)',
    'metrics/test_memorisation.py',
    'the_error_of_closer',
  ),
  (
    'metrics/mmd.py',
    'row_means(y, y, kernel, own=False)',
    'row_means(y, y, kernel)',
    'metrics/test_mmd.py',
    'unbiased_mmd_is_its_double_sums',
  ),
  (
    'metrics/mmd.py',
    'np.var(xx - xy) / len(x) + np.var(yy - yx) / len(y)',
    'np.var(xx - xy) / len(x)',
    'metrics/test_mmd.py',
    'the_error_of_cmmd',
  ),
  (
    'metrics/mmd.py',
    'float(np.std(draws))',
    'float(np.std(draws, ddof=1))',
    'metrics/test_mmd.py',
    'mean_and_deviation_over_subsets',
  ),
  # The application.
  (
    'app/models/diffusion.py',
    'functions.insert(2 if after_clip else 0, by_classifier)',
    'functions.insert(0, by_classifier)',
    'app/models/test_guidance.py',
    'guidance_by_a_classifier_by_hand',
  ),
  (
    'app/models/diffusion.py',
    'self.sampling, clip=False, classifier=None',
    'self.sampling, classifier=None',
    'app/models/test_diffusion.py',
    'a_network_that_sees_no_noise',
  ),
  (
    'app/models/guidance.py',
    'if same and not model.learns_schedule:',
    'if True:',
    'app/models/test_guidance.py',
    'guidance_by_a_classifier_by_hand',
  ),
  (
    'app/models/latent.py',
    'blocks.all(axis=(1, 3))',
    'blocks.any(axis=(1, 3))',
    'app/models/test_latent.py',
    'known_where_all_its_pixels',
  ),
  (
    'app/models/teachers.py',
    'return guidance.at_levels_of(run, student, denoise)',
    'return denoise',
    'app/models/test_teachers.py',
    'sees_its_own_levels',
  ),
  (
    'app/models/vae.py',
    'z = bound.reparameterize(keys[t - 2], self.decode(params, t, z))',
    'z = bound.reparameterize(keys[t - 1], self.decode(params, t, z))',
    'app/models/test_vae.py',
    'a_chain_literally',
  ),
  (
    'app/modes/hooks.py',
    'sign = -1.0 if higher else 1.0',
    'sign = 1.0',
    'app/modes/test_hooks.py',
    'the_lowest_loss_and_the_highest_score',
  ),
  (
    'app/modes/train_setup.py',
    'c.batch_size % (mesh.size * c.accumulate)',
    'c.batch_size % mesh.size',
    'app/modes/test_train_setup.py',
    'a_mistake_is_one_clear_line',
  ),
  (
    'app/weights.py',
    'if own or folder.differences(',
    'if own and folder.differences(',
    'app/test_weights.py',
    'another_network_is_refused',
  ),
  # Discrete states.
  (
    'core/discrete_states.py',
    'jnp.exp(log_p - log_q)',
    'jnp.exp(log_p)',
    'papers/test_discrete_states.py',
    'test_d3pm_eq_3_and_4',
  ),
  (
    'core/masked.py',
    'level_slopes(schedule, level.t)[1] / level.sigma',
    'level_slopes(schedule, level.t)[1] / level.alpha',
    'core/test_masked.py',
    'test_weights',
  ),
  (
    'sampling/discrete.py',
    'u ** (1.0 / jnp.maximum(count, 1))',
    'u',
    'sampling/test_discrete.py',
    'first_hitting_stops_at_a_level',
  ),
  (
    'sampling/discrete.py',
    'level_s.alpha / kept',
    'level_s.alpha',
    'papers/test_discrete_states.py',
    'test_remdm_one_step',
  ),
  (
    'networks/rotary.py',
    'count = features // (2 * len(grid))',
    'count = features // 4',
    'networks/test_rotary.py',
    'angles_of_a_sequence',
  ),
  (
    'app/models/states.py',
    'cond | drop',
    'cond',
    'app/models/test_states.py',
    'guidance_moves',
  ),
  (
    'app/models/states.py',
    'num_steps=num_steps)',
    'num_steps=2 * num_steps)',
    'app/models/test_states.py',
    'knows_nothing',
  ),
  (
    'data/text_files.py',
    'slice(end, count)',
    'slice(end - 1, count)',
    'data/test_text_files.py',
    'splits_are_the_pieces',
  ),
]

if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
