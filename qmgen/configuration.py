"""Reads YAML files and turns what is wrong with them into one message."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from qmgen.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of options from a YAML file.

    Parameters
    ----------
    path : Path
        YAML file; an empty one has no options.

    Raises
    ------
    ConfigError
        The file can't be read, is no YAML, or holds something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't read the configuration {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: no valid YAML ({error.problem})") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply; write a mapping of options") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML lets through what a tag or a date that can't be makes Python's types say.
        raise ConfigError(f"{path}: no valid YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a mapping of options is expected, not {type(content).__name__}")
    other = [name for name in content if not isinstance(name, str)]
    if other:
        raise ConfigError(f"{path}: {other[0]!r} is no name of an option; names are text")
    return content


def validated(model: type[Model], values: dict[str, Any], path: Path | None, schema: str) -> Model:
    """Make a configuration of what a file and the command line say.

    Parameters
    ----------
    model : type
        What to make.
    values : dict
        Options.
    path : Path or None
        The file, for the message.
    schema : str
        Name of the schema in ``schemas/`` that lists the options.

    Raises
    ------
    ConfigError
        There is an unknown or impossible value; the message names file and field.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        where = "command line" if path is None else path
        raise ConfigError(
            f"{where}: {_explain_all(error)}. schemas/{schema}.schema.json lists every option."
        ) from error


def _explain_all(error: ValidationError) -> str:
    """Name each field that is wrong, what is wrong with it, and what was given."""
    return "; ".join(_explain(dict(problem)) for problem in error.errors())


def _explain(problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "configuration"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r})"
    return f"{place}: {message}{given}"
