"""What the Python API of ``tensorrt`` has, of what is used here: it cannot be installed everywhere the tests run.

Recorded from the bindings in NVIDIA's public repository at v10.3.0 and v11.1 (python/src/infer/pyCore.cpp, pyGraph.cpp,
pyFoundationalTypes.cpp, python/src/parsers/pyOnnx.cpp); both have all of these names.
"""

VERSIONS = ("10.3.0", "11.1")
NAMES = {
    "": {
        "Builder", "BuilderFlag", "ExecutionContextAllocationStrategy", "ILogger", "NetworkDefinitionCreationFlag",
        "OnnxParser", "Runtime", "TensorIOMode", "__name__", "__version__",
    },
    "Builder": {
        "build_serialized_network", "create_builder_config", "create_network", "create_optimization_profile",
    },
    "BuilderFlag": {"TF32"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "IBuilderConfig": {
        "add_optimization_profile", "clear_flag", "create_timing_cache", "get_timing_cache", "set_timing_cache",
    },
    "ICudaEngine": {
        "create_execution_context", "get_tensor_dtype", "get_tensor_mode", "get_tensor_name",
        "get_tensor_profile_shape", "get_tensor_shape", "num_io_tensors",
    },
    "IExecutionContext": {
        "execute_async_v3", "get_tensor_shape", "infer_shapes", "set_device_memory", "set_input_shape",
        "set_tensor_address", "update_device_memory_size_for_shapes",
    },
    "ILogger": {"Severity", "__init__"},
    "INetworkDefinition": {"get_input", "num_inputs"},
    "IOptimizationProfile": {"set_shape"},
    "ITensor": {"name", "shape"},
    "ITimingCache": {"serialize"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "OnnxParser": {"parse"},
    "Runtime": {"deserialize_cuda_engine"},
    "ILogger.Severity": {"ERROR", "INTERNAL_ERROR", "WARNING"},
    "TensorIOMode": {"INPUT"},
}  # fmt: skip
# What only tensorrt_rtx has, or what is only asked of it.
RTX_NAMES = {
    "": {"DynamicShapesKernelSpecializationStrategy", "EngineInvalidityDiagnostics",
         "EngineValidity"},
    "DynamicShapesKernelSpecializationStrategy": {"NONE"},
    "EngineInvalidityDiagnostics": {"__members__"},
    "EngineValidity": {"INVALID"},
    "ICudaEngine": {"create_runtime_config"},
    "IRuntimeCache": {"deserialize", "serialize"},
    "IRuntimeConfig": {
        "create_runtime_cache", "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy", "set_runtime_cache",
    },
    "Runtime": {"get_engine_validity"},
}  # fmt: skip
