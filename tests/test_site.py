"""Pages, notebooks and public names that the site needs."""

import base64
import copy
import hashlib
import importlib
import importlib.util
import inspect
import io
import json
import os
import pkgutil
import re
from pathlib import Path

import pytest
from PIL import Image

import diffusion_jax as dj
from diffusion_jax.app.kinds import store
from tests.test_architecture import tracked_files

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / 'docs' / 'tutorials').glob('*.ipynb'))
SHAPE = re.compile(r'\[(?:[A-Z][^\]]*|\.\.\.|)\]|shape')


def public_names():
  names = (name for name in vars(dj) if not name.startswith('_'))
  return [n for n in names if not inspect.ismodule(getattr(dj, n))]


def shown_modules():
  pages = (page.read_text() for page in (ROOT / 'docs' / 'api').glob('*.md'))
  return re.findall(r'^::: (\S+)$', '\n'.join(pages), re.M)


def of_docs(name):
  """Imports a module of docs/, which is not a package."""
  spec = importlib.util.spec_from_file_location(name, ROOT / 'docs' / f'{name}.py')
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_public_name_has_an_entry_with_shapes():
  """Each public name is on the page of its module, with its call and its first sentence."""
  shown, made = shown_modules(), of_docs('hooks')
  assert len(shown) == len(set(shown))
  assert made.TABLE in (ROOT / 'docs' / 'api.md').read_text()
  row = re.compile(r'^\| \[`(\w+)(.*?)`\]\[([\w.]+)\.\1\] \| (.*) \|$', re.M)
  rows = {name: rest for name, *rest in row.findall(made.names_table())}
  assert rows.keys() == set(public_names())
  for name, (call, module, sentence) in rows.items():
    value = getattr(dj, name)
    assert value.__module__ == module and module in shown, name
    text = value.__doc__ or ''
    assert ' '.join(text.split()).startswith(sentence.replace('\\|', '|')), name
    if inspect.isfunction(value):
      named = set(re.findall(r'\w+', call))
      assert named >= inspect.signature(value).parameters.keys(), name
      assert not call.endswith('-> Array') or SHAPE.search(text), name


def test_tables_of_pages_are_those_of_the_code():
  tables = of_docs('tables')
  pages = {page.name: page.read_text() for page in (ROOT / 'docs').glob('*.md')}
  stale = [name for name, text in pages.items() if tables.filled(text) != text]
  assert stale == [], 'run python docs/tables.py'
  marked = [name for text in pages.values() for _, name in tables.MARKED.findall(text)]
  assert sorted(marked) == sorted(tables.TABLES)


def test_every_metric_is_on_its_page():
  page = (ROOT / 'docs' / 'evaluation.md').read_text()
  names = {name for kind in store.KINDS for name in kind.metrics}
  assert len(names) > 20 and [name for name in names if f'`{name}`' not in page] == []


def test_the_index_of_equations_names_what_the_api_shows():
  """The site links `training.objectives.hybrid`, for example, to its entry."""
  index = (ROOT / 'docs' / 'equations.md').read_text()
  parts, shown = 'training|networks|metrics|testing|interop', shown_modules()
  found = re.findall(rf'`((?:{parts})\.[\w.]+)(?:\([^`]*)?`', index)
  assert len(found) > 10
  for name in found:
    path = f'diffusion_jax.{name}.'
    assert any(path.startswith(f'{x}.') for x in shown), f'add its module to docs/api: {name}'
    value = pkgutil.resolve_name(path[:-1])
    # The site has entries for what has a docstring.
    assert callable(value) or inspect.ismodule(value), name


