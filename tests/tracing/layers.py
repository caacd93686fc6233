"""A wide catalogue of layers as plain JAX: what networks are made of, beyond chains of convolutions.

Each case is a function, an input shape, the layouts, and whether its field is the support of the Jacobian exactly. Where it is
not, the reason stands beside it: a path that the values decide (an extremum, an order, an index) carries no derivative to most
of what it reads, and weights that cancel or vanish are not looked at.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclasses.dataclass(frozen=True)
class Case:
    f: Callable[[jax.Array], jax.Array]
    shape: tuple[int, ...] = (1, 7, 9, 4)
    layout: str = "NHWC"
    out_layout: str | None = None
    exact: bool = True
    least: float = -1.0  # inputs are uniform in [least, 1)
    differentiable: bool = True
    promotion: str = "strict"


CASES: dict[str, Case] = {}


def case(**options):
    def add(f):
        CASES[f.__name__] = Case(f, **options)
        return f

    return add


TOKENS = {"shape": (1, 6, 4), "layout": "NLC"}
LINE = {"shape": (1, 11, 4), "layout": "NWC"}
PLAIN = {"shape": (7, 9), "layout": "HW"}


def weights(*shape):
    return jnp.asarray(np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape))


def conv(x, *kernel, groups=1, features=4, **options):
    rank = x.ndim - 2
    dims = ("N" + "DHW"[3 - rank :] + "C", "DHW"[3 - rank :] + "IO", "N" + "DHW"[3 - rank :] + "C")
    options = {"window_strides": (1,) * rank, "padding": "SAME"} | options
    w = weights(*kernel, x.shape[-1] // groups, features)
    return lax.conv_general_dilated(x, w, dimension_numbers=dims, feature_group_count=groups, **options)


# --- convolution ---------------------------------------------------------------------------------------------------------


@case(shape=(1, 4, 7, 9), layout="NCHW")
def channels_first(x):
    w = weights(6, 4, 3, 2)
    return lax.conv_general_dilated(x, w, (2, 1), [(2, 0), (0, 3)], dimension_numbers=("NCHW", "OIHW", "NCHW"))


@case(shape=(9, 4, 7, 1), layout="WCHN", out_layout="WHNC")
def odd_layout(x):
    w = weights(3, 4, 2, 5)
    return lax.conv_general_dilated(x, w, (1, 2), "SAME", dimension_numbers=("WCHN", "WIHO", "WHNC"))


@case()
def grouped(x):
    return conv(x, 3, 3, groups=2)


@case()
def depthwise(x):
    return conv(conv(x, 3, 5, groups=4), 1, 1)


@case()
def dilated(x):
    return conv(x, 3, 2, rhs_dilation=(2, 4))


@case()
def transposed(x):
    return lax.conv_transpose(x, weights(3, 4, 4, 2), (2, 3), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@case()
def transposed_valid(x):
    return lax.conv_transpose(x, weights(5, 2, 4, 2), (2, 3), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@case()
def negative_padding(x):
    return conv(x, 3, 3, padding=[(-2, 1), (3, -1)])


@case()
def stride_beyond_kernel(x):
    return conv(x, 1, 2, window_strides=(3, 4), padding="VALID")


@case(shape=(1, 5, 6, 7, 2), layout="NDHWC")
def three_dimensions(x):
    return conv(x, 2, 3, 1, window_strides=(1, 2, 2))


@case(shape=(2, 7, 9, 4), layout="CHWN", out_layout="CHWN")
def batch_grouped(x):
    """The axis that the convolution takes for a batch is ours for channels."""
    y = lax.conv_general_dilated(
        x, weights(3, 3, 4, 6), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), batch_group_count=2
    )
    return y[..., :4]


@case()
def patches(x):
    return lax.conv_general_dilated_patches(x, (3, 2), (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# --- pooling -------------------------------------------------------------------------------------------------------------


@case(exact=False)  # a maximum: the derivative follows the winner
def max_pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")


@case(exact=False)
def min_pool(x):
    return lax.reduce_window(x, jnp.inf, lax.min, (1, 3, 2, 1), (1, 2, 2, 1), "VALID")


@case()
def average_pool(x):
    ones = jnp.ones_like(x)
    pool = lambda a: lax.reduce_window(a, 0.0, lax.add, (1, 3, 2, 1), (1, 2, 2, 1), "SAME")  # noqa: E731
    return pool(x) / pool(ones)


@case(differentiable=False, least=0.1)
def product_pool(x):
    return lax.reduce_window(x, 1.0, lax.mul, (1, 3, 2, 1), (1, 1, 2, 1), "VALID")


@case()
def global_average_pool(x):
    return x - x.mean((1, 2), keepdims=True)


@case(out_layout="NC")
def head(x):
    return x.mean((1, 2)) @ weights(4, 3)


@case()
def strip_pool(x):
    return jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)


@case()
def squeeze_and_excite(x):
    return x * jax.nn.sigmoid(x.mean((1, 2), keepdims=True) @ weights(4, 4))


# --- norms and activations -----------------------------------------------------------------------------------------------


@case()
def layer_norm(x):
    return jax.nn.standardize(x, axis=-1) * weights(1, 1, 1, 4)


@case(shape=(1, 7, 9, 4))
def group_norm(x):
    groups = x.reshape(1, 7, 9, 2, 2)
    mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    return ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)


@case()
def instance_norm(x):
    return jax.nn.standardize(x, axis=(1, 2))


@case()
def rms_norm(x):
    return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


@case()
def local_response_norm(x):
    pool = lax.reduce_window(x**2, 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME")
    return x / (1 + pool) ** 0.75


@case()
def smooth_activations(x):
    for f in (
        jax.nn.gelu,
        jax.nn.silu,
        jnp.tanh,
        jax.nn.softplus,
        jax.nn.elu,
        jax.nn.mish,
        jax.nn.log_sigmoid,
        jax.nn.celu,
    ):
        x = f(conv(x, 1, 1))
    return x


@case(exact=False)  # dead units
def hard_activations(x):
    for f in (jax.nn.relu, jax.nn.relu6, jax.nn.hard_swish, jax.nn.leaky_relu, jax.nn.hard_tanh, jnp.abs):
        x = f(conv(x, 1, 1))
    return x


@case()
def gated_linear_unit(x):
    return jax.nn.glu(conv(x, 3, 3, features=8))


@case()
def softmax_over_channels(x):
    return jax.nn.softmax(x, -1) + jax.nn.log_softmax(x, -1)


@case()
def softmax_over_width(x):
    return jax.nn.softmax(x, 2)


@case()
def log_sum_exp(x):
    return jax.nn.logsumexp(x, axis=1, keepdims=True) + x


@case()
def dropout(x):
    """A known key: dropped pixels are known to be zero, but multiplication is not looked into."""
    keep = jax.random.bernoulli(jax.random.key(3), 0.999999, x.shape)
    return conv(jnp.where(keep, x / 0.9, 0.0), 3, 3)


# --- attention -----------------------------------------------------------------------------------------------------------


@case(**TOKENS, promotion="standard")
def dot_product_attention(x):
    q, k, v = (x.reshape(1, 6, 2, 2) @ weights(2, 2) * s for s in (1.0, 0.7, 0.4))
    return jax.nn.dot_product_attention(q, k, v, scale=0.7).reshape(1, 6, 4)


@case(**TOKENS)
def attention_by_hand(x):
    q, k, v = (x @ weights(4, 4) * s for s in (1.0, 0.7, 0.4))
    return jax.nn.softmax(jnp.einsum("nqc,nkc->nqk", q, k) / 2, -1) @ v


@case(**TOKENS, promotion="standard")
def causal_attention(x):
    q, k, v = (x.reshape(1, 6, 2, 2) @ weights(2, 2) * s for s in (1.0, 0.7, 0.4))
    return jax.nn.dot_product_attention(q, k, v, scale=0.7, is_causal=True).reshape(1, 6, 4)


@case(shape=(1, 8, 12, 4))
def window_attention(x):
    """Swin: windows of 4 x 4 pixels."""
    windows = x.reshape(1, 2, 4, 3, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(6, 16, 4)
    scores = jax.nn.softmax(windows @ windows.transpose(0, 2, 1), -1) @ windows
    return scores.reshape(1, 2, 3, 4, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 12, 4)


@case(shape=(1, 8, 12, 4))
def shifted_window_attention(x):
    """Swin's cyclic shift around it."""
    return jnp.roll(window_attention(jnp.roll(x, (-2, -2), (1, 2))), (2, 2), (1, 2))


