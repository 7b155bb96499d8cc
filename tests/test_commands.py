"""Every command of every page is parsed, and its config is made and checked.

`-m docs` also runs commands of some pages, shortened.
"""

import contextlib
import importlib.util
import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from diffusion_jax.app import cli, help
from diffusion_jax.app.config import folder, trust
from diffusion_jax.app.kinds import store
from diffusion_jax.app.kinds.model import make_mesh
from diffusion_jax.app.modes import MODES
from diffusion_jax.app.run.weights import make_model
from diffusion_jax.app.train import setup
from diffusion_jax.data import simulations
from diffusion_jax.data.spec import ArraySpec, Facts
from diffusion_jax.errors import UserError
from diffusion_jax.paths import is_address
from diffusion_jax.runtime.run_folder import SHARED, RunFolder
from tests.app.conftest import DIGITS
from tests.test_readme import EXAMPLE, ROOT

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted(ROOT.glob('docs/*.md'))]
LAUNCH = re.compile('(?:python launch.py|diffusion-jax) (?=.)')
# What the reader replaces.
PLACEHOLDER = re.compile(r'…|\.\.\.|<|\$host|=$|--config\.(?!\S*=)')
# A flag without its command: the first part => the command.
FLAGS = {
  '--config=': '',
  '--config.schedule.start=': '--config=configs/digits.py --config.schedule=sigmoid',
  '--config.data.path=': '--config=configs/pictures.py --config.data=webdataset',
  '--config.data=binarized': '--config=configs/digits_vae.py',
  '--config.data.how=': '--config=configs/mnist_bits.py:binary_vae',
  '--config.data.source=': '--config=configs/mnist_bits.py:binary_vae '
  '--config.data.source.path=x.npz',
  '--config.data=npz': '--config=configs/mnist.py --config.data.path=x.npz',
  '--config.data=my_module': '--config=configs/inference.py',
  '--config.data=decay': '--config=configs/joint.py',
  '--config.network=dit --config.network.channels=64': '--config=configs/joint.py',
  '--config.data.workers=': '--config=configs/inference.py',
  '--config.training.start=adapters --config.training.start.rank=': '--config=configs/digits.py '
  '--config.training.start.run=runs/digits',
  '--config.training.average': '--config=configs/digits.py',
  '--config.convert.to=': '--config=runs/digits --mode=convert',
  '--config.convert.': '--mode=convert --config.convert.source=models/ddpm',
  '--config.evaluation.elbo.num_times=': '--config=runs/digits_masked --mode=evaluate',
  '--config.evaluation.': '--config=runs/digits_vdm --mode=evaluate',
  '--config.edit.operator=': '--config=runs/digits --mode=edit --config.edit=restore',
  '--config.sampling.classifier.': '--config=runs/digits --mode=sample '
  '--config.sampling.classifier.run=runs/digits_classifier',
  '--config.sampling.guidance': '--config=runs/digits --mode=sample',
  '--config.sampling.weights.decay=': '--config=runs/averaged --mode=sample',
  '--config.sampling.': '--config=runs/digits_edm --mode=sample',
  '--config.': '--config=configs/digits.py',
}
# Runs of the reader => the commands that make them.
RUNS = {
  'runs/gp': '--config=configs/gp_sequences.py',
  'runs/series': '--config=configs/rollout.py',
  'runs/ddpm-cifar10-32': '--config=configs/cifar10.py',
  'runs/vae': '--config=configs/imagenet256_autoencoder.py',
  'runs/dit': '--config=configs/imagenet256_dit.py',
  'runs/averaged': '--config=configs/digits.py --config.training.average.more=0.999',
  'runs/turned': '--config=configs/digits.py '
  '--config.training.start=adapters --config.training.start.run=runs/digits',
  'digits-ddpm': '--config=configs/digits.py',
}
FACTS = {'binarized': Facts(ArraySpec((28, 28, 1), 2), 10)}
CHECKED = 'train', 'sample', 'edit', 'evaluate'  # modes


def code_of(text):
  """Yields the lines of examples that are not Python, and inline code."""
  text = re.sub(r'^```python\n.*?^```', '', text, flags=re.M | re.S)
  for block in re.findall(r'(?:^    .*(?:\n|$))+', text, re.M):
    yield from re.sub(r' *\\\n *', ' ', block).splitlines()
  text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  text = re.sub(r'^    .*$', '', text, flags=re.M)
  for code in re.findall(r'`([^`]+)`', text):
    yield ' '.join(code.split())


