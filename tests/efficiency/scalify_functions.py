"""Functions on which `scalify` is tried, by name; all of the arrays of `inputs`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

PLACES = np.array([0, 3, 3, 1])
CLASSES = np.array([1, 0, 5, 2, 2])


def inputs() -> tuple[np.ndarray, ...]:
    """Normal numbers: a and b (5, 6), m (6, 6), v (6,)."""
    rng = np.random.default_rng(0)
    shapes = ((5, 6), (5, 6), (6, 6), (6,))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


def mlp(a, m, v):
    return jax.nn.relu(jax.nn.gelu(a @ m + v) @ m.T) @ v


def cross_entropy(a, m, v):
    logits = jnp.tanh(a @ m) * v
    return optax.softmax_cross_entropy_with_integer_labels(logits, CLASSES).mean()


def layer_norm(a, v):
    centred = a - jnp.mean(a, -1, keepdims=True)
    return centred * lax.rsqrt(jnp.var(a, -1, keepdims=True)) * v + 1.0


def attention(q, k, v):
    logits = q @ k.T / np.float32(np.sqrt(q.shape[-1]))
    seen = jnp.tril(jnp.ones(logits.shape, bool))
    masked = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(masked) @ v


def rnn(a, m, v):
    def step(carry, row):
        carry = jnp.tanh(carry @ m + row)
        return carry, carry * v

    last, outputs = lax.scan(step, jnp.zeros_like(v), a)
    return last, outputs


def adam_step(a, b):
    """One step from moments that are not zero, by hand."""
    first, second = 0.9 * a + 0.1 * b, 0.999 * a**2 + 0.001 * b**2
    return a - 1e-3 * (first / (1 - 0.9**3)) / (jnp.sqrt(second / (1 - 0.999**3)) + 1e-8)


def optax_step(a, b):
    optimiser = optax.adamw(1e-3)
    updates, state = optimiser.update(b, optimiser.init(a), a)
    return optax.apply_updates(a, updates), state


def power_iteration(m, v):
    def body(state):
        turns, vector = state
        vector = m @ vector
        return turns + 1, vector / jnp.sqrt(jnp.sum(vector**2))

    return lax.while_loop(lambda state: state[0] < 5, body, (0, v))


def newton_root(a):
    """sqrt(|a|) by a loop that ends when it has converged: a condition on scaled numbers."""

    def goes_on(state):
        return jnp.any(jnp.abs(state[0] - state[1]) > 1e-6 * jnp.abs(state[0]))

    size = jnp.abs(a)
    return lax.while_loop(
        goes_on, lambda state: (0.5 * (state[0] + size / state[0]), state[0]), (size, 2 * size)
    )[0]


def branches(a, b):
    chosen = lax.cond(jnp.sum(a) > 0, lambda x, y: x * y, lambda x, y: jnp.ones_like(x), a, b)
    other = lax.cond(jnp.sum(a) <= 0, lambda x, y: x * y, lambda x, y: jnp.ones_like(x), a, b)
    return chosen, other, lax.switch(jnp.argmax(b[0]) % 3, [jnp.abs, jnp.square, jnp.negative], a)


def pooling(a):
    image = a[None, :, :, None]
    largest = lax.reduce_window(image, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 2, 1), "SAME")
    total = lax.reduce_window(image, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 2, 1), "SAME")
    return largest, total


def convolution(a, m):
    image, kernel = a[None, None], m[:4, :].reshape(4, 1, 2, 3)
    return lax.conv_general_dilated(image, kernel, (1, 1), "SAME")


def scattered(a, b):
    rows = b[: len(PLACES)]
    return (
        a.at[PLACES].add(rows),
        a.at[jnp.array([1, 4])].set(rows[:2]),
        a.at[PLACES].max(rows),
        a.at[PLACES].min(rows),
        a.at[jnp.array([1, 4])].multiply(rows[:2]),
        a.at[0, 0].set(3.0),
    )


@jax.custom_vjp
def tripled_gradient(x):
    return x * 2


tripled_gradient.defvjp(lambda x: (x * 2, x), lambda x, g: (g * 3 * jnp.cos(x),))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum and product": lambda a, b, m, v: a * b + a * 3.0 - b,
    "quotient": lambda a, b, m, v: (a / b, a / 7.0, 0.3 / b, jnp.fmod(a, b)),
    "integer powers": lambda a, b, m, v: (a**2, a**3, b**-1, b**-2),
    "roots": lambda a, b, m, v: (jnp.sqrt(jnp.abs(a)), lax.rsqrt(jnp.abs(b)), jnp.cbrt(a)),
    "real power": lambda a, b, m, v: jnp.abs(a) ** 0.37,
    "exponential": lambda a, b, m, v: (jnp.exp(-jnp.abs(a)), jnp.exp2(a), jnp.expm1(b)),
    "logarithm": lambda a, b, m, v: (jnp.log(jnp.abs(a)), jnp.log1p(jnp.abs(b))),
    "trigonometry": lambda a, b, m, v: (jnp.sin(a), jnp.cos(a), jnp.arctan2(a, b)),
    "sigmoids": lambda a, b, m, v: (jnp.tanh(a), jax.nn.sigmoid(a), lax.erf(b)),
    "activations": lambda a, b, m, v: (jax.nn.relu(a), jax.nn.gelu(a), jax.nn.silu(b)),
    "clipped": lambda a, b, m, v: (jnp.clip(a, -0.5, 0.5), jnp.minimum(a, b), jax.nn.relu6(a)),
    "selected": lambda a, b, m, v: (jnp.where(a > b, a, 0.0), jnp.where(a == b, 1.0, b)),
    "signs": lambda a, b, m, v: (jnp.sign(a), jnp.abs(a), -a, a >= 0, a != b, jnp.isfinite(a)),
    "rounded": lambda a, b, m, v: (jnp.floor(a), jnp.round(b), a.astype(jnp.int32)),
    "sums": lambda a, b, m, v: (jnp.sum(a), jnp.mean(a, 0), jnp.sum(a * b, 1, keepdims=True)),
    "extremes": lambda a, b, m, v: (jnp.max(a, 0), jnp.min(a), jnp.argmax(a, 1), jnp.argmin(b)),
    "product of all": lambda a, b, m, v: (jnp.prod(a[:, :3], 1), jnp.cumprod(a[:, :3], 1)),
    "spread": lambda a, b, m, v: (jnp.std(a), jnp.var(a, 1), jnp.linalg.norm(a, axis=1)),
    "cumulative": lambda a, b, m, v: (jnp.cumsum(a, 0), lax.cummax(a, 1), lax.cumlogsumexp(b)),
    "products of matrices": lambda a, b, m, v: (a @ m, m @ v, a.T @ b, jnp.outer(v, v)),
    "einsum": lambda a, b, m, v: jnp.einsum("bi,bj,ij->b", a, b, m),
    "cosine": lambda a, b, m, v: jnp.sum(a * b) / jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2)),
    "convolution": lambda a, b, m, v: convolution(a, m),
    "pooling": lambda a, b, m, v: pooling(a),
    "pooling, gradient": lambda a, b, m, v: jax.grad(
        lambda x: sum(jnp.sum(part**2) for part in pooling(x))
    )(a),
    "layer norm": lambda a, b, m, v: layer_norm(a, v),
    "layer norm, gradient": lambda a, b, m, v: jax.grad(
        lambda a, v: jnp.sum(layer_norm(a, v) * b), (0, 1)
    )(a, v),
    "softmax": lambda a, b, m, v: (jax.nn.softmax(a), jax.nn.log_softmax(b, 0)),
    "log of sum of exponentials": lambda a, b, m, v: jax.nn.logsumexp(a, 1),
    "attention": lambda a, b, m, v: attention(a @ m, b, a),
    "attention, gradient": lambda a, b, m, v: jax.grad(
        lambda m: jnp.sum(attention(jnp.tanh(a @ m), jnp.tanh(b), a))
    )(m),
    "perceptron": lambda a, b, m, v: mlp(a, m, v),
    "perceptron, gradient": lambda a, b, m, v: jax.value_and_grad(
        lambda m, v: jnp.sum(mlp(a, m, v)), (0, 1)
    )(m, v),
    "cross-entropy, gradient": lambda a, b, m, v: jax.value_and_grad(cross_entropy, (1, 2))(
        a, m, v
    ),
    "recurrent network": lambda a, b, m, v: rnn(a, m, v),
    "recurrent network, gradient": lambda a, b, m, v: jax.grad(
        lambda m, v: jnp.sum(rnn(a, m, v)[1]), (0, 1)
    )(m, v),
    "power iteration": lambda a, b, m, v: power_iteration(m, v),
    "root by iteration": lambda a, b, m, v: newton_root(a),
    "counted loop": lambda a, b, m, v: lax.fori_loop(0, 4, lambda i, x: x * 0.5 + a[i], b[0]),
    "branches": lambda a, b, m, v: branches(a, b),
    "Fourier transform": lambda a, b, m, v: (jnp.abs(jnp.fft.fft(a)), jnp.fft.irfft(a + 1j * b)),
    "Cholesky": lambda a, b, m, v: jnp.linalg.cholesky(m @ m.T + jnp.diag(jnp.sum(m**2, 1))),
    "eigenvalues": lambda a, b, m, v: jnp.linalg.eigvalsh(m + m.T),
    "linear equations": lambda a, b, m, v: jnp.linalg.solve(m, v),
    "sorted": lambda a, b, m, v: (jnp.sort(a, 0), jnp.argsort(b), lax.top_k(a, 3), jnp.median(v)),
    "embedding": lambda a, b, m, v: (m[PLACES], jnp.take(m, np.array([1, 9]), 0, fill_value=2.5)),
    "embedding, gradient": lambda a, b, m, v: jax.grad(
        lambda table: jnp.sum(table[PLACES] ** 2 * v)
    )(m),
    "scattered": lambda a, b, m, v: scattered(a, b),
    "slices": lambda a, b, m, v: (
        a[1:4, ::2],
        lax.dynamic_slice(a, (jnp.argmax(v) % 3, 1), (2, 3)),
        lax.dynamic_update_slice(a, b[:2, :2], (1, 1)),
        jnp.split(a, 3, 1),
    ),
    "shapes": lambda a, b, m, v: (
        a.reshape(3, 10).T[None],
        jnp.concatenate([a, b[:2], jnp.ones((1, 6))]),
        jnp.pad(a, 1, constant_values=2.0),
        a[::-1],
        jnp.stack([a, b]).squeeze(),
        jnp.roll(a, 1, 0),
        jnp.broadcast_to(v, (2, 6)),
        jnp.arange(6.0) * v,
    ),
    "Adam by hand": lambda a, b, m, v: adam_step(a, b),
    "AdamW of Optax": lambda a, b, m, v: optax_step(a, b),
    "checkpointed gradient": lambda a, b, m, v: jax.grad(
        lambda m: jnp.sum(jax.checkpoint(lambda m: jnp.sin(a @ m) ** 2)(m))
    )(m),
    "own gradient": lambda a, b, m, v: jax.value_and_grad(
        lambda a: jnp.sum(tripled_gradient(a) * b)
    )(a),
    "derivative along": lambda a, b, m, v: jax.jvp(lambda a: jax.nn.relu(a @ m) * a, (a,), (b,)),
    "mapped": lambda a, b, m, v: jax.vmap(lambda x, y: jnp.tanh(x @ m) * y.sum())(a, b),
    "wider and back": lambda a, b, m, v: (a.astype(jnp.bfloat16) * 2).astype(jnp.float32),
}