@case(shape=(1, 8, 12, 4))
def grid_attention(x):
    """MaxViT: pixels of the same phase."""
    grid = x.reshape(1, 4, 2, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(6, 16, 4)
    scores = jax.nn.softmax(grid @ grid.transpose(0, 2, 1), -1) @ grid
    return scores.reshape(1, 2, 3, 4, 4, 4).transpose(0, 3, 1, 4, 2, 5).reshape(1, 8, 12, 4)


@case(shape=(1, 8, 12, 4))
def axial_attention(x):
    rows = jax.nn.softmax(jnp.einsum("nhwc,nhvc->nhwv", x, x), -1)
    return jnp.einsum("nhwv,nhvc->nhwc", rows, x)


# --- moving positions ----------------------------------------------------------------------------------------------------


@case(shape=(1, 8, 12, 4), out_layout="NLC")
def patchify(x):
    y = x.reshape(1, 2, 4, 3, 4, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 6, 64)
    return y @ weights(64, 5)


@case(shape=(1, 8, 12, 4))
def patchify_by_convolution(x):
    return conv(x, 4, 4, window_strides=(4, 4), padding="VALID")


@case(shape=(1, 5, 7, 12))
def pixel_shuffle(x):
    return x.reshape(1, 5, 7, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 10, 14, 3)


@case(shape=(1, 8, 12, 4))
def space_to_depth(x):
    return conv(x.reshape(1, 4, 2, 6, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(1, 4, 6, 16), 3, 3)


@case()
def channel_shuffle(x):
    return conv(x.reshape(1, 7, 9, 2, 2).swapaxes(-1, -2).reshape(x.shape), 3, 3, groups=2)


@case(**PLAIN, out_layout="L")
def flattened(x):
    return x.reshape(-1) * 2.0


@case(**PLAIN)
def flattened_and_back(x):
    return jnp.pad(x.reshape(-1)[3:-4], (2, 5)).reshape(7, 9)


@case()
def rolled(x):
    return jnp.roll(x, (2, -3), (1, 2)) + x


@case()
def reflect_padding(x):
    return conv(jnp.pad(x, [(0, 0), (2, 1), (1, 3), (0, 0)], "reflect"), 3, 3, padding="VALID")


@case()
def wrapped_and_edge_padding(x):
    y = jnp.pad(x, [(0, 0), (2, 1), (0, 0), (0, 0)], "wrap")
    return conv(jnp.pad(y, [(0, 0), (0, 0), (1, 3), (0, 0)], "edge"), 3, 3, padding="VALID")


@case()
def flips(x):
    return jnp.flip(x, 1) + x[:, :, ::-1] + jnp.rot90(x, 2, (1, 2))


@case()
def blocks_repeated(x):
    return jnp.repeat(jnp.tile(x, (1, 2, 1, 1)), 3, axis=2)


@case()
def stacked_and_split(x):
    a, b = jnp.split(x, [1], axis=-1)
    y = jnp.concatenate([b, a, conv(x, 3, 1)], -1)
    return jnp.stack([y, 2 * y], 3)[:, :, :, 1]


@case()
def strided_slices(x):
    return x[:, 1::2, :-1:3] + x[:, :-1:2, 1::3]


@case()
def advanced_indexing(x):
    rows, columns = jnp.array([5, 0, 0, 3]), jnp.array([8, 2, 7, 1, 1])
    return x[:, rows][:, :, columns]


@case()
def paired_indexing(x):
    """One index per position: row and column move together."""
    return x[:, jnp.array([[0, 3], [6, 1]]), jnp.array([[8, 2], [2, 5]])]


@case()
def gathered_or_filled(x):
    """Columns beyond the border are filled with a number: they read no pixel."""
    return jnp.take(x, jnp.array([3, 12, 0, 9, 5, -1, 7]), axis=2, mode="fill", fill_value=0.5)


@case()
def gathered_rows_or_filled(x):
    """The same where row and column move together, so that a place drops out as a whole."""
    rows, columns = jnp.array([[0, 7], [6, 1]]), jnp.array([[8, 2], [9, 5]])
    return x.at[:, rows, columns].get(mode="fill", fill_value=0.5)


@case()
def take_along_axis(x):
    order = jnp.asarray(np.random.default_rng(0).permutation(9))
    return jnp.take_along_axis(x, order[None, None, :, None], 2)


@case()
def updates(x):
    y = x.at[:, 2:4, 1:8:3].set(7.0).at[:, 0].add(x[:, 3]).at[:, jnp.array([1, 5])].multiply(2.0)
    return lax.dynamic_update_slice(y, x[:, :2, :2], (0, 4, 5, 0))


@case()
def scattered_pixels(x):
    """Pixels of a known mask are overwritten, out-of-range ones dropped, others clamped."""
    rows, columns = np.random.default_rng(2).integers(0, 7, 40), np.random.default_rng(3).integers(0, 9, 40)
    y = conv(x, 3, 1).at[:, rows, columns].set(0.5)
    z = y.at[:, jnp.array([3, 11, -9])].set(x[:, :3], mode="drop")
    return z.at[:, :, jnp.array([2, 40])].add(x[:, :, 5:7], mode="clip")


@case()
def masked_tokens(x):
    """Masked autoencoders: some rows are replaced by a token, the others stay."""
    return x.at[:, jnp.array([6, 1, 4])].set(weights(1, 1, 1, 4))


@case()
def segments(x):
    return jax.ops.segment_sum(x[0], jnp.array([0, 2, 1, 0, 2, 2, 0]), 3)[None]


@case()
def known_dynamic_slice(x):
    return lax.dynamic_slice_in_dim(x, jnp.int32(2), 4, 1) * lax.dynamic_index_in_dim(x, 40, 1)  # clamped to 6


@case(exact=False)  # the index depends on the data
def data_dependent_slice(x):
    return lax.dynamic_slice_in_dim(x, (x.sum() > 0).astype(jnp.int32), 4, 1)


@case(exact=False)
def data_dependent_gather(x):
    return x[:, jnp.argmax(x[0, :, 0, 0])[None]]


@case(differentiable=False)
def applied_at(x):
    """A scatter that changes what is there overwrites nothing."""
    return x.at[:, 2:4].apply(jnp.sin).at[:, :, jnp.array([1, 5])].apply(jnp.cos)


@case(**PLAIN)
def gamma_distributed(x):
    return jax.random.gamma(jax.random.key(0), x + 2)


@case(**PLAIN, differentiable=False)
def key_from_the_data(x):
    key = jax.random.fold_in(jax.random.key((x[0, 0] * 100).astype(int)), (x[3, 3] * 100).astype(int))
    return jax.random.uniform(jax.random.split(key)[1], (7, 9))


@case(**LINE)
def embedded(x):
    """A known one-hot matrix, as embeddings and pixel selection use it."""
    return jnp.einsum("tw,nwc->ntc", jnp.eye(11)[jnp.array([3, 3, 9, 0])], x)


@case(**PLAIN)
def triangular(x):
    return jnp.tril(x) + jnp.triu(x, 2)


# --- along whole axes ----------------------------------------------------------------------------------------------------


@case()
def cumulative(x):
    return jnp.cumsum(x, 1) + lax.cumsum(x, 2, reverse=True)


@case(exact=False)
def cumulative_extrema(x):
    return lax.cummax(x, 1) + lax.cummin(x, 2) + lax.cumlogsumexp(x, 1)


@case(least=0.1)
def cumulative_product(x):
    return jnp.cumprod(x, 2)


@case(exact=False)  # an order
def sorted_rows(x):
    return jnp.sort(x, 2)


@case(**LINE, exact=False)
def top_k(x):
    return lax.top_k(x.swapaxes(1, 2), 3)[0].swapaxes(1, 2)


@case(exact=False)
def median(x):
    return jnp.median(x, axis=1, keepdims=True)


@case()
def fourier(x):
    return jnp.fft.ifft(jnp.fft.fft(x, axis=2) * weights(9)[None, None, :, None].astype(complex), axis=2).real


@case()
def fourier_in_two_dimensions(x):
    return jnp.fft.irfft2(
        jnp.fft.rfft2(x, axes=(1, 2)) * weights(7, 5)[None, :, :, None].astype(complex), (7, 9), axes=(1, 2)
    )


@case(exact=False)
def extremes(x):
    return x - x.max(1, keepdims=True) + x.min(2, keepdims=True)


@case(least=0.1)
def products(x):
    return x.prod(2, keepdims=True) + x


# --- matrices ------------------------------------------------------------------------------------------------------------


@case()
def einsum(x):
    return jnp.einsum("nhwc,hvc,cd->nvwd", x, weights(7, 5, 4), weights(4, 3))


@case(**TOKENS)
def mixer(x):
    return jnp.einsum("nlc,lm->nmc", jax.nn.gelu(x @ weights(4, 4)), weights(6, 6))


@case(shape=(5, 6, 9), layout="HWC", out_layout="HWC")
def solve_per_pixel(x):
    matrix = x.reshape(5, 6, 3, 3) + 3 * jnp.eye(3)[None, None]
    return jnp.linalg.solve(matrix, jnp.ones((5, 6, 3, 2))).reshape(5, 6, 6)


@case(shape=(5, 6, 9), layout="HWC", out_layout="HW")
def determinant_per_pixel(x):
    return jnp.linalg.det(x.reshape(5, 6, 3, 3))


@case(shape=(5, 6, 9), layout="HWC")
def inverse_and_factors_per_pixel(x):
    m = x.reshape(5, 6, 3, 3)
    gram = m @ m.swapaxes(-1, -2) + jnp.eye(3)[None, None]
    return (jnp.linalg.cholesky(gram) + jnp.linalg.inv(gram) + jnp.linalg.qr(m)[0]).reshape(5, 6, 9)


@case(shape=(5, 6, 9), layout="HWC", out_layout="HWC")
def spectra_per_pixel(x):
    m = x.reshape(5, 6, 3, 3)
    return jnp.concatenate([jnp.linalg.svd(m, compute_uv=False), jnp.linalg.eigvalsh(m @ m.swapaxes(-1, -2))], -1)


@case(**PLAIN)
def solve_with_known_matrices(x):
    """Columns of a right-hand side do not see each other."""
    matrix = weights(7, 7) + 5 * jnp.eye(7)
    y = jnp.linalg.solve(matrix, x) + jax.scipy.linalg.cho_solve((jnp.eye(7) + 0.1, True), x)
    return y + lax.linalg.tridiagonal_solve(jnp.ones(7), 4 * jnp.ones(7), jnp.ones(7), x)


@case(**PLAIN)
def solve_from_the_right(x):
    matrix = weights(9, 9) ** 2 + 5 * jnp.eye(9)
    return lax.linalg.triangular_solve(matrix, lax.linalg.triangular_solve(matrix, x, lower=True))


@case(shape=(4, 7, 9), layout="CHW", out_layout="CHW")
def banded_matrices_per_channel(x):
    bands = jnp.stack([jnp.tri(9, 9, k) - jnp.tri(9, 9, k - 2) for k in (1, 1, 1, 1)])
    return jnp.einsum("chw,cvw->chv", x, bands.astype(x.dtype))


@case(**PLAIN)
def local_operator_of_four_axes(x):
    """Known weights of rows and columns at once: zeros are seen along each axis."""
    near = lambda n: jnp.asarray(np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 2, x.dtype)  # noqa: E731
    return jnp.einsum("hw,ghvw->gv", x, jnp.einsum("gh,vw->ghvw", near(7), near(9)))


# --- control flow --------------------------------------------------------------------------------------------------------


@case(**LINE)
def simple_rnn(x):
    u, w = weights(4, 4), weights(4, 4) * 0.5

    def step(h, row):
        h = jnp.tanh(row @ u + h @ w)
        return h, h

    return lax.scan(step, jnp.zeros((1, 4), x.dtype), x.swapaxes(0, 1))[1].swapaxes(0, 1)


@case(**LINE)
def backward_lstm(x):
    u, w = weights(4, 16), weights(4, 16) * 0.5

    def step(carry, row):
        h, c = carry
        i, f, g, o = jnp.split(row @ u + h @ w, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((1, 4), x.dtype)
    return lax.scan(step, (zero, zero), x.swapaxes(0, 1), reverse=True)[1].swapaxes(0, 1)


@case(**LINE)
def associative_scan(x):
    return lax.associative_scan(lambda a, b: a * 0.5 + b, x, axis=1)


@case()
def mapped_over_rows(x):
    return lax.map(lambda row: conv(row[None], 3)[0], x[0])[None]


@case()
def fori_loop(x):
    return lax.fori_loop(0, 3, lambda i, y: conv(y, 3, 3) * (i + 1).astype(y.dtype), x)


@case(differentiable=False)
def while_with_a_known_test(x):
    return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, conv(c[1], 1, 3)), (0, x))[1]


@case()
def cond_with_a_known_predicate(x):
    return lax.cond(jnp.arange(3).sum() > 1, lambda y: conv(y, 1, 3), lambda y: conv(y, 7, 7), x)


@case(exact=False)  # both branches count, one is taken
def cond_with_an_unknown_predicate(x):
    return lax.cond(x[0, 0, 0, 0] > 0, lambda y: conv(y, 1, 3), lambda y: conv(y, 3, 1), x)


@case(exact=False)
def switch(x):
    return lax.switch(
        (x[0, 0, 0, 0] * 3).astype(jnp.int32), [lambda y: conv(y, 1, 3), jnp.sin, lambda y: y[:, ::-1]], x
    )


@case(exact=False)  # one side is chosen
def where(x):
    return jnp.where(x > 0, jnp.roll(x, 1, 1), jnp.roll(x, 1, 2))


@case()
def checkpointed(x):
    return jax.checkpoint(lambda y: conv(jnp.sin(conv(y, 3, 3)), 3, 1))(x)


@jax.custom_vjp
def rounded(x):
    return conv(x, 3, 1)


rounded.defvjp(lambda x: (conv(x, 3, 1), None), lambda _, g: (g,))


@case(exact=False)  # its derivative is not that of its body, by design
def custom_vjp(x):
    return rounded(x)


@jax.custom_jvp
def smooth(x):
    return conv(jnp.sin(x), 1, 3)


smooth.defjvp(lambda p, t: jax.jvp(lambda x: conv(jnp.sin(x), 1, 3), p, t))


@case()
def custom_jvp(x):
    return smooth(x)


@case()
def vmapped(x):
    return jax.vmap(lambda plane: conv(plane[None, ..., None], 3, 3, features=1)[0, ..., 0], -1, -1)(x[0])[None]


@case()
def mean_over_a_vmapped_axis(x):
    return jax.vmap(lambda row: row - lax.pmean(row, "rows"), axis_name="rows")(x[0])[None]


@case(differentiable=False)
def extrema_over_a_vmapped_axis(x):
    return jax.vmap(lambda row: lax.pmax(row, "rows") - lax.pmin(row, "rows"), axis_name="rows")(x[0])[None]


@case()
def vmapped_loop(x):
    step = lambda y: lax.fori_loop(0, 2, lambda i, z: conv(z, 3), y[None])[0]  # noqa: E731
    return jax.vmap(step)(x[0])[None]


@case()
def gradient_inside(x):
    """A layer that is itself a gradient: of an energy, of a pooling."""
    energy = jax.grad(lambda y: (jnp.sin(conv(y, 3, 3)) ** 2).sum())
    pooled = jax.grad(lambda y: (lax.reduce_window(y, 0.0, lax.add, (1, 2, 3, 1), (1, 2, 3, 1), "VALID") ** 2).sum())
    return energy(x) + pooled(x)


@case(exact=False)
def gradient_of_max_pool_inside(x):
    pool = lambda y: lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 3, 1), (1, 2, 3, 1), "VALID")  # noqa: E731
    return jax.grad(lambda y: (pool(y) ** 2).sum())(x)