def test_notebooks_show_what_their_code_printed_and_drew():
  """GitHub shows the stored outputs; they are small and belong to the code.

  A changed notebook needs `pytest -m tutorials -n 0 --save_outputs`.
  """
  assert len(NOTEBOOKS) == 11
  menu = (ROOT / 'mkdocs.yml').read_text()
  for path in NOTEBOOKS:
    assert f'tutorials/{path.stem}.md' in menu
    assert path.stat().st_size < 300_000, path.name
    notebook = json.loads(path.read_text())
    assert "pip install -e '.[program]'" in ''.join(notebook['cells'][0]['source'])
    code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
    assert notebook['metadata']['outputs_of'] == code_hash(code), path.name
    assert any(map(has_picture, code))
    for cell in code:
      text = ''.join(cell['source'])
      shows = 'plt.show()' in text and 'def show' not in text
      assert alt(cell) or not (shows or has_picture(cell)), text
      assert has_picture(cell) or not alt(cell), text
      for output in cell['outputs']:
        assert output['output_type'] != 'error', text
        assert output.get('name') != 'stderr', text


TEXTS = '.md .ipynb .py .toml .yml .yaml .sbatch .txt'.split()
INSTALLS_US = re.compile(r'pip install(?: [^\s&|;]+){0,3} diffusion[-_]jax(?![\w/.-])')


def test_nothing_installs_our_name_from_an_index():
  """The name is not registered, so anybody could publish a package as ours."""
  tracked = tracked_files()
  assert len(tracked) > 500
  for name in tracked:
    if name.startswith(('.ci/', 'Dockerfile')) or Path(name).suffix in TEXTS:
      # Joins the parts of a message in Python.
      text = re.sub(r'[\'"]\s*\n\s*f?[\'"]', '', (ROOT / name).read_text())
      text = re.sub(r'[\s\'"`\\]+', ' ', text)
      assert not INSTALLS_US.search(text), name


def code_hash(code):
  """Returns the SHA-256 of the cells' code, stored with the outputs."""
  text = '\n'.join(''.join(cell['source']) for cell in code)
  return hashlib.sha256(text.encode()).hexdigest()


def has_picture(cell):
  return any('image/png' in o.get('data', ()) for o in cell['outputs'])


def alt(cell):
  return cell['metadata'].get('alt')


# Checks of each notebook's results, which run in the notebook.
RESULTS = {
  '1_noising': 'assert float(jnp.abs(x - x0).max()) < 1e-6',
  '2_ddpm': 'assert verdict["accuracy"] > (0.9 if num_steps == 10_000 else 0.8)',
  '3_samplers': (
    'assert len(table) == 10\n'
    'assert table["ancestral (DDPM)"][0] > 0.93\n'
    'assert all(read > 0.75 for read, _, _ in table.values())\n'
    'assert np.abs(samples["ancestral (DDPM)"] - samples["DDIM, eta = 1"])'
    '.mean() < 0.01'
  ),
  '4_guidance': (
    'assert results[0.0][0] < 0.2 and results[2.0][0] > 0.98\n'
    'assert results[4.0][1] < results[1.0][1]\n'
    'assert 0.5 < completed["replacement"] < completed["reconstruction"]'
  ),
  '5_likelihood': (
    'assert all(excess[n][0] > -0.05 for n in nats)\n'
    'assert excess["VDM"][0] < 0.15 < 0.4 < excess["VAE"][0] < 1.0\n'
    'assert exact_excess < excess["DDPM"][0] < 0.5\n'
    'assert excess["masked diffusion"][0] < 0.1'
  ),
  '6_own_sampler': (
    'assert abs(orders["midpoint"] - 2) < 0.15\n'
    'assert orders["midpoint with a wrong level"] < 1.3\n'
    'assert np.abs(np.asarray(shares) - 1 / 8).max() < 5 * 0.0037'
  ),
  '7_own_network': 'assert all(d < 0.04 for d in distances.values())',
  '8_posterior': (
    'modes = {n: posterior.mode_error(x, exact) for n, x in drawn.items()}\n'
    'assert modes["exact"] < 0.05 and modes["particles"] < 0.15\n'
    'assert min(modes["pseudoinverse"], modes["DPS"]) > 0.2\n'
    'assert 0.8 < found.ratio < 1.1\n'
    'assert table["half", "particles"][0] > 0.75\n'
    'assert table["2x2", "particles"][0] < table["blurred", "particles"][0]'
  ),
  '9_simulator': (
    'errors = np.array(errors)\n'
    'assert np.abs(errors[:, :2]).max() < 0.5\n'
    'assert 0.6 < errors[:, 2:].min() and errors[:, 2:].max() < 1.6\n'
    'p = [x["value"] for n, x in values.items() if "cov" not in n and "con" not in n]\n'
    'assert len(p) == 4 and min(p) > 1e-4'
  ),
  '10_epidemic': (
    'assert c2st.value < 0.6\n'
    'assert np.abs(error).max() < 0.8\n'
    'assert 0.6 < ratio.min() and ratio.max() < 1.8'
  ),
  '11_exercises': (
    'assert abs(np.mean(x < 0) - 0.3) < 4.5 * 0.0046\n'
    'assert len(printed_sizes) < 50 and sizes[-1] < 2\n'
    'assert gaps[0] > 0.1 and gaps[-1] < 2e-5\n'
    'assert ratios[0] == 0 and ratios[-1] > 0.999\n'
    'assert abs(over_chain.mean() - pair_mean(0.7, 0.3, 5, few)) < 4.5 * error'
  ),
}


