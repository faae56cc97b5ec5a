"""One adapter over the modules ``tensorrt`` (10.1 or newer) and ``tensorrt_rtx``, whose Python API is nearly the same.

Where they differ, and what is done about it:

- ``tensorrt`` builds on the GPU that it builds for. ``tensorrt_rtx`` builds ahead of time, without a GPU, one engine
  for all GPUs of compute capability 8.0 and above that it supports, and compiles it for the one at hand when it runs.
  (For 7.5 it could be asked to build, but has no products of float32 there, which the mask decoder needs.)
- So ``tensorrt`` keeps a timing cache (of kernels that were tried while building), ``tensorrt_rtx`` a runtime cache (of
  kernels that were compiled while running). A timing cache would only make ``tensorrt_rtx`` look for a GPU.
- ``tensorrt_rtx`` can tell why an engine does not fit the machine (``get_engine_validity``).
- ``tensorrt_rtx`` takes its settings for running in an ``IRuntimeConfig``, which older ``tensorrt`` lacks.

Networks are strongly typed: numbers are those of the ONNX graph, nothing is left to the builder's choice.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from psg4d_ros.errors import ConfigError, ExportError

log = logging.getLogger(__name__)

AHEAD_OF_TIME = "ahead of time"
INSTALL = (
    "pip install tensorrt-rtx-cu13 (GeForce and RTX GPUs from Ampere on; builds without one), or pip install tensorrt"
)
_OLDEST_TENSORRT = (10, 1)
_DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "INT64": torch.int64, "INT32": torch.int32}

# least, most usual and largest value of a dynamic dimension
Range = tuple[int, int, int]


@dataclass(frozen=True)
class Loaded:
    """An engine that can be run. inputs, outputs: number type by name.

    limits: of each input with a dynamic shape, the least and the largest shape it takes. context: IExecutionContext,
    which brings no memory of its own. owners: what has to live as long as it. runtime_cache: IRuntimeCache, or None.
    warm: nothing is left to be compiled.
    """

    context: Any
    inputs: dict[str, torch.dtype]
    outputs: dict[str, torch.dtype]
    limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    owners: tuple[Any, ...] = ()
    runtime_cache: Any = None
    warm: bool = True

    def serialize_cache(self) -> bytes:
        """What was compiled so far, for ``TensorRT.load``; empty where there is no such cache."""
        return b"" if self.runtime_cache is None else bytes(memoryview(self.runtime_cache.serialize()))


class TensorRT:
    """One of the two modules. name, version: of the module. builds_ahead: it needs no GPU to build."""

    def __init__(self, module: Any) -> None:
        self.name: str = module.__name__
        self.version: str = module.__version__
        self.builds_ahead = self.name == "tensorrt_rtx"
        self._trt = module
        self._errors: deque[str] = deque(maxlen=8)
        self._logger = _logger(module, self._errors)

    def target(self, device: torch.device) -> str:
        """What an engine for this device is built for: a compute capability, or AHEAD_OF_TIME.

        Raises ConfigError where this module cannot build for it.
        """
        if self.builds_ahead:
            return AHEAD_OF_TIME
        if device.type != "cuda":
            raise ConfigError(f"tensorrt {self.version} builds engines only on a GPU; without one: {INSTALL}")
        capability = torch.cuda.get_device_capability(device)
        # An engine runs on other GPUs of the same capability, too, but was not tuned for them.
        return f"{capability[0]}.{capability[1]} {torch.cuda.get_device_name(device)}"

    def build(
        self, onnx: bytes, dynamic: Mapping[str, Mapping[int, Range]], timing_cache: bytes = b""
    ) -> tuple[bytes, bytes]:
        """An engine and the timing cache afterwards (empty for tensorrt_rtx).

        dynamic: for each input with dynamic axes, their ranges by axis. Built for ``target`` of torch's current device.
        Raises ExportError with the library's own words when the graph cannot be read or built.
        """
        trt = self._trt
        self._errors.clear()
        builder = trt.Builder(self._logger)
        # Ignored since 11, where nothing else is left; needed before.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse(onnx):
            raise ExportError(f"{self.name} {self.version} cannot read the graph: {self._words()}")
        config = builder.create_builder_config()
        # Products of float32 with the factors rounded to 10 bits would not be float32.
        config.clear_flag(trt.BuilderFlag.TF32)
        profile = builder.create_optimization_profile()
        for number in range(network.num_inputs):
            tensor = network.get_input(number)
            axes = dynamic.get(tensor.name, {})
            if axes:
                shape = tuple(tensor.shape)
                profile.set_shape(
                    tensor.name,
                    *(tuple(axes[axis][k] if axis in axes else n for axis, n in enumerate(shape)) for k in range(3)),
                )
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(f"{self.name} {self.version} refuses the ranges {dict(dynamic)}: {self._words()}")
        if not self.builds_ahead:
            # One that is damaged or of another GPU is refused; the builder then goes on with one of its own.
            cache = config.create_timing_cache(timing_cache)
            if cache is not None:
                config.set_timing_cache(cache, False)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ExportError(f"{self.name} {self.version} cannot build the graph: {self._words()}")
        kept = None if self.builds_ahead else config.get_timing_cache()
        return bytes(memoryview(engine)), b"" if kept is None else bytes(memoryview(kept.serialize()))

    def load(self, engine: bytes, runtime_cache: bytes = b"") -> Loaded:
        """Make an engine ready to run on torch's current CUDA device. Raises ExportError where it does not fit it."""
        trt = self._trt
        self._errors.clear()
        runtime = trt.Runtime(self._logger)
        if self.builds_ahead:
            validity, bits = runtime.get_engine_validity(engine)
            if validity == trt.EngineValidity.INVALID:
                causes = trt.EngineInvalidityDiagnostics.__members__.items()
                said = ", ".join(name.lower().replace("_", " ") for name, bit in causes if int(bits) & int(bit))
                raise ExportError(f"{self.name} {self.version} cannot run here: {said or self._words()}")
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise ExportError(f"{self.name} {self.version} cannot load the engine: {self._words()}")
        cache, warm, settings = None, True, None
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.builds_ahead:
            settings = loaded.create_runtime_config()
            settings.set_execution_context_allocation_strategy(strategy)
            # Every window has other sizes: kernels compiled for one would never be used again.
            settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.NONE
            cache = settings.create_runtime_cache()
            warm = bool(runtime_cache) and cache.deserialize(runtime_cache)
            settings.set_runtime_cache(cache)
            context = loaded.create_execution_context(settings)
        else:
            context = loaded.create_execution_context(strategy)
        if context is None:
            raise ExportError(f"{self.name} {self.version} cannot make a context: {self._words()}")
        names = [loaded.get_tensor_name(number) for number in range(loaded.num_io_tensors)]
        inputs = [name for name in names if loaded.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        dtypes = {name: _DTYPES[loaded.get_tensor_dtype(name).name] for name in names}
        limits = {}
        for name in inputs:
            if min(tuple(loaded.get_tensor_shape(name)), default=0) < 0:
                least, _, largest = loaded.get_tensor_profile_shape(name, 0)
                limits[name] = tuple(least), tuple(largest)
        return Loaded(
            context,
            {name: dtypes[name] for name in inputs},
            {name: dtypes[name] for name in names if name not in inputs},
            limits,
            (runtime, loaded, settings),
            cache,
            warm,
        )

    def _words(self) -> str:
        return "; ".join(self._errors) or "it gives no reason"


def find_tensorrt(device: torch.device) -> TensorRT:
    """The module to build and run engines with on this device; ConfigError that says what to install where none is.

    On a GPU ``tensorrt`` comes first, which supports all of them; without one only ``tensorrt_rtx`` can build.
    """
    reasons = []
    for name in ("tensorrt", "tensorrt_rtx") if device.type == "cuda" else ("tensorrt_rtx",):
        try:
            return _opened(name)
        except ConfigError as error:
            reasons.append(str(error))
    raise ConfigError(f"no TensorRT: {'; '.join(reasons)}; run: {INSTALL}")


@functools.cache  # the libraries want one logger in a process
def _opened(name: str) -> TensorRT:
    try:
        module = importlib.import_module(name)
    except Exception as error:  # absent, or without its libraries, which it looks for in several ways
        raise ConfigError(f"{name} does not import: {type(error).__name__}: {error}") from error
    if name == "tensorrt" and tuple(int(part) for part in module.__version__.split(".")[:2]) < _OLDEST_TENSORRT:
        wanted = ".".join(map(str, _OLDEST_TENSORRT))
        raise ConfigError(f"tensorrt is {module.__version__}, {wanted} or newer is needed")
    return TensorRT(module)


def _logger(trt: Any, errors: deque[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """What the library says goes to logging; its errors are also kept, for the texts of ours."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(msg.strip())
                log.warning("%s: %s", trt.__name__, msg.strip())
            elif severity == trt.ILogger.Severity.WARNING:
                log.debug("%s: %s", trt.__name__, msg.strip())

    return Logger()
