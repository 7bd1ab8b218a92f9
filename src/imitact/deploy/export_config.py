"""Export settings: the runtime, the precision and the limits that an exported file must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from imitact.core.errors import BadInput
from imitact.core.ranges import Count, Range, Workers, check_ranges

Kind = Literal["onnx", "openvino"]
"""The runtime that runs a file."""

Precision = Literal["fp32", "bf16", "int8"]
"""float32 throughout; bfloat16 for convolutions and matrix products; or 8-bit integers for these
and float32 for the rest."""

NO_BF16 = (
    "ONNX Runtime's CPU provider has no bf16 convolutions and matrix products, so onnx in bf16 "
    "would be float32 under another name; use --to openvino, or --precision fp32"
)

LIMITS: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.2, "int8": 0.5}
"""The largest accepted deviation of any joint at any tick, in standard deviations of that action.
In fp32, sums are rounded in another order, which gives a millionth; a thousandth is a defect. bf16
has 8 binary digits and int8 has 256 values: only an evaluation shows what their rounding does to a
movement, so these limits catch a broken file, not a slightly worse one."""


@dataclass(frozen=True)
class ExportConfig:
    """The file that is written, and what it must prove."""

    to: Kind = "openvino"
    """The runtime that the file is for: openvino (the faster on CPUs) or onnx (ONNX Runtime)."""
    precision: Precision = "fp32"
    """What it computes in: fp32; bf16 (OpenVINO, on processors with bf16 arithmetic); or int8, with
    ranges taken from the dataset."""
    observations: Count = 64
    """Observations on which file and policy are compared, spread over all ticks of the dataset."""
    calibration: Count = 128
    """Observations from which int8 takes its ranges; they lie between those compared."""
    limit: Annotated[float, Range(0, 1_000)] = 0.0
    """Largest accepted deviation from the torch policy, in standard deviations of the action; above
    it nothing is written. 0 takes 0.001 for fp32, 0.2 for bf16, 0.5 for int8."""
    calls: Count = 2000
    """Calls of the file that are timed."""
    torch_calls: Count = 200
    """Calls of the torch policy that are timed."""
    threads: Workers = 0
    """Threads per call while it is certified; 0 takes one per core."""
    margin: Annotated[float, Range(0, 100)] = 4.0
    """Largest accepted loss of success, in percentage points (with --episodes): nothing is written
    unless the 95 % interval of the difference rules out a larger one."""

    def __post_init__(self) -> None:
        if self.to == "onnx" and self.precision == "bf16":
            raise BadInput(NO_BF16)
        check_ranges(self, "--")

    @property
    def max_deviation(self) -> float:
        """The limit in effect."""
        return self.limit or LIMITS[self.precision]
