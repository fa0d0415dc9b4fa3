"""Functions that XLA compiles apart from their caller."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

P = ParamSpec("P")
T = TypeVar("T")


def stage(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function's results be stored before anything uses them.

    On a CPU, XLA fuses elementwise operations into their users and computes anew, for each user
    and each place of it, what several share; a loop that becomes large this way is no longer
    vectorised either. A call that it may not inline is a boundary that it does not fuse across.
    Other devices are left to their own compilers.

    Parameters
    ----------
    function
        Of arrays (or trees of them) to arrays.
    """

    def traced(*args: P.args, **kwargs: P.kwargs) -> T:
        # What the function itself calls is inlined into it.
        with set_xla_metadata(inlineable="true"):
            return function(*args, **kwargs)

    compiled = jax.jit(traced)

    def staged(*args: P.args, **kwargs: P.kwargs) -> T:
        if jax.default_backend() != "cpu":
            return compiled(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return compiled(*args, **kwargs)

    return staged
