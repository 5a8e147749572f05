"""Names that one version of TensorRT lacks, and the builder with each of them written in."""

from __future__ import annotations

CLEAR = "config.clear_flag(trt.BuilderFlag.TF32)"
ABSENT = [  # a name, a version that lacks it, the text of the builder that it replaces, and the replacement
    ("EXPLICIT_BATCH", "11.4.0", "STRONGLY_TYPED", "EXPLICIT_BATCH"),
    ("FP16", "11.4.0", CLEAR, "config.set_flag(trt.BuilderFlag.FP16)"),
    ("int8_calibrator", "11.4.0", CLEAR, "config.int8_calibrator = None"),
    ("set_quantization_flag", "11.4.0", CLEAR, "config.set_quantization_flag(0)"),
    ("platform_has_fast_fp16", "11.4.0", "config = builder.", "builder.platform_has_fast_fp16; config = builder."),
    ("supports_model", "11.4.0", "inputs = [", "parser.supports_model(b''); inputs = ["),
    ("device_memory_size", "11.4.0", "text: str = loaded.", "loaded.device_memory_size; text: str = loaded."),
    ("build_route", "10.16.1", CLEAR, "config.build_route = 1"),
]
