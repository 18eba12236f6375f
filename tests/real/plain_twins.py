"""One whole run several ways: the model and the pictures as anyone would make them, and the same in
the ways that were once taken for something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import layouts
from PIL import Image, ImageDraw
from tiny_models import save_qwen2_5_vl

from sectow_fast.data.sandbox.layouts import _parquet

LETTERS = Path(__file__).parents[1] / "extend" / "examples" / "reward_term.py"
END, OTHER = "<|im_end|>", "<|endoftext|>"  # what the model ends its turns with, and never says


TIMED = ("seconds", "tokens_per_second")

# ---- models


def plain_model(folder: Path) -> Path:
    """A random Qwen2.5-VL that ends a turn with END about every fifth token, and never says OTHER:
    one feature of its states is always large, and only these two read it."""
    import torch
    from safetensors.torch import load_file, save_file

    save_qwen2_5_vl(folder)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("embed_tokens.weight"):
            weight[:, 0] = 2.0
        elif name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")):
            weight[0] = 0.0  # no layer of the decoder writes to this feature
    head = weights["lm_head.weight"]
    head[:, 0] = 0.0
    head[[0, 2]] = torch.zeros(2, head.shape[1])
    head[0, 0], head[2, 0] = -1000.0, 2.7
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def changed(path: Path, **names: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    found = json.loads(path.read_text())
    found |= names
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}, indent=1))


def pad_is_end(folder: Path) -> None:
    changed(folder / "tokenizer_config.json", pad_token=END)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    changed(folder / "config.json", text_config=text | {"pad_token_id": 2})


def two_ends(folder: Path) -> None:
    """As Gemma 3: the tokenizer's end is not that of a turn, and generation_config.json names both.
    And there is no pad token."""
    changed(folder / "tokenizer_config.json", eos_token=OTHER, pad_token=None)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text |= {"eos_token_id": 0, "pad_token_id": None}
    changed(folder / "config.json", text_config=text)
    changed(folder / "generation_config.json", eos_token_id=[0, 2], pad_token_id=None)


MODELS: dict[str, Callable[[Path], None]] = {"pad is end": pad_is_end, "two ends": two_ends}

# ---- pictures


def plain_picture(number: int) -> Image.Image:
    """Black on white, each another one; hard edges, so that no way of saving it rounds."""
    image = Image.new("RGB", (60, 40), "white")
    ImageDraw.Draw(image).rectangle((4, 4, 8 + 5 * number, 30 - 2 * number), fill="black")
    return image


def odd_picture(number: int, path: Path) -> None:
    """The same for a person: black under black paper that is transparent; turned, and its EXIF
    says so; grey of 16 bits; a palette."""
    plain = plain_picture(number)
    kind = number % 4
    if kind == 0:
        ink = plain.convert("L").point(lambda value: 255 - value)
        Image.merge("LA", (Image.new("L", plain.size, 0), ink)).convert("RGBA").save(path, "PNG")
    elif kind == 1:
        exif = Image.Exif()
        exif[0x0112] = 6
        plain.transpose(Image.Transpose.ROTATE_90).save(path, "PNG", exif=exif)
    elif kind == 2:
        grey = plain.convert("L").convert("I").point(lambda value: value * 257)
        grey.convert("I;16").save(path, "PNG")
    else:
        few = plain.quantize(4)
        few.save(path, "PNG", transparency=few.getpixel((59, 39)))


def save_plain(number: int, path: Path) -> None:
    plain_picture(number).save(path, "PNG")


def write_suites(folder: Path, save: Callable[[int, Path], None]) -> Path:
    """VLGuard with files, MMMU with two or three pictures in each request, in cells."""
    layouts.vlguard(folder / "vlguard")
    for number, path in enumerate(sorted((folder / "vlguard").rglob("*.png"))):
        save(number % 8, path)
    rows = []
    for number in range(6):
        shown = {}
        for place in range(1, 3 + number % 2):
            save((number + place) % 8, path := folder / "cell.png")
            shown[f"image_{place}"] = {"bytes": path.read_bytes(), "path": None}
        empty = {f"image_{place}": None for place in range(1, 8)}
        words = "is <image 1> wider than <image 2>"
        rows.append(
            {"id": f"validation_Art_{number}", "question": words + " here <image 3>" * (number % 2)}
            | {"options": "['yes', 'no']", "explanation": "", **empty, **shown}
            | {"answer": "AB"[number % 2], "question_type": "multiple-choice", "subfield": "toy"}
        )
    for split in ("validation", "dev"):
        _parquet(folder / "mmmu" / "Art" / f"{split}-00000-of-00001.parquet", rows)
    return folder


# ---- runs


def command(model: Path, suites: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--preset", "real", "--data.judge", "rule-knowingly", "--model.defender", str(model)),
        *("--rounds", "1", "--threads", "1", "--plugins", str(LETTERS)),
        *("--attack.terms.brevity", "4", "--defend.terms.brevity", "4"),
        *("--data.unsafe", f"vlguard={suites / 'vlguard'}", "--data.contamination", "ignore"),
        *("--data.harmless", f"mmmu:dev={suites / 'mmmu'}"),
        *("--data.test", f"vlguard={suites / 'vlguard'},mmmu={suites / 'mmmu'}"),
        *("--coldstart.attacker_steps", "1", "--coldstart.batch", "2"),
        *("--attack.steps", "1", "--attack.prompts", "2", "--attack.group_size", "3"),
        *("--attack.max_new_tokens", "8", "--harvest.attacks", "4", "--harvest.replies", "1"),
        *("--harvest.filter", "false"),
        *("--defend.steps", "2", "--defend.prompts", "4", "--defend.group_size", "3"),
        *("--defend.max_new_tokens", "8", "--attack.lr", "1e-3", "--defend.lr", "1e-3"),
        *("--evaluate.attacker_cases", "2", "--out", str(out), "--plain", *more),
    ]


def measured(out: Path) -> dict[str, Any]:
    """What a run came to, less times and what names its folders."""
    summary = json.loads((out / "summary.json").read_text())
    summary.pop("wall_seconds")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    latest = out / "checkpoints" / (out / "checkpoints" / "latest").read_text().strip()
    state = json.loads((latest / "state.json").read_text())
    return {
        "summary": summary,
        "rows": [{k: v for k, v in row.items() if k not in TIMED} for row in rows],
        "attacks": state["match"]["pool"] if "match" in state else state["pool"],
        "weights": {
            role: (out / role / "model.safetensors").read_bytes()
            for role in ("attacker", "defender")
        },
    }


def played(model: Path, suites: Path, out: Path, *more: str) -> dict[str, Any]:
    code, _, errors = commands.run("sectow_fast.train", *command(model, suites, out, *more))
    assert code == 0, errors
    return measured(out)


def copied(model: Path, to: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(model, to)
    change(to)
    return to
