"""Ribar et al., 2312.04985: errors of SparQ attention, and the loss of a decoder of SMILES with it.

On random keys SparQ is compared with itself without reallocation and with a random choice of
tokens, and a step of it is timed against dense attention. A decoder is then trained on rows of many
SMILES, and decodes others with SparQ and with a window of the latest tokens. Prints tables and
draws loss against numbers moved. Run as `make benchmark-architectures`.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from cost import milliseconds
from smiles_of_store import strings_and_vocabulary, trainer

from benchmarks.reporting import save_plot, table
from qmgen.efficiency.networks.decoder import Decoder, generated
from qmgen.efficiency.networks.kv_cache import KVCache, append, empty_cache
from qmgen.efficiency.networks.smiles_tokens import END, Vocabulary
from qmgen.efficiency.networks.sparq import (
    SparQ,
    dense_attention,
    dense_elements,
    sparq_attention,
    sparq_elements,
    sparq_for,
)
from qmgen.errors import InputError
from qmgen.molecules import molecule_from_smiles

# Of the random keys.
KEYS, SIZE, COMPONENTS, TOKENS = 1024, 64, 16, 64
# Of the decoder: a prompt fills half a row.
DEPTH, WIDTH, HEADS, LENGTH, BATCH = 2, 64, 2, 256, 8
PROMPT = LENGTH // 2
COMPRESSIONS = (1, 2, 4, 8)
LONGEST_STRING = 40


def random_cache(seed: int, heads: int = 32) -> tuple[jax.Array, KVCache]:
    """Queries whose components differ in scale, and values with an offset that all tokens share."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(size=SIZE))
    query = rng.normal(size=(1, heads, SIZE)) * scales / np.sqrt(np.mean(scales**2))
    keys, values = rng.normal(size=(2, 1, heads, KEYS, SIZE))
    values += rng.normal(size=SIZE)
    cache = empty_cache(1, heads, KEYS, SIZE)
    keys, values, query = (jnp.asarray(v, jnp.float32) for v in (keys, values, query))
    return query, append(cache, keys, values)


def synthetic() -> None:
    sparse = jax.jit(sparq_attention, static_argnums=2)
    errors: dict[str, list[float]] = {}
    for seed in range(5):
        query, cache = random_cache(seed)
        exact = dense_attention(query, cache)

        def error(found: jax.Array, exact: jax.Array = exact) -> float:
            return float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact))

        chosen = np.random.default_rng(seed).choice(KEYS, TOKENS, replace=False)
        some = append(
            empty_cache(1, len(query[0]), TOKENS, SIZE),
            cache.keys[:, :, chosen],
            cache.values[:, :, chosen],
        )
        found = {
            "SparQ": sparse(query, cache, SparQ(COMPONENTS, TOKENS)),
            "without reallocation": sparse(
                query, cache, SparQ(COMPONENTS, TOKENS, reallocate=False)
            ),
            "random tokens": dense_attention(query, some),
            "SparQ, all components and tokens": sparse(query, cache, SparQ(SIZE, KEYS)),
        }
        for name, value in found.items():
            errors.setdefault(name, []).append(error(value))
    moved = dense_elements(KEYS, SIZE) / sparq_elements(KEYS, SIZE, SparQ(COMPONENTS, TOKENS))
    print(f"{KEYS} keys of {SIZE}, r={COMPONENTS}, k={TOKENS}: {moved:.1f} times less is moved")
    table(
        ["", "relative error, 5 seeds", "largest"],
        [[name, f"{np.mean(found):.2g}", f"{max(found):.2g}"] for name, found in errors.items()],
    )
    mean = {name: np.mean(found) for name, found in errors.items()}
    holds = (
        mean["SparQ"] <= mean["without reallocation"] / 2
        and mean["SparQ"] <= mean["random tokens"] / 5
    )
    said = "as expected" if holds else "NOT as expected"
    print(f"At most half of that without reallocation, a fifth of random tokens': {said}\n")


def speed(lengths: list[int], batch: int, heads: int, size: int = 128) -> None:
    """Least milliseconds by the clock of a step of attention for full caches."""
    took = partial(milliseconds, clock=time.perf_counter)
    rows = []
    for length in lengths:
        keys = jax.random.split(jax.random.key(0), 3)
        query = jax.random.normal(keys[0], (batch, heads, size))
        cache = jax.jit(
            lambda k, v, n=length: append(
                empty_cache(batch, heads, n, size),
                jax.random.normal(k, (batch, heads, n, size)),
                jax.random.normal(v, (batch, heads, n, size)),
            )
        )(*keys[1:])
        whole = took(dense_attention, query, cache)
        row = [str(length), f"{whole:.2f}"]
        for compression in (4, 8):
            sparq = sparq_for(compression, size, length)
            less = dense_elements(length, size) / sparq_elements(length, size, sparq)
            part = took(partial(sparq_attention, sparq=sparq), query, cache)
            row += [f"{less:.1f}", f"{part:.2f}", f"{whole / part:.2f}"]
        rows.append(row)
    device = jax.devices()[0].device_kind
    print(f"{batch} x {heads} heads of {size}, float32, on {device}; milliseconds of a step")
    at = [
        f"{what} at {c}" for c in (4, 8) for what in ("times less moved", "SparQ", "times faster")
    ]
    table(["tokens", "dense", *at], rows)


