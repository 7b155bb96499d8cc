"""Diffusion transformers: DiT, JiT, and both with texts."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from diffusion_jax.aliases import Fused, NamedParams, PyTree
from diffusion_jax.declared import Free, declares
from diffusion_jax.networks.context import TextFeatures, mean_of_words, read_context
from diffusion_jax.networks.embeddings import LabelEmbedding, of_step, sinusoidal, with_inputs
from diffusion_jax.networks.fused import QKV_LAYOUT, Layout, pieces
from diffusion_jax.networks.inputs import STEP_INPUTS, Inputs, Text
from diffusion_jax.networks.layers import add_bias
from diffusion_jax.networks.options import (
  AttentionImplementation,
  Checked,
  Dtype,
  RematPolicy,
  Sinusoids,
  check_block,
  check_rank,
  count_heads,
  maybe_remat,
)
from diffusion_jax.networks.placement import on_gpu, whole_weights
from diffusion_jax.networks.tokens import (
  before,
  draw_route,
  grid_positions,
  patchify,
  rotary_angles,
  unpatchify,
)
from diffusion_jax.networks.transformer_block import (
  MLP,
  XAVIER,
  ZERO,
  Beside,
  Block,
  Initializer,
  Kept,
  Norm,
  dense,
  make_norm,
  modulate,
  per_token,
)
from diffusion_jax.ranges import Count, Rate, Size

Array = jax.Array

NOISE_FEATURES = 256
NORMAL = nn.initializers.normal(0.02)

Positions = Literal['sincos', 'rotary', 'both', 'learned', 'none']


@declares(
  what='a [Transformer](#the-transformer) of patches on every axis (DiT, Peebles & Xie 2023)',
  needs='a sequence [N, C], an image [H, W, C], a volume [D, H, W, C]',
  element_levels=True,
)
class DiT(Checked):
  """Computes a transformer: x [B, H, W, C], noise [B] -> [B, H, W, out].

  Sequences are x [B, N, C], and volumes [B, D, H, W, C]; a vector [B, D] is a
  sequence of its numbers, and the output [B, out]. The defaults are DiT-S/2
  (Peebles & Xie 2023): tokens of patch_size^2 pixels with sin-cos `positions`,
  and blocks with adaLN-Zero of the sum of the embeddings of noise and label
  (`Block`). The output begins at 0. With noise [B, N], one for each index of the first
  axis, each token is conditioned on that of the first index in its patch.

  Options: `norm`, `qk_norm` and `mlp` are described in `Block`. `bottleneck` is
  the width of a linear map before the patch embedding (0: none).
  `class_tokens` copies of the label's embedding, with learned positions, are
  further tokens from block `class_tokens_at` on (JiT, Li & He 2025), and
  `registers` learned tokens from the first one on (Darcet et al. 2024).
  `value_residual`: see `Block`. In training the share `routing` of the patches,
  drawn for each image, skips all blocks but the first and the last `routing_ends`
  (TREAD, Krause et al. 2025); `routing` does not change the parameters.
  cond['valid'] [B, N] is False at what pads the first axis, which no token sees.
  With `causal` a token sees its own block of so many tokens and earlier ones, in
  the order of `patchify`. `dropout_blocks` 'middle' restricts dropout to the middle
  half of the blocks.
  Conditions are described in `UNet`; the words of a prompt or context are tokens
  (`text_attention` 'joint'), or x attends to them ('cross').
  `attention`: see `attend`.

  Parameters of consecutive blocks with equal options are stacked along a
  leading axis, in blocks_i for blocks that begin at block i; `block_params`
  returns the parameters of one block. Blocks are computed in a loop, or with
  `unroll` one after another, which compiles longer: on GPUs the loop costs a
  third of a training step, on CPUs nothing. None: unrolled if the mesh in use
  consists of GPUs.

  at: of the block, counted from 0, whose tokens [B, T, channels] are returned after the
  output: those of the patches, of which the skipped ones are as they were before.
  """

  takes: ClassVar = ('label', 'text', 'image', 'x0', 'valid', 'context', *STEP_INPUTS)
  stacked: ClassVar = ('blocks_',)

  channels: Size = 384
  num_blocks: Size = 12
  num_heads: Size = 6
  patch_size: Size = 2
  out_channels: Size = 3
  noise_embedding: Sinusoids = 'openai'
  positions: Positions = 'sincos'
  norm: Norm = 'layer'
  qk_norm: bool = False
  mlp: MLP = 'gelu'
  bottleneck: Count = 0
  class_tokens: Count = 0
  class_tokens_at: Count = 0
  registers: Count = 0
  value_residual: bool = False
  routing: Rate = 0.0
  routing_ends: Count = 0
  dropout: Rate = 0.0
  dropout_blocks: Literal['all', 'middle'] = 'all'
  inputs: Inputs = Inputs()
  text_attention: Literal['joint', 'cross'] = 'joint'
  causal: Count = 0
  attention: AttentionImplementation = 'auto'
  unroll: bool | None = None
  remat: Free[bool] = False
  remat_policy: RematPolicy = 'nothing'
  dtype: Dtype = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    count_heads(self.num_heads, None, self.channels)
    if self.class_tokens and not 0 <= self.class_tokens_at < self.num_blocks:
      raise ValueError(
        f'class_tokens_at={self.class_tokens_at} must be a block, 0..{self.num_blocks - 1}'
      )
    if self.class_tokens and not self.inputs.num_classes:
      raise ValueError('class_tokens need labels: set inputs.num_classes')
    if self.value_residual and self.num_blocks == 1:
      raise ValueError('value_residual needs two blocks or more: change num_blocks')
    if self.class_tokens and self.class_tokens_at and self.value_residual:
      raise ValueError(
        f'class_tokens from block {self.class_tokens_at} on have no values of the first block: '
        'set class_tokens_at=0 or value_residual=False'
      )
    if self.routing and not self.routing_ends:
      raise ValueError(
        f'routing={self.routing} needs routing_ends, the number of blocks at either end that '
        'compute all patches: set routing_ends=1 or more'
      )
    if 2 * self.routing_ends >= self.num_blocks:
      raise ValueError(
        f'routing_ends={self.routing_ends} at either end leaves none of {self.num_blocks} blocks '
        'between them: change routing_ends or num_blocks'
      )

  @property
  def fused(self) -> Fused:
    shifts = pieces(self.channels)
    layouts = {'modulation': shifts, 'modulation_out': shifts, 'qkv': QKV_LAYOUT}
    return layouts | ({'mlp_in': Layout((2, -1))} if self.mlp == 'swiglu' else {})

  @nn.compact
  def __call__(
    self,
    x: Array,
    noise: Array,
    cond: dict | None = None,
    *,
    train: bool = False,
    at: int | None = None,
  ) -> Any:
    check_block(at, self.num_blocks)
    cond = cond or {}
    if x.ndim != 2:
      y, hidden = self._output(x, noise, cond, self.out_channels, train, at)
      return y if at is None else (y, hidden)
    if self.out_channels % x.shape[1]:
      raise ValueError(
        f'out_channels={self.out_channels} must be a multiple of the '
        f'{x.shape[1]} numbers of a vector'
      )
    estimate = {'x0': cond['x0'][..., None]} if 'x0' in cond else {}
    channels = self.out_channels // x.shape[1]
    y, hidden = self._output(x[..., None], noise, cond | estimate, channels, train, at)
    y = y.swapaxes(1, 2).reshape(x.shape[0], -1)
    return y if at is None else (y, hidden)

  def _output(self, x, noise, cond, out_channels, train, at):
    # Returns the output, and the tokens after block `at`; None without one.
    check_rank(x, (1, 2, 3))
    self.inputs.check(cond)
    shape = x.shape[1:-1]
    grid = tuple(side // self.patch_size for side in shape)
    c, label = self._condition(self._of_tokens(noise, grid), cond)
    valid = cond.get('valid')
    if valid is not None:  # What pads x may be anything.
      x = jnp.where(valid.reshape(*valid.shape, *[1] * (x.ndim - 2)), x, 0.0)
      valid = self._of_tokens(valid, grid)
    streams = []
    if self.inputs.text:
      words, mask, pooled = self._text(self.inputs.text, cond, x.shape[0])
      streams.append((words, mask))
      c = _plus(c, pooled)
    channels = None
    if self.inputs.context:
      context = read_context(self.inputs, x, cond, self.channels, dtype=self.dtype)
      channels = context.channels
      if context.embedding is not None:
        c = _plus(c, context.embedding)
      if context.words is not None:
        words, mask = context.words
        if self.text_attention == 'joint':
          words = self._dense('context_in')(words)
        streams.append((words, mask))
    words, mask = joined(streams)
    h = patchify(with_inputs(self.inputs, x, cond, channels), self.patch_size)
    if self.routing and h.shape[1] < 2:  # Also without `train`, when parameters are made.
      raise ValueError(
        f'routing={self.routing} needs two patches or more: change patch_size, or set routing=0'
      )
    h = self._embed(h, grid)
    h, hidden = self._blocks(
      h, c, label=label, grid=grid, words=words, mask=mask, valid=valid, train=train, at=at
    )
    features = self.patch_size ** len(grid) * out_channels
    return unpatchify(self._last(h, c, features), self.patch_size, shape), hidden

  def _of_tokens(self, values, grid):
    # Returns the entry of the first index of each token; [B] as it is.
    if values.ndim == 1:
      return values
    return jnp.repeat(values[:, :: self.patch_size], math.prod(grid[1:]), axis=1)

  def _condition(self, noise, cond):
    # Returns the embedding of noise and label, and the label's embedding.
    h = sinusoidal(noise, NOISE_FEATURES, kind=self.noise_embedding)
    h = self._dense('noise_dense_1', NORMAL)(h)
    c = self._dense('noise_dense_2', NORMAL)(nn.silu(h))
    c = _plus(c, of_step(self.inputs, cond, NOISE_FEATURES, self.channels, 'openai', self.dtype))
    if not self.inputs.num_classes:
      return c, None
    embed = LabelEmbedding(
      self.inputs, self.channels, std=0.02, dtype=self.dtype, name='label_embedding'
    )
    label = embed(cond, noise.shape[0])
    return _plus(c, label), label

  def _text(self, text: Text, cond, batch_size):
    # Returns words [B, L, D], their mask, and the projection of their mean.
    null = self.inputs.null_class
    features = TextFeatures(
      text.width, text.layers, text.heads, null, dtype=self.dtype, name='text'
    )
    words, mask = features(cond, batch_size)
    pooled = self._dense('text_pooled')(mean_of_words(words, mask))
    if cond.get('drop') is not None and cond.get('text') is not None:
      # A hidden text is one token, as in a cond without 'text'. More tokens
      # would have more weight in joint attention.
      later = jnp.arange(mask.shape[1]) > 0
      mask &= ~(cond['drop'][:, None] & later[None])
    if self.text_attention == 'joint':
      words = self._dense('text_in')(words)
    return words, mask, pooled

  def _embed(self, patches, grid):
    h = patches
    if self.bottleneck:
      h = dense(self.bottleneck, 'patch_bottleneck', dtype=self.dtype, use_bias=False)(h)
    h = self._dense('patch_embedding')(h)
    if self.positions in ('sincos', 'both'):
      places = grid_positions(grid, self.channels)
      h += places.astype(h.dtype)[None]
    if self.positions == 'learned':
      places = self.param('positions', NORMAL, h.shape[1:], jnp.float32)
      h = add_bias(h, places.astype(h.dtype)[None])
    return h

  def _blocks(self, h, c, label, grid, words, mask, valid, train, at):
    text = '' if words is None else self.text_attention
    joint = text == 'joint'
    x, text_tokens, values = h, words if joint else None, None
    words = None if joint else words
    extra = self.registers  # tokens before the patches
    if extra:
      x = before(self._learned('registers', extra), x)
    route, aside, hidden = None, h[:, :0], None
    edges = self._edges(joint)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
      if self.class_tokens and start == self.class_tokens_at:
        x = before(label[:, None] + self._learned('class_positions', self.class_tokens), x)
        extra += self.class_tokens
      if self.routing and train and start == self.routing_ends:
        route = draw_route(self.make_rng('dropout'), h.shape[0], h.shape[1], self.routing)
        x, aside = route.enter(x, extra)
      if route and start == self.num_blocks - self.routing_ends:
        x, route = route.leave(x, aside, extra), None
      beside = self._beside(c, valid, grid, extra, route)
      first = values
      if values and route:
        first = route.enter(values[0], extra)[0], values[1]
      kept = None
      if at is not None and start <= at < stop:
        kept = Kept(jnp.int32(at - start), x)
      stack = self._stack(start, stop, train, text)
      (x, text_tokens, kept), given = stack((x, text_tokens, kept), beside, words, mask, first)
      if kept is not None:
        tokens = kept.tokens if route is None else route.leave(kept.tokens, aside, extra)
        hidden = tokens[:, extra:]
      if self.value_residual and start == 0:
        values = jax.tree.map(lambda v: v[0], given)
    return x[:, extra:], hidden

  def _learned(self, name, count):
    # Returns learned tokens [1, count, D].
    return self.param(name, NORMAL, (count, self.channels), jnp.float32)[None]

  def _angles(self, grid, extra, route):
    if self.positions not in ('rotary', 'both'):
      return None
    angles = jnp.asarray(rotary_angles(grid, self.channels // self.num_heads, extra))
    return angles if route is None else route.enter(angles[None], extra)[0]

  def _beside(self, c, valid, grid, extra, route):
    # The tokens before the patches have the level of the first one, which all see.
    first, places = c[:, :1], None
    if self.causal:
      places = jnp.arange(math.prod(grid))[None] // self.causal
    if route:
      whole = (route.kept.shape[0], math.prod(grid))

      def routed(a):
        return route.enter(jnp.broadcast_to(a, (*whole, *a.shape[2:])), 0)[0]

      c = routed(c) if c.ndim == 3 else c
      places, valid = (None if a is None else routed(a) for a in (places, valid))
    if extra and c.ndim == 3:
      c = before(jnp.repeat(first, extra, axis=1), c)
    return Beside(c, self._angles(grid, extra, route), seen(places, valid, extra))

  def _stack(self, start, stop, train, text) -> Callable:
    # Under FSDP the weights of a block are gathered, instead of its tokens.
    block = nn.map_variables(Block, 'params', self._whole, init=True)
    unroll = on_gpu() if self.unroll is None else self.unroll
    block = maybe_remat(block, self, prevent_cse=unroll)
    shared: Any = nn.broadcast
    stack = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=shared,
      length=stop - start,
      unroll=stop - start if unroll else 1,
    )
    depth = self.num_blocks
    middle = depth // 4 <= start < depth - depth // 4
    has_dropout = self.dropout_blocks == 'all' or middle
    own = 'num_heads', 'norm', 'qk_norm', 'mlp', 'attention', 'dtype'
    return stack(
      **{name: getattr(self, name) for name in own},
      dropout=self.dropout if has_dropout else 0.0,
      text=text,
      text_ends=stop == depth,
      gives_values=self.value_residual and start == 0,
      scanned=not unroll,
      train=train,
      name=f'blocks_{start}',
    )

  def _whole(self, params):
    # Kernels are converted before they are gathered, as layers would do after.
    def convert(x):
      return x.astype(self.dtype) if x.ndim > 1 else x

    if self.is_initializing():
      return params
    return whole_weights(jax.tree.map(convert, params))

  def _edges(self, joint):
    # Returns the first block of each stack of equal blocks, and the end.
    depth = self.num_blocks
    edges = {0, depth}
    if self.value_residual:
      edges.add(1)  # The first block has values of its own alone.
    if self.routing_ends:
      edges |= {self.routing_ends, depth - self.routing_ends}
    if self.class_tokens:
      edges.add(self.class_tokens_at)
    if self.dropout_blocks == 'middle':
      edges |= {depth // 4, depth - depth // 4}
    if joint:
      edges.add(depth - 1)  # The last block returns no words.
    return sorted(edges)

  def _last(self, h, c, features):
    # Returns the patches of the output, always float32.
    shifts = self._dense('modulation_out', ZERO, 2)(nn.silu(c))
    h = make_norm(self.norm, 'norm_out', self.dtype)(h)
    h = modulate(h, *jnp.split(per_token(shifts), 2, axis=-1))
    return dense(features, 'patch_out', ZERO)(h)

  def _dense(self, name, kernel_init: Initializer = XAVIER, times=1):
    return dense(times * self.channels, name, kernel_init, self.dtype)


def seen(places: Array | None, valid: Array | None, extra: int = 0) -> Array | None:
  """Returns which tokens are seen, the mask of a `Beside`; None for all.

  places: int [B or 1, T], by which a token sees those of its own place and of lower ones;
  valid: bool [B, T], False at tokens that no other sees. `extra` tokens before them are
  seen by all, and see each other alone if there are places.
  """
  widths = (0, 0), (extra, 0)
  mask = None if valid is None else jnp.pad(valid, widths, constant_values=True)
  if places is None:
    return mask
  places = jnp.pad(places, widths, constant_values=-1)
  earlier = places[:, None, :] <= places[:, :, None]
  return earlier if mask is None else earlier & mask[:, None]


def _plus(c, embedding):
  # Adds an embedding [B, D] to c [B, D] or [B, T, D].
  return c + embedding if c.ndim == 2 or jnp.ndim(embedding) == 0 else c + embedding[:, None]


def joined(streams: Sequence[tuple[Array, Array]]) -> tuple[Array | None, Array | None]:
  """Returns all words [B, L, D] and their masks, as one; None without any.

  Raises ValueError if the words have several widths.
  """
  if not streams:
    return None, None
  widths = [words.shape[-1] for words, _ in streams]
  if len({*widths}) > 1:
    raise ValueError(
      f'the words have width {widths[0]}, the context {widths[1]}: '
      f"set context_encoder.width={widths[0]}, or text_attention='joint'"
    )
  words, masks = zip(*streams, strict=True)
  return jnp.concatenate(words, axis=1), jnp.concatenate(masks, axis=1)


def block_params(params: NamedParams, index: int) -> PyTree:
  """Returns the parameters of block `index`, counted from 0, of a `DiT`.

  params: parameters of the network. Leaves of the result have no leading axis.
  """
  stacks = sorted(
    (int(name.removeprefix('blocks_')), name) for name in params if name.startswith('blocks_')
  )
  blocks = [(name, i) for _, name in stacks for i in range(len(jax.tree.leaves(params[name])[0]))]
  if not 0 <= index < len(blocks):
    raise ValueError(f'index {index} is not a block: they are 0..{len(blocks) - 1}')
  name, i = blocks[index]
  return jax.tree.map(lambda leaf: leaf[i], params[name])
