"""Mutations of the package; a cheap test must catch each.

`python -m tests.mutations` tries all of them, one by one, in a copy of the
tree; with a word, those that contain it. It prints what was caught and what
survived. The exit code is 1 where one survives, where its text is not in the
file exactly once, and where pytest ends otherwise.

A group of the table has a file of the package, the test file (None: the one that
mirrors the file), and its rows: (a keyword of the tests, the exact text, its
replacement).
"""

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
  result = subprocess.run(command, cwd=tree, capture_output=True)
  return result.returncode, result.stdout.decode()


def attempt(tree, file, text, replacement, test, keyword):
  """Returns what becomes of a mutation; the file is restored."""
  path = tree / 'diffusion_jax' / file
  original = path.read_text()
  # Bytecode of a file of the same size and second would be taken for its own.
  shutil.rmtree(path.parent / '__pycache__', ignore_errors=True)
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


def rows(table):
  """Yields (file, text, replacement, test file, keyword) of a table."""
  for file, test, mutations in table:
    mirror = str(Path(file).with_name(f'test_{Path(file).name}'))
    for keyword, text, replacement in mutations:
      yield file, text, replacement, test or mirror, keyword


TABLE = [
  (
    'app/kinds/roles.py',
    'app/inputs/test_datasets.py',
    [
      (
        'changed_data',
        'stored_form(config, facts), FREE',
        "plain(config) | {'facts': known}, FREE",
      ),
    ],
  ),
  (
    'app/kinds/store.py',
    'app/test_cli.py',
    [
      ('flag_makes_idle', 'if not is_flag and any(', 'if any('),
    ],
  ),
  (
    'app/kinds/store.py',
    None,
    [
      (
        'another_kind_of_model',
        'kind = kind_of(overrides.merge(config, upper, before))',
        'kind = before',
      ),
      ('facts_of_a_run_go', "tree.pop('facts', None)", 'pass'),
    ],
  ),
  (
    'app/config/overrides.py',
    'app/kinds/test_sampling.py',
    [
      ('short_name', "meaning = {f'{section}.name': choice, f", 'meaning = {f'),
    ],
  ),
  (
    'app/kinds/store.py',
    'app/kinds/test_sampling.py',
    [
      ('short_name', 'tree = overrides.without_aliases(tree, schema)', 'tree = dict(tree)'),
    ],
  ),
  (
    'app/config/tree.py',
    'laws/test_held_out.py',
    [
      ('inner_section', '**inner | own', '**own'),
      ('of_the_training', 'for name in self.declared.training_only}', 'for name in ()}'),
    ],
  ),
  (
    'app/config/tree.py',
    'app/kinds/test_training.py',
    [
      (
        'parts_that_are_off',
        'default is None or type(None) in get_args(parameter.annotation)',
        'False',
      ),
    ],
  ),
  (
    'training/averaging.py',
    None,
    [
      ('first_width', 'first, *others = rates', '*others, first = rates'),
      ('first_width', 'every or max(total_steps // 32, 1)', 'every or total_steps // 32'),
      ('widths_are_different', 'not widths or len({*widths}) < len(widths)', 'not widths'),
    ],
  ),
  (
    'app/config/overrides.py',
    'app/config/test_tree.py',
    [
      ('replaces_a_choice', "if named and old.get('name') != new['name']:", 'if False:'),
      ('for_this_field_and_for_a_part', ' or isinstance(node.get(last), dict):', ':'),
    ],
  ),
  (
    'app/config/tree.py',
    'app/config/test_trust.py',
    [
      ('own_part_may_be', "is_own = ':' in choice", "is_own = '?' in choice"),
      ('own_part_may_be', "'/' in x or os.path.exists(x)", "'/' in x"),
      ('own_part_may_be', "'/' in x or os.path.exists(x)", 'os.path.exists(x)'),
      (
        'folder_of_the_user',
        'expanded(text, use == WRITTEN), value',
        'expanded(text, False), value',
      ),
      ('only_a_stored_config', 'trust.check_paths((below(self.where, name), value))', 'pass'),
    ],
  ),
  (
    'app/config/tree.py',
    'app/modes/test_refusals.py',
    [
      ('toy_parts', "if ':' in self.choice:", 'if False:'),
    ],
  ),
  (
    'app/config/trust.py',
    None,
    [
      (
        'the_user_has_allowed',
        "content.get('parts', {}).get(os.getcwd(), ())",
        "sum(content.get('parts', {}).values(), [])",
      ),
      ('folder_of_the_user', '[*words, *map(os.path.expanduser, words)]', 'words'),
    ],
  ),
  (
    'app/kinds/contracts.py',
    'app/modes/test_refusals.py',
    [('one_clear_line and toy_parts', 'if not np.allclose(', 'if False and not np.allclose(')],
  ),
  (
    'app/kinds/estimates.py',
    None,
    [
      ('that_compute_with_estimates', 'observes or task.part or', 'task.part or'),
      ('that_take_a_score', "'classifier', 'corrector'", "'classifier', 'churn'"),
    ],
  ),
  (
    'app/kinds/network.py',
    'laws/test_no_denoiser.py',
    [('auto_does_not_clip', ' and self.needs.estimates', '')],
  ),
  (
    'app/evaluate/metrics_of_data.py',
    'laws/test_no_denoiser.py',
    [('auto_compares', 'and not c.objective.declared.estimates', 'and False')],
  ),
  (
    'app/kinds/contracts.py',
    None,
    [
      (
        'is_data_and_the_source',
        "'source': Contract(_source, _data)",
        "'source': Contract(made=_data)",
      ),
      ('takes_what_every_network', '  if noisy:\n', '  if False:\n'),
    ],
  ),
  (
    'app/kinds/rules.py',
    'app/config/test_user_parts.py',
    [
      ('declares_what_it_needs', 'for x, section in _sections(c, modes)', 'for x, section in ()'),
      ('declares_what_it_needs', 'inner in section.values()', 'inner in ()'),
    ],
  ),
  (
    'app/run/drawing.py',
    None,
    [
      ('other_data', "if datasets.another_set(config, 'train'):", 'if False:'),
      ('too_long', "'logsnr')) <= TOO_WIDE", "'logsnr')) > 0.0"),
      ('too_long', 'TOO_WIDE = 2.2', 'TOO_WIDE = 1.02'),
    ],
  ),
  (
    'app/run/drawing.py',
    'app/modes/test_refusals.py',
    [
      ('toy_parts', 'jax.jit(run).lower(', 'jax.eval_shape(run,'),
    ],
  ),
  (
    'app/edit/posteriors.py',
    None,
    [
      (
        'compared_with_the_models',
        '(level.alpha**2 + level.sigma**2) / level.',
        'level.sigma / level.',
      ),
      ('half_of_the_rounds', 'math.ceil(rounds / 2)', 'rounds'),
      ('half_of_the_rounds', "mode='edge'", "mode='constant'"),
      ('adds_the_variance_of_x0', 'dj.spread_twist(known)', 'dj.pseudoinverse_twist(known, 100)'),
      ('adds_the_variance_of_x0', 'if known.is_linear:', 'if False:'),
    ],
  ),
  (
    'app/edit/posteriors.py',
    'app/modes/test_refusals.py',
    [
      (
        'proximal',
        'Method(draw, needs_linear=True, unread=STEPS)',
        'Method(draw, needs_linear=True)',
      ),
    ],
  ),
  (
    'app/edit/restoration.py',
    None,
    [
      ('hidden_by_a_mask', 'np.where(damage.seen, y, 0.0)', 'np.where(damage.seen | True, y, 0.0)'),
      ('hidden_by_a_mask', 'jnp.sqrt(square / damage.seen.mean())', 'jnp.sqrt(square)'),
      ('that_were_read', ('@functools.cached_property\n  def paths'), ('@property\n  def paths')),
    ],
  ),
  (
    'app/inputs/conditions.py',
    None,
    [
      ('of_other_runs_get', 'noisy is None or guided', 'noisy is None'),
      ('of_other_runs_get', "c.get('classifier') or by_run", 'by_run'),
    ],
  ),
  (
    'app/inputs/conditions.py',
    'app/run/test_notebook.py',
    [
      ('vectors_are_given', 'self.values.encode(rows), index', 'rows, index'),
    ],
  ),
  ('app/inputs/conditions.py', 'app/modes/test_tables.py', []),
  (
    'app/inputs/conditions.py',
    'app/kinds/test_bridges.py',
    [
      ('own_images', 'if len(starts) <', 'if 2 * len(starts) <'),
    ],
  ),
  (
    'app/inputs/datasets.py',
    None,
    [
      ('data_as_they_were', 'if not facts.examples or split', 'if True or split'),
      ('data_as_they_were', "('examples', 'checksum') if now[n]", "('examples',) if now[n]"),
      ('keeps_its_splits', "(last[n], split) == ('test_path', 'test')", "last[n] == 'test_path'"),
      (
        'keeps_its_splits',
        'os.path.realpath(os.path.expanduser(value))',
        'os.path.basename(value)',
      ),
      ('advice_for', 'or not isinstance(error.__cause__, NoTestSplit):', 'or True:'),
      ('advice_for', "'validation' if config.data.validation_fraction else 'train')", "'train')"),
      ('another_set', 'places = {n for n in now if last[n] not in _SPLITS}', 'pass'),
      ('validation_part', "split = config.data.given.get('test', 'test')", 'pass'),
      ('validation_part', "or split == 'train' and fraction", 'or False'),
      (
        'run_keeps_its_classes',
        'for fact, one, other in misfits(ours, theirs, unread):',
        'for fact, one, other in ():',
      ),
      (
        'run_keeps_its_classes',
        'checksum=total, class_names=names, skipped=skipped',
        'checksum=total',
      ),
      (
        'labels_follow_the_data',
        'bool(inner[name]) and inner[name] != default',
        'bool(inner[name])',
      ),
    ],
  ),
  (
    'app/kinds/bridges/model.py',
    'app/kinds/test_bridges.py',
    [
      ('the_plan_is_that', 'if c.reverse else predict', 'if False else predict'),
      (
        'the_plan_is_that',
        'level_grid(schedule, c.grid.number)',
        'level_grid(schedule, c.grid.number + 1)',
      ),
      (
        'the_plan_is_that',
        'bridge_sampler(diffusion, c.stochastic)',
        'bridge_sampler(diffusion, False)',
      ),
    ],
  ),
  (
    'app/kinds/diffusion/model.py',
    'app/kinds/test_diffusion.py',
    [
      (
        'without_clipping',
        'functions.append(c.bound if noisy.clips else None)',
        'functions.append(None)',
      ),
      ('networks_own_estimate', '(c.bound if noisy.clips', '(dj.clip_denoised if noisy.clips'),
    ],
  ),
  (
    'app/kinds/diffusion/model.py',
    'app/edit/test_pictures.py',
    [
      ('interpolation_is_not_clipped', 'if clip:', 'if True:'),
    ],
  ),
  (
    'app/kinds/diffusion/model.py',
    'app/kinds/test_other_runs.py',
    [
      (
        'guidance_by_a_classifier_by_hand',
        '(2 if c.classifier.after_clip else 0, guided)',
        '(0, guided)',
      ),
    ],
  ),
  (
    'app/inputs/stored_latents.py',
    None,
    [
      ('batches_of_latents', "'' if split == 'train' else f'{split}_'", "''"),
    ],
  ),
  (
    'app/kinds/latent/model.py',
    'app/kinds/test_latent.py',
    [
      ('keeps_its_digits', 'part - part.mean()', 'part'),
    ],
  ),
  (
    'app/kinds/latent/model.py',
    'app/modes/test_encode.py',
    [
      ('encoding_in_each_step', 'Normal(mean, std**2)', 'Normal(mean, std)'),
    ],
  ),
  (
    'app/kinds/discrete/model.py',
    'app/kinds/test_discrete.py',
    [
      ('guidance_moves', 'cond | drop', 'cond'),
      ('knows_nothing', 'num_steps=self.num_steps)', 'num_steps=2 * self.num_steps)'),
    ],
  ),
  (
    'app/kinds/autoencoders/model.py',
    'app/kinds/test_autoencoders.py',
    [
      (
        'loss_of_the_training',
        'return objective.make(facts',
        'return objective.replace(beta=1.0).make(facts',
      ),
      (
        'a_chain_literally',
        '[t - 2], self.decode(params, t, z)',
        '[t - 1], self.decode(params, t, z)',
      ),
    ],
  ),
  (
    'app/modes/convert.py',
    None,
    [
      ('program_of_numbers', '(cond[context.name] - a) / b', 'cond[name]'),
      (
        'program_of_numbers',
        'jnp.isnan(known), a + b * x, known',
        'jnp.isnan(known), b * x, known',
      ),
      ('program_of_numbers', 'jnp.where(jnp.isnan(known), a + b * x, known)', 'a + b * x'),
    ],
  ),
  (
    'app/edit/mode.py',
    'app/config/test_trust.py',
    [
      ('without_a_context_reads', 'rows = context.read()', 'rows = None'),
    ],
  ),
  (
    'app/modes/__init__.py',
    'app/config/test_trust.py',
    [
      ('asked_for_at_once', 'if section for x in', 'if False for x in'),
    ],
  ),
  (
    'app/evaluate/mode.py',
    None,
    [
      (
        'is_of_its_data',
        'Examples(source, count, content_sum(source, count))',
        "Examples(source, count, '')",
      ),
      ('own_pair', 'log_q[:, 1:], log_q[:, 0]', 'log_q[:, :-1], log_q[:, -1]'),
      ('own_pair', 'encoded[index // rows]', 'encoded[index % len(encoded)]'),
      ('own_pair', 'return -nats * math', 'return nats * math'),
      (
        'own_pair',
        'source = datasets.source_of(model.config, c.split)',
        "source = datasets.source_of(model.config, 'train')",
      ),
    ],
  ),
  (
    'app/evaluate/mode.py',
    'app/run/test_provenance.py',
    [
      ('splits_that_it_reads', "read['train'] = content_sum(train)", 'pass'),
    ],
  ),
  (
    'app/evaluate/cells.py',
    'laws/test_alone_is_in_a_table.py',
    [
      ('elbo', "'num_images', 'batch_size', 'seed')", "'num_images', 'batch_size')"),
      ('elbo', "for n in ('weights', 'checkpoint')}", "for n in ('weights',)}"),
      ('elbo', 'n) for n in metric.reads}', "n) for n in metric.reads if n != 'clips'}"),
    ],
  ),
  (
    'app/evaluate/mode.py',
    'laws/test_alone_is_in_a_table.py',
    [
      ('density_coverage', "{'seed': c.seed, 'batch_size'", "{'batch_size'"),
    ],
  ),
  (
    'app/modes/serve.py',
    None,
    [
      ('compiles_says_so', 'compiles=not i and key not in programs.ready', 'compiles=False'),
      ('bad_value', 'trusted=False', 'trusted=True'),
      ('what_sampling_draws', '(cond, scale=scale)', '(cond, scale=1.0)'),
      ('other_hosts_sites', "site not in ('same-origin', 'none')", "site == 'cross-site'"),
      ('other_hosts_sites', 'or origin != own', 'or False'),
      ('loads_nothing', "; frame-ancestors 'none'\"", '"'),
      ('two_lines', 'one_line(str(error))', 'str(error)'),
      ('other_hosts', "allowed_hosts=[HOST, 'localhost']", "allowed_hosts=['*']"),
      ('other_hosts', "if site not in ('same-origin', 'none') or origin != own:", 'if False:'),
    ],
  ),
  (
    'app/train/mode.py',
    None,
    [
      ('decays_anew_is_said', 'setup.rates_of(parts.config, total)[:step]', 'rates[:step]'),
      (
        'before_a_program_is_compiled',
        'read = itertools.chain([next(read)], read)',
        'read = iter(read)',
      ),
    ],
  ),
  (
    'app/train/mode.py',
    'app/modes/test_convert.py',
    [
      (
        'another_network_or_the_run',
        'begin = load.begin_from(shapes.params, c.start.run)',
        'begin = lambda x: load.begin_from(shapes.params, c.start.run)(x)',
      ),
    ],
  ),
  (
    'app/run/notebook.py',
    None,
    [
      ('trained_run_by_its_parts', 'np.arange(first, end)', 'np.arange(n)'),
    ],
  ),
  (
    'app/kinds/other_runs.py',
    None,
    [
      ('sees_its_own_levels', 'return at_levels_of(run, student, denoise)', 'return denoise'),
      ('guidance_by_a_classifier_by_hand', 'if same and not noisy.process.is_learned:', 'if True:'),
    ],
  ),
  (
    'app/run/provenance.py',
    None,
    [
      ('drawn_otherwise', '*sampling_words.in_words(c),', "c['sampler']['name'],"),
      ('its_content', "f'{name}, {content}'", 'name'),
      ('other_latents', "'latents': model.latents.record(model.run),", ''),
      ('what_was_read', 'digest([x]) for n, x in read.items()', "'' for n, x in read.items()"),
      (
        'its_content',
        "'checkpoint {step}, weights {weights}, config_hash {config_hash",
        "'checkpoint {step",
      ),
    ],
  ),
  (
    'app/run/provenance.py',
    'laws/test_kept_is_made_anew.py',
    [
      ('anew and statistics', "'versions': start_up.versions(_PACKAGES),", ''),
      ('anew and statistics', "'matmul_precision': config.matmul_precision,", ''),
      ('anew and losses', "'modules': trust.code_of(content, *code),", ''),
      ('anew and averaged', "'code': of_package(),", ''),
      ('anew and edit', "'config_hash': roles.config_hash(model.run),", ''),
      ('anew and edit', "'computed_by': _computed_by(model),", ''),
      ('anew and scores_of_samples', "'read': sums, 'modules': modules}", "'read': sums}"),
      ('anew and guided', ', code {code}', ''),
    ],
  ),
  (
    'app/kinds/latent/model.py',
    'laws/test_kept_is_made_anew.py',
    [
      ('anew and of_latents', "'config_hash': config_hash, 'code': code}", "'code': code}"),
      (
        'anew and of_latents',
        "'config_hash': config_hash, 'code': code}",
        "'config_hash': config_hash}",
      ),
      ('anew and of_latents', "{'scale': record['scale'], **", '{**'),
    ],
  ),
  (
    'data/sums.py',
    'laws/test_kept_is_made_anew.py',
    [
      (
        'anew and simulated',
        'digest([content.encode(), *map(os.fsencode, names)])',
        'digest([content.encode()])',
      ),
      (
        'anew and simulated',
        'digest([content.encode(), *map(os.fsencode, names)])',
        'digest([*map(os.fsencode, names)])',
      ),
    ],
  ),
  (
    'data/code_sums.py',
    'laws/test_kept_is_made_anew.py',
    [
      (
        'anew and simulated',
        'digest([_of_files(imported | names).encode(), *map(str.encode, versions)])',
        'digest([_of_files({place: place.relative_to(top)}).encode()])',
      ),
    ],
  ),
  (
    'data/code_sums.py',
    'laws/test_kept_is_made_anew.py',
    [
      ('anew and edit', 'packages |= set() if is_code else {words[0]}', 'pass'),
      ('anew and simulated', 'for path in ours if with_ours]', 'for path in ()]'),
      ('docstrings', 'for x in files}, docstrings=False)', 'for x in files})'),
    ],
  ),
  (
    'data/reads.py',
    'laws/test_what_parts_read.py',
    [
      ('makes_it_anew and samples', "_add(os.path.join(_path_of(path or '.'), ''))", 'pass'),
      ('makes_it_anew and samples', 'if part in INSTALLED)', 'if not part)'),
      ('makes_it_anew and scores', "if is_of_user and kind == 'simulations':", 'if kind:'),
      ('makes_it_anew and simulations', "if is_of_user and kind == 'simulations':", 'if False:'),
    ],
  ),
  (
    'data/reads.py',
    None,
    [
      ('what_is_opened', 'or thread in _threads', ''),
      ('what_is_opened', 'is_called or is_of_jax', 'is_called'),
      ('what_is_opened', 'changed / 1e9 > _children[0] - sums.TICK', 'False'),
      ('what_is_opened', 'elif path not in _written:', 'else:'),
      ('what_is_opened', "'importlib' in", "'no_importlib' in"),
      ('beside_the_users', "is_of_user and kind == 'data'", 'False'),
      ('beside_the_users', 'is_called |= is_of_user and', 'is_called |='),
      ('changes_meanwhile', 'identity(path) if after == about else CHANGED', 'identity(path)'),
      ('changes_meanwhile', 'x if found.get(name, x) == x else CHANGED', 'x'),
      ('settings_have', "x[0] == '.' for x in Path(path)", 'False for x in Path(path)'),
      ('strangers_record', 'if _hooks or x.startswith', 'if x or x.startswith'),
    ],
  ),
  (
    'runtime/per_example.py',
    'laws/test_what_parts_read.py',
    [
      ('makes_it_anew and interrupted', '    _drop_changed(folder, what)', '    pass'),
      ('makes_it_anew and losses', 'note_opened(folder)\n', 'pass\n'),
    ],
  ),
  (
    'app/run/provenance.py',
    'laws/test_what_parts_read.py',
    [
      (
        'makes_it_anew and edits',
        "reads.now(before.get('opened')) |",
        "before.get('opened', {}) |",
      ),
    ],
  ),
  (
    'app/run/provenance.py',
    None,
    [
      ('claim_much_memory', "['settings'], _MOST)", "['settings'])"),
      ('looked_at_again', 'if others and not given and all', 'if others and all'),
      (
        'for_their_samples',
        "reads.now(before.get('opened')) | settings.get('opened', {})",
        "reads.now(before.get('opened'))",
      ),
    ],
  ),
  (
    'data/simulations.py',
    'laws/test_what_parts_read.py',
    [
      ('makes_it_anew and simulations', 'if not changed:', 'if True:'),
      ('at_its_import', 'reads.joined(before, reads.record())', 'reads.record()'),
    ],
  ),
  (
    'app/inputs/stored_latents.py',
    'laws/test_what_parts_read.py',
    [
      ('makes_it_anew and latents', 'if whole:', 'if False:'),
    ],
  ),
  (
    'data/sums.py',
    'laws/test_other_data_are_noticed.py',
    [
      ('another_content and mapped', ', *_samples(paths, sizes)]', ']'),
      ('one_byte', '_READ_UNTIMED if untimed else _READ', '_READ'),
    ],
  ),
  (
    'data/sources.py',
    'laws/test_other_data_are_noticed.py',
    [
      ('without_a_checksum', 'return _sum_of(source, some_of(source, most))', "return ''"),
      ('some_examples', 'if source.in_memory else MOST_MEASURED\n  if', 'if True else 0\n  if'),
    ],
  ),
  (
    'data/huggingface.py',
    'laws/test_other_data_are_noticed.py',
    [
      (
        'another_content and rows',
        "f'{builder.cache_dir}-{identity(every)}' if is_here",
        'None if is_here',
      ),
      ('another_content and hub_pictures', 'else files or tables', 'else tables'),
    ],
  ),
  (
    'app/inputs/datasets.py',
    'laws/test_other_data_are_noticed.py',
    [
      ('notices_other_numbers', 'total = facts_sum(source)', "total = ''"),
    ],
  ),
  (
    'data/npz.py',
    None,
    [
      ('what_an_array_claims', ') > most:', ') > 10**12:'),
      ('what_an_array_claims', ') > _HEADER:', ') > 10**12:'),
    ],
  ),
  (
    'app/run/weights.py',
    'laws/test_reading_writes_nothing.py',
    [
      (
        'nothing_into_it and simulates and sample',
        'make_model(config, run, facts, workdir), given',
        'make_model(config, run, facts), given',
      ),
    ],
  ),
  (
    'app/inputs/datasets.py',
    'laws/test_reading_writes_nothing.py',
    [
      (
        'nothing_into_it and simulates and sample',
        'workdir.simulations if workdir.written else None',
        'workdir.simulations',
      ),
    ],
  ),
  (
    'app/run/notebook.py',
    'laws/test_reading_writes_nothing.py',
    [
      (
        'nothing_into_it and simulates and sample',
        'RunFolder.at(place, written=False)\n  names',
        'RunFolder.at(place)\n  names',
      ),
    ],
  ),
  (
    'runtime/run_folder.py',
    'runtime/test_run_folder.py',
    [
      ('named_by_its_address', 'cls(named(place), _path', 'cls(str(_path_of(place)), _path'),
      ('is_not_made', 'assert self.written', 'assert self'),
      ('is_not_made', "self.path / 'autoencoder', self.written", "self.path / 'autoencoder'"),
    ],
  ),
  (
    'runtime/run_folder.py',
    None,
    [
      ('those_who_may_write', '0o600 | folder.stat().st_mode & 0o066', '0o644'),
    ],
  ),
  (
    'runtime/files.py',
    'laws/test_every_byte.py',
    [
      (
        'flipped_bit',
        'return rest, SUM in content and content[SUM] != _sum_of(rest)',
        'return rest, False',
      ),
      (
        'any_file',
        'return None if differs else rest',
        'return rest',
      ),
    ],
  ),
  (
    'weights/checksums.py',
    'laws/test_every_byte.py',
    [
      ('of_a_checkpoint', 'if sha256(folder / name) != sums[name]:', 'if False:'),
    ],
  ),
  (
    'app/config/folder.py',
    None,
    [
      (
        'has_changed_is_read',
        'stamp = about.st_mtime_ns, about.st_size, about.st_ino',
        'stamp = about.st_size',
      ),
    ],
  ),
  (
    'app/kinds/rules.py',
    None,
    [
      ('another_begins_with', "name.startswith(f'{field}.')", 'name.startswith(field)'),
    ],
  ),
  (
    'app/kinds/rules.py',
    'app/kinds/test_couplings.py',
    [
      ('refused_with_a_coupling', 'or row.section and config.at(row.section) is None', ''),
    ],
  ),
  (
    'app/kinds/network.py',
    None,
    [
      ('need_a_signal', "kind not in ('eps', 'score')", "kind not in ('eps',)"),
      ('need_a_signal', 'if last.alpha == 0.0', 'if last.alpha <= 0.01'),
      ('as_its_parameters_say', 'params=params)', 'params=jax.tree.map(abs, params))'),
    ],
  ),
  (
    'app/kinds/network.py',
    None,
    [
      ('variance_of_the_sampler', "sampler.get('variance', 'fixed_small')", "'fixed_small'"),
      ('noise_at_t_0', 'process.is_learned or ', 'False and '),
    ],
  ),
  (
    'app/kinds/roles.py',
    None,
    [
      ('with_another_config', "'start', 'teacher', 'average'", "'start', 'teacher'"),
      ('with_another_config', "'start', 'teacher', 'average'", "'start', 'average'"),
      ('with_another_config', "'start', 'teacher', 'average'", "'teacher', 'average'"),
      ('with_another_config', "  'network.remat',", "  'network.remat',\n  'network.dtype',"),
    ],
  ),
  (
    'app/kinds/roles.py',
    'app/kinds/test_store.py',
    [
      ('what_is_compiled', "NOT_READ = 'compilation_cache', ", 'NOT_READ = '),
    ],
  ),
  (
    'app/run/weights.py',
    None,
    [
      ('any_average_and_checkpoint', "decay = c.weights.get('decay')", 'decay = None'),
    ],
  ),
  (
    'weights/averages.py',
    None,
    [
      ('leaves_no_batch_size', 'if row[0] < step]', 'if row[0] <= step]'),
      (
        'when_its_sum_is',
        '  checksums.write_sums(_folder(workdir), sums)\n  draft.replace(path)',
        '  draft.replace(path)\n  checksums.write_sums(_folder(workdir), sums)',
      ),
    ],
  ),
  (
    'weights/checkpoints.py',
    None,
    [
      (
        'an_interrupted_save_left',
        '    cleanup_tmp_directories=True,\n',
        '    cleanup_tmp_directories=False,\n',
      ),
      (
        'an_interrupted_save_left',
        'cleanup_tmp_directories=True, async_options',
        'cleanup_tmp_directories=False, async_options',
      ),
    ],
  ),
  (
    'data/sums.py',
    None,
    [
      ('is_waited_for', 'time.sleep(TICK)', 'pass'),
    ],
  ),
  (
    'app/run/provenance.py',
    'app/evaluate/test_mode.py',
    [
      ('is_another_file', "'weights': checksums.of_arrays(params)", "'weights': 0"),
    ],
  ),
  (
    'app/run/provenance.py',
    'app/run/test_provenance.py',
    [
      (
        'named_by_their_settings',
        "settings.items() if n not in ('run', 'opened')}",
        'settings.items()}',
      ),
      ('users_is_refused', 'done = processes.is_first() and path.exists()', 'done = False'),
      ('users_is_refused', "f'.{code}.parts' if given else", "'.parts' if given else"),
    ],
  ),
  (
    'data/sums.py',
    'app/run/test_provenance.py',
    [
      ('named_by_their_settings', 'int(x) if isinstance(x, float) and x.is_integer() else x', 'x'),
    ],
  ),
  (
    'app/modes/sample.py',
    'app/modes/test_kept_files.py',
    [
      ('go_on_where_they_were', 'shutil.rmtree(place.parts)', 'pass'),
    ],
  ),
  (
    'app/modes/report.py',
    None,
    [
      ('calls_are_those', "if ' while[' in", "if 'no' in"),
    ],
  ),
  (
    'report/card.py',
    None,
    [
      ('a_bar_in_a_value', ".replace('|', '\\\\|')", ''),
    ],
  ),
  (
    'report/card.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('other_names', '*results.examples_of(content)', '*[]'),
    ],
  ),
  (
    'report/results.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('other_names', 'if other else name', 'if False else name'),
      ('other_names', 'for text, shown in words.items() if shown]', 'for text, shown in []]'),
      ('other_names', "record.of_number(row.sampling.get('num_samples', 0), noun)", "''"),
      ('other_names', 'classes: classes,', "'': classes,"),
      (
        'printed_is_on',
        "(f'real {run.noun}, {_folder(row.name)}', row.floor, words)",
        "('', {}, '')",
      ),
      (
        'printed_is_on',
        "for score, content in x['metrics'].items()",
        "for score, content in [*x['metrics'].items()][:1]",
      ),
      ('usual', 'at != str(run.sampled)', 'at'),
      ('options', 'found[i] = (name, found[i][1])', 'pass'),
      ('equal_names', 'if all(told.count(x) == 1 for x in told)', 'if True'),
    ],
  ),
  (
    'report/record.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('named_as_results', "'' if name.startswith(HELD_OUT) else added", "''"),
    ],
  ),
  (
    'app/kinds/roles.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('compared_where', "*('objective', 'schedule', ", "*('objective', "),
      ('compared_where', "'training.random_flip'),", '),'),
    ],
  ),
  (
    'app/evaluate/scorers.py',
    'laws/test_runs_fit_by_all_facts.py',
    [
      ('other_classes', "() if judges else ('num_classes', 'class_names')", '()'),
    ],
  ),
  (
    'app/evaluate/scorers.py',
    'laws/test_real_examples_score_their_floor.py',
    [
      ('said', 'return Classes(name, np.bincount(labels, minlength=num_classes))', 'return None'),
      ('said', 'source_of(model.config, split))', "source_of(model.config, 'train'))"),
    ],
  ),
  (
    'app/inputs/conditions.py',
    'laws/test_real_examples_score_their_floor.py',
    [
      ('said', '[rows] if mixed else rows', '[rows] if False else rows'),
      ('score_their_floor', 'if not (of_context or of_text):', 'if not of_text:'),
    ],
  ),
  (
    'app/train/hooks.py',
    'laws/test_real_examples_score_their_floor.py',
    [
      (
        'training_measures',
        'first_samples(model, mesh, n, compared)',
        'first_samples(model, mesh, n)',
      ),
    ],
  ),
  (
    'metrics/scoring.py',
    None,
    [
      ('place_of_samples', 'rows = rows[rows_with(', 'rows[rows_with('),
      ('nearly_all', '<= n * by_chance', '<= 0'),
      ('nearly_all', '<= n * by_chance', '<= n'),
    ],
  ),
  (
    'app/evaluate/mode.py',
    'laws/test_densities_integrate_to_one.py',
    [
      ('density', "(box['truncated'] - box['nats'])", "0 * (box['truncated'] - box['nats'])"),
    ],
  ),
  (
    'app/evaluate/scorers.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('judge', "suffix = '' if is_of_one else f'_{space}'", "suffix = ''"),
    ],
  ),
  (
    'app/evaluate/mode.py',
    'laws/test_numbers_say_of_what.py',
    [
      ('other_data', "scorers.examples(c) if compares else ''", 'scorers.examples(c)'),
    ],
  ),
  (
    'app/run/sharing.py',
    None,
    [
      ('kept_autoencoder', 'skip=()).without_folders()', 'skip=())'),
      ('is_last', "('latent.json', *reversed(_FILES))", "('latent.json', *_FILES)"),
      (
        'other_weights_under',
        'here != there or not share.same(source.path, workdir.path)',
        'here != there',
      ),
    ],
  ),
  (
    'app/edit/restoration.py',
    None,
    [
      ('figures_are', "numbers |= {'x': values.written.encode(stored)}", 'pass'),
      ('how_many_pictures', 'if len(every) < len(y) else', 'if False else'),
    ],
  ),
  (
    'app/train/floors.py',
    None,
    [
      (
        'until_data_or_objective_change',
        "not provenance.changed(kept.get('settings', {}), settings):",
        "kept.get('settings'):",
      ),
    ],
  ),
  (
    'app/kinds/training.py',
    'laws/test_floors_are_of_the_same.py',
    [('is_printed_beside_it', '(training.held_out or HeldOut()).batches', '1')],
  ),
  (
    'app/train/floors.py',
    'laws/test_floors_are_of_the_same.py',
    [
      ('infinite_is_called', 'batch), infinite)]', 'batch), ())]'),
      ('is_printed_beside_it', 'by_line(held_out, key,', 'by_line(in_training, key,'),
      ('is_printed_beside_it', 'exact=True, training=True)', 'exact=True)'),
      (
        'is_printed_beside_it',
        "rows = fitted.rows(index, batch['x'].shape[1:])",
        'rows = batch',
      ),
    ],
  ),
  (
    'app/kinds/diffusion/model.py',
    'app/train/test_floors.py',
    [
      ('more_than_denoise', "objective.get('coupling') is not None", 'False'),
      ('more_than_denoise', 'if not objective.declared.denoises:', 'if False:'),
    ],
  ),
  (
    'app/train/step_log.py',
    'laws/test_interrupted_is_uninterrupted.py',
    [
      ('leave_no_trace', "sums = before.get('sums', {})", 'sums = {}'),
      ('leave_no_trace', "for n in ('left_out', 'in_a_row')", "for n in ('left_out', '')"),
    ],
  ),
  (
    'app/train/hooks.py',
    'laws/test_interrupted_is_uninterrupted.py',
    [
      ('leave_no_trace', ', done=lambda step: path_of(step).exists()', ''),
      (
        'leave_no_trace',
        "x.get('step') == step and 'learning_rate' not in x",
        "x.get('step') == step",
      ),
    ],
  ),
  (
    'weights/checkpoints.py',
    'laws/test_interrupted_is_uninterrupted.py',
    [
      ('leave_no_trace', 'if step % self.every == 0]', ']'),
    ],
  ),
  (
    'app/train/step_log.py',
    None,
    [
      ('note_follows', '{text}{self.notes.get(n, "")}', '{text}'),
      ('a_plan_that_is_nan', "names = 'column_error', 'loss',", "names = 'loss',"),
    ],
  ),
  (
    'app/run/weights.py',
    None,
    [
      (
        'another_network_is_refused',
        'own or folder.differences(stored',
        'own and folder.differences(stored',
      ),
      (
        'exported_alone',
        'model.run.is_shared or load.base_path(path).exists()',
        'model.run.is_shared',
      ),
    ],
  ),
  (
    'app/evaluate/scorers.py',
    None,
    [
      ('standardised_by_the_statistics', 'np.asarray(x.std))', 'np.ones(len(x.std)))'),
    ],
  ),
  (
    'app/smoke.py',
    'app/test_cli.py',
    [
      (
        'trial_of_own',
        'if own or facts is None and not is_folder:',
        'if facts is None and not is_folder:',
      ),
    ],
  ),
  (
    'app/train/hooks.py',
    None,
    [
      ('the_lowest_loss_and_the_highest_score', 'sign = -1.0 if higher else 1.0', 'sign = 1.0'),
      (
        'drawn_in_batches',
        'np.arange(first, min(first + size, n))',
        'np.arange(min(size, n - first))',
      ),
      ('see_the_texts', ', size, 0, i, rows=rows, text_length=length', ', size, 0, i, rows=rows'),
    ],
  ),
  (
    'networks/fused.py',
    'networks/test_fused.py',
    [
      ('every_projection', '(num_heads, 3, -1) if head', '(3, num_heads, -1) if head'),
      ('without_keys', 'return Layout((-1, 3), 1)', 'return QKV_LAYOUT'),
    ],
  ),
  (
    'runtime/start_up.py',
    'runtime/test_start_up.py',
    [
      ('who_asked', 'each_node * nodes', 'each_node'),
    ],
  ),
  (
    'app/train/setup.py',
    'app/modes/test_refusals.py',
    [
      ('training.machine.accumulate', 'c.training.batch_size % (mesh.size * count) == 0', 'True'),
      ('optimizer.decay_steps', '0 < steps < len(rates) - 1 and', '0 < steps < 0 and'),
    ],
  ),
  (
    'app/train/setup.py',
    'test_recipes.py',
    [
      ('nothing_but_noise', "error_scale('eps', level) ** 2", "error_scale('eps', level)"),
      ('no_loss_of_noise', "error_scale('eps', level) ** 2", 'error_scale(kind, level) ** 2'),
      (
        'hardly_drawn',
        'times.make(steps) if isinstance(times, Node) else step_times',
        'step_times',
      ),
      ('nothing_but_noise', "kind not in ('eps', 'score')", "kind not in ('eps', 'v')"),
    ],
  ),
  (
    'app/train/setup.py',
    'app/modes/test_simulator.py',
    [
      ('another_config', 'roles.check_same_run(workdir, config)', 'pass'),
    ],
  ),
  (
    'atomic_files.py',
    None,
    [
      (
        'through_a_link',
        ("new = Path(f'{path}.{secrets.token_hex(4)}.tmp')\n  try:"),
        ("new = Path(f'{path}.tmp')\n  try:"),
      ),
      ('gets_its_name', 'shutil.rmtree(new, ignore_errors=True)', 'pass'),
    ],
  ),
  (
    'core/arguments.py',
    'core/test_products.py',
    [
      ('is_fused_with_a_sum', 'jnp.sum(finished(x), axis', 'jnp.sum(x, axis'),
      ('is_fused_with_a_sum', 'jnp.mean(finished(x), axis', 'jnp.mean(x, axis'),
    ],
  ),
  (
    'core/arguments.py',
    'test_refusals.py',
    [
      ('that_cannot_be', 'return jax.device_get(traced', 'return (traced'),
    ],
  ),
  (
    'bridges/equations.py',
    None,
    [
      (
        'samples_velocity_and_score',
        'slope = diffusion * (0.5 - t)',
        'slope = diffusion * (1.0 - t)',
      ),
      ('samples_velocity_and_score', 'return -prediction.z /', 'return prediction.z /'),
      (
        'a_path_of_one_pair',
        'widths = bridge_width(s, diffusion) -',
        'widths = bridge_width(s, diffusion) +',
      ),
      ('a_path_of_one_pair', 'diffusion**2 * s * (t - s) / t', 'diffusion**2 * (t - s)'),
      (
        'the_diffusion_steps',
        'xt - t * prediction.displacement',
        'xt + t * prediction.displacement',
      ),
      ('regression_of_the_pairs', 'jnp.square(prediction.z - z)', 'jnp.square(prediction.z + z)'),
      (
        'a_path_of_one_pair',
        'jnp.sqrt(jnp.maximum(t * (1.0 - t), 0.0))',
        'jnp.sqrt(t * (1.0 - t))',
      ),
    ],
  ),
  (
    'bridges/equations.py',
    'bridges/test_sampler.py',
    [
      ('both_ways', 'BridgePrediction(-displacement, z)', 'BridgePrediction(-displacement, -z)'),
    ],
  ),
  (
    'core/decoders.py',
    None,
    [
      ('difference_of_cdfs', 'width = 2.0 / (num_levels - 1)', 'width = 1.0 / (num_levels - 1)'),
      (
        'bernoulli_is_scipys',
        'jnp.where(x > 0.0, logits, -logits)',
        'jnp.where(x > 0.0, -logits, logits)',
      ),
    ],
  ),
  (
    'core/denoiser.py',
    None,
    [
      ('noise_inputs', 'return -level.logsnr / 8.0', 'return -level.logsnr / 4.0'),
      ('published_integers', 'jnp.maximum(step - 1.0, 0.0)', 'jnp.maximum(step, 0.0)'),
    ],
  ),
  (
    'discrete/equations.py',
    None,
    [
      ('mean_of_the_oracle', 'jnp.exp(log_p - log_q)', 'jnp.exp(log_p)'),
      ('states_of_scaled_images', 'jnp.rint((x + 1.0)', 'jnp.floor((x + 1.0)'),
      ('prior_excludes_a_state', '(q > 0.0) & (prior == 0.0)', '(q > 1e-3) & (prior == 0.0)'),
      ('mean_of_the_oracle', 'jax.vmap(lambda k: jax.random.fold_in(k, step))(keys)', 'keys'),
      ('first_step_ends_at_clean_data', 'select_level(step == 1,', 'select_level(step == 0,'),
      ('below_the_rounding', 'coarse + fine * 2.0**-23', 'coarse'),
    ],
  ),
  (
    'core/elbo.py',
    None,
    [
      (
        'a_step_to_noise_at_time_0',
        'where(level_s.sigma == 0.0, decoder',
        'where(level_s.t == 0.0, decoder',
      ),
      ('each_step_is_drawn', '/ (1.0 + snr[1:])', '/ (1.0 + snr[:-1])'),
      ('each_step_is_drawn', 'points / steps * ends[-1]', 'points / (steps + 1) * ends[-1]'),
      ('levels_that_are_equal', 'same = (q.variance == 0.0) &', 'same = (q.variance < 0.0) &'),
    ],
  ),
  (
    'core/couplings.py',
    None,
    [
      ('weight_of_contexts', 'jnp.where(slack >= 0.0, 1e8, -1e8)', 'jnp.full_like(slack, 1e8)'),
      ('float32_resolves', '_ROUNDING = 0.05', '_ROUNDING = 0.005'),
      ('float32_resolves', '_ROUNDING = 0.05', '_ROUNDING = 0.5'),
      ('leaves_a_share_of_pairs', '1.0 - ratio,', 'ratio,'),
      ('keep_their_digits', 'square < 1e-3 * norms)', 'square < 0.0 * norms)'),
      (
        'the_entropic_plan_is_optimal',
        'kernel + rows[:, None], axis=0))',
        'kernel + columns[None], axis=0))',
      ),
      (
        'the_entropic_plan_is_optimal',
        '(-math.log(n) for n in cost.shape)',
        '(-math.log(n) for n in cost.shape[::-1])',
      ),
      ('every_column_of_the_plan', '(error > tolerance)', '(error > 0.1)'),
      ('two_labels_are_forbidden', 'jnp.where(same, terms, jnp.inf)', 'terms'),
    ],
  ),
  (
    'core/couplings.py',
    'training/test_couplings.py',
    [
      ('wherever_the_sets_are', 'v - jnp.mean(v, axis=0, keepdims=True) for v', 'v for v'),
      ('weigh_as_in_the_release', '_terms(squared_distances(x0, y),', '_terms(distances,'),
      ('without_a_plan_pairs', 'jnp.where(rounding < _ROUNDING,', 'jnp.where(rounding < jnp.inf,'),
    ],
  ),
  (
    'core/elbo.py',
    'papers/test_bound.py',
    [
      ('some_of_the_steps', 'expected[drawn - 2]', 'expected[drawn - 1]'),
    ],
  ),
  (
    'few_steps/losses.py',
    'few_steps/test_consistency.py',
    [
      (
        'consistency_training_literally',
        '(f_fn(xt, level_t), sg(target))',
        '(f_fn(xt, level_t), target)',
      ),
      ('continuous_consistency_literally', 'return sg(output), sg(g)', 'return sg(output), g'),
    ],
  ),
  (
    'few_steps/losses.py',
    'few_steps/test_distillation.py',
    [
      (
        'progressive_distillation_is_two',
        'return sg((xs - ratio * xt) / (s.alpha - ratio * t.alpha))',
        'return (xs - ratio * xt) / (s.alpha - ratio * t.alpha)',
      ),
    ],
  ),
  (
    'few_steps/losses.py',
    'few_steps/test_average_velocity.py',
    [
      (
        'improved_mean_flow_literally',
        'u + expand_to(t - s, xt) * sg(du)',
        'u + expand_to(t - s, xt) * du',
      ),
      (
        'test_mean_flow_literally',
        'sg(v - expand_to(t - s, xt) * du)',
        'v - expand_to(t - s, xt) * du',
      ),
      (
        'shortcut_literally',
        'return sg(share * first + (1.0 - share) * second)',
        'return share * first + (1.0 - share) * second',
      ),
      (
        'self_distillation_literally',
        'squared_error(u - elapsed * du, sg(velocity))',
        'squared_error(u - elapsed * du, velocity)',
      ),
    ],
  ),
  (
    'few_steps/losses.py',
    None,
    [
      (
        'no_error_of_self_distillation',
        'middle = t - share * (t - s)',
        'middle = s + share * (t - s)',
      ),
      ('no_error_of_self_distillation', 'u_fn(xt - elapsed * u, s, s)', 'u_fn(xt, s, s)'),
    ],
  ),
  (
    'few_steps/maps.py',
    None,
    [
      ('maps_to_the_clean_end', '1.001 * sigma_min * level_s.alpha', 'sigma_min * level_s.alpha'),
    ],
  ),
  (
    'core/keys.py',
    None,
    [
      (
        'bit_for_bit_in_any_batch',
        'jax.vmap(lambda k: distribution(k, x.shape[1:], x.dtype))(key)',
        'distribution(key[0], x.shape, x.dtype)',
      ),
      (
        'draws_row_i',
        'jnp.moveaxis(each_split(data, shape), 0, len(shape))',
        'each_split(data, shape).reshape(*shape, *data.shape)',
      ),
      ('draws_row_i', 'if shape[:1] != (count,):', 'if not shape:'),
    ],
  ),
  (
    'core/levels.py',
    None,
    [
      ('rounding_keeps_other_positions', 'min(1e-6 * num_steps, 1e-3)', '1e-6 * num_steps'),
    ],
  ),
  (
    'core/levels.py',
    'sampling/test_solvers.py',
    [
      ('leaves_x_unchanged', 'ROUNDING = 1e-5', 'ROUNDING = 0.0'),
    ],
  ),
  (
    'core/losses.py',
    None,
    [
      (
        'antithetic_times_are_evenly',
        '(batch_size) / batch_size',
        '(batch_size) / (batch_size + 1)',
      ),
      (
        'step_times_are_all',
        ', (batch_size,), 1, schedule_steps + 1',
        ', (batch_size,), 1, schedule_steps',
      ),
      (
        'part_of_times_is_at_the_start',
        '(batch_size)), jnp.ones(batch_size)',
        '(batch_size)), drawn[1]',
      ),
      ('zero_snr', 'jnp.maximum(level.alpha, 1e-12)', 'level.alpha + 1.0'),
      ('squared_error_of_v', '(jnp.square(level.alpha) + jnp', '(level.alpha + jnp'),
    ],
  ),
  (
    'discrete/masked.py',
    None,
    [
      (
        'test_weights',
        '(schedule, level.t)[1] / level.sigma',
        '(schedule, level.t)[1] / level.alpha',
      ),
      ('test_weights', 'jnp.rint(level.t * num_steps)', 'jnp.floor(level.t * num_steps)'),
      ('times_are_antithetic', 'jax.vmap(lambda k: jax.random.fold_in(k, i))(keys)', 'keys'),
      ('times_are_antithetic', 't = 1.0 - jnp.mod(u', 't = jnp.mod(u'),
    ],
  ),
  (
    'core/measurements.py',
    'posteriors/test_heuristics.py',
    [
      ('norm_of_the_residual', 'jnp.sqrt(square + 1e-12)', 'square'),
    ],
  ),
  (
    'core/measurements.py',
    'posteriors/test_reconstruction.py',
    [
      (
        'at_every_level',
        'jnp.asarray(self.std, like.dtype) ** 2',
        'jnp.asarray(self.std, like.dtype)',
      ),
    ],
  ),
  (
    'core/measurements.py',
    'test_refusals.py',
    [
      ('arguments_that_cannot_be', 'lambda x: x >= 0.0', 'lambda x: x > -1.0'),
    ],
  ),
  (
    'core/normal.py',
    None,
    [
      ('kl_of_variances_alone', 'jnp.abs(excess) < 0.5', 'jnp.abs(excess) < 0.0'),
    ],
  ),
  (
    'core/operators.py',
    None,
    [
      ('the_middle_of_a_kernel', 'height // 2) % rows', '(height - 1) // 2) % rows'),
      ('the_gaussian_blur_is_scipys', 'math.ceil(3.0 * width)', 'math.ceil(1.0 * width)'),
    ],
  ),
  (
    'core/parametrization.py',
    None,
    [
      (
        'target_times_a_number',
        "_row('eps' if kind == 'score' else kind,",
        "_row('v' if kind == 'score' else kind,",
      ),
      ('target_times_a_number', "_row('eps' if kind == 'score' else kind,", '_row(kind,'),
    ],
  ),
  (
    'core/parametrization.py',
    'core/test_losses.py',
    [
      (
        'every_parametrization_has',
        'a - b * level.alpha / level.sigma',
        'a + b * level.alpha / level.sigma',
      ),
    ],
  ),
  (
    'core/process.py',
    None,
    [
      ('equal_but_for_rounding', 'jnp.minimum(change, 0.0))', 'change)'),
    ],
  ),
  (
    'core/process.py',
    'papers/test_ddpm.py',
    [
      ('eq_6_and_7_posterior', 'alpha_ratio(s, t) * ratio * ratio', 'alpha_ratio(s, t) * ratio'),
    ],
  ),
  (
    'core/products.py',
    None,
    [
      (
        'is_fused_with_a_sum',
        'return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)',
        'return x',
      ),
      (
        'is_fused_with_a_sum',
        'return finished(jnp.einsum(subscripts,',
        'return (jnp.einsum(subscripts,',
      ),
    ],
  ),
  (
    'core/process.py',
    'papers/test_samplers.py',
    [
      ('euler_maruyama_of_the_vp_sde', '-(sigma**2) * slopes[1]', '-sigma * slopes[1]'),
    ],
  ),
  (
    'core/schedules.py',
    None,
    [
      (
        'marginals_in_float32',
        'self.beta_min + 0.5 * (self.beta_max',
        'self.beta_min + (self.beta_max',
      ),
      ('marginals_in_float32', 'beta_min**2 + 2.0 * slope * value', 'beta_min**2 + slope * value'),
    ],
  ),
  (
    'discrete/schedules.py',
    None,
    [
      (
        'masking_schedules',
        'sigma ** (1.0 / self.power), alpha, sigma',
        'sigma**self.power, alpha, sigma',
      ),
      (
        'product_of_1_minus_beta',
        'self.schedule.from_logsnr(0.5 *',
        'self.schedule.from_logsnr(1.0 *',
      ),
    ],
  ),
  (
    'core/checked.py',
    None,
    [
      ('another_value', ' or isinstance(function, type):', ':'),
      ('another_value', 'value.dtype == bool', 'True'),
      ('values_of_a_type', 'follow_wrapped=is_ours)', 'follow_wrapped=True)'),
      ('a_field_of_a_tuple', 'kind.hint is type(value) for', 'False for'),
      ('a_kind_and_no_value', 'return kind in (bool, int, float)', 'return False'),
      ('arguments_by_name', '*kwargs.items()):', '):'),
    ],
  ),
  (
    'core/step_schedules.py',
    None,
    [
      ('as_it_stands', 'table[0] != 0.0', 'False'),
      ('as_it_stands', '(np.diff(table) < 0.0).any()', 'False'),
      ('warmup_climbs', 'int(num_steps * fraction)', 'round(num_steps * fraction)'),
      ('between_steps_log_alpha_bar', 'jnp.exp(-0.5 * beyond)', 'jnp.exp(-beyond)'),
    ],
  ),
  (
    'core/step_schedules.py',
    'test_refusals.py',
    [
      ('that_cannot_be', 'last=1.0, identity=0.0', 'last=1.0, identity=1.0'),
    ],
  ),
  (
    'discrete/transitions.py',
    None,
    [
      (
        'is_the_nearest_step',
        'jnp.rint(level.t * len(self.steps))',
        'jnp.floor(level.t * len(self.steps))',
      ),
    ],
  ),
  (
    'discrete/transitions.py',
    'test_refusals.py',
    [
      ('that_cannot_be', 'np.abs(total - 1.0) < 1e-6', 'np.abs(total - 1.0) < 1e-4'),
    ],
  ),
  (
    'autoencoders/bounds.py',
    'papers/test_vae.py',
    [
      (
        'importance_weighted_bound',
        'jax.nn.logsumexp(log_weights, axis=0) - math.log(num_samples)',
        'jnp.mean(log_weights, axis=0)',
      ),
    ],
  ),
  (
    'core/vdm.py',
    None,
    [
      (
        'eq_13_and_14_finite',
        'jnp.expm1(level_s.logsnr - level.logsnr)',
        '(level_s.logsnr - level.logsnr)',
      ),
    ],
  ),
  (
    'data/pictures.py',
    None,
    [
      ('known_where_all', 'blocks.all(axis=(1, 3))', 'blocks.any(axis=(1, 3))'),
    ],
  ),
  (
    'data/code_sums.py',
    None,
    [
      (
        'below_the_folder',
        'top, base = place.parents[depth], place.parents[depth + bool(package)]',
        'top, base = place.parents[0], place.parents[depth + bool(package)]',
      ),
      ('below_the_folder', 'os.walk(top)', '[*os.walk(top)][:1]'),
      ('below_the_folder', 'return ast.dump(tree).encode()', 'return file.read_bytes()'),
      ('what_is_imported', '_of_files(imported | names)', '_of_files(names)'),
    ],
  ),
  (
    'data/between.py',
    None,
    [
      ('stay_together', 'if not self.paired:', 'if True:'),
      ('meets_other_points', 'other._shift =', 'other._other ='),
      ('its_order_and', '= order_of(target)', '= None'),
      ('its_order_and', '(redrawn(x, seed, epoch) for', '(x for'),
      ('its_order_and', '(2, seed, epoch)', '(2, epoch)'),
      ('meets_other_points', '(2, seed, epoch)', '(2, seed)'),
      ('joined_by_name', 'context = context[..., self._columns]', 'pass'),
    ],
  ),
  (
    'data/buckets.py',
    None,
    [
      ('copied_once_and_again', 'if _version(x) != copies[x][1:]]', 'if _version(x) is None]'),
      ('copied_once_and_again', 'copy.unlink()', 'pass'),
      ('whole_or_not_there', '!= size:', '!= copied:'),
      ('copied_once_and_again', '== target or fnmatch', '== target and fnmatch'),
    ],
  ),
  (
    'data/columns.py',
    None,
    [
      (
        'lists_of_numbers',
        "{'x': x, 'context': context} if context",
        "{'x': x, 'context': x} if context",
      ),
    ],
  ),
  (
    'data/columns.py',
    'data/test_huggingface.py',
    [
      (
        'picture_cut_short',
        '= np.delete(rows, [*errors])',
        '= rows[: len(rows) - len(errors)][::-1]',
      ),
    ],
  ),
  (
    'data/columns.py',
    'data/test_refusals.py',
    [
      ('parquet_row', 'and not isinstance(value, bool)', ''),
    ],
  ),
  (
    'data/columns.py',
    'data/test_webdataset.py',
    [
      (
        'labels_that_are',
        'check_examples(source.read(np.arange(1)), source.facts)',
        'source.read(np.arange(1))',
      ),
      ('checksum_is_of', 'for value in columns[name])', 'for value in columns[name][:64])'),
    ],
  ),
  (
    'data/damage.py',
    None,
    [
      ('damaged_pictures_are_found', 'if skip and len(errors) < size:', 'if skip:'),
      ('damaged_pictures_are_found', 'range(0, size, _BLOCK)', 'range(0, size - _BLOCK, _BLOCK)'),
    ],
  ),
  (
    'data/files.py',
    None,
    [
      ('read_once', 'return real not in tops', 'return True'),
      ('read_once', 'if any(real.is_relative_to(top) for top in tops):', 'if real in tops:'),
      ('not_hidden', "f'[^.].*({ends})'", "f'.*({ends})'"),
    ],
  ),
  (
    'data/huggingface.py',
    None,
    [
      (
        'classes_are_those',
        'if names and len(names) != num_classes:',
        'if len(names) < num_classes:',
      ),
    ],
  ),
  (
    'data/hashes.py',
    None,
    [
      ('as_printf_rounds', '- 0.5) < 1e-6', '- 0.5) < 0'),
      ('shuffled_copy_of_another_type', "else ['x', 'context']", "else ['x']"),
      ('shuffled_copy_of_another_type', 'np.asarray(array, np.float64)', 'array'),
    ],
  ),
  (
    'app/inputs/trained_on.py',
    None,
    [
      ('goes_on_with_other_data', '*([before[name]] if before else [])', ''),
      ('shuffled_copy_are_known', 'min(most or len(source), len(source))', 'len(source)'),
      ('drawn_anew', 'or drawn_anew(source)', ''),
    ],
  ),
  (
    'data/image_folder.py',
    None,
    [
      ('checksum_is_of_names', '[content, *names,', '[*names,'),
      ('checksum_is_of_names', '[content, *names,', '[content,'),
    ],
  ),
  (
    'data/image_sets.py',
    None,
    [
      (
        'levels_of_another_type',
        'dtype != np.uint8 and most <= 1',
        'dtype != np.uint8 and most < 1',
      ),
    ],
  ),
  (
    'data/images.py',
    None,
    [
      ('intact_pngs', 'PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin', 'PngImagePlugin'),
      ('part_of_16_bits', 'high - low <= 16', 'high - low < 0'),
      ('transparent_pixels_lie_on_white', "image.size, 'white')", "image.size, 'black')"),
    ],
  ),
  (
    'data/images.py',
    'data/test_refusals.py',
    [
      ('signed', 'unsigned = kinds == {1}', 'unsigned = 3 not in kinds'),
    ],
  ),
  (
    'data/npz.py',
    None,
    [
      ('stays_on_disk', 'if len(index) < size:', 'if True:'),
      ('row_of_indices', "is_test == (split == 'test')", "is_test == (split == 'train')"),
      (
        'own_test_split_has_a_context',
        "prefix = 'test_' if has_test and split == 'test' else",
        'prefix =',
      ),
    ],
  ),
  (
    'data/parquet.py',
    None,
    [
      ('flipped_bit', 'if table.num_rows != expected:', 'if False:'),
    ],
  ),
  (
    'data/parquet.py',
    'data/test_refusals.py',
    [
      (
        'parquet_row',
        "return cell if cell['bytes'] is None else cell['bytes']",
        "return cell['bytes'] or open(cell['path'], 'rb').read()",
      ),
    ],
  ),
  (
    'data/pipeline.py',
    'data/test_sources.py',
    [
      (
        'numbers_are_standardised',
        '(facts or source.facts).x.encode(x)',
        'source.facts.x.encode(x)',
      ),
    ],
  ),
  (
    'data/simulated.py',
    None,
    [
      (
        'fresh_batches',
        'self._source, epoch=epoch,',
        'self._source, epoch=0 * epoch,',
      ),
      ('draws_follow_from', "seed = draws, split == 'test'", 'seed = draws, False'),
      (
        'the_facts_are',
        "size = num_examples if split == 'train' else num_test",
        'size = num_examples',
      ),
      (
        'nan_are_left_out',
        '.reshape(len(good), -1).all(axis=1)',
        '.reshape(len(good), -1).any(axis=1)',
      ),
      ('box_of_a_joint', 'joined(arrays), times * low, times * high', 'joined(arrays), low, high'),
    ],
  ),
  (
    'data/simulations.py',
    None,
    [
      ('runs_once', 'return arrays, same < size', 'return arrays, True'),
      ('runs_once', 'else min(size, count) // BLOCK * BLOCK', 'else min(size, count)'),
      ('what_changes', 'code, files = code_of(function),', "code, files = '',"),
      ('another_version', 'seed, BLOCK, version,', 'seed, BLOCK,'),
      ('not_kept', 'all(x is not function for x in named)', 'False'),
      ('what_changes', 'function.__qualname__, fields, files', 'function.__qualname__, (), files'),
      ('an_interrupted', 'arrays = _read(part) ', 'arrays = None'),
    ],
  ),
  (
    'data/sources.py',
    None,
    [
      ('rows_that_come', 'rng.permutation(len(source))', 'np.arange(len(source))'),
      ('rows_that_come', 'len(source) if is_held else MOST_MEASURED', 'MOST_MEASURED'),
      ('frequencies_of_all', '(j + first[label]) / counts', '(j + 3.0 * first[label]) / counts'),
      ('not_late', '(j + first[label]) / counts', '(j + 0.5) / counts'),
    ],
  ),
  (
    'data/sources.py',
    'data/test_simulated.py',
    [
      ('labels_that_are', 'label.max() < max(1, classes)', 'label.max() <= classes'),
    ],
  ),
  (
    'metrics/compare.py',
    None,
    [
      ('other_frequencies', '4.5 * np.sqrt(mean * inverse)', '450.0 * np.sqrt(mean * inverse)'),
    ],
  ),
  (
    'training/power_ema.py',
    'training/test_averaging.py',
    [
      ('names_that_differ', 'repr(float(decay))', "f'{decay:g}'"),
    ],
  ),
  (
    'data/spec.py',
    None,
    [
      (
        'real_numbers_come_back',
        '= np.any(np.abs(self.mean) > 1e3 * np.asarray(self.std))',
        '= False',
      ),
      (
        'log_det_is_that_of_decode',
        'np.log(np.broadcast_to(self.std, self.shape))',
        'np.log(self.std)',
      ),
      ('closed_box', '(bounded <= high)', '(bounded < high)'),
      (
        'closed_box',
        "kind = values.dtype if values.dtype.kind == 'f' else np.float64",
        'kind = np.float64',
      ),
    ],
  ),
  (
    'data/sums.py',
    None,
    [
      ('computed_once', 'x.st_ctime_ns, x.st_ino', 'x.st_ino'),
      ('computed_once', 'if not text:', 'if True:'),
      ('of_those_in_memory', '== array.offset + array.nbytes', '> 0'),
      (
        'bytes_in_order',
        'path in paths[start : start + _FILES]',
        'path in paths[start : start + 1]',
      ),
    ],
  ),
  (
    'data/tables.py',
    None,
    [
      ('columns_are', '(isinstance(x, str), x)', 'str(x)'),
      ('columns_are', 'np.eye(len(categories))[index]', 'np.eye(len(categories))[::-1][index]'),
      ('the_rest', "if test_path and split == 'test':", 'if test_path:'),
      ('the_rest', 'numbers(cells, every, False, others)[index] for', 'numbers(cells, every) for'),
      ('numbers_and_names', 'place.start].astype(str)', "place.start].astype('<U5')"),
    ],
  ),
  (
    'data/tables.py',
    'app/modes/test_tables.py',
    [
      ('held_out', 'start = end', 'start = 0'),
      ('gaps', "not blank or _key(x) != '' for", 'True for'),
    ],
  ),
  (
    'data/tables.py',
    None,
    [
      ('where_they_are_named', 'not any(map(NUMBER.fullmatch, texts))', 'False'),
      ('where_they_are_named', 'if name in unnamed or name in categories', 'if name in unnamed'),
      ('that_arrow_reads', 'float(x) if NUMBER', 'np.float32(x) if NUMBER'),
      ('spellings_of', 'return decimal.Decimal(text)', 'return text'),
      ('almost_every_row', 'max(5, size / 2)', 'size'),
      ('missing_values', 'full = ~np.any(gaps, axis=0)', 'full = ~np.all(gaps, axis=0)'),
      ('points_between', 'points & all(', 'points & any('),
    ],
  ),
  (
    'data/cells.py',
    None,
    [
      ('two_columns', "max(',;\\t| ',", "max(',;\\t|',"),
      ('two_columns', "'utf-8-sig'", "'utf-8'"),
      ('divides_most_rows', 'count *= has_numbers and fits', 'count *= fits'),
      ('divides_most_rows', 'if count > 1 else', 'if count else'),
    ],
  ),
  (
    'data/sources.py',
    'data/test_tables.py',
    [
      ('columns_are', 'mean[is_category], std[is_category] = 0.0, 1.0', 'std[is_category] = 1.0'),
    ],
  ),
  (
    'data/spec.py',
    'app/inputs/test_datasets.py',
    [
      ('a_stranger_fit', 'mean != std or', ''),
      ('a_stranger_fit', 'low > last', 'False'),
      ('a_stranger_fit', 'wrong := values and', "wrong := name == 'x' and"),
    ],
  ),
  (
    'data/spec.py',
    'data/test_refusals.py',
    [
      ('what_is_wrong', 'std <= 1e-12 * np.abs(mean)', 'std <= 0.0'),
      ('CHANNELS_FIRST', 'self.shape[0] <= 4 < min', 'self.shape[0] < 3 < min'),
    ],
  ),
  (
    'data/spec.py',
    'data/test_sources.py',
    [
      ('statistics_are_those', 'x.reshape(-1, x.shape[-1]) if', 'x.reshape(len(x), -1) if'),
    ],
  ),
  (
    'data/spec.py',
    'metrics/test_likelihoods.py',
    [
      ('truncated_density', '(ends - self.mean) / self.std', 'ends'),
    ],
  ),
  (
    'data/spec.py',
    'metrics/test_vectors.py',
    [
      ('constant', 'std <= 1e-12 * np.abs(mean)', 'std < 0.0'),
    ],
  ),
  (
    'data/splits.py',
    None,
    [
      ('seed_draws', 'default_rng((seed, 2))', 'default_rng((0, 2))'),
      ('keeps_the_order', 'return every[every >= 0]', 'return None'),
      (
        'keeps_the_order',
        'return Part(redrawn(self.source, seed, epoch), self.rows)',
        'return self',
      ),
      ('fraction', 'np.random.default_rng(0).permutation(size)', 'np.arange(size)'),
    ],
  ),
  (
    'data/text.py',
    None,
    [
      ('texts_come_back', '(row[row > 0] - 1)', 'row[row > 0]'),
      ('tokens_are_bytes', 'len(data) > length:', 'len(data) >= length:'),
    ],
  ),
  (
    'data/text_files.py',
    None,
    [
      ('splits_are_the_pieces', 'slice(end, count)', 'slice(end - 1, count)'),
    ],
  ),
  (
    'data/webdataset.py',
    None,
    [
      ('joined_tars', 'while rest:', 'while start == 0:'),
      ('links_are_read', 'place = places.get(member.linkname)', 'place = None'),
    ],
  ),
  (
    'data/webdataset.py',
    'data/test_refusals.py',
    [
      ('open_tars', 'if places[column][0] >= 0:', 'if False:'),
    ],
  ),
  (
    'demos/simulators.py',
    None,
    [
      ('prior_times_likelihood', '(shift[:, 0] <= 0.0) &', '(shift[:, 0] <= 9.0) &'),
    ],
  ),
  (
    'demos/whiteness.py',
    None,
    [
      ('power_one_at_every_frequency', '** 2 / (height * width)', '** 2 / height'),
      ('within_its_error', 'z @ z + z.size', 'z @ z'),
    ],
  ),
  (
    'interop/diffusers_schedulers.py',
    None,
    [
      ('read_of_a_scheduler', 'thresholded and c.sample_max_value != 1.0', 'thresholded'),
      ('read_of_a_scheduler', "'predict_x0': True},", "'predict_x0': False},"),
      ('read_of_a_scheduler', 'if thresholded or c.clip_sample else', 'if c.clip_sample else'),
      ('read_of_a_scheduler', "bound['largest'] or _LARGEST", '1.0'),
    ],
  ),
  (
    'interop/edm2.py',
    None,
    [
      ('computes_what_theirs_does', "('phases', _TURNS)", "('phases', names.SAME)"),
    ],
  ),
  (
    'metrics/accuracy.py',
    None,
    [
      ('share_of_their_labels', 'predicted == labels', 'predicted != labels'),
      ('formula_of_each_split', 'p.mean(axis=0)[None]', 'p[:1]'),
    ],
  ),
  (
    'metrics/bits.py',
    None,
    [
      ('rate_and_distortion_by_hand', 'terms[:0:-1]', 'terms[::-1]'),
      ('one_of_each_level_more', 'counts = np.ones(())', 'counts = np.zeros(())'),
    ],
  ),
  (
    'metrics/calibration.py',
    None,
    [
      ('uniform_prior', '* (count + 1) / (count - 1)', ''),
      ('closed_forms', '1.0 - ratios +', '1.0 + ratios -'),
      ('closed_forms', '0.5 * np.linalg.slogdet(cov)[1]', 'np.linalg.slogdet(cov)[1]'),
      ('deviation_over_sets', 'ratios.mean(axis=0) * (square - 1.0)', '0.0 * square'),
      ('never_changes', '(count + 1) / (count - 1)', '2.0'),
      ('equal_numbers_share', '(equal + 1)', 'equal'),
      ('draws_that_equal_the_truth', '(less + share * (equal + 1))', '(less + share)'),
      ('counts_of_lower_draws', '(draws.shape[1] + 1)', 'draws.shape[1]'),
      ('masses_of_regions', '1.0 - rank_levels', 'rank_levels'),
      ('draws_in_the_ball', 'standard_of(truth.reshape(len(truth), -1)).std', '1.0'),
    ],
  ),
  (
    'metrics/pairs.py',
    'metrics/test_calibration.py',
    [
      ('gaussian_prior_is_said', 'prior = -3.0 / (len(truth) - 3.0)', 'prior = 0.0'),
      (
        'errors_of_coverage',
        '(np.mean(levels <= mass, axis=1))',
        '(np.mean(levels <= mass, axis=1)[::2])',
      ),
      ('errors_of_coverage', '(log_q, at_truth, seed)', '(log_q[::2], at_truth[::2], seed)'),
    ],
  ),
  (
    'metrics/estimates.py',
    None,
    [
      ('divides_by_the_draws', 'np.std(draws, ddof=1)', 'np.std(draws)'),
    ],
  ),
  (
    'metrics/estimates.py',
    'metrics/test_refusals.py',
    [
      ('what_cannot_be_computed', 'if bad.any():', 'if bad.all():'),
    ],
  ),
  (
    'metrics/fid.py',
    None,
    [
      ('are_a_covariance', '_ROUNDING = 1e-5', '_ROUNDING = 1e-9'),
      ('are_a_covariance', '_ROUNDING = 1e-5', '_ROUNDING = 1e-3'),
      ('statistics_of_the_whole', '(count * len(rows) / total)', 'len(rows)'),
    ],
  ),
  (
    'metrics/published.py',
    'app/evaluate/test_scorers.py',
    [
      ('statistics_that_do_not_fit', 'if needs and not count:', 'if False:'),
      ('adm_are_the_reference', 'batch_size), **arrays}', 'batch_size)}'),
    ],
  ),
  (
    'metrics/likelihoods.py',
    None,
    [
      ('truncated_density', '(drawn >= low[None]) &', '(drawn >= -high[None]) &'),
      ('truncated_density', 'jnp.log(share) / math.prod(shape)', 'jnp.log(share)'),
      ('calls_of_the_bound', 'return others + 1 + model.starts_noisy', 'return others + 1'),
    ],
  ),
  (
    'metrics/likelihoods.py',
    'app/evaluate/test_mode.py',
    [
      (
        'bound_is_that_of_the_network',
        'if model.clips else denoise',
        'if not model.clips else denoise',
      ),
    ],
  ),
  (
    'metrics/state_bits.py',
    None,
    [
      ('bits_of_each_dimension', 'data_shape=x0.shape[1:]', 'data_shape=x0.shape'),
      ('means_over_images', ".sum(axis=0) / len(arrays['total'])", '.sum(axis=0)'),
    ],
  ),
  (
    'metrics/losses.py',
    'laws/test_floors_are_of_the_same.py',
    [
      (
        'held_out_loss_of_the_training',
        'values_of(metrics, name) for name',
        'values_of(metrics, term) for name',
      ),
      (
        'infinite_is_called',
        'line in infinite and n in near',
        'line in infinite and n in near[:2]',
      ),
      (
        'below_the_least_loss',
        "_named('training_', of_example(training_key, batch), batch)",
        "_named('training_', of_example(training_key, batch), {'label': cond['label'][None]})",
      ),
    ],
  ),
  (
    'testing/floors.py',
    'laws/test_floors_are_of_the_same.py',
    [
      (
        'its_transcription',
        "  if 'label' in cond:\n    group = cond",
        '  if False:\n    group = cond',
      ),
      ('its_transcription', "jnp.where(cond['drop'], last, group)", 'group'),
      ('its_transcription', 'jnp.where(others, -jnp.inf, logits)', 'logits'),
      ('its_transcription', 'inverse @ covariance[:-1, c, x]', 'covariance[:-1, c, x]'),
      (
        'no_weight_is_nan',
        'softmax(logits, jnp.square(at.sigma))',
        'jax.nn.softmax(logits / jnp.square(at.sigma))',
      ),
    ],
  ),
  (
    'metrics/losses.py',
    None,
    [
      ('calls_are_counted', 'is not None and not drawn_anew(train)', 'is not None'),
      ('quarters_and_classes', 'jnp.where(here != 0.0, total, 0.0)', 'total'),
      ('error_of_a_quarter', '(total - value * count)', '(total)'),
    ],
  ),
  (
    'metrics/manifolds.py',
    None,
    [
      (
        'points_on_a_line',
        '=mean(inside(closest, radius))',
        '=mean(inside_or_on(closest, radius))',
      ),
      (
        'points_on_a_line',
        '(_in_manifold(samples, reference, k))',
        '(_in_manifold(reference, samples, k))',
      ),
    ],
  ),
  (
    'metrics/lattices.py',
    None,
    [
      ('three_columns', 'low < 0.1 * high', 'low < high'),
      ('what_repeats', 'high > 0.1', 'high > 0.5'),
      ('what_repeats', '_EQUAL[1] * len(x)', '0 * len(x)'),
    ],
  ),
  (
    'metrics/memorisation.py',
    None,
    [
      (
        'more_samples_remove',
        'variance = (first + part**2 * (second - first) - value**2) / n',
        'variance = (first - value**2) / n',
      ),
      ('below_the_first_percentile', 'FRACTION = 0.01', 'FRACTION = 0.02'),
      (
        'the_error_of_closer',
        'np.var(rank_a) / len(a) + np.var(rank_b) / len(b)',
        'np.var(rank_a) / len(a)',
      ),
    ],
  ),
  (
    'metrics/metric.py',
    'metrics/test_vectors.py',
    [
      ('changes_no_score', 'x.astype(least).astype', 'x.astype'),
    ],
  ),
  (
    'metrics/mmd.py',
    'metrics/test_vectors.py',
    [
      (
        'random_rows',
        '(z[some_of(z, max_samples)] for z in (x, y))',
        '(z[:max_samples] for z in (x, y))',
      ),
    ],
  ),
  (
    'metrics/mmd.py',
    None,
    [
      (
        'energy_distance_is_its_double',
        'reference, kernel, own=False',
        'reference, kernel, own=True',
      ),
      ('the_error_of_cmmd', '2.0 * float(np.sqrt(variance))', 'float(np.sqrt(variance))'),
      (
        'unbiased_mmd_is_its_double_sums',
        'row_means(y, y, kernel, own=False)',
        'row_means(y, y, kernel)',
      ),
      (
        'the_error_of_cmmd',
        'np.var(xx - xy) / len(x) + np.var(yy - yx) / len(y)',
        'np.var(xx - xy) / len(x)',
      ),
      ('mean_and_deviation_over_subsets', 'float(np.std(draws))', 'float(np.std(draws, ddof=1))'),
    ],
  ),
  (
    'metrics/neighbours.py',
    None,
    [
      ('nearest_rows', 'argmin_min(x, y)', 'argmin_min(features, reference)'),
      ('equal_but_for_rounding', 'radius * (1.0 - _MARGIN)', 'radius'),
    ],
  ),
  (
    'metrics/neighbours.py',
    'metrics/test_manifolds.py',
    [
      ('copies_are_on_the_sphere', 'np.where(same, each, block)', 'block'),
    ],
  ),
  (
    'metrics/posterior.py',
    None,
    [
      ('at_the_quantiles', '(np.arange(n) + 0.5) / n', 'np.arange(n) / n'),
      (
        'in_its_norm',
        '.linalg.norm(found - cov) / np.linalg.norm',
        '.linalg.norm(found - cov) / np.trace',
      ),
      (
        'uniform_and_of_others_not',
        '.reshape(x.shape[:2]) - 0.5 * square / std**2',
        '.reshape(x.shape[:2])',
      ),
    ],
  ),
  (
    'metrics/published.py',
    None,
    [
      ('units_that_the_file', '(found.mean - centre) / scale', '(found.mean - centre) / scale**2'),
      ('which_network', '(face|sound|art)', '(face|sound)'),
      ('refused_in_one_line', 'units is None:', 'not units and False:'),
    ],
  ),
  (
    'metrics/regression.py',
    None,
    [
      ('closed_forms', 'draws.var(axis=1, ddof=1)', 'draws.std(axis=1, ddof=1)'),
      ('literally', 'draws.var(axis=1, ddof=1)', 'draws.var(axis=1)'),
      ('closed_forms', '0.5 + 0.5 * mass]', '0.5 + 0.4 * mass]'),
      (
        'literally',
        'draws, truth, np.arange(1, num_bins) / num_bins',
        'draws, truth, np.arange(1, num_bins) / 9',
      ),
      (
        'exact_draws_have',
        'levels = rank_levels(draws, truth, seed)',
        'levels = np.mean(draws < truth[:, None], 1)',
      ),
      ('exact_draws_have', 'exact = mass * (number - 1) / (number + 1)', 'exact = mass'),
      ('random_ranks', 'prepend=0.0, append=1.0', 'prepend=0.0'),
      (
        'exact_draws_have',
        'exact_qice(count, number, num_bins)',
        'exact_qice(count, 10**6, num_bins)',
      ),
      ('random_ranks', '(num_draws - 1) * np.asarray', 'num_draws * np.asarray'),
      ('repeated_sets', 'square.error / (2.0 * rmse)', 'square.error / rmse'),
    ],
  ),
  (
    'metrics/restoration.py',
    None,
    [
      ('beyond_the_usual', 'np.quantile(residual[finite]', 'np.quantile(residual'),
      ('beyond_the_usual', 'max(1.0, usual)', 'max(0.0, usual)'),
    ],
  ),
  (
    'metrics/vectors.py',
    None,
    [
      ('random_rows', '(z[some_of(z, count)] for z in (x, y))', '(z[:count] for z in (x, y))'),
      ('deviations_of_the_reference', 'standard = standard_of(y)', 'standard = standard_of(x)'),
      (
        'constant_but_for_rounding',
        ', std = mean_and_std(x)',
        ', std = x.mean(axis=0), x.std(axis=0)',
      ),
      ('that_of_sbibm', 'standard_of(reference, ddof=1)', 'standard_of(reference)'),
      ('optimal_transport', 'widths @ apart**2', 'np.mean(apart**2, axis=0)'),
      ('moments_that_are_known', 'x.std(axis=0) - varies', 'x.std(axis=0)'),
    ],
  ),
  (
    'networks/attention.py',
    None,
    [
      ('two_at_a_time', 'if pairs and mask is None and', 'if pairs and'),
      ('weighted_mean_of_what', 'q.shape[-1] ** -0.5', 'q.shape[-1] ** -1.0'),
    ],
  ),
  (
    'networks/attention.py',
    'interop/test_openai.py',
    [
      (
        'network_that_enlarges',
        "'new': 0, 'legacy': 1, 'interleaved",
        "'new': 1, 'legacy': 0, 'interleaved",
      ),
    ],
  ),
  (
    'networks/blocks.py',
    'interop/test_openai.py',
    [
      (
        'network_that_enlarges',
        'times(h, 1.0 + scale), shift',
        'times(h, scale), shift',
      ),
    ],
  ),
  (
    'networks/context.py',
    None,
    [
      ('its_null', 'jnp.where(drop, null, code', 'jnp.where(~drop, null, code'),
      ('its_null', "mask &= ~cond['drop'][:, None]", "mask |= ~cond['drop'][:, None]"),
    ],
  ),
  (
    'networks/context.py',
    'networks/test_text.py',
    [
      ('dropped_text', 'drop, null), mask | drop[:, None]', 'drop, null), mask'),
    ],
  ),
  (
    'networks/context.py',
    'networks/cpu/test_half.py',
    [
      (
        'what_reads_conditions',
        "embedding_init=init, name='table')",
        "dtype=self.dtype, embedding_init=init, name='table')",
      ),
      ('what_reads_conditions', 'null, code.astype(null.dtype))', 'null.astype(code.dtype), code)'),
    ],
  ),
  (
    'networks/cpu/bilinear.py',
    None,
    [
      ('rows_alone_after', 'a = jnp.moveaxis(a, a_axis, batch)', 'a = jnp.moveaxis(a, a_axis, 0)'),
    ],
  ),
  (
    'networks/cpu/bilinear.py',
    'networks/cpu/test_half.py',
    [
      ('products_of_rows', '.transpose(0, 2, 3, 1)', '.transpose(0, 2, 1, 3)'),
    ],
  ),
  (
    'networks/cpu/convolution.py',
    'networks/cpu/test_half.py',
    [
      ('convolutions', 'before, span + size - 1 - n - before, 0', 'before, span - n - before, 0'),
      ('convolutions', 'x[:, i : i + height : step', 'x[:, i : i + height'),
      ('large_for_patches', 'and count <= MAX_PATCHES', 'or count <= MAX_PATCHES'),
    ],
  ),
  (
    'networks/cpu/convolution.py',
    'networks/test_functional.py',
    [('exported_for_any_batch', 'has_size(batch) and batch', 'batch')],
  ),
  (
    'networks/cpu/half.py',
    None,
    [
      ('empty_batch', 'strict=True)) if n != size)', 'strict=True)) if n < size)'),
      (
        'bias_is_summed',
        '_define(total, _total, _in_float32(_total))',
        '_define(total, _total, _total)',
      ),
      ('spread_array', 'shape=(x.shape[axis], *shape)), 0', 'shape=(x.shape[axis], *shape)), 1'),
      (
        'gelu_is_rounded',
        '_define(value, function, _in_float32(function))',
        '_define(value, function, function)',
      ),
      (
        'very_program',
        '_define(value, function, _in_float32(function))',
        '_define(value, _in_float32(function), _in_float32(function))',
      ),
    ],
  ),
  (
    'networks/cpu/bilinear.py',
    'laws/test_any_mesh.py',
    [
      (
        'every_network_has and bfloat16',
        'if AxisType.Manual not in mesh.axis_types:\n    return parts()',
        'if True:\n    return parts()',
      ),
    ],
  ),
  (
    'networks/cpu/winograd.py',
    'networks/cpu/test_half.py',
    [
      (
        'convolutions',
        'dtype, x, kernel = x.dtype, _float32(x), _float32(kernel)',
        'dtype = x.dtype',
      ),
    ],
  ),
  (
    'networks/ddpmpp.py',
    None,
    [
      (
        'filters_are_upfirdn',
        'weights[::-1], half, half, interior=1',
        'weights, half - 1, half, interior=1',
      ),
    ],
  ),
  (
    'networks/edm2.py',
    None,
    [
      ('sum_of_independent_inputs', '((1.0 - t) * a + t * b)', '(t * a + (1.0 - t) * b)'),
    ],
  ),
  (
    'networks/edm2.py',
    'interop/test_edm2.py',
    [
      ('computes_what_theirs_does', 'scale = 1.0 + project', 'scale = project'),
    ],
  ),
  (
    'networks/embeddings.py',
    None,
    [
      ('sinusoids_literally', 'waves = half - 1, (jnp.sin', 'waves = half, (jnp.sin'),
      (
        'fourier_features_literally',
        'for k in range(start, stop):',
        'for k in range(start, stop - 1):',
      ),
      (
        'null_row',
        '.num_classes + self.labels.null_class',
        '.num_classes + (not self.labels.null_class)',
      ),
    ],
  ),
  (
    'networks/gamma.py',
    None,
    [
      (
        'network_literally',
        'inner * (2.0 * t[..., None] - 1.0)',
        'inner * (2.0 * t[..., None] + 1.0)',
      ),
      ('whatever_the_parameters_are', 'outer = jnp.abs(', 'outer = ('),
    ],
  ),
  (
    'networks/layers.py',
    None,
    [
      (
        'group_norm_literally',
        'jnp.maximum(square - mean**2, 0.0)',
        'jnp.maximum(square - mean, 0.0)',
      ),
      ('uniform_over_fan_in', '(variance / fan_in) ** 0.5', '(2.0 * variance / fan_in) ** 0.5'),
      ('fan_avg', "'fan_avg', 'uniform'", "'fan_in', 'uniform'"),
    ],
  ),
  (
    'networks/layers.py',
    'networks/test_ranks.py',
    [
      (
        'further_axis',
        '= tuple(range(2, len(blocks) + 1, 2))',
        '= tuple(range(1, len(blocks) + 1, 2))',
      ),
    ],
  ),
  (
    'networks/mlp.py',
    None,
    [
      (
        'whole_network',
        '(h, *jnp.split(shifts, 2, axis=-1))',
        '(h, *jnp.split(shifts, 2, axis=-1)[::-1])',
      ),
    ],
  ),
  (
    'discrete/network.py',
    None,
    [
      ('those_of_the_embedded_states', '(len(x), *sides, -1)', '(len(x), *sides, -1)[..., ::-1]'),
    ],
  ),
  (
    'networks/tokens.py',
    None,
    [
      (
        'pairs_are_turned',
        '[a * cos - b * sin, b * cos + a * sin]',
        '[a * cos + b * sin, b * cos - a * sin]',
      ),
      ('angles_of_a_sequence', 'count = features // (2 * len(grid))', 'count = features // 4'),
      ('patches_are_cubes', 'size ** len(sides) * c)', 'size**2 * c)'),
    ],
  ),
  (
    'networks/tokens.py',
    'networks/test_transformer.py',
    [
      (
        'pass_by',
        'jnp.argsort(jnp.concatenate(self, axis=1), axis=1)',
        'jnp.concatenate(self, axis=1)',
      ),
    ],
  ),
  (
    'networks/transformer_block.py',
    None,
    [
      ('its_equations', 'y = x + times(out, gate_1)', 'y = x + times(out, gate_2)'),
      (
        'mm_dits_block',
        'times(first_values, a) + times(v, b)',
        'times(first_values, b) + times(v, a)',
      ),
    ],
  ),
  (
    'networks/transformer.py',
    None,
    [
      ('pass_by', 'route.leave(x, aside, extra), None', 'x, None'),
      ('pass_by', 'if self.routing and train and start', 'if self.routing and start'),
    ],
  ),
  (
    'networks/vdm.py',
    None,
    [
      ('score_network_literally', 'zero_embedding=True', 'zero_embedding=False'),
    ],
  ),
  (
    'meshes.py',
    None,
    [
      ('results_are_split_by_rows', 'PartitionSpec(*placement.spec[:1])', 'PartitionSpec()'),
      ('of_shard_map', "leaf = jax.lax.pcast(leaf, missing, to='varying')", 'pass'),
      (
        'of_a_shape_are_split',
        'reshard(leaf, rows) if rows and jnp.ndim(leaf) else leaf',
        'reshard(leaf, rows) if False else leaf',
      ),
      ('a_callback', 'explicit_axes(function, in_sharding=(whole, rows))', 'jit(function)'),
    ],
  ),
  (
    'paths.py',
    None,
    [
      ('without_a_home', "if full.startswith('~')", 'if False'),
    ],
  ),
  (
    'planning/programs.py',
    None,
    [
      ('products_of_a_loop', "return params['length']", 'return 1'),
    ],
  ),
  (
    'planning/programs.py',
    'laws/test_machine_changes_no_number.py',
    [
      ('of_a_step', "if 'rematted_computation' in scopes", 'if not scopes'),
      ('of_a_step', "times_of(scopes) if name == 'while'", "1 if name == 'while'"),
      ('of_a_step', "return math.prod(params['mesh']", "return 1 or math.prod(params['mesh']"),
    ],
  ),
  (
    'planning/rates.py',
    None,
    [
      ('an_mfu_of_one_half', 'flop_per_second / _RATES[kind]', 'flop_per_second / 2e12'),
    ],
  ),
  (
    'ranges.py',
    None,
    [
      ('does_not_fit', 'and value == value):', '):'),
      (
        'does_not_fit',
        'is_number = not isinstance(value, bool) or kind is bool',
        'is_number = True',
      ),
    ],
  ),
  (
    'report/charts.py',
    None,
    [
      ('cannot_be_drawn', "kept &= (y > 0) | ('y' not in log)", 'pass'),
      ('share_an_entry', "'currentColor'", 'line.colour'),
      ('does_not_flatten', 'or max(line.y) >= least', 'or True'),
      ('colours_and_the_font', 'svg = svg.replace(colour, themed)', 'pass'),
      ('several_numbers', 'x.max() < 1000 * x.min()', 'False'),
    ],
  ),
  (
    'report/page.py',
    None,
    [
      ('level_lines_of_exact', 'max(1, len(line.x) - 1)', 'len(line.x)'),
    ],
  ),
  (
    'report/record.py',
    None,
    [
      ('left_out', "float('nan' if x[name]", "float('nan' if x['value']"),
      ('which_step_is_sampled', 'x <= step]', 'True]'),
      ('which_step_is_sampled', 'self.sampled >= self.last', 'False'),
      ('order_of_their_steps', '(int(match[1]), path)', '(-int(match[1]), path)'),
    ],
  ),
  (
    'runtime/compiling.py',
    None,
    [
      (
        'is_written_whole',
        "draft(self.path / f'{key}-cache')",
        "open(self.path / f'{key}-cache', 'wb')",
      ),
    ],
  ),
  (
    'runtime/files.py',
    None,
    [
      ('is_in_the_run', "part in ('/', '..') or folder.is_symlink()", "part in ('/', '..')"),
      ('is_in_the_run', "part in ('/', '..') or folder.is_symlink()", 'folder.is_symlink()'),
      ('opens_no_folder_elsewhere', 'paths = [folder] * folder.is_symlink()', 'paths = []'),
      ('may_open_is_a_file', 'ends = about.st_size > 0 or not path.is_symlink()', 'ends = True'),
      ('json_of_64_bits', 'len(x) < 20', 'len(x) < 400'),
      ('more_than_a_mebibyte', 'file.readline(2**20)', 'file.readline()'),
      ('turns_the_direction', '\\u2028-\\u202e', '\\u2028-\\u2029'),
    ],
  ),
  (
    'runtime/run_folder.py',
    None,
    [
      ('no_file_elsewhere', 'st_nlink > 1', 'st_nlink > 9'),
    ],
  ),
  (
    'runtime/twins.py',
    'runtime/test_run_folder.py',
    [
      ('only_its_owner', 'if self._read() == text:', 'if True:'),
      ('only_its_owner', "if now not in (owner, b''):", 'if now != owner:'),
      ('locks_a_path', "if now not in (owner, b''):", 'if False:'),
    ],
  ),
  (
    'runtime/run_folder.py',
    None,
    [
      ('somebody_removes', 'twin.copy_up(last=True)', 'twin.copy_up()'),
    ],
  ),
  (
    'runtime/twins.py',
    'runtime/test_run_folder.py',
    [
      ('somebody_removes', 'x in self._written or self._alone and not', 'x in self._written or'),
      ('somebody_removes', 'x in self._written or self._alone and not', 'not'),
    ],
  ),
  (
    'runtime/start_up.py',
    'laws/test_equal_on_any_devices.py',
    [('on_any_cores', "os.environ['PJRT_NPROC']", "os.environ['PJRT_CORES']")],
  ),
  (
    'runtime/start_up.py',
    None,
    [
      ('that_change_results', 'if x != _SETTINGS[n]', 'if False'),
    ],
  ),
  (
    'runtime/twins.py',
    None,
    [
      ('of_one_moment', 'name == step[1] + DONE, name', 'name != step[1] + DONE, name'),
      ('of_one_moment', "and x['step'] <= last", "and x['step'] <= last + 1"),
      ('of_one_moment', 'if step + DONE not in there}', 'if step in ()}'),
      (
        'of_one_moment',
        'for name, about in there.items() if name not in partial}',
        'for name, about in there.items()}',
      ),
      ('lead_out', "{'', '.', '..'} & {*name.split('/')}", "{'', '.'} & {*name.split('/')}"),
      ('waits_for_a_new_one', 'if not if_new or files.keys() != self._same.keys():', 'if True:'),
      (
        'waits_for_a_new_one',
        'if not if_new or files.keys() != self._same.keys():',
        'if not if_new:',
      ),
      (
        'is_forbidden',
        "if time.monotonic() > end or 'Forbidden' in str(error):",
        'if time.monotonic() > end:',
      ),
    ],
  ),
  (
    'posteriors/damage.py',
    None,
    [
      (
        'units_of_the_measurement',
        'np.sqrt(variance.sum(axis=axes) / count)',
        'variance.sum(axis=axes) / count',
      ),
      ('units_of_the_measurement', 'variance.sum(axis=axes) / count', 'variance.mean(axis=axes)'),
      ('units_of_the_measurement', 'weights = (std / stds)', 'weights = (stds / stds)'),
      (
        'units_of_the_measurement',
        'float(np.min(stds / np.maximum(gain, 1e-12)))',
        'float(np.min(stds))',
      ),
    ],
  ),
  (
    'posteriors/damage.py',
    'app/modes/test_arrays.py',
    [
      (
        'restored_in_their_units',
        'offset = np.asarray(computed_now(operator, x))[0]',
        'offset = 0.0',
      ),
    ],
  ),
  (
    'sampling/ancestral.py',
    None,
    [
      (
        'inversion_is_of_first',
        'return jax.lax.scan(body, x, pairs)[0]',
        'return jax.lax.scan(body, x, pairs, reverse=True)[0]',
      ),
      (
        'ddim_1_is_ancestral_fixed_small',
        'jnp.sqrt(1.0 - eta**2 + eta**2 * snr_ratio(s, t))',
        '1.0 - eta**2 + eta**2 * snr_ratio(s, t)',
      ),
      ('eps_at_the_level_reached', '(clean, level_t, level_s)', '(clean, level_s, level_t)'),
    ],
  ),
  (
    'bridges/sampler.py',
    None,
    [
      ('draws_from_its_posterior', 'jnp.sqrt(variance)', 'variance'),
    ],
  ),
  (
    'sampling/brownian.py',
    None,
    [
      ('independent_and_standard', 'jnp.sqrt(jnp.tanh(half)) * draw(node)', 'draw(node)'),
      ('made_of_its_parts', 'x_high - jnp.exp(-h) * x_low', 'x_high - x_low'),
    ],
  ),
  (
    'sampling/composition.py',
    None,
    [
      ('gaussians_is_exact', 'at.alpha**2 * total', 'total'),
      ('never_adds_uncertainty', 'np.maximum(values, 0.0)[:, None]', 'values[:, None]'),
      ('sum_of_scores', '(1 - n) * (1.0 - at.t)', '(1 - n)'),
    ],
  ),
  (
    'posteriors/conjugate_gradients.py',
    None,
    [
      (
        'different_noise',
        'jnp.maximum(variance, 1e-6 * unit)',
        'jnp.maximum(variance, 1e-2 * unit)',
      ),
      ('negative_curvature', 'jnp.maximum(curvature, error)', 'jnp.abs(curvature)'),
    ],
  ),
  (
    'posteriors/conjugate_gradients.py',
    'posteriors/test_splitting.py',
    [
      ('spread_of_every_frequency', '- ridge * v', '- 0.0 * v'),
    ],
  ),
  (
    'sampling/correctors.py',
    None,
    [
      (
        'follows_the_signal',
        'ratio = s.alpha / jnp.where(t.alpha > 0.0, t.alpha, s.alpha)',
        'ratio = 1.0',
      ),
      ('limited_in_sigma', '(ratio <= s_max)', '(ratio < s_max)'),
      ('noisier_than_any', 'churned &= noisier.logsnr < logsnr', 'pass'),
      ('ancestral_noise_is', 'down = down._replace(sigma=', '_ = down._replace(sigma='),
    ],
  ),
  (
    'sampling/correctors.py',
    'papers/test_samplers.py',
    [
      ('corrector_algorithms_4_and_5', 'size = 2.0 * snr**2', 'size = snr**2'),
    ],
  ),
  (
    'discrete/samplers.py',
    None,
    [
      ('masked_again', 'kept = 1.0 - eta * level_s.sigma', 'kept = 1.0 - eta'),
      ('first_hitting_is_exact', 'u ** (1.0 / jnp.maximum(count, 1))', 'u'),
      ('noise_of_confidences', 'temperature * level_s.t', 'temperature * level_t.t'),
      ('noise_of_confidences', 'jnp.maximum(exponential, 1e-7)', 'jnp.maximum(exponential, 0.1)'),
      ('confidence_ordered_counts', 'level_s.sigma * state - 1e-3', 'level_s.sigma * state'),
      ('confidence_ordered_counts', 'sampler.init(fill(x))', 'sampler.init(x)'),
      ('rounding_would_lose', 'ascending = jnp.sort(probs)', 'ascending = -jnp.sort(-probs)'),
    ],
  ),
  (
    'discrete/samplers.py',
    'papers/test_discrete_states.py',
    [
      ('test_remdm_one_step', 'level_s.alpha / kept', 'level_s.alpha'),
    ],
  ),
  (
    'sampling/editing.py',
    None,
    [
      ('no_strength_is_no_change', 'round(strength * num_steps)', 'int(strength * num_steps)'),
    ],
  ),
  (
    'sampling/editing.py',
    'sampling/test_sampler.py',
    [
      ('no_key_is_used_twice', 'draw_normal(noise_key, x)', 'draw_normal(key, x)'),
    ],
  ),
  (
    'sampling/grids.py',
    None,
    [
      (
        'from_pure_noise',
        'gap = jnp.maximum(t_start / count, _first_noisy_time(schedule))',
        'gap = _first_noisy_time(schedule)',
      ),
      ('grids_fall_from_noise', "'karras', 1.0, True)", "'uniform', 1.0, True)"),
      (
        'respaced_sections',
        'np.cumsum([0.0] + [stride] * (count - 1))',
        'np.arange(count) * stride',
      ),
      ('start_at_a_step', 'round(t_start * num_steps)', 'int(t_start * num_steps)'),
      ('visited_twice', 'np.abs(noisy - steps) < 1e-3', 'np.abs(noisy - steps) < 1e-1'),
    ],
  ),
  (
    'sampling/guidance.py',
    None,
    [
      (
        'without_noise_a_classifier',
        '(level.alpha == 0.0) | (level.sigma == 0.0)',
        'level.alpha == 0.0',
      ),
      (
        'one_call_for_two',
        '.tile(jnp.array([False, True]), size)',
        '.repeat(jnp.array([False, True]), size)',
      ),
      ('flat_output', 'ratio = jnp.where(flat, 1.0, ratio)', 'ratio = jnp.where(flat, 0.0, ratio)'),
      ('rescale_literally', 'p, q = output_row(kind,', "p, q = output_row('x0',"),
    ],
  ),
  (
    'sampling/guidance.py',
    'sampling/test_guiders.py',
    [
      ('both_ends', 'x0=as_float(p.x0)', 'x0=p.x0'),
      ('both_ends', 'known, change / jnp.where(known, q, 1.0), 0.0', 'True, change / q, 0.0'),
      ('both_ends', 'jnp.sqrt(square + 1e-30)', 'jnp.sqrt(square)'),
    ],
  ),
  (
    'sampling/guiders.py',
    None,
    [
      ('adaptive_projected', 'change += (parallel - 1.0) * along', 'change += parallel * along'),
      ('cfg_zero_star', '(_share(y_cond, y_uncond) - 1.0)', '0.0'),
      ('cfg_plus_plus', '(x - t.alpha * uncond.x0)', '(x - t.alpha * x0)'),
    ],
  ),
  (
    'app/kinds/choices.py',
    'posteriors/test_particles.py',
    [
      ('one_of_many', '(scale, 1.0 - scale)), particles)', '(scale, 1.0 - scale)), 16)'),
      ('one_of_many', 'feynman_kac((scale, 1.0 - scale))', 'feynman_kac((1.0 - scale, scale))'),
    ],
  ),
  (
    'posteriors/heuristics.py',
    None,
    [
      ('norm_of_the_residual', 'new - step_size * gradient', 'new + step_size * gradient'),
      ('mean_gradient_is_zero', 'prior = weight * ratio', 'prior = weight'),
    ],
  ),
  (
    'sampling/inpainting.py',
    None,
    [
      (
        'known_pixels_come_back',
        ', _noisy_known(known, eps, level_s)',
        ', _noisy_known(known, eps, level_t)',
      ),
    ],
  ),
  (
    'sampling/inpainting.py',
    'sampling/test_sampler.py',
    [
      (
        'no_key_is_used_twice',
        ('eps = draw_normal(noise_key, x)\n    return jnp'),
        ('eps = draw_normal(key, x)\n    return jnp'),
      ),
    ],
  ),
  (
    'sampling/likelihood.py',
    'laws/test_any_mesh.py',
    [('a_slope_under_shard_map', 'if has_manual_axes(state[0]):', 'if False:')],
  ),
  (
    'sampling/likelihood.py',
    None,
    [
      ('hutchinson_is_unbiased', 'probes / math.sqrt(num_probes)', 'probes / num_probes'),
      ('error_falls_with_the_tolerance', 'jnp.max(jnp.stack', 'jnp.mean(jnp.stack'),
    ],
  ),
  (
    'few_steps/sampler.py',
    None,
    [
      ('multistep_consistency_sampling', '(ratio * clean.sigma) ** 2', 'clean.sigma**2'),
      (
        'whose_last_call_would_do_nothing',
        'np.diff(t, append=-1.0) < 0.0',
        'np.diff(t, append=-1.0) <= 0.0',
      ),
    ],
  ),
  (
    'posteriors/particles.py',
    None,
    [
      (
        'evidence_of_a_power',
        '1.0 + (level_t.sigma / level_t.alpha) ** 2',
        '1.0 + level_t.sigma**2',
      ),
      (
        'evidence_is_unbiased',
        '.log_weights + state.pending + estimates[0]',
        '.log_weights + estimates[0]',
      ),
      ('evidence_is_unbiased', 'jnp.where(again[:, None], 0.0, log_weights)', 'log_weights'),
      (
        'evidence_is_unbiased',
        'jax.nn.logsumexp(finished(log_weights), axis=1) - jnp.log(count)',
        'jnp.mean(log_weights, axis=1)',
      ),
      ('evidence_is_unbiased', 'move * (0.5 * move + noise)', 'move * (move + noise)'),
      (
        'evidence_is_unbiased',
        'p.mean + std * (move + noise)',
        'p.mean + 1.1 * std * (move + noise)',
      ),
      ('signal_free', '& (level_t.alpha > 0.0)', '& True'),
      ('small_step', 'log_weights = -0.5 * spread', 'log_weights = 0.5 * spread'),
      ('small_step', '* rate / share * square', '* rate * square / share**2 / 2.0'),
      (
        'unit_variance',
        '(level_s.alpha * rate) ** 2 / variance',
        '(level_s.alpha / level_s.sigma) ** 2 * rate',
      ),
      (
        'unit_variance',
        "variance = reverse_variance('fixed_large'",
        "variance = reverse_variance('fixed_small'",
      ),
      ('product_of_gaussians', '(1.0 - total) * kept * x)', '(1.0 - total) * x)'),
      ('product_of_gaussians', 'jnp.sqrt(p.variance / share)', 'jnp.sqrt(p.variance)'),
      ('product_of_gaussians', 'log_weights -= 0.5 * size * jnp.log(share)', 'pass'),
      ('one_of_begins', 'std = jnp.hypot(level_t.alpha, level_t.sigma)', 'std = level_t.sigma'),
      (
        'one_of_begins',
        'draw_normal(start_key, particles)).at[:, 0].set(x)',
        'draw_normal(start_key, particles))',
      ),
      ('one_of_begins', 'x = pick(pick_key, particles, inner.log_weights)', 'x = particles[:, 0]'),
      ('corrects_nothing', 'num_particles: Several)', 'num_particles: int)'),
      ('product_of_gaussians', '- math.log(total)', '+ math.log(total)'),
      (
        'evidence_of_a_threshold',
        '.where(good, log_psi, lowest - 3.0)',
        '.where(good, log_psi, -jnp.inf)',
      ),
      ('worst_step', 'jnp.minimum(state.lowest_ess, ess)', 'ess'),
      (
        'worst_step',
        'jnp.minimum(moved.lowest_ess, effective_number(log_weights))',
        'moved.lowest_ess',
      ),
    ],
  ),
  (
    'posteriors/reconstruction.py',
    None,
    [
      ('asymmetric_jacobian', '0.5 * (left - right)', '0.0 * (left - right)'),
      ('no_image_explains', 'residual, variance, precision,', 'residual, variance, 0.0,'),
      (
        'noise_in_y_counts',
        'jnp.maximum(level.sigma**2, 1e-12)',
        'jnp.maximum(level.sigma**2, 1e-4)',
      ),
    ],
  ),
  (
    'sampling/rejection.py',
    None,
    [
      ('keys_of_their_own', 'repeated + _APART * attempt', 'repeated + attempt'),
    ],
  ),
  (
    'sampling/sde.py',
    None,
    [
      ('the_step_of_sit', 'drift -= 0.5 * w * score', 'drift -= w * score'),
    ],
  ),
  (
    'sampling/self_conditioning.py',
    None,
    [
      ('not_called_more_often', 'if y is x and level is level_t:', 'if y is x and level is x:'),
    ],
  ),
  (
    'sampling/solvers.py',
    'papers/test_samplers.py',
    [
      ('unipc', 'level._replace(alpha=jnp.where(i < left, level.alpha, 0.0))', 'level'),
      ('dpm_solver_pp_algorithm_2', 'values[0] + 0.5 * h * table[0]', 'values[0] + h * table[0]'),
      ('unipc', 'h**k / total - k * moments[-1]', 'h**k / total - moments[-1]'),
      ('dpm_solver_pp_algorithm_2', 'exponent = 2.0 * eta * jnp', 'exponent = eta * jnp'),
    ],
  ),
  (
    'sampling/solvers.py',
    None,
    [
      ('as_wide_as', 'moved = 1.0 - 0.5 * (t - s)', 'moved = 1.0 - (t - s)'),
      ('as_wide_as', 'averaged = (alpha[:-1] > 0.0) & (', 'averaged = ('),
    ],
  ),
  (
    'sampling/solvers.py',
    'sampling/test_correctors.py',
    [
      ('ancestral_noise_is', 'return ddim_step(x0, x_s, level_s, end)', 'return x_s'),
    ],
  ),
  (
    'posteriors/splitting.py',
    None,
    [
      (
        'product_of_two_normal',
        'jnp.sqrt(noise_variance) * draw_normal',
        'noise_variance * draw_normal',
      ),
      ('law_for_any_size_of_step', 'noise**2 - back**2', '0.0 * noise'),
      ('law_for_any_size_of_step', '(noise**2 - back**2)', '(noise**2)'),
      ('noise_of_its_width', 'draw(key, x, width**2)', 'draw(key, x, width)'),
    ],
  ),
  (
    'posteriors/splitting.py',
    'test_refusals.py',
    [
      ('that_cannot_be', 'width >= 0.999 * lowest', 'width >= 0.0 * lowest'),
    ],
  ),
  (
    'posteriors/twists.py',
    None,
    [
      ('without_its_constant', '(0.5 * fixed - residual)', '(fixed - residual)'),
    ],
  ),
  (
    'posteriors/twists.py',
    'posteriors/test_reconstruction.py',
    [
      ('at_every_level', 'at.sigma**2 / (at.alpha**2 + at.sigma**2)', 'at.sigma**2 / at.alpha**2'),
    ],
  ),
  (
    'testing/bench.py',
    None,
    [
      ('estimates_are_the_oracles', '- sigma * x0', '+ sigma * x0'),
      ('estimates_are_the_oracles', 'rotated * scaled + np.log(variance)', 'rotated * scaled'),
      ('jacobian_product', 'slope = -(scaled', 'slope = (scaled'),
      ('images_is_stationary', 'power = 1.0 / (1.0 + frequency', 'power = 1.0 / (2.0 + frequency'),
    ],
  ),
  (
    'testing/bounds.py',
    None,
    [
      ('is_its_closed_form', 'np.append(small[:-1], small[-2])', 'small'),
    ],
  ),
  (
    'testing/bridges.py',
    None,
    [
      ('the_entropic_plan', '_root(4.0 * root', '_root(2.0 * root'),
    ],
  ),
  (
    'testing/bridges.py',
    'bridges/test_equations.py',
    [
      ('regression_of_the_pairs', '(1.0 - t) * (self.cross.T -', '(1.0 - t) * (self.cross -'),
    ],
  ),
  (
    'testing/certify.py',
    None,
    [
      ('half_precision', 'rows = rows[(rows != rows.astype(np.float16)).any(axis=1)]', 'pass'),
      ('beyond_exact_draws', 'FAR * law.spread[k]', 'law.spread[k]'),
      ('beyond_exact_draws', 'sizes**2 - law.centre[k] ** 2,', 'sizes**2,'),
      ('papers_order', 'np.diff(np.log(errors)) / ratios)', 'np.diff(np.log(errors)))'),
      ('inverse_problems_are', '_Law(problem.posterior or problem,', '_Law(problem,'),
      ('from_a_low_level', 'noise += problem.sigma_max *', 'noise = problem.sigma_max *'),
      ('limit_behind', '(errors[-1] - errors[-2]) / (steps', '0.0 * (errors[-1]) / (steps'),
      ('right_samplers', '_is_deterministic(method, problem, noise, steps[-1])', 'steps[0] == 1'),
      ('planted_faults', 'low < LEAST_ORDER or (high < 0.9 and fall > 0.05)', 'low < LEAST_ORDER'),
      ('planted_faults', 'repeated > REPEATED * draws + 1', 'repeated > draws'),
      ('planted_faults', 'below.ravel(), [w2]])', '0.0 * below.ravel(), [w2]])'),
      ('twice_what_is_unseen', 'chance = _limit_factor(steps) *', 'chance = 0.1 *'),
    ],
  ),
  (
    'discrete/oracles.py',
    None,
    [
      (
        'entropy_and_total_correlations',
        '= last * (_log(last) - _log(prior))',
        '= last * _log(last)',
      ),
    ],
  ),
  (
    'exercises/__init__.py',
    'test_exercises.py',
    [
      (
        'typed_misprint',
        'itertools.product((0, 1), (0, 1, 2))',
        'itertools.product((0,), (0, 1, 2))',
      ),
      (
        'typed_misprint',
        'itertools.product((0, 1), (0, 1, 2))',
        'itertools.product((0, 1), (0, 1))',
      ),
      ('half_precision', 'fit(answers, _HALF.get(kind, 0.0))', 'fit(answers, 1e-9)'),
      ('over_draws', 'all(fit(answers, 0.05))', 'all(fit(answers, 5e-4))'),
      ('one_sentence', 'if not np.array_equal(value, case[argument]):', 'if False:'),
    ],
  ),
  (
    'exercises/formulas.py',
    'test_exercises.py',
    [
      ('right_answers', 'return (1 - bar_s) / (1 - bar) * beta', 'return (1 - bar_s) / (1 - bar)'),
    ],
  ),
  (
    'exercises/inputs.py',
    'test_exercises.py',
    [
      ('typed_misprint', "'last': np.append(bars[-1], bars[1:])", "'last': bars"),
    ],
  ),
  (
    'exercises/slips.py',
    'test_exercises.py',
    [
      ('typed_misprint', 'cost=RARE if compared else COMMON', 'cost=COMMON'),
      ('typed_misprint', 'yield _slip(times(-1.0)', 'yield _slip(times(1.0)'),
      ('typed_misprint', 'yield _slip(_as(less_one_mean)', 'yield _slip(_as(np.mean)'),
    ],
  ),
  (
    'exercises/search.py',
    'test_exercises.py',
    [
      ('typed_misprint', 'return [first, name]', 'return [name]'),
      ('left_out', "(' is missing' not in name, len(name))", 'len(name)'),
      (
        'many_pairs',
        'np.repeat(a.values, len(b.slips), 0)',
        'np.resize(a.values, (len(a.slips) * len(b.slips), *a.values.shape[1:]))',
      ),
    ],
  ),
  (
    'exercises/terms.py',
    'test_exercises.py',
    [
      ('many_pairs', '(1,) * (rank - own) + x.shape[1:]', 'x.shape[1:] + (1,) * (rank - own)'),
    ],
  ),
  (
    'testing/floors.py',
    None,
    [
      ('whose_integral_grows', '< 0.9 * np.log', '< 1.1 * np.log'),
      (
        'by_heart_has_no_mean',
        "if kind == 'x0' else ('memorised',)",
        "if kind == 'v' else ('memorised',)",
      ),
      ('could_have_known', '(100 if cosines else 10 * size)', '10 * size'),
      ('float64_numpy', '= fitted.variances[group]', '= 1.01 * fitted.variances[group]'),
      ('the_least_loss', 'xt - level.expand_to(xt).alpha * mean', 'xt - 0.0 * mean'),
      (
        'float64_numpy',
        "return mean + idctn(x, axes=transformed, norm='ortho')",
        'return mean + idctn(x, axes=transformed)',
      ),
      ('float64_numpy', 'variances = np.square(rows @ axes)', 'variances = np.square(rows)'),
      ('could_have_known', 'else 10 * size)', 'else size)'),
      ('memorised_line_is', '- at.alpha * squares)', '- squares)'),
      ('memorised_line_is', 'softmax(logits, ', 'softmax(logits, 2.0 * '),
      ('nothing_learnt_predicts', 'jnp.where(learnt,', 'jnp.where(True,'),
      ('of_all_rows', 'square -= mean', 'square -= 0.5 * mean'),
      ('of_all_rows', 'np.maximum(values, 0.0),', 'values - 1e-3,'),
      ('all_its_rows', 'if source.in_memory else', 'if False else'),
    ],
  ),
  (
    'testing/oracles.py',
    None,
    [
      (
        'entropy_is_scipys',
        'jnp.log(2.0 * jnp.pi * jnp.e * variance)',
        'jnp.log(2.0 * jnp.pi * variance)',
      ),
    ],
  ),
  (
    'training/augmentation.py',
    None,
    [
      ('no_two_values_of_a_change', 'jax.random.split(value_key, 7)', '[value_key] * 7'),
    ],
  ),
  (
    'bridges/objective.py',
    'training/test_couplings.py',
    [
      (
        'key_of_their_own',
        'paired(coupling, coupling_key, inputs.x0',
        'paired(coupling, key, inputs.x0',
      ),
    ],
  ),
  (
    'bridges/objective.py',
    None,
    [
      ('pairs_are_those', '2.0 * diffusion**2', 'diffusion**2'),
      ('the_loss_literally', 'inputs.x0, y, inputs.cond)', 'inputs.x0, y, {})'),
      ('the_loss_literally', 'xt, level, cond, keys[0])', 'x0, level, cond, keys[0])'),
      ('the_loss_literally', 'bridge_error(predicted', '2.0 * bridge_error(predicted'),
      ('error_of_the_plan', 'inputs = inputs._replace(metrics=metrics)', 'pass'),
    ],
  ),
  (
    'training/classifier.py',
    None,
    [
      (
        'cross_entropy_of_noised',
        ".output(params['network'], xt,",
        ".output(params['network'], x0,",
      ),
    ],
  ),
  (
    'training/objectives.py',
    None,
    [
      (
        'dropped_with_the_probability',
        '(drop_key, dropout, size)',
        '(drop_key, 1.0 - dropout, size)',
      ),
    ],
  ),
  (
    'training/conditions.py',
    'training/test_conditions.py',
    [
      ('quarter_to_three_quarters', 'size = 0.25 + 0.5 * size', 'size = 0.5 + 0.5 * size'),
      ('all_four_halves', '(), 0, 4)', '(), 0, 3)'),
    ],
  ),
  (
    'few_steps/consistency.py',
    None,
    [
      (
        'continuous_consistency_literally',
        'jnp.minimum(context.step / warmup_steps, 1.0)',
        '(context.step / warmup_steps)',
      ),
      (
        'continuous_consistency_literally',
        'level.t, inputs.time_weight, tangent',
        'level.t, tangent',
      ),
    ],
  ),
  (
    'few_steps/consistency.py',
    'test_recipes.py',
    [
      ('the_loss_of_every_config', 'pairs(pair_key, size', 'pairs(key, size'),
    ],
  ),
  (
    'training/couplings.py',
    None,
    [
      ('wherever_the_sets_are', 'for v in (x0, y))', 'for v in (x0, x0))'),
      ('of_all_permutations', '[1].astype', '[0].astype'),
      ('the_law_of_noise', 'exact(centred_cost(x0, y, cond,', 'exact(centred_cost(x0, y, {},'),
      ('wherever_the_sets_are', 'epsilon * jnp.where(scale > 0.0, scale, 1.0)', 'epsilon'),
      ('wherever_the_sets_are', 'jnp.var(v, axis=0)', 'jnp.mean(v**2, axis=0)'),
      ('wherever_the_sets_are', 'draw_index(key, plan)', 'jnp.argmax(plan, axis=1)'),
      (
        'equal_points_have_all_pairs',
        'epsilon * jnp.where(scale > 0.0, scale, 1.0)',
        'epsilon * scale',
      ),
      (
        'keep_labels_and_contexts',
        'cost = centred_cost(x0, y, cond,',
        'cost = centred_cost(x0, y, {},',
      ),
      ('without_a_plan_pairs', 'jnp.where(jnp.isnan(error), len(y),', 'jnp.where(False, len(y),'),
    ],
  ),
  (
    'training/objectives.py',
    'laws/test_losses_are_what_they_say.py',
    [
      ('prints_its_value', 'in (weight * values, weight))', 'in (weight * values, 0 * t + 1))'),
      (
        'prints_its_value',
        'jnp.mean(jnp.asarray(weight, float))\n  return {n: Mean',
        'jnp.ones(())\n  return {n: Mean',
      ),
      ('one_number', 'frozen, objective.init())', 'frozen, ())'),
      ('one_number and consistency', 'AT_THE_END = 10**9', 'AT_THE_END = 0'),
    ],
  ),
  (
    'training/step.py',
    'laws/test_losses_are_what_they_say.py',
    [
      (
        'one_number',
        'at_the_end(objective, state.ema_params, frozen)',
        'context_of(state, frozen)',
      ),
    ],
  ),
  (
    'training/vdm.py',
    'laws/test_losses_are_what_they_say.py',
    [
      (
        'prints_its_value',
        'mean_loss(losses, level.t, **parts',
        'mean_loss(error, level.t, **parts',
      )
    ],
  ),
  (
    'training/objectives.py',
    'training/test_couplings.py',
    [
      (
        'key_of_their_own',
        'paired(coupling, coupling_key, inputs.x0',
        'paired(coupling, key, inputs.x0',
      ),
      ('pair_numbers_and_noise', '_replace(eps=eps, metrics', '_replace(metrics'),
    ],
  ),
  (
    'discrete/objectives.py',
    'test_recipes.py',
    [
      ('the_loss_of_every_config', 'q_sample_states(xt_key, x0', 'q_sample_states(time_key, x0'),
    ],
  ),
  (
    'few_steps/distillation.py',
    None,
    [
      (
        'optimum_of_progressive_distillation',
        'eps = eps_from_x0(x0, xt, level_t)',
        'eps = inputs.eps',
      ),
      ('the_teacher_of_reflow', 'schedule(1.0).sigma * inputs.eps', 'inputs.eps'),
    ],
  ),
  (
    'few_steps/average_velocity.py',
    None,
    [
      (
        'share_of_a_step',
        'jax.random.uniform(share_key, (size,))',
        'jax.random.uniform(scale_key, (size,))',
      ),
      (
        'improved_mean_flow_literally',
        'sg(guided_velocity(v, own, null, omega, kappa))',
        'guided_velocity(v, own, null, omega, kappa)',
      ),
      (
        'two_times_have_the_moments',
        't = a if second else jnp.maximum(a, b)',
        't = jnp.maximum(a, b)',
      ),
      ('two_times_of_antithetic_draws', 'jax.random.permutation(order_key, b)', 'b'),
      ('self_distillation_literally', '0.5 if midpoint else share', '0.5'),
      ('shortcut_literally', 'context.ema_params if ema_target else params', 'params'),
    ],
  ),
  (
    'few_steps/level_pairs.py',
    None,
    [
      (
        'every_pair_of_a_grid',
        'key, (batch_size,), 1, num_scales',
        'key, (batch_size,), 1, num_scales - 1',
      ),
      ('easy_pairs_by_hand', 'weight / (sigma - r)', '1.0 / (sigma - r)'),
      (
        'easy_pairs_by_hand',
        'step // steps_per_stage, num_stages - 1',
        'step // steps_per_stage, num_stages',
      ),
      ('cleaner_neighbours', 'jnp.clip(i, 0, count - 2)', 'jnp.clip(i, 0, count - 1)'),
    ],
  ),
  (
    'training/divisions.py',
    None,
    [
      (
        'whole_numbers',
        "== 'div' and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.inexact)",
        "== 'div'",
      ),
      ('names_of_scopes', 'if scopes else', 'if not scopes else'),
      ('are_products', 'in broadcast:', 'in {}:'),
      ('are_products', '_changed(value) for', 'value for'),
      (
        'are_products',
        'lax.broadcast_in_dim_p.bind(_inverse(small)',
        'lax.broadcast_in_dim_p.bind((small)',
      ),
    ],
  ),
  (
    'training/fixed_parts.py',
    None,
    [
      ('is_that_of_the_batch', 'x = x[0::2] + x[1::2]', 'x = x[0::2]'),
      ('is_that_of_the_batch', 'lambda x: x / parts, (loss, grads)', 'lambda x: x, (loss, grads)'),
      ('is_that_of_the_batch', 'lambda x: x[:count], results', 'lambda x: x[1:], results'),
    ],
  ),
  (
    'training/fixed_parts.py',
    'laws/test_equal_on_any_devices.py',
    [('have_the_same_bits', 'x = _tree_sum(x)\n  if', 'x = jnp.sum(x, axis=0)\n  if')],
  ),
  (
    'training/loggers.py',
    None,
    [
      ('that_raises', 'self._open.pop(name, None)', 'pass'),
    ],
  ),
  (
    'training/lora.py',
    None,
    [
      ('merging_is_the_papers', 'ours + scale * jnp.matmul(', 'ours + jnp.matmul('),
      (
        'variance_one_over_inputs',
        'math.prod(inputs[len(stack) :]) ** -0.5',
        'math.prod(inputs) ** -0.5',
      ),
    ],
  ),
  (
    'training/loss_aware.py',
    None,
    [
      ('eq_18_probabilities', 'rank >= jnp.sum(same, axis=1) - length', 'rank < length'),
      ('eq_18_probabilities', 'jnp.min(count) >= length', 'jnp.min(count) > length'),
    ],
  ),
  (
    'training/objectives.py',
    'training/test_denoising.py',
    [
      (
        'no_gradient_flows_through',
        "cond | {'x0': jax.lax.stop_gradient(first)}",
        "cond | {'x0': first}",
      ),
      ('uncertainty_weighs', "{'error': losses, **inputs", "{'error': 2.0 * losses, **inputs"),
    ],
  ),
  (
    'training/objectives.py',
    'training/test_hybrid.py',
    [
      (
        'the_bound_trains_the_variance',
        'output if weight is None else jax.lax.stop_gradient(output)',
        'output',
      ),
      (
        'the_pure_bound_trains',
        'select_level(step == 1, clean_level',
        'select_level(step == 0, clean_level',
      ),
    ],
  ),
  (
    'training/optimizer.py',
    None,
    [
      ('adapter', 'if A in layer:', 'if False:'),
      ('every_matrix', 'rows = tuple(range(first, rank - 1))', 'rows = tuple(range(1, rank - 1))'),
      ('three_axes', 'rank == 3 and stacked is None', 'rank == 2 and stacked is None'),
      (
        'ends_with_the_training',
        'steps, warmup_steps = total_steps, ',
        'steps, warmup_steps = total_steps + 1, ',
      ),
    ],
  ),
  (
    'training/optimizer.py',
    'laws/test_shipped_starts.py',
    [
      (
        'its_own_length',
        'jnp.sin(0.5 * math.pi * left(step)) ** 2',
        '0.5 - 0.5 * jnp.cos(math.pi * left(step))',
      ),
      ('its_own_length', 'warmup_steps >= total_steps', 'warmup_steps >= 2 * total_steps'),
    ],
  ),
  (
    'training/optimizer.py',
    'test_refusals.py',
    [
      ('that_cannot_be', "ENDING = 'linear', 'cosine'", "ENDING = 'cosine',"),
    ],
  ),
  (
    'training/optimizer.py',
    'training/test_power_ema.py',
    [
      (
        'a_late_step_moves_the_average',
        '-jnp.expm1(power * jnp.log1p(-',
        '1.0 - jnp.exp(power * jnp.log1p(-',
      ),
    ],
  ),
  (
    'training/power_ema.py',
    None,
    [
      ('products_of_profiles', '(gamma_a + gamma_b + 1.0)', '(gamma_a + gamma_b)'),
      ('profile_of_an_exponent', '12.0 - s', '10.0 - s'),
    ],
  ),
  (
    'training/preemption.py',
    None,
    [
      ('main_thread_waits', 'signal.set_wakeup_fd(writer, warn_on_full_buffer=False)', '-1'),
      ('nohup_goes_on', 'is signal.SIG_DFL', 'is not None'),
    ],
  ),
  (
    'training/step.py',
    None,
    [
      (
        'a_step_that_is_not_finite',
        '= jnp.isfinite(loss) & jnp.isfinite(norm)',
        '= jnp.isfinite(norm)',
      ),
    ],
  ),
  (
    'training/step.py',
    'training/test_objectives.py',
    [
      ('dropout_of_their_own', 'lambda k: jax.random.fold_in(k, index), keys', 'lambda k: k, keys'),
    ],
  ),
  (
    'autoencoders/objectives.py',
    None,
    [
      ('free_bits_are', 'bits_per_dim=error + divergence', 'bits_per_dim=error + penalty'),
      (
        'free_bits_are',
        'penalty = in_bits(jnp.sum(bound',
        'divergence = penalty = in_bits(jnp.sum(bound',
      ),
    ],
  ),
  (
    'autoencoders/objectives.py',
    'training/test_objectives.py',
    [
      ('dropout_of_their_own', '1, z, key=dropout_keys[1]', '1, z, key=dropout_keys[0]'),
    ],
  ),
  (
    'training/vdm.py',
    None,
    [
      ('the_two_noises_of_an_image', "jax.random.normal(eps_key, batch['x'].shape)", 'inputs.eps'),
    ],
  ),
  (
    'weights/checksums.py',
    None,
    [
      ('nothing_is_lost', 'if name not in names:', 'if False:'),
      ('files_of_other_programs', 'names - {*sums, *_WITHOUT_SUMS}', 'names - {*sums}'),
    ],
  ),
  (
    'weights/load.py',
    None,
    [
      (
        'of_a_stranger',
        'except (KeyError, TypeError) as error:  # names',
        'except KeyError as error:  # names',
      ),
      ('another_network', 'if 2 * len(kept) > len(ours):', 'if False:'),
    ],
  ),
  (
    'weights/share.py',
    None,
    [
      (
        'sums_without_a_line',
        'if sha256(path) != expected:',
        'if expected and sha256(path) != expected:',
      ),
      ('damaged_file', 'if sha256(path) != expected:', 'if False:'),
    ],
  ),
  (
    'errors.py',
    None,
    [
      (
        'any_error_of_a_library',
        'except Exception as error:\n    if fills',
        'except ValueError as error:\n    if fills',
      ),
      ('fills_a_device', 'if fills_device(error):\n      raise', 'if False:\n      raise'),
    ],
  ),
  (
    'app/modes/average.py',
    'laws/test_two_processes.py',
    [
      (
        'locked and average',
        "with run_folder.hold(out, averages.RECORD, '--config.average.out'):",
        'if True:',
      ),
    ],
  ),
  (
    'runtime/run_folder.py',
    'laws/test_two_processes.py',
    [('takes_the_newest or snapshots', 'if kept() == before:', 'if True:')],
  ),
  (
    'app/cli.py',
    'test_patterns.py',
    [('of_the_package', r"r'[-+.\deE\s]+'", r"r'([-+.\deE]+\s*)+'")],
  ),
  (
    'app/cli.py',
    'laws/test_two_ways_agree.py',
    [('set_by_a_sweep', 'if config.at(path) is None}', 'if False}')],
  ),
  (
    'training/separable.py',
    None,
    [
      ('whole_batch and sum', 'is_mean = abs', 'is_mean = True or abs'),
      ('is_taken and noise', 'draws = whole != again', 'draws = False'),
      (
        'whole_batch and pairs',
        '{n: np.zeros((2, *x.shape[1:]), x.dtype) for',
        '{n: np.arange(2).reshape(-1, *[1] * (x.ndim - 1)) + np.zeros(\n'
        '    (2, *x.shape[1:]), x.dtype) for',
      ),
    ],
  ),
  (
    'app/train/setup.py',
    None,
    [('is_not_cut', "if ':' in name:", 'if False:')],
  ),
  (
    'app/kinds/network.py',
    'app/kinds/test_few_steps.py',
    [('guided_test_loss', "return cond | {'drop': jnp.zeros_like(cond['drop'])}", 'return {}')],
  ),
  (
    'app/kinds/store.py',
    'app/kinds/test_few_steps.py',
    [('of_a_user_that_declares', 'return next(kinds, ', 'return next(iter([]), ')],
  ),
  (
    'meshes.py',
    'laws/test_any_mesh.py',
    [('of_the_user', 'return on_auto_axes(function)(x', 'return function(x')],
  ),
  (
    'networks/cpu/__init__.py',
    'networks/cpu/test_moved_names.py',
    [
      (
        'name_that_has_moved',
        'except (AttributeError, ImportError, TypeError)',
        'except (AttributeError, TypeError)',
      ),
    ],
  ),
  (
    'report/card.py',
    None,
    [
      ('of_a_stranger', "with record.leaving_out(f'evaluation {name}'):", 'if True:'),
      ('of_a_stranger', 'for name, content in run.results:', 'for name, content in evaluations:'),
    ],
  ),
  (
    'weights/averages.py',
    None,
    [('do_not_increase', 'if images[0] < 1 or sorted({*images}) != images:', 'if False:')],
  ),
  (
    'runtime/files.py',
    None,
    [('any_number_of_lines', 'left -= len(line) if entry is None else 0', 'left -= len(line)')],
  ),
  (
    'interop/diffusers.py',
    'app/modes/test_convert.py',
    [('says_what_its_pipeline_lacks', "if not config.get('num_class_embeds') or", 'if')],
  ),
]
# noqa: E501

MUTATIONS = list(rows(TABLE))

if __name__ == '__main__':
  sys.exit(main(*sys.argv[1:]))