def trained_decoder(
    rows: np.ndarray, vocabulary: int, steps: int, rate: float
) -> tuple[Decoder, np.ndarray]:
    model = eqx.filter_jit(
        lambda: Decoder(vocabulary, DEPTH, WIDTH, HEADS, LENGTH, key=jax.random.key(0))
    )()
    parameters, static = eqx.partition(model, eqx.is_inexact_array)
    run = trainer(lambda p, tokens: eqx.combine(p, static).loss(tokens), steps)
    chosen = np.random.default_rng(0).integers(0, len(rows), (steps, BATCH))
    parameters, curve = run(parameters, rate, jnp.asarray(rows[chosen]))
    return eqx.combine(parameters, static), curve


@partial(eqx.filter_jit)
def decoded_loss(model: Decoder, tokens: jax.Array, sparq: SparQ | None) -> jax.Array:
    """Mean loss of the second halves of rows, decoded a token at a time."""
    logits = model.decoded(tokens[:, :-1], PROMPT, sparq)
    labels = tokens[:, PROMPT + 1 :]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def moved(sparq: SparQ | None, size: int) -> float:
    """Mean over the steps, a head."""
    lengths = range(PROMPT + 1, LENGTH)
    if sparq is None:
        return float(np.mean([dense_elements(n, size) for n in lengths]))
    return float(np.mean([sparq_elements(n, size, sparq) for n in lengths]))


def share_valid(
    model: Decoder, vocabulary: Vocabulary, prompts: jax.Array, sparq: SparQ | None
) -> str:
    """Strings written behind prompts that end where a string does, and how many are molecules."""
    draw = eqx.filter_jit(
        lambda m, p: generated(m, p, LONGEST_STRING, key=jax.random.key(0), sparq=sparq)
    )
    rows = np.asarray(draw(model, prompts))
    strings = [found for row in rows for found in vocabulary.strings(row)]
    valid = 0
    for smiles in strings:
        try:
            molecule_from_smiles(smiles)
            valid += 1
        except InputError:
            continue
    return f"{len(strings)} of {len(rows)} end, {valid} are molecules"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="dataset whose molecules have SMILES")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=32, help="rows to decode")
    parser.add_argument("--cache-lengths", type=int, nargs="*", default=[1024, 4096, 16384])
    parser.add_argument(
        "--cache-heads", type=int, nargs=2, default=[1, 8], help="batch and heads of these"
    )
    figures = Path(__file__).parents[1] / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "sparq.png")
    arguments = parser.parse_args()
    synthetic()
    speed(arguments.cache_lengths, *arguments.cache_heads)
    train, held_out, vocabulary = strings_and_vocabulary(arguments.store)
    rows = vocabulary.packed(train, LENGTH)
    validation = jnp.asarray(vocabulary.packed(held_out, LENGTH)[: arguments.rows])
    print(f"{len(rows)} rows of {LENGTH} tokens, {len(validation)} held out", flush=True)
    model, curve = trained_decoder(rows, len(vocabulary), arguments.steps, arguments.rate)
    print(f"Loss of the last 20 steps of training: {curve[-20:].mean():.4f}\n")
    size, length = model.head_size, (PROMPT + LENGTH) // 2
    dense = float(decoded_loss(model, validation, None))
    everything = moved(None, size)
    series: dict[str, list[tuple[float, float]]] = {}
    printed = [["dense", "1.0", f"{dense:.4f}", ""]]

    def add(name: str, sparq: SparQ, numbers: float) -> float:
        loss = float(decoded_loss(model, validation, sparq))
        series.setdefault(name, []).append((numbers, loss))
        printed.append(
            [
                f"{name}, r={sparq.components}, k={sparq.tokens}",
                f"{everything / numbers:.1f}",
                f"{loss:.4f}",
                f"{100 * (loss / dense - 1):+.2f}%",
            ]
        )
        return loss

    at_four = np.inf
    for compression in COMPRESSIONS:
        sparq = sparq_for(compression, size, length)
        loss = add("SparQ", sparq, moved(sparq, size))
        at_four = loss if compression == 4 else at_four
        plain = SparQ(sparq.components, sparq.tokens, sparq.local, reallocate=False)
        add("without reallocation", plain, moved(plain, size))
        # As many numbers, spent on the latest tokens alone.
        window = length // compression
        add("window", SparQ(1, window, window, reallocate=False), dense_elements(window, size))
    table(["", "times less moved", "loss", "over dense"], printed)
    said = "as expected" if at_four <= 1.01 * dense else "NOT as expected"
    print(f"Loss within 1 % of dense at compression 4: {said}\n")
    whole = rows[rows[:, PROMPT - 1] == END][:, :PROMPT]
    prompts = jnp.asarray(np.resize(whole, (64, PROMPT)))
    for name, sparq in (("dense", None), ("SparQ at 4", sparq_for(4, size, length))):
        print(f"Strings drawn, {name}: {share_valid(model, vocabulary, prompts, sparq)}")
    plt.figure(figsize=(5, 3.8))
    for name, points in series.items():
        x, y = np.array(points).T
        plt.plot(4 * x / 1024, y, ".-", label=name)
    plt.axhline(dense, color="grey", lw=0.8, label="dense")
    plt.xscale("log", base=2)
    plt.xlabel("kB moved a step and head, float32")
    plt.ylabel("loss of the next token")
    plt.legend()
    save_plot(arguments.figure)


if __name__ == "__main__":
    main()
