"""Files that a command makes anew each time it is called."""

import uuid
from pathlib import Path

from qmgen.errors import InputError


def check_output(path: Path, suffix: str) -> None:
    """Check the name and place of a file that is about to be made.

    An ending of its own keeps a slip from replacing a file of another kind.

    Raises
    ------
    InputError
        It has another ending, is a folder, or its folder does not exist.
    """
    if path.suffix.lower() != suffix:
        raise InputError(f"{path}: the name of this file must end in {suffix}")
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"{path} can't be made; choose a file in a folder that exists")


def replace_file(path: Path, text: str) -> None:
    """Write a text file, in place of an earlier one only when complete.

    Raises
    ------
    InputError
        The file can't be written.
    """
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} can't be written ({error.strerror or error}); choose another file"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
