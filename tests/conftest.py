"""How tests are shared out among the processes of `pytest -n 2`, and places for objects."""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs
from xdist.scheduler import LoadScopeScheduling
from zarr.core.sync import sync

_PROGRAMS = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of the tests share programs, as many tests compile the same ones."""
    if hasattr(config, "workerinput") or _PROGRAMS in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="qmgen-test-programs-")
    os.environ[_PROGRAMS] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


class _Together(LoadScopeScheduling):
    """Gives a process whole files, whose tests share compiled programs and fixtures.

    The tests of `generate` share one cluster, and none of them should find four busy workers on two
    cores. pytest-xdist's own groups are marks that it writes into the tests' names, which pytest
    9.2 does not let it.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "generate" if "generate" in Path(file).parts else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Share tests out as `_Together` says."""
    return _Together(config, log)


_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
# Until the other process closes it or ends.
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URL of a bucket on a server of this machine that speaks S3's protocol."""
    # A process of its own, as both sides would wait for one interpreter lock.
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        close_connections()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    close_connections()
    server.communicate(timeout=30)


def close_connections() -> None:
    """Forget servers and credentials that this process knows."""
    for fs in s3fs.S3FileSystem._cache.values():
        # Those of the other loop s3fs closes itself.
        if fs.asynchronous and fs._s3 is not None:
            sync(fs._s3.close())
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def memory() -> str:
    """URL of a place of its own in the memory of this process."""
    return f"memory://bucket/{uuid.uuid4().hex}"


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    """URL of a place of its own where objects may be made."""
    if request.param == "memory":
        return str(request.getfixturevalue("memory"))
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
