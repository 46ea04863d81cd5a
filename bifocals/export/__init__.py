"""Floor 3: networks as files that run elsewhere, with the proof that they compute the same."""

from .certificate import FILE_NAME as CERTIFICATE
from .certificate import Accuracy, Certificate
from .fitting import fit, fit_batch
from .graph import NotExportable, ParityError
from .latency import cpu_name, latency_ms
from .metadata import MapMetadata, Metadata
from .onnx import export_onnx
from .parity import Difference, Tolerance, compare
from .pixel_parity import PixelDifference, PixelMap, PixelTolerance, compare_maps
from .pixel_program import PixelProgram
from .program import Program
from .roi_program import RoIProgram
from .segmenter import export_segmenter
from .segmenter_session import OnnxSegmenter
from .session import OnnxDetector

__all__ = [
    "CERTIFICATE",
    "Accuracy",
    "Certificate",
    "Difference",
    "MapMetadata",
    "Metadata",
    "NotExportable",
    "OnnxDetector",
    "OnnxSegmenter",
    "ParityError",
    "PixelDifference",
    "PixelMap",
    "PixelProgram",
    "PixelTolerance",
    "Program",
    "RoIProgram",
    "Tolerance",
    "compare",
    "compare_maps",
    "cpu_name",
    "export_onnx",
    "export_segmenter",
    "fit",
    "fit_batch",
    "latency_ms",
]
