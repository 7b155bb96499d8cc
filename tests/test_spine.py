"""Which files of the package a run enters, and why, so that a new one is seen in review."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.sources
ROOT = Path(__file__).parent.parent
# l: tracing the loss of the U-Net enters the file, t: a training with its report, s: its samples.
FILES = """
-ts app/__init__.py: starts the command
-ts app/cli.py: reads flags
-ts app/config/folder.py: a run keeps its config
-ts app/config/schema.py: parameters are fields
-t- app/config/experiments.py: reads the file of a config
-ts app/config/overrides.py: what flags change
-ts app/config/tree.py: sections of a config
-ts app/config/trust.py: whose code may be imported
-ts app/inputs/conditions.py: what samples are conditioned on
-ts app/inputs/datasets.py: which examples are read
-t- app/inputs/trained_on.py: which examples were trained on
-t- app/kinds/choices.py: tables of constructors
-ts app/kinds/diffusion/model.py: the parts of a model
-ts app/kinds/estimates.py: whether x_0 is estimated
-t- app/kinds/idle.py: fields that nothing reads
-ts app/kinds/model.py: what all models have
-ts app/kinds/network.py: the network and its inputs
-ts app/kinds/roles.py: which fields change what
-ts app/kinds/rules.py: fields that do not fit together
-ts app/kinds/sampling.py: the section of samples
-t- app/kinds/sections.py: which field of the data reads labels
-ts app/kinds/store.py: the kind of a config, and all its fields
-t- app/kinds/training.py: the section of a training
-ts app/modes/__init__.py: the table of modes
-t- app/modes/report.py: collects the page
--s app/modes/sample.py: the mode
-ts app/run/drawing.py: draws by batches
-ts app/run/provenance.py: what samples are made of
-ts app/run/weights.py: opens the run
-t- app/smoke.py: makes a config small
-t- app/train/floors.py: losses of exact denoisers
-t- app/train/hooks.py: what happens at intervals
-t- app/train/mode.py: the loop
-t- app/train/setup.py: what the loop needs
-t- app/train/step_log.py: lines of metrics
-ts atomic_files.py: whole files or none
lts core/arguments.py: shapes that do not fit are refused
lts core/checked.py: arguments of other types are refused
lts core/denoiser.py: a network as an estimate of x_0
-ts core/keys.py: a key for each example
lts core/levels.py: a noise level
lt- core/losses.py: the loss and its times
lts core/parametrization.py: what a network predicts
lts core/process.py: q(x_t | x_0) and its posterior
lt- core/products.py: products that XLA's CPU mends
lts core/step_schedules.py: the schedule of DDPM
-ts data/code_sums.py: sums of code
-ts data/drawings.py: pictures as PNG
-t- data/hashes.py: sums of images
--s data/npz.py: files of arrays
-t- data/pipeline.py: batches
-ts data/reads.py: records what parts open
-t- data/small_sets.py: the digits
-t- data/sources.py: a set in memory
-ts data/spec.py: units of data
-t- data/splits.py: training and test examples
-ts data/sums.py: sums of files
-ts declared.py: what constructors say of themselves
-ts errors.py: a user's mistake is one line
lts meshes.py: arrays of several devices
-t- metrics/estimates.py: means with errors
-t- metrics/losses.py: the loss by quarters
-t- metrics/neighbours.py: nearest examples
lts networks/attention.py: attention
lts networks/blocks.py: residual blocks
lts networks/cpu/bilinear.py: products on CPUs
lts networks/cpu/convolution.py: convolutions on CPUs
lts networks/embeddings.py: times and classes as vectors
lts networks/functional.py: operations without parameters
lts networks/inputs.py: which inputs are read
lts networks/layers.py: layers
lts networks/options.py: checks the fields of a network
lts networks/unet.py: the U-Net
-ts paths.py: paths of fields
-t- planning/programs.py: FLOP of a step
lts ranges.py: ranges of numbers
-t- report/charts.py: curves
-t- report/page.py: the page
-t- report/pictures.py: its pictures
-t- report/record.py: what a run has written
-t- report/results.py: its tables
--s report/sampling_words.py: how samples are drawn, in words
-ts runtime/compiling.py: compiles programs
-ts runtime/files.py: reads and writes files
-ts runtime/per_example.py: an example does not depend on its batch
-ts runtime/processes.py: several processes
-ts runtime/run_folder.py: the folder and its lock
-t- runtime/sessions.py: starts and ends of a training
-ts runtime/sharding.py: places arrays on devices
-ts runtime/start_up.py: versions, and times of a start
-ts runtime/streams.py: keys by their use
-ts sampling/ancestral.py: the step
-ts sampling/grids.py: the levels
-ts sampling/sampler.py: the loop of samplers
-t- testing/floors.py: exact denoisers of the examples
-t- training/averaging.py: averages of the weights
-t- training/loggers.py: writes metrics
lt- training/objectives.py: the objective
-t- training/optimizer.py: the optimizer
-t- training/preemption.py: stops by signals
-t- training/state.py: the state of a training
-t- training/step.py: the step of a training
-ts weights/checkpoints.py: checkpoints
-ts weights/checksums.py: sums of checkpoints
-ts weights/load.py: weights of a run
"""
WHY = {
  path: (uses, why) for uses, path, why in re.findall(r'^(\S+) (\S+): (.+)$', FILES, re.MULTILINE)
}


def named(use):
  return {path for path, (uses, _) in WHY.items() if use in uses}


def entered(*arguments):
  """Returns the files that a command enters, on one device as for a user."""
  environment = {n: x for n, x in os.environ.items() if n != 'XLA_FLAGS'}
  result = subprocess.run(
    [sys.executable, '-m', 'tests.entered', *arguments],
    capture_output=True,
    text=True,
    cwd=ROOT,
    env=environment,
  )
  assert result.returncode == 0, result.stderr
  words = (line.split() for line in result.stdout.splitlines())
  return {each[1] for each in words if len(each) == 2 and each[0] == 'entered'}


def test_each_file_has_a_line():
  assert len(WHY) == FILES.count('\n') - 1
  assert not [path for path in WHY if not (ROOT / 'diffusion_jax' / path).exists()]


def test_the_loss_of_the_unet_enters_these_files():
  assert entered('loss') == named('l')


@pytest.mark.slow
def test_a_training_and_its_samples_enter_these_files(tmp_path):
  """A training of one step with its report, and --mode=sample of its run."""
  fields = 'training.num_steps=1', 'report.after_training=True'
  flags = [f'--config.{field}' for field in fields]
  assert entered('--config=configs/digits.py:smoke', f'--workdir={tmp_path}', *flags) == named('t')
  found = entered(f'--config={tmp_path}', '--mode=sample', '--config.sampling.num_samples=4')
  assert found == named('s')