# --- resizing ------------------------------------------------------------------------------------------------------------


@case()
def resized_linear(x):
    return jax.image.resize(x, (1, 14, 4, 4), "linear")


@case()
def resized_without_antialias(x):
    return jax.image.resize(x, (1, 3, 5, 4), "linear", antialias=False)


@case()
def resized_cubic(x):
    return jax.image.resize(x, (1, 14, 18, 4), "cubic")


@case()
def resized_lanczos(x):
    return jax.image.resize(x, (1, 14, 18, 4), "lanczos3")


@case()
def scaled_and_translated(x):
    return jax.image.scale_and_translate(
        x, (1, 9, 9, 4), (1, 2), jnp.array([1.3, 0.7]), jnp.array([0.4, 1.0]), "linear"
    )


@case(**PLAIN)
def interpolated_at_known_places(x):
    rows, columns = jnp.meshgrid(jnp.linspace(0.3, 5.6, 5), jnp.linspace(0.2, 7.7, 4), indexing="ij")
    return jax.scipy.ndimage.map_coordinates(x, [rows, columns], order=1)


@case(**PLAIN, exact=False)
def interpolated_at_unknown_places(x):
    return jax.scipy.ndimage.map_coordinates(x, [x * 2 + 3, x * 3 + 3], order=1)
