"""Which arithmetic a process does: what torch, oneDNN and MKL use of a CPU, and what `engine.portable` pins of it.

The libraries choose their instructions when they are loaded, by the CPU and by variables of the environment. Another
choice adds the same numbers in another order, and training makes of a last digit another model.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from medtransfer.core.errors import UserError

PINNED: Mapping[str, str] = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "MKL_CBWR": "COMPATIBLE",  # the one branch that MKL obeys on every make of CPU
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL",
}
"""variables that hold torch, oneDNN, MKL, OpenBLAS and numpy to what every x86 CPU with AVX2 does; the last names
numpy's features as 2.4 and as earlier versions do"""

PORTABLE = {"torch": "AVX2", "oneDNN": "AVX2", "MKL": "COMPATIBLE"}
"""what must then be in force"""

DECIDING = ("device", "torch", "oneDNN", "MKL", "threads")
"""what of `in_force` two runs must share to be of one kind"""

_MKL = {
    3: "COMPATIBLE", 4: "SSE2", 6: "SSSE3", 7: "SSE4_1", 8: "SSE4_2", 9: "AVX", 10: "AVX2", 11: "AVX512_MIC",
    12: "AVX512", 13: "AVX512_MIC_E1", 14: "AVX512_E1",
}  # fmt: skip
"""MKL_CBWR_... of mkl.h"""
_AUTO = 2
_ONEDNN = {
    "SSE41": "sse4_1",
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX2_VNNI_2": "avx_ne_convert",
    "AVX512_CORE": "avx512_dq",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_fp16",
    "AVX512_CORE_AMX": "amx_tile",
    "AVX512_CORE_AMX_FP16": "amx_fp16",
}
"""oneDNN's instruction sets, in its order -> the feature of a CPU that decides"""


class UnpinnedError(UserError):
    """This process began without the variables that `engine.portable` needs."""


def check_environment(portable: bool) -> None:
    """Refuses a process that began without the variables that `engine.portable` needs.

    Raises:
        UnpinnedError: names them; the command line then begins anew, with them.
    """
    if portable and any(os.environ.get(name) != value for name, value in PINNED.items()):
        words = " ".join(f"{name}={shlex.quote(value)}" for name, value in PINNED.items())
        raise UnpinnedError(
            "engine.portable is true, but this process began without the variables that pin its arithmetic, which "
            "libraries read when they are loaded. Use the command line (`python -m medtransfer ...`), which sets them "
            f"itself, or start Python (a notebook's kernel, too) anew under: {words}"
        )


def check(portable: bool, device: str) -> None:
    """Refuses work that `engine.portable` promises equal numbers for, where they cannot be had.

    Raises:
        UserError: it is a GPU's work, this CPU has no AVX2, or libraries were loaded before the variables were set.
    """
    if not portable:
        return
    if device != "cpu":
        raise UserError(
            "engine.portable pins the instructions of x86 CPUs and nothing of a GPU, where another model gives other "
            "numbers; set execution.device to cpu, or engine.portable to false"
        )
    check_environment(portable)
    found = in_force(device)
    wrong = {name: found[name] for name, value in PORTABLE.items() if found[name] not in (value, UNKNOWN)}
    if not wrong:
        return
    words = ", ".join(f"{name} uses {value}" for name, value in wrong.items())
    if not _cpu().get("avx2"):
        raise UserError(
            f"engine.portable needs an x86 CPU with AVX2, this is {found['cpu']}: {words}; use another machine, or "
            "set engine.portable to false"
        )
    raise UserError(
        f"engine.portable is true, but {words}, not {', '.join(PORTABLE[name] for name in wrong)}: libraries were "
        "loaded before the variables were set. Start Python (a notebook's kernel, too) anew, or use the command line"
    )


def restart() -> NoReturn:
    """Begins this command anew, in the same process, under the pinned variables, whatever they were before."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **PINNED})


UNKNOWN = "unknown"


def in_force(device: str) -> dict[str, str]:
    """Says what this process's arithmetic is done with, on a device (`cpu` or `cuda`): see `DECIDING`, and versions."""
    import torch

    cpu = _cpu()
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpu": f"{cpu.get('cpu_name') or platform.processor() or UNKNOWN} ({platform.machine()})",
        "torch": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": _onednn(cpu),
        "MKL": _mkl(str(cpu.get("cpu_name", UNKNOWN))),
        "threads": str(torch.get_num_threads()),
        "versions": _versions(),
    }
    if device == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's own is untyped
        found["versions"] += f", CUDA {torch.version.cuda}, cuDNN {cudnn}"
    variables = [f"{name}={os.environ[name]}" for name in PINNED if os.environ.get(name)]
    return found | ({"variables": ", ".join(variables)} if variables else {})


def joined(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Describes a training that went on under what may be another arithmetic."""
    found = {**now, **before}
    for name in before.keys() & now.keys():
        if before[name].rpartition(", then ")[2] != now[name]:
            found[name] = f"{before[name]}, then {now[name]}"
    return found


def kind(found: Mapping[str, str]) -> str:
    """Words what two runs must share: on a CPU its instructions and threads, on a GPU its model."""
    if not found:
        return UNKNOWN
    if found["device"] != "cpu":
        return found["device"]
    return ", ".join(found[name] if name == "device" else f"{name} {found[name]}" for name in DECIDING)


@functools.cache
def _cpu() -> dict[str, object]:
    import torch

    return dict(torch.cpu.get_capabilities())


def _onednn(cpu: Mapping[str, object]) -> str:
    """Computes what oneDNN takes of a CPU; torch gives no access to oneDNN's own answer."""
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own is untyped
        return "none"
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    names = list(_ONEDNN)
    most = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()
    allowed = names[: names.index(most) + 1] if most in names else names
    if most.startswith("AVX512"):  # none of AVX512_CORE's includes these
        allowed = [name for name in allowed if not name.startswith("AVX2_VNNI")]
    found = [name for name in allowed if cpu.get(_ONEDNN[name])]
    return found[-1] if found else UNKNOWN


def _mkl(processor: str) -> str:
    """Asks MKL for its branch; without one it takes what it thinks best for the CPU."""
    import torch

    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]  # torch's own is untyped
        return "none"
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"))
        branch, own = library.mkl_serv_cbwr_get(1), library.mkl_serv_cbwr_get_auto_branch()
    except (OSError, AttributeError):  # a build that does not show MKL's functions
        return os.environ.get("MKL_CBWR", "").split(",")[0] or UNKNOWN
    if branch in _MKL:
        return _MKL[branch]
    if own != _AUTO and own in _MKL:
        return f"its own of {_MKL[own]}"
    return f"its own on {processor}"


@functools.cache
def _versions() -> str:
    import re

    import torch

    text = torch.__config__.show()
    words = [f"torch {torch.__version__}"]
    for name, pattern in (("oneDNN", r"MKL-DNN v(\S+)"), ("MKL", r"Math Kernel Library Version ([\d.]+)")):
        if found := re.search(pattern, text):
            words.append(f"{name} {found[1]}")
    return ", ".join(words)
