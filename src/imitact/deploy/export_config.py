"""Export settings: the runtime, the precision and the limits that an exported file must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imitact.core.errors import BadInput

Kind = Literal["onnx", "openvino"]
"""Which runtime a file is for."""

Precision = Literal["fp32", "bf16", "int8"]
"""What a file computes in: float32 throughout; bfloat16 for convolutions and products; or 8-bit
whole numbers for these and float32 for the rest."""

NO_BF16 = (
    "ONNX Runtime's CPU provider has no bf16 convolutions and products, so onnx in bf16 would be "
    "float32 under another name; use --to openvino, or --precision fp32"
)

LIMITS: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.2, "int8": 0.5}
"""Largest deviation of any joint at any tick that is let through, in standard deviations of that
action. In fp32 sums round differently, which gives a millionth; a thousandth can only be a mistake.
bf16 has 8 binary digits and int8 has 256 values: what their rounding does to a movement is for
seeds to tell, and these limits catch a broken file, not a slightly worse one."""


@dataclass(frozen=True)
class ExportConfig:
    """What is made, and what it must prove."""

    to: Kind = "openvino"
    """The runtime that the file is for: openvino (the faster on CPUs) or onnx (ONNX Runtime)."""

    precision: Precision = "fp32"
    """What it computes in: fp32; bf16 (OpenVINO on processors with bf16 arithmetic); or int8, with
    ranges taken from frames of the dataset."""

    observations: int = 64
    """Observations of the dataset on which answers are compared, spread evenly over all ticks of
    all episodes."""

    calibration: int = 128
    """Observations from which int8 takes its ranges, spread likewise, between those compared."""

    limit: float = 0.0
    """Largest deviation from the torch policy, of any joint at any tick of the chunk, in standard
    deviations of that action; 0 takes the precision's own: 0.001 for fp32, 0.2 for bf16, 0.5
    for int8. Above it nothing is written."""

    calls: int = 2000
    """Answers that are timed."""

    torch_calls: int = 200
    """Answers of the torch policy that are timed beside them."""

    threads: int = 0
    """Threads for an answer, in the certificate alone; 0 takes one a core."""

    margin: float = 4.0
    """Where success is compared: the lower end of the 95 % interval of the difference in success
    must be above minus so many points, else nothing is written."""

    def __post_init__(self) -> None:
        if self.to == "onnx" and self.precision == "bf16":
            raise BadInput(NO_BF16)
        for name in ("observations", "calibration", "calls", "torch_calls"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("limit", "threads", "margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 0 and finite")

    @property
    def most(self) -> float:
        """The limit that holds."""
        return self.limit or LIMITS[self.precision]