def as_for_users():
  """Returns the environment without XLA's settings for tests."""
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return env | {'PYTHONPATH': str(ROOT)}


# Others train and sample in the same way.
SLOW = (
  '3_samplers',
  '4_guidance',
  '5_likelihood',
  '6_own_sampler',
  '7_own_network',
  '8_posterior',
  '9_simulator',
  '10_epidemic',
)


@pytest.mark.tutorials
@pytest.mark.parametrize(
  'path',
  [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in SLOW), id=p.stem) for p in NOTEBOOKS],
)
def test_a_notebook_runs_and_its_results_hold(path, tmp_path_factory, request):
  """--save_outputs stores the outputs in it; without it tutorial 2 trains for a shorter time."""
  # The extra [docs] may be missing in pyright's environment.
  nbformat, nbclient = map(importlib.import_module, ('nbformat', 'nbclient'))
  notebook = nbformat.read(path, as_version=4)
  stored = copy.deepcopy(notebook.metadata)
  if path.stem not in SLOW and not request.config.getoption('save_outputs'):
    for cell in notebook.cells:
      cell.source = cell.source.replace('1000, 10_000, 128', '1000, 3_000, 128')
  notebook.cells.append(nbformat.v4.new_code_cell(RESULTS[path.stem]))
  # One folder for all, so that the network of tutorial 3 serves 4.
  folder = tmp_path_factory.getbasetemp() / 'tutorials'
  folder.mkdir(exist_ok=True)
  client = nbclient.NotebookClient(
    notebook,
    timeout=None,
    resources={'metadata': {'path': str(folder)}},
    coalesce_streams=True,
    record_timing=False,
  )
  client.execute(env=as_for_users())
  notebook.cells.pop()
  # A picture that cannot be drawn ends no cell.
  outputs = [x for cell in notebook.cells for x in cell.get('outputs', ())]
  assert not [x for x in outputs if x['output_type'] == 'error']
  if request.config.getoption('save_outputs'):
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    for output in (output for cell in code for output in cell.outputs):
      if png := output.get('data', {}).get('image/png'):
        output.data['image/png'] = smaller(png)
    notebook.metadata = stored | {'outputs_of': code_hash(code)}
    nbformat.write(notebook, path)


def smaller(png):
  """Returns a PNG, in base64, with 64 colours."""
  picture, file = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
  picture = picture.convert('RGB').quantize(64, dither=Image.Dither.NONE)
  picture.save(file, 'PNG', optimize=True)
  return base64.b64encode(file.getvalue()).decode()
