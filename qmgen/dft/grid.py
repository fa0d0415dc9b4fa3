"""Integration grids: atomic quadratures joined by Becke's partition of space."""

from dataclasses import dataclass
from functools import lru_cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from pyscf import dft, gto
from pyscf.data.elements import ELEMENTS
from pyscf.dft import radi


@dataclass(frozen=True, eq=False)
class AtomGrid:
    """Quadrature around one nucleus: points relative to it (Bohr) and their volumes (Bohr^3)."""

    points: Float[np.ndarray, "npoint 3"]
    volumes: Float[np.ndarray, " npoint"]


@lru_cache(maxsize=512)
def atom_grid(atomic_number: int, level: int) -> AtomGrid:
    """PySCF's grid of one element: Treutler-Ahlrichs radii, Lebedev angles, NWChem's pruning."""
    symbol = ELEMENTS[atomic_number]
    atom = gto.Mole()
    atom.atom = [(symbol, (0.0, 0.0, 0.0))]
    atom.spin = None
    atom.basis = {symbol: [[0, [1.0, 1.0]]]}
    atom.verbose = 0
    atom.build(dump_input=False, parse_arg=False)
    grids = dft.gen_grid.Grids(atom)
    table = grids.gen_atomic_grids(atom, level=level, radi_method=radi.treutler_ahlrichs)
    points, volumes = table[symbol]
    return AtomGrid(points, volumes)


class GridTable(eqx.Module):
    """Grid of a molecule before its atoms are placed; padded points have volume 0.

    Attributes
    ----------
    points
        Relative to the nucleus that each belongs to, Bohr.
    volumes
        Quadrature weights of the atomic grids, Bohr^3.
    point_atom
        The nucleus that each point belongs to.
    size_adjustment
        Becke's a_ij for unequal atoms, from Bragg radii as Treutler and Ahlrichs take them.
    real_atom
        False for padded atoms, which take no share of space.
    """

    points: Float[Array, "ngrid 3"]
    volumes: Float[Array, " ngrid"]
    point_atom: Int[Array, " ngrid"]
    size_adjustment: Float[Array, "nat nat"]
    real_atom: Bool[Array, " nat"]


def grid_size(atomic_numbers: Int[np.ndarray, " nat"], level: int) -> int:
    """Number of points of a molecule's grid."""
    return sum(len(atom_grid(int(z), level).volumes) for z in atomic_numbers)


def grid_table(
    atomic_numbers: Int[np.ndarray, " nat"], level: int, natoms: int, npoints: int
) -> GridTable:
    """Grid of a molecule at a level of PySCF's, padded to numbers of atoms and points."""
    grids = [atom_grid(int(z), level) for z in atomic_numbers]
    more_points = npoints - sum(len(g.volumes) for g in grids)
    more_atoms = natoms - len(grids)
    root = np.sqrt(radi.BRAGG_RADII[atomic_numbers])
    ratio = root[:, None] / root[None, :]
    # a_ij of Becke 1988, eq. A5, with the square roots of Treutler and Ahlrichs 1995.
    adjustment = np.clip(0.25 * (1 / ratio - ratio), -0.5, 0.5)
    return GridTable(
        points=jnp.asarray(
            np.pad(np.concatenate([g.points for g in grids]), ((0, more_points), (0, 0)))
        ),
        volumes=jnp.asarray(np.pad(np.concatenate([g.volumes for g in grids]), (0, more_points))),
        point_atom=jnp.asarray(
            np.pad(
                np.repeat(np.arange(len(grids), dtype=np.int32), [len(g.volumes) for g in grids]),
                (0, more_points),
            )
        ),
        size_adjustment=jnp.asarray(np.pad(adjustment, ((0, more_atoms), (0, more_atoms)))),
        real_atom=jnp.asarray(np.arange(natoms) < len(grids)),
    )


def becke_weights(
    table: GridTable,
    positions: Float[Array, "nat 3"],
    points: Float[Array, "npoint 3"],
    volumes: Float[Array, " npoint"],
    point_atom: Int[Array, " npoint"],
) -> Float[Array, " npoint"]:
    """Weights of points under Becke's fuzzy cells (Becke, J. Chem. Phys. 88, 2547, 1988).

    Parameters
    ----------
    table
        The molecule's grid, of which the other arguments may be a part.
    positions
        Of the nuclei, Bohr.
    points
        In space, Bohr.
    volumes, point_atom
        As in `GridTable`.
    """
    nat = positions.shape[0]
    pair = table.real_atom[:, None] & table.real_atom[None, :] & ~jnp.eye(nat, dtype=bool)
    separation = positions[:, None, :] - positions[None, :, :]
    inverse_R = 1 / jnp.sqrt(jnp.where(pair, jnp.sum(separation**2, axis=-1), 1.0))
    # Atoms first, points last and contiguous. A loop's result is kept, where XLA would compute a
    # distance anew for each pair that it is part of.
    r = jax.lax.map(lambda position: _distance(points, position), positions)

    def take_share(
        cell: Float[Array, "nat npoint"], other: tuple[Array, Array, Array, Array]
    ) -> tuple[Float[Array, "nat npoint"], None]:
        """Cells after their boundary with one other atom is drawn."""
        distance, inverse, adjustment, counts = other
        mu = (r - distance) * inverse[:, None]
        nu = mu + adjustment[:, None] * (1 - mu * mu)
        for _ in range(2):
            nu = (1.5 - 0.5 * nu * nu) * nu
        step = 0.5 - (0.75 - 0.25 * nu * nu) * nu
        return cell * jnp.where(counts[:, None], step, 1.0), None

    others = (r, inverse_R, table.size_adjustment.T, pair)
    cell, _ = jax.lax.scan(take_share, jnp.ones_like(r), others)
    cell = jnp.where(table.real_atom[:, None], cell, 0.0)
    own = jnp.take_along_axis(cell, point_atom[None, :], axis=0)[0]
    return volumes * own / jnp.sum(cell, axis=0)


def _distance(
    points: Float[Array, "npoint 3"], position: Float[Array, "3"]
) -> Float[Array, " npoint"]:
    """Distance of points from a nucleus, with a finite derivative at the nucleus itself."""
    r2 = sum(((points[:, k] - position[k]) ** 2 for k in range(3)), jnp.zeros(points.shape[0]))
    return jnp.sqrt(jnp.where(r2 > 0, r2, 1e-60))
