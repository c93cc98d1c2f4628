"""How many blocks of a kernel fit on one multiprocessor of a GPU, from the registers and shared memory it takes."""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS = 65536  # of a multiprocessor and of a block, from compute capability 7.5 to 12.0
REGISTER_UNIT = 256  # registers that a warp takes at a time
PARTS = 4  # of a multiprocessor, each with its own quarter of the registers
WARP = 32


@dataclass(frozen=True)
class Limits:
    """What one multiprocessor holds: warps, blocks, shared memory in bytes, its unit, what the system takes a block."""

    warps: int
    blocks: int
    shared: int
    unit: int
    reserved: int


KIB = 1024
# Source: CUDA C++ Programming Guide 13.0, technical specifications by compute capability; units and the rounding
# below: cuda_occupancy.h of the CUDA 13.0 toolkit, the calculator that the driver uses too.
LIMITS = {
    (7, 5): Limits(32, 16, 64 * KIB, 256, 0),
    (8, 0): Limits(64, 32, 164 * KIB, 128, KIB),
    (9, 0): Limits(64, 32, 228 * KIB, 128, KIB),
    (10, 0): Limits(64, 32, 228 * KIB, 128, KIB),
    (12, 0): Limits(48, 24, 100 * KIB, 128, KIB),
}


def blocks(cc, threads: int, registers: int, shared: int) -> int:
    """Blocks at a time on one multiprocessor; 0 where not even one fits.

    `cc` is a compute capability of LIMITS, `registers` those of a thread, `shared` the bytes of a block.
    """
    limits = LIMITS[cc]
    warps = -(-threads // WARP)
    per_warp = rounded(registers * WARP, REGISTER_UNIT)
    if per_warp * rounded(warps, PARTS) > REGISTERS:
        return 0
    by_registers = REGISTERS // PARTS // per_warp * PARTS // warps if per_warp else limits.blocks
    per_block = rounded(shared + limits.reserved, limits.unit)
    by_shared = limits.shared // per_block if per_block else limits.blocks
    return min(limits.warps // warps, limits.blocks, by_registers, by_shared)


def occupancy(cc, threads: int, registers: int, shared: int) -> float:
    """Share of a multiprocessor's warps that blocks of this kernel can fill."""
    return blocks(cc, threads, registers, shared) * -(-threads // WARP) / LIMITS[cc].warps


def rounded(number: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-number // unit) * unit
