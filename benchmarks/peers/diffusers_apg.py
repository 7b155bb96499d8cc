"""The two formulas of diffusers' AdaptiveProjectedGuidance.

  python benchmarks/peers/diffusers_apg.py

Needs `pip install diffusers==0.42.1`, and nothing of this project. By default
the guider adds w times the projected difference to the unconditional
prediction; with `use_original_formulation` it adds it to the conditional one,
and w - 1 is the same weight of plain guidance. For predictions at several angles
it prints, as shares of the norm of cond - uncond, how far apart the two are, and
how far the default is from cond where w goes to 1. The last line has the
default eta = 1, and a difference beyond the default norm of 15.
"""

import torch
from diffusers.guiders import AdaptiveProjectedGuidance


def shares(cosine, eta, norm):
  """Returns both distances for cond and cond - uncond at an angle."""
  cond = torch.zeros(1, 100, dtype=torch.float64)
  cond[0, 0] = 1.0
  step = torch.zeros_like(cond)
  step[0, :2] = torch.tensor([cosine, (1.0 - cosine**2) ** 0.5])
  uncond = cond - norm * step

  def guided(w, original):
    guider = AdaptiveProjectedGuidance(w, eta=eta, use_original_formulation=original)
    return guider.forward(cond, uncond).pred

  apart = guided(4.0, False) - guided(3.0, True)
  at_one = guided(1.0 + 1e-6, False) - cond
  return [float(value.norm() / norm) for value in (apart, at_one)]


def main():
  """Prints the shares."""
  for cosine, eta, norm in (0.0, 0.0, 1.0), (0.4, 0.0, 1.0), (0.8, 0.0, 1.0), (0.4, 1.0, 60.0):
    values = ', '.join(f'{value:.2f}' for value in shares(cosine, eta, norm))
    print(f'cosine {cosine}, eta {eta}, norm {norm:g}: {values}')


if __name__ == '__main__':
  main()
