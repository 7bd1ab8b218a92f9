"""Control table: the registers of a servo, their bytes and their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from imitact.core.errors import unknown_name


class Register(NamedTuple):
    """One register of a control table.

    Attributes:
        name: as the maker calls it, in lower case with underscores.
        address: of its first byte.
        size: in bytes, least significant first.
        default: the factory's, in the register's own unit.
        low: least value that is accepted; None for any.
        high: largest value that is accepted.
        is_writable: whether a client may write it.
        is_kept: whether it survives a reboot (EEPROM).
        sign: "" without sign, "two" for two's complement, a number for a sign in that bit.
    """

    name: str
    address: int
    size: int
    default: int = 0
    low: int | None = None
    high: int | None = None
    is_writable: bool = True
    is_kept: bool = False
    sign: Literal["", "two"] | int = ""

    def decode(self, raw: bytes | bytearray) -> int:
        value = int.from_bytes(raw, "little", signed=self.sign == "two")
        if isinstance(self.sign, int):
            bit = 1 << self.sign
            return -(value & ~bit) if value & bit else value
        return value

    def encode(self, value: int) -> bytes:
        """Return the bytes of a value; what does not fit is cut to the register's size."""
        if isinstance(self.sign, int):
            bit = 1 << self.sign
            value = min(abs(value), bit - 1) | (bit if value < 0 else 0)
        return (value & ((1 << 8 * self.size) - 1)).to_bytes(self.size, "little")


class ControlTable:
    """The registers of one servo, by name and by address."""

    def __init__(self, registers: Sequence[Register], size: int) -> None:
        self.registers = {register.name: register for register in registers}
        self.at = {register.address: register for register in registers}
        self.data = bytearray(size)
        # Decoded: buses look up hundreds of registers a millisecond.
        self._values: dict[str, int] = {}
        for register in registers:
            self.set(register.name, register.default)

    def __contains__(self, name: str) -> bool:
        return name in self.registers

    def get(self, name: str) -> int:
        return self._values[name]

    def set(self, name: str, value: int) -> None:
        if self._values.get(name) != value:
            register = self.registers[name]
            raw = register.encode(value)
            self.data[register.address : register.address + register.size] = raw
            self._values[name] = register.decode(raw)

    def put(self, address: int, data: bytes) -> None:
        """Write bytes, whatever registers they are of."""
        self.data[address : address + len(data)] = data
        for at in range(address - 3, address + len(data)):  # no register is longer than 4 bytes
            register = self.at.get(at)
            if register is not None:
                self._values[register.name] = register.decode(self.data[at : at + register.size])

    def check_name(self, name: str, servo: str) -> None:
        """Refuse a name that is no register."""
        if name not in self.registers:
            main = [one for one in self.registers if not one.startswith("indirect_address")]
            raise unknown_name(f"register of {servo}", name, main)
