"""What cannot be run without a GPU is held against the APIs of the wheels that it calls: TensorRT-RTX and cuda-python."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from export.runtime import nvidia

pytestmark = pytest.mark.slow

ADAPTER = Path(nvidia.__file__)
MISSPELT = {
    "execute_async_v3(": "execute_async_v4(",
    "create_execution_context(": "make_execution_context(",
    "deserialize_cuda_engine(": "deserialise_cuda_engine(",
    "num_io_tensors": "io_tensors",
    "create_stream(": "new_stream(",
    "copy_from(": "copy_in(",
    ".begin_building(": ".start_building(",
    "graph.launch(": "graph.run(",
    "stream.sync(": "stream.wait_for_all(",
    "set_tensor_address(": "set_tensor_adress(",
    "owner.device.allocate(size, stream=owner.stream)": "owner.device.allocate(size)",
}
"""Call of the adapter -> the same, wrong: one for every class of the two APIs, and one without an argument."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Source of the adapter -> what pyright finds wrong in it, with the stubs of both wheels in place."""
    for name in ("tensorrt_rtx_bindings", "cuda.core", "pybind11_stubgen"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"{name} is not installed")
    root = tmp_path_factory.mktemp("types")
    stubs = root / "stubs"
    # The wheel has no stubs; its pybind11 signatures are read from the compiled module itself.
    command = [
        sys.executable,
        "-m",
        "pybind11_stubgen",
        "tensorrt_rtx_bindings",
        "-o",
        str(stubs),
        "--ignore-all-errors",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    # cuda.core has a folder with stubs for each CUDA, and puts the right one in its own place while it is imported.
    core = Path(str(importlib.import_module("cuda.core._device").__file__)).parent
    shutil.copytree(core, stubs / "cuda" / "core", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    here = Path(__file__).resolve().parents[1]
    settings = {
        "include": ["adapter.py"], "stubPath": "stubs", "extraPaths": [str(here)], "pythonVersion": "3.11",
        "venvPath": str(Path(sys.prefix).parent), "venv": Path(sys.prefix).name, "reportMissingModuleSource": False,
    }  # fmt: skip
    (root / "pyrightconfig.json").write_text(json.dumps(settings))

    checker = [sys.executable, "-m", "pyright"]

    def errors(source: str) -> list[str]:
        (root / "adapter.py").write_text(source)
        done = subprocess.run([*checker, "--outputjson"], cwd=root, capture_output=True, text=True, timeout=300)
        found = json.loads(done.stdout)
        assert found["summary"]["filesAnalyzed"] == 1
        return [row["message"] for row in found["generalDiagnostics"] if row["severity"] == "error"]

    return errors


def test_the_adapter_fits_the_wheels(checked):
    assert checked(ADAPTER.read_text()) == []


def test_every_wrong_call_is_found(checked):
    """One run of the checker over all of them: each must be named, or its class is not checked at all."""
    source = ADAPTER.read_text()
    for right, wrong in MISSPELT.items():
        assert right in source, right
        source = source.replace(right, wrong)
    found = "\n".join(checked(source))
    for wrong in MISSPELT.values():
        name = re.sub(r"\(.*", "", wrong).rpartition(".")[2]
        assert name == "allocate" or f'attribute "{name}"' in found, name
    assert 'Argument missing for parameter "stream"' in found


def test_the_names_that_are_looked_up_in_the_modules_are_there():
    """The modules themselves are not typed in the adapter: which of two TensorRTs it gets is known when it runs."""
    try:
        trt = importlib.import_module("tensorrt_rtx")
        core = importlib.import_module("cuda.core")
    except ImportError as problem:
        pytest.skip(str(problem))
    source = ADAPTER.read_text()
    asked = {name for name in re.findall(r"\btrt\.(\w+)", source) if name not in ("LABELS", "py")}
    assert asked == {"Runtime", "Logger", "TensorIOMode", "nptype"}
    assert all(hasattr(trt, name) for name in asked)
    assert hasattr(trt.TensorIOMode, "INPUT") and hasattr(trt.Logger, "ERROR")
    used = set(re.findall(r'import_module\("cuda\.core"\)\.(\w+)', source))
    assert used == {"Device", "LegacyPinnedMemoryResource"} and all(hasattr(core, name) for name in used)
