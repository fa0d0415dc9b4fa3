"""JAX's on-disk cache of compiled programs, so that workers and later runs share them."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Let this process keep compiled programs in the user's cache folder.

    ``JAX_COMPILATION_CACHE_DIR`` overrides the place. Programs hold instructions of the processor
    they were compiled for, so each kind of processor has a folder of its own.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "qmgen" / "xla" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _processor() -> str:
    """Short name for what the processor can do."""
    features = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        # Only Linux has the file; elsewhere the architecture's name must do.
        lines = []
    features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]
