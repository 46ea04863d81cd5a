"""Floor 3: networks as files that run elsewhere, with the proof that they compute the same."""

from .certificate import FILE_NAME as CERTIFICATE
from .certificate import Certificate
from .latency import cpu_name, latency_ms
from .onnx import ParityError, export_onnx
from .parity import Difference, Tolerance, compare
from .program import Program
from .session import Metadata, OnnxDetector, fit, fit_batch

__all__ = [
    "CERTIFICATE",
    "Certificate",
    "Difference",
    "Metadata",
    "OnnxDetector",
    "ParityError",
    "Program",
    "Tolerance",
    "compare",
    "cpu_name",
    "export_onnx",
    "fit",
    "fit_batch",
    "latency_ms",
]
