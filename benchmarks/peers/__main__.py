"""Certifies methods of other projects, and ours, with exact denoisers.

  pip install -e '.[peers]' && pip install --no-deps k-diffusion==0.1.1.post1
  python -m benchmarks.peers --write          # the table of README.md here
  python -m benchmarks.peers --projects=azula --methods=REAB --draws=40000

A project that is not installed is skipped. Seeds, draws and steps are fixed:
`benchmarks/peers/methods.py`.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import re
import time
from pathlib import Path

from benchmarks.peers.methods import Method
from diffusion_jax.testing import certify

PAGE = Path(__file__).parent / 'README.md'
MARKERS = '<!-- peers -->\n', '<!-- /peers -->'
PROJECTS = 'diffusion_jax', 'azula', 'k-diffusion', 'diffusers', 'deepinv', 'torchcfm'
HEAD = (
  '| project | method | problem | calls | order, documented | W2, of exact draws | verdict |\n'
  '|---|---|---|---|---|---|---|\n'
)


def rows_of(project: str, part: str, draws: int | None) -> list[str]:
  """Certifies the methods of a project whose names contain the part."""
  package = project.replace('-', '_')
  if not importlib.util.find_spec(package):
    print(f'{project} is not installed: its methods are skipped', flush=True)
    return []
  methods = importlib.import_module(f'benchmarks.peers.from_{package}').METHODS
  title = f'{project} {importlib.metadata.version(project)}'
  return [row(title, method, draws) for method in methods if part in method.name]


def row(project: str, method: Method, draws: int | None) -> str:
  """Certifies a method, and returns its row of the table."""
  start = time.perf_counter()
  result = certify.certify(
    method.sample,
    method.problem,
    order=method.order,
    steps=method.steps,
    draws=draws or method.draws,
  )
  reason = result.reason.rpartition('; a variance')[0]  # the page has it once
  order = '—' if result.order is None else f'{result.order:.2f}'
  cells = [
    project,
    f'`{method.name}`',
    result.problem,
    f'{result.calls[-1]:.0f}',
    f'{order}, {method.order or "—"}',
    f'{result.w2[-1]:.3f}, {result.w2_floor:.3f}',
    f'**{result.verdict}**: {reason if result.passed else method.why or reason}',
  ]
  line = '| ' + ' | '.join(cells) + ' |'
  print(f'{line}\n{result}\n  {time.perf_counter() - start:.0f} s', flush=True)
  return line


def write(lines: list[str]) -> None:
  """Replaces the table between the markers of README.md."""
  start, end = map(re.escape, MARKERS)
  table = MARKERS[0] + HEAD + '\n'.join(lines) + '\n' + MARKERS[1]
  page = re.sub(f'{start}.*{end}', lambda _: table, PAGE.read_text(), flags=re.DOTALL)
  PAGE.write_text(page)


def main() -> None:
  """Prints a row for each method."""
  parser = argparse.ArgumentParser(prog='python -m benchmarks.peers')
  parser.add_argument('--projects', default=','.join(PROJECTS), help='their names')
  parser.add_argument('--methods', default='', help='a part of their names')
  parser.add_argument('--draws', type=int, help='instead of those of the table')
  parser.add_argument('--write', action='store_true', help='write the table of README.md here')
  args = parser.parse_args()
  projects = args.projects.split(',')
  if unknown := {*projects} - {*PROJECTS}:
    parser.error(f'--projects={min(unknown)} is not one of {", ".join(PROJECTS)}')
  if args.draws is not None and args.draws < certify.LEAST_DRAWS:
    parser.error(f'--draws={args.draws} must be {certify.LEAST_DRAWS} or more')
  rows = {project: rows_of(project, args.methods, args.draws) for project in projects}
  lines = [line for lines in rows.values() for line in lines]
  if args.methods and not lines:
    parser.error(f'--methods={args.methods} is in no name of an installed project')
  print(HEAD + '\n'.join(lines))
  if args.write and (args.methods or not all(rows.get(project) for project in PROJECTS)):
    parser.error('--write needs all methods of all projects: README.md is unchanged')
  if args.write:
    write(lines)


if __name__ == '__main__':
  main()
