"""Processor features that programs detect at their start and rely on afterwards."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
#: Features, as /proc/cpuinfo and as Node Feature Discovery name them: those that it makes labels of by default
#: (`attributeBlacklist` in its documentation; the names are those of github.com/klauspost/cpuid).
FEATURES = {
    "adx": "ADX",
    "aes": "AESNI",
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512bw": "AVX512BW",
    "avx512cd": "AVX512CD",
    "avx512dq": "AVX512DQ",
    "avx512f": "AVX512F",
    "avx512ifma": "AVX512IFMA",
    "avx512vbmi": "AVX512VBMI",
    "avx512vl": "AVX512VL",
    "avx512_bf16": "AVX512BF16",
    "avx512_bitalg": "AVX512BITALG",
    "avx512_fp16": "AVX512FP16",
    "avx512_vbmi2": "AVX512VBMI2",
    "avx512_vnni": "AVX512VNNI",
    "avx512_vpopcntdq": "AVX512VPOPCNTDQ",
    "avx_vnni": "AVXVNNI",
    "amx_bf16": "AMXBF16",
    "amx_int8": "AMXINT8",
    "amx_tile": "AMXTILE",
    "fma": "FMA3",
    "gfni": "GFNI",
    "sha_ni": "SHA",
    "vaes": "VAES",
    "vpclmulqdq": "VPCLMULQDQ",
}


def read_features() -> tuple[str, ...]:
    """Return those of FEATURES that this machine's processor has, in order."""
    return find_features(CPUINFO.read_text())


def find_features(cpuinfo: str) -> tuple[str, ...]:
    """Return the same for a machine with this /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            return tuple(sorted(FEATURES.keys() & set(value.split())))
    return ()
