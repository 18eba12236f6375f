"""Compiles every Triton kernel for real cards, without one, and reads what came out.

    python tests/kernels/offline.py              # a JSON list of what was compiled
    python tests/kernels/offline.py --markdown   # the table of docs/KERNELS.md

Run it in a process without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from sectow_fast.kernels import (
    PolicyLossConfig,
    advantage_triton,
    linear_loss_triton,
    logprob_triton,
    loss_rows_triton,
    loss_triton,
    states_triton,
)
from sectow_fast.plugins import load_plugins

# Forms of a file outside the package compile as the others do.
EXAMPLES = Path(__file__).parents[1] / "extend" / "examples"

CARDS = {80: "A100", 90: "H100, H200", 100: "B200"}
QWEN = 151_936
ODD = 151_669
POINTERS = {  # float32 unless said
    **{"labels": "*i64", "order": "*i64", "ends": "*i64", "signal_out": "*i1"},
    **{"rows": "*i64", "scored": "*i1", "mask": "*i1", "rows_out": "*i64", "counts_out": "*i64"},
    **{"scored_out": "*i1", "scored_in": "*i1", "counts": "*i64", "live": "*i1"},
}
WHOLE = {"V": "i32", "stride": "i64", "stride_out": "i64", "ignore": "i32"}
WHOLE |= {"count": "i32", "groups": "i32", "group_size": "i32"}
WHOLE |= {"first": "i32", "whole": "i32", "start": "i32", "width": "i32"}
REAL = ("rate", "slope", "cap", "eps", "low", "high")


def forms(*, has_ref: bool = False, **options) -> dict:
    """Arguments of a loss kernel; its numbers, which are known at run time only, as their types."""
    given = loss_triton.kernel_arguments(PolicyLossConfig(**options), has_ref=has_ref)
    return given | {
        "coefficients": loss_triton.Coefficients(*("fp32",) * len(given["coefficients"])),
        "loss_numbers": ("fp32",) * len(given["loss_numbers"]),
        "kl_numbers": ("fp32",) * len(given["kl_numbers"]),
    }


def shape_of(dtype: str, vocabulary: int) -> dict:
    """The tiles of a row in a buffer of ours, whose stride is a multiple of 16 for an odd V too."""
    shape = logprob_triton.row_shape(vocabulary, 4 if dtype == "fp32" else 2)
    return shape | {"PADDED": vocabulary % shape["K"] != 0}


def configurations(card: int):
    """(name, kernel, dtype of the logits, constants, vocabulary). Every kernel is compiled for each
    card; the other dtypes, vocabularies and forms are compiled for one of them."""
    main = card == 90
    head = {"HAS_BIAS": False, "CAP": False, "HAS_T": False, "HAS_ROWS": True}
    rest = {"HAS_BIAS": True, "CAP": True, "HAS_T": True, "HAS_ROWS": False}
    plain = forms() | {"HAS_OLD": False, "HAS_ROLLOUT": False, "GRADIENT": True, "ENTROPY": False}
    full = forms(has_ref=True) | {"HAS_OLD": True, "HAS_ROLLOUT": True, "GRADIENT": True}
    full |= {"ENTROPY": True}
    logp, fused = logprob_triton, linear_loss_triton.linear_loss_kernel
    both, largest = ((head, plain), (rest, full)), ((rest, full),)
    wanted = [("bf16", QWEN, both)]
    if main:
        wanted += [("bf16", ODD, both), ("bf16", 1000, largest), ("fp16", QWEN, largest)]
        wanted += [("fp32", 1000, largest)]
    wanted += [("fp32", QWEN, largest)]
    for dtype, vocabulary, kinds in wanted:
        shape = shape_of(dtype, vocabulary)
        for extra, more in kinds:
            given = (dtype, extra | shape | {"SHARD": extra is rest}, vocabulary)
            yield "selective forward", logp.selective_forward_kernel, *given
            given = (dtype, extra | shape | {"ENTROPY": more["ENTROPY"]}, vocabulary)
            yield "selective backward", logp.selective_backward_kernel, *given
            yield "linear loss", fused, dtype, extra | more | shape, vocabulary
    load_plugins([str(EXAMPLES / "policy_loss.py"), str(EXAMPLES / "kl_estimate.py")])
    outside = {"ratio": "soft_clip", "kl": "huber"}
    if main:
        shape = shape_of("bf16", QWEN)
        yield "linear loss", fused, "bf16", head | full | shape, QWEN
        for options in ({"ratio": "cispo", "kl": "k1"}, {"ratio": "sapo", "kl": "k2"}, outside):
            more = full | forms(has_ref=True, kl_unbiased=True, **options)
            yield "linear loss", fused, "bf16", head | more | shape, QWEN
        yield "linear loss", fused, "bf16", head | full | {"GRADIENT": False} | shape, QWEN
    pairs = [("token", "k3"), ("cispo", "k1"), ("sapo", "k2"), ("soft_clip", "huber")]
    for ratio, kl in pairs if main else pairs[:1]:
        more = forms(has_ref=True, ratio=ratio, kl=kl, kl_unbiased=ratio != "token")
        more |= {"HAS_ROLLOUT": True, "HAS_ENTROPY": True, "B": 1024, "num_warps": 4}
        yield "policy loss", loss_triton.policy_loss_kernel, "fp32", more, 1024
    rows = loss_rows_triton
    more = dict.fromkeys(("HAS_MASK", "HAS_NORMALIZER", "HAS_WEIGHTS", "SIGNAL"), True)
    more |= {"B": rows.BLOCK, "num_warps": rows.WARPS}
    yield "rows of a loss, before", rows.open_loss_kernel, "fp32", more, 1024
    more = {"B": rows.BLOCK, "num_warps": rows.WARPS}
    yield "rows of a loss, after", rows.close_loss_kernel, "fp32", more, 1024
    more = {"HAS_ROWS": True, "B": states_triton.BLOCK, "num_warps": 4}
    yield "live states", states_triton.clean_states_kernel, "bf16", more, 2048
    shapes = [(0, False, 64, 16), (1, False, 1, 1024), (2, True, 64, 16)]
    for scale, ordered, tile, block in shapes if main else shapes[2:]:
        more = {"DDOF": 1, "LOO": True, "SCALE": scale, "ORDERED": ordered, "G": tile}
        more |= {"B": block, "num_warps": 4}
        yield "group advantage", advantage_triton.group_advantage_kernel, "fp32", more, 1024


def compiled(name, kernel, dtype, constants, vocabulary, card):
    warps = constants["num_warps"]
    types = {k: v for k, v in constants.items() if isinstance(v, tuple)}
    names = set(kernel.arg_names) - set(types)
    constants = {k: v for k, v in constants.items() if k in names}
    signature, attributes = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in types:
            signature[argument] = types[argument]
        elif argument in WHOLE:
            signature[argument] = WHOLE[argument]
            row_is_whole = argument in ("V", "count", "width") and vocabulary % 16 == 0
            if row_is_whole or argument in ("stride", "stride_out"):
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif argument in REAL:
            signature[argument] = "fp32"
        else:
            matrix = argument in ("logits", "hidden")
            matrix |= name != "group advantage" and argument == "out"
            signature[argument] = f"*{dtype}" if matrix else POINTERS.get(argument, "*fp32")
            attributes[(i,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", card, 32),
        options={"num_warps": warps},
    )
    ptx = made.asm["ptx"]
    read = name == "linear loss" and (dtype, card) == ("bf16", 90) and not constants["CAP"]
    return {
        "kernel": name,
        "dtype": dtype,
        "V": vocabulary,
        "options": {k: str(v) for k, v in constants.items() if v is not False},
        "warps": warps,
        "sm": card,
        "shared": made.metadata.shared,
        "wide": len(re.findall(r"(ld|st)\.global\S*\.v(4\.b32|2\.b64|4\.f32|2\.f64|8\.b16)", ptx)),
        **resources(made.asm["cubin"]),
        **({"loops": row_loops(made.asm["cubin"])} if read else {}),
    }


def row_loops(cubin: bytes) -> list[dict]:
    """Of each loop of the machine code that reads rows: instructions per logit, and what waits."""
    tool = next(Path(triton.__file__).parent.rglob("nvdisasm*"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(tool), "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    found, labels, code = [], {}, []
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
            code.append(instruction[1].strip())
            jump = re.match(r"BRA\b.*`\((\.L_x_\d+)\)", code[-1])
            if jump and jump[1] in labels:
                found.append(loop_of(code[labels[jump[1]] :]))
    return [one for one in found if one["exponentials"]]


def loop_of(code: list[str]) -> dict:
    names = [one.split()[0] for one in code]
    waits = ("BAR", "SHFL", "LDS", "STS", "REDUX", "ATOM", "MEMBAR")
    return {
        "instructions": len(names),
        "exponentials": names.count("MUFU.EX2"),
        "loads": [one for one in names if one.startswith("LDG")],
        "stores": [one for one in names if one.startswith("STG")],
        "waits": [one for one in names if one.startswith(waits)],
    }


def resources(cubin: bytes) -> dict[str, int]:
    tool = next(Path(triton.__file__).parent.rglob("cuobjdump*"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "registers": int(re.search(r"REG:(\d+)", text)[1]),
        "stack": int(re.search(r"STACK:(\d+)", text)[1]),
        "local": int(re.search(r"LOCAL:(\d+)", text)[1]),
    }


def markdown(rows: list[dict]) -> str:
    """One line per kernel, dtype and vocabulary: the largest of its configurations, by card."""
    cells: dict[tuple, dict[int, list[dict]]] = {}
    for row in rows:
        cells.setdefault((row["kernel"], row["dtype"], row["V"]), {}).setdefault(
            row["sm"], []
        ).append(row)
    head = " | ".join(f"sm_{card} ({CARDS[card]})" for card in CARDS)
    lines = [f"| kernel | dtype | V | {head} |", "|---" * (3 + len(CARDS)) + "|"]
    for (kernel, dtype, vocabulary), by_card in cells.items():
        text = " | ".join(
            f"{max(r['registers'] for r in by_card[card])} registers,"
            f" {max(r['shared'] for r in by_card[card])} B shared"
            if card in by_card
            else ""
            for card in CARDS
        )
        shown = vocabulary if kernel.startswith(("sel", "lin")) else ""
        lines.append(f"| {kernel} | {dtype} | {shown} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    found = [compiled(*one, card) for card in CARDS for one in configurations(card)]
    print(markdown(found) if "--markdown" in sys.argv else json.dumps(found))
