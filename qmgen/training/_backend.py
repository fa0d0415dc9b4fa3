"""Imports the libraries of the ``train`` extra: the one place that knows how releases differ."""

from qmgen.errors import MissingExtraError


def import_libraries() -> None:
    """Import torch, schnetpack, pytorch-lightning and matplotlib.

    Raises
    ------
    MissingExtraError
        One of them is missing, or can't be imported beside the others.
    """
    try:
        import torch.utils.data.dataloader as dataloader

        # schnetpack before 2.2 imports a type variable that later releases of torch renamed. It
        # stays in place: worker processes of a DataLoader import schnetpack by themselves.
        if not hasattr(dataloader, "T_co") and hasattr(dataloader, "_T_co"):
            dataloader.__dict__["T_co"] = dataloader.__dict__["_T_co"]
        import matplotlib
        import pytorch_lightning
        import schnetpack

        del matplotlib, pytorch_lightning, schnetpack
    except ImportError as error:
        raise MissingExtraError(
            "training and prediction need torch, schnetpack, pytorch-lightning and matplotlib "
            f"({error}); install them with: pip install 'qmgen[train]'"
        ) from error


import_libraries()
