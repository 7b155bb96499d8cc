"""A problem's exact denoiser as a function of torch tensors."""

from collections.abc import Callable

import numpy as np
import torch

from diffusion_jax.testing.bench import Problem

Tensor = torch.Tensor


class _Denoise(torch.autograd.Function):
  @staticmethod
  def forward(x, sigma, alpha, problem):
    return _tensor(problem.denoise(x.numpy(), _level(sigma), _level(alpha)), x)

  @staticmethod
  def setup_context(ctx, inputs, output):
    x, sigma, alpha, ctx.problem = inputs
    ctx.save_for_backward(x, sigma, alpha)

  @staticmethod
  def backward(ctx, *cotangents):
    product = _Product.apply(cotangents[0], *ctx.saved_tensors, ctx.problem)
    return product, None, None, None


class _Product(torch.autograd.Function):
  @staticmethod
  def forward(vector, x, sigma, alpha, problem):
    product = problem.jacobian_product(x.numpy(), vector.numpy(), _level(sigma), _level(alpha))
    return _tensor(product, x)

  @staticmethod
  def setup_context(ctx, inputs, output):
    pass


def denoiser(problem: Problem) -> Callable[..., Tensor]:
  """Returns E[x_0 | x] of x [N, *shape], sigma and alpha, in the dtype of x.

  sigma, alpha: numbers, or tensors of one number or of N. Gradients with
  respect to x pass through it, also in `torch.func`.
  """

  def denoise(x, sigma, alpha=1.0):
    return _Denoise.apply(x, torch.as_tensor(sigma), torch.as_tensor(alpha), problem)

  return denoise


def _tensor(array, like):
  return torch.from_numpy(np.ascontiguousarray(array)).to(like.dtype)


def _level(value):
  array = value.numpy().ravel().astype(np.float64)
  return array[0] if len(array) == 1 else array