def commands(page):
  """Yields the commands of a page in turn, without aliases and comments."""
  aliases = {}
  for line in code_of(page.read_text()):
    line = re.sub(r'(^|\s)#.*', '', line).strip()
    if alias := re.fullmatch(r"alias (\w+)='(.*)'", line):
      aliases[alias[1]] = alias[2]
      continue
    for part in re.split(r'\s&&\s|;\s', line):
      word, _, rest = part.partition(' ')
      part = f'{aliases[word]} {rest}' if rest and word in aliases else part
      part = re.sub(r'^(?:[A-Z_]+=\S+ )+', '', part.strip().rstrip('&'))
      if part and not PLACEHOLDER.search(part):
        yield part


def files_of_the_reader(rng):
  """Writes in this folder the files that the pages say the reader has."""
  x = rng.uniform(-1.0, 1.0, (40, 2))
  np.savez('simulations.npz', x=x, context=x.sum(axis=1, keepdims=True))
  np.save('observed.npy', [[0.3], [-1.2]])
  np.save('beginning.npy', np.zeros((1, 8, 1)))
  gaps = rng.random((40, 32, 1)) < 0.3
  np.savez('gappy.npz', x=np.where(gaps, np.nan, rng.normal(size=gaps.shape)))
  np.savez('tokens.npz', x=rng.integers(0, 50_257, (40, 16), np.uint16))
  np.savez('torsions.npz', x=rng.uniform(-180.0, 180.0, (40, 2)))
  np.savez('series.npz', x=rng.normal(size=(40, 32, 1)), lengths=rng.integers(8, 33, 40))
  houses = [
    f'{4 * x},{x},{city},{kind}' for x in range(9) for city in 'ab' for kind in ('flat', 'house')
  ]
  Path('houses.csv').write_text('\n'.join(['price,rooms,city,type', *houses]))
  Path('wanted.csv').write_text('city,rooms\nb,3\n')
  Path('my.csv').write_text('region,visits,income\n' + 'west,3,20000\neast,0,30000.5\n' * 20)
  for name in ('adult.data', 'adult-test.csv'):
    Path(name).write_text('39,Private,<=50K\n50,?,>50K\n28,Private,<=50K\n' * 20)
  Path('rows.csv').write_text('region,visits,income\nwest,,30000\n,0,\n')
  dummies = [f'{4 * i + i % 3},{i},{i % 2},{1 - i % 2}' for i in range(36)]
  Path('dummies.csv').write_text('\n'.join(['price,rooms,city_Bern,city_Chur', *dummies]))
  Path('known.csv').write_text('city_Bern,city_Chur,price,rooms\n1,0,NA,\n,,9,\n')
  np.savetxt('alphas.txt', np.linspace(0.9998, 0.96, 500))
  pictures = rng.integers(0, 256, (20, 32, 32, 3), np.uint8)
  labels = np.arange(20) % 10
  indices = np.reshape(range(20), (4, 5))
  np.savez('yacht.npz', target=x[:, 0], features=x, test_indices=indices)
  np.savez('cifar10.npz', x=pictures, label=labels)
  np.savez('x.npz', x=pictures[:, :28, :28, :1], label=labels)
  Path('my/pictures').mkdir(parents=True)
  for i in range(2):  # one of them is held out
    Image.fromarray(pictures[i]).save(f'my/pictures/{i}.png')
  Path('my/pictures/metadata.jsonl').write_text(
    ''.join(f'{{"file_name": "{i}.png", "text": "noise"}}\n' for i in range(2))
  )
  for name in 'cats', 'dogs':
    Path('my/classes', name).mkdir(parents=True)
    for i in range(2):
      Image.fromarray(pictures[i]).save(f'my/classes/{name}/{i}.png')
  Path('my/texts').mkdir()
  Path('my/texts/a.txt').write_text(40 * 'a text ')
  config, *parts = EXAMPLE.findall((ROOT / 'docs/parts.md').read_text())
  Path('mine.py').write_text(config)
  Path('my_parts.py').write_text('\n\n'.join(parts))
  decay = EXAMPLE.findall((ROOT / 'docs/inference.md').read_text())[0]
  for name in ('decay.py', 'my_module.py'):
    Path(name).write_text(decay)
  Path('my_rewards.py').write_text('def bright(x0):\n  return x0.mean((1, 2, 3))\n')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Makes one folder for all pages, whose runs are checked once."""
  folder = tmp_path_factory.mktemp('reader')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    patch.setattr(trust, '_allowed', set())
    patch.setattr(cli, 'fail', refuse)
    # Commands with workers simulate in this process, which takes a tenth of the time.
    patch.setattr(simulations, '_mapped', lambda job, workers: contextlib.nullcontext(map))
    patch.setattr(simulations, 'code_of', lambda function: '')
    files_of_the_reader(np.random.default_rng(0))
    yield folder
  for name in ('my_parts', 'decay', 'my_module', 'my_rewards'):
    sys.modules.pop(name, None)


def refuse(message, code=2):
  raise UserError(message)


def make_run(workdir):
  """Writes the config of a run that a command needs, unless it is there."""
  workdir = Path(workdir)
  if (workdir / 'config.json').exists():
    return
  command = RUNS.get(str(workdir))
  if command is None:
    found = folder.training_command(RunFolder.at(workdir))
    if not found:
      return
    command = found.partition(' --')[2].partition(' ')[0]
    command = f'--{command}'
  check(f'{command} --workdir={workdir}')


def check(arguments, keep=True):
  """Makes and checks the config of a command; returns it, workdir and mode.

  keep: writes the config of a run that it would train.
  """
  # A run there is in a folder here too.
  arguments = re.sub('(--(?:workdir|config)=)gs://bucket/', r'\1runs/', arguments)
  argv = shlex.split(arguments)
  for run in re.findall(r'(?:runs/[\w-]+|digits-ddpm)(?![\w./-])', arguments):
    if f'--workdir={run}' not in argv:
      make_run(run)
  with flagsaver.flagsaver():
    for flag in cli.flags.FLAGS.get_key_flags_for_module(cli):
      flag.value, flag.present = flag.default, 0
    cli.parse(['launch.py', *argv])
    flags = cli.flags.FLAGS
    mode, needed = flags.mode, flags.mode != 'convert' and not flags.help_mode
    path, argument = cli.find_config(flags.config, needed)
    command = cli.Command(path, argument, [*cli._FIELDS])
    workdir = str(command.workdir)
    uses = command.uses_a_run(mode)
    if uses and not command.is_run:
      make_run(workdir)
    config = command.config(mode)
  if flags.help_mode or mode not in CHECKED:
    return config, workdir, mode
  if config.get('latent'):
    make_run(config.latent.run)
  facts = config.data and FACTS.get(config.data.name)
  if config.data and is_address(config.data.get('path') or ''):
    facts = DIGITS
  model = make_model(config, RunFolder.at(workdir), None if 'facts' in config else facts)
  model.check(mode)
  if mode == 'train' and setup.own_sections(model.config.objective):
    objective, _, _, shapes = setup.state_maker(model, make_mesh(model.config))
    setup.check_parts(model, objective, shapes)
  if keep and mode == 'train' and not (Path(workdir) / 'config.json').exists():
    weights = 'checkpoints/1' if workdir.startswith('runs/') else SHARED
    Path(workdir, weights).mkdir(parents=True)
    folder.write_config(RunFolder.at(Path(workdir)), model.config, model.facts)
  return config, workdir, mode


def launched(page):
  """Yields the arguments of the program in the commands of a page."""
  for command in commands(page):
    if launch := LAUNCH.match(command):
      yield command[launch.end() :]
    elif re.match('--config[.=]', command):
      base = next(x for n, x in FLAGS.items() if command.startswith(n))
      yield f'{base} {command}'


ACCEPTED = set()  # Commands of earlier pages.


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_accepted(page, place):
  """The flags of a printed command exist, and the model of its config can be used so."""
  refused = []
  for arguments in launched(page):
    if arguments in ACCEPTED:
      continue
    ACCEPTED.add(arguments)
    try:
      if arguments == '--mode=list':
        help.list_configs()
      else:
        check(arguments)
    except (UserError, SystemExit) as error:
      refused.append(f'{arguments}\n    {error}')
  assert not refused, '\n'.join(refused)


PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())


# An install of ours in a command, its extras, and what follows.
INSTALL = re.compile(r'pip install [^&;]*[.]\[([\w,]+)\](.*)')


def reached(names):
  """Returns extras, and those that they contain; a name that is none of them fails."""
  found, extras = {*names}, PROJECT['project']['optional-dependencies']
  for name in names:
    for requirement in extras[name]:
      if inner := re.match(r'diffusion_jax\[([\w,]+)\]', requirement):
        found |= reached(inner[1].split(','))
  return found


def test_what_only_the_program_uses_brings_it():
  """Only the devices and the site are extras of the library."""
  extras = PROJECT['project']['optional-dependencies']
  alone = {name for name in extras if 'program' not in reached([name])}
  assert alone == {'cuda', 'tpu', 'docs', 'parity', 'browser'}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_other_commands_name_what_exists(page):
  """Modules and their flags, files, markers of tests, and extras."""
  markers = PROJECT['tool']['pytest']['ini_options']['markers']
  markers = {text.partition(':')[0] for text in markers}
  for command, following in itertools.pairwise([*commands(page), '']):
    for module in re.findall(r'^python -m ([\w.]+)', command):
      path = importlib.util.find_spec(module).origin.replace('__init__', '__main__')
      shown = Path(path).read_text()
      if 'demos' in module:
        shown += (ROOT / 'diffusion_jax/metrics/judges/judging.py').read_text()
      for flag in re.findall(r'(?<= --)\w+', command):
        assert f"'--{flag}'" in shown or f'{flag}:' in shown, command
    if re.match('pytest|sbatch|[.]ci/', command):
      for name in re.findall(r'(?:tests|cluster|[.]ci)/[\w./]+', command):
        assert (ROOT / name).exists(), command
    if marks := re.search(r"^pytest .*-m (\w+|'.*?')", command):
      words = {*re.findall(r'\w+', marks[1])} - {'and', 'or', 'not'}
      assert words <= markers, command
    for names, rest in INSTALL.findall(command):
      extras = reached(names.split(','))
      assert 'program' in extras or not LAUNCH.search(f'{rest} {following}'), command


# -- run ---------------------------------------------------------------------

# What `-m docs` runs, shortened: a page, a pattern of its commands, and what they write.
RUN = [
  ('arrays', 'runs/mine', 'mine/samples/*.npz'),
  # Tables and sequences are drawn and restored in tests/app/.
  pytest.param(
    'arrays',
    'runs/houses|operator=mask',
    'houses/samples/*.csv gp/edits/*.npz',
    marks=pytest.mark.slow,
  ),
  pytest.param(
    'arrays',
    'runs/(alone|copy|dummies)',
    'alone/samples/*.npz copy/samples/*.csv dummies/samples/*.csv',
    marks=pytest.mark.slow,
  ),
  pytest.param(
    'inference',
    'runs/(decay|joint)',
    'decay/samples/*.npz decay/evaluation/*/result.json joint/samples/*.npz',
    marks=pytest.mark.slow,
  ),
]
# A training of seconds, and a few draws.
SHORT = {
  'train': {
    'training.num_steps': 2, 'training.steps_per_call': 1,
    'training.batch_size': 8, 'training.machine.mesh': '1,1',
    'training.held_out.every': 2, 'training.checkpoints.every': 2,
    'training.sample_every': 0, 'training.checkpoints.best.number': 1, 'data.num_test': 20,
    'data.num_examples': 100, 'data.bounds': '-1000,1000',
    'report.after_training': False, 'optimizer.warmup_steps': 1,
  },
  'sample': {'sampling.num_samples': 4, 'sampling.num_steps': 2},
  'evaluate': {
    'evaluation.num_pairs': 20, 'evaluation.draws_per_pair': 9,
    'evaluation.num_images': 20, 'evaluation.ode.max_steps': 8,
    'sampling.num_steps': 2, 'sampling.batch_size': 100,
  },
  'edit': {'edit.num_samples': 2, 'sampling.num_steps': 2},
}  # fmt: skip


@pytest.mark.docs
@pytest.mark.parametrize('page, pattern, written', RUN)
def test_commands_of_a_page_run_in_turn(page, pattern, written, place, tmp_path, monkeypatch):
  page, n = ROOT / 'docs' / f'{page}.md', np.nan
  monkeypatch.chdir(tmp_path)
  files_of_the_reader(np.random.default_rng(0))
  np.save('y.npy', np.zeros((64, 1)))
  np.save('seen.npy', np.arange(64).reshape(64, 1) % 2)
  Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save('me.jpg')
  np.save('rows.npy', [[n, n, 0.2, 0.1], [0.3, n, n, 0.1], [n, n, n, n]])
  if 'mask' in pattern:
    train('--config=configs/gp_sequences.py --workdir=runs/gp')
  for command in commands(page):
    if not (LAUNCH.match(command) and re.search(pattern, command)):
      continue
    if 'runs/decay' in command and 'observed.npy' in command:
      np.save('observed.npy', np.zeros((2, 12)))
    train(command.removeprefix('python launch.py '))
  for pattern in written.split():
    assert [*Path('runs').glob(pattern)], pattern


def train(arguments):
  """Runs a command in this process, shortened."""
  config, workdir, mode = check(arguments, keep=False)
  fields = SHORT[mode] | {'compilation_cache': ''}
  # Pairs and images have numbers of their own, and refuse the other's.
  if 'metrics=ode' in arguments or 'metrics=' not in arguments:  # auto: none of pairs
    fields = {n: x for n, x in fields.items() if '_pair' not in n}
  else:
    fields.pop('evaluation.num_images', None)
  fields = {
    path: str(value)
    for path, value in fields.items()
    if path.rpartition('.')[2] in (config.at(path.rpartition('.')[0]) or ())
  }
  MODES[mode](store.with_flags(config, fields.items()), workdir)
