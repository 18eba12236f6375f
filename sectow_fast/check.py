"""`python -m sectow_fast.check --model FOLDER`: can this checkpoint be trained and evaluated here?

It looks at class, template, ends, picture tokens and memory before a weight is read, then loads the
model, holds packed rows against its own forwards (learn/selftest.py), and measures a little.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sectow_fast import ctrl_c

if __name__ == "__main__":
    ctrl_c.end_quietly("stopped; nothing was written")

from pydantic import Field, ValidationError

from sectow_fast.cli import first_problem, flags_of, help_lines
from sectow_fast.cli import load_named_plugins as load_plugins
from sectow_fast.cli import read_all_flags as read
from sectow_fast.config import GRPOConfig, LearnConfig
from sectow_fast.config.sections import Section
from sectow_fast.types import Case, Completion, Prompt, Sampling, UserError

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see train.py

USAGE = """usage: python -m sectow_fast.check --model FOLDER [--json] [--load false]

Exit code 0: it can be trained and evaluated here; 1: it cannot, and why. Settings (name = default):
"""
GIB = 2**30
# float32 weights that a CPU run holds: two players, two moments, gradients, round 0, last good.
COPIES = 7
PICTURE = (640, 480)  # pixels
SHOWN, PROMPTS, SAMPLES, TOKENS = "picture", 4, 8, 16


class Settings(Section):
    """Flags have hyphens where these names have underscores."""

    plugins: tuple[str, ...] = Field((), description="files that register things")
    model: str = Field("", description="the model's folder")
    load: bool = Field(True, description="false: nothing that needs a weight")
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was looked at, and what came of it. needed: for "evaluate", "train" or neither ("")."""

    name: str
    ok: bool
    found: str
    needed: str = ""


class Picture:
    """An `ImageStore` of one drawn picture."""

    def size(self, key: str) -> tuple[int, int]:
        return PICTURE

    def open(self, key: str) -> Any:
        from PIL import Image, ImageDraw

        made = Image.new("RGB", PICTURE, "white")
        ImageDraw.Draw(made).ellipse((40, 40, 400, 300), fill="darkgreen")
        return made


def findings(folder: Path, *, load: bool = True) -> Iterator[Finding]:
    """One finding after another; a part that all others need is the last one where it fails."""
    from sectow_fast.data.codec import ChatCodec
    from sectow_fast.data.processor import load_processor
    from sectow_fast.data.special import ModelTokens
    from sectow_fast.families import FAMILIES
    from sectow_fast.model_folder import auto_class, configuration

    found, config = _tried("configuration", lambda: configuration(folder), "evaluate")
    if found:
        yield found
        return
    name = config.model_type
    known = name in FAMILIES
    words = f"{(config.architectures or [name])[0]} ({name}), loaded by {auto_class(config)}"
    yield Finding(name="class", ok=True, found=words, needed="evaluate")
    layout = (
        f"found no known layout of {name}, expected one of {', '.join(FAMILIES.names())}; add its"
        " layout by register_family in a file given by --plugins"
    )
    layout = "its layout is known" if known else layout
    yield Finding(name="layout", ok=known, found=layout, needed="train")
    yield _sglang(config)
    found, processor = _tried("template", lambda: load_processor(folder), "evaluate")
    if found:
        yield found
        return
    form = "strings" if getattr(processor, "strings", False) else "lists of parts"
    yield Finding(name="template", ok=True, found=f"filled in; it takes {form}", needed="evaluate")
    found, codec = _tried(
        "ends",
        lambda: ChatCodec(processor, Picture(), tokens=ModelTokens.of(folder)),
        "evaluate",
    )
    if found:
        yield found
        return
    ends = ", ".join(repr(codec.tokenizer.convert_ids_to_tokens(i)) for i in codec.end_ids)
    yield Finding(name="ends", ok=True, found=f"a reply ends by {ends}", needed="evaluate")
    found, pictures = _tried("pictures", lambda: _pictures(codec), "evaluate")
    yield found or Finding(name="pictures", ok=True, found=pictures, needed="evaluate")
    yield _memory(config)
    if load and not found:
        yield from _loaded(folder, codec, known=known)


def _tried(name: str, call: Callable[[], Any], needed: str) -> tuple[Finding | None, Any]:
    """(a finding of what failed, None) or (None, what the call gave)."""
    try:
        return None, call()
    except UserError as error:
        return Finding(name=name, ok=False, found=str(error), needed=needed), None


def _sglang(config: Any) -> Finding:
    """Whether SGLang is here and has the class, by the text of its models' files: importing it
    takes longer than the rest of this command."""
    import importlib.util

    spec = importlib.util.find_spec("sglang")
    if spec is None or spec.origin is None:
        words = "SGLang is not installed here; --engine.kind torch works (docs/ENGINE.md)"
        return Finding(name="engine sglang", ok=False, found=words)
    name = (config.architectures or [""])[0]
    files = (Path(spec.origin).parent / "srt" / "models").glob("*.py")
    has = any(f"class {name}(" in path.read_text(encoding="utf-8") for path in files)
    words = f"SGLang {'has' if has else 'has no'} class {name}"
    return Finding(name="engine sglang", ok=has, found=words)


def _pictures(codec: Any) -> str:
    if not codec.sees:
        return "it takes none: suites with pictures want --text-only (data.text_only in training)"
    (prompt,) = codec.encode([_case(True)])
    count = prompt.ids.count(codec.image_id)
    word = codec.tokenizer.convert_ids_to_tokens(codec.image_id)
    return f"one of {PICTURE[0]} x {PICTURE[1]} pixels takes {count} tokens {word!r}"


def _case(shown: bool, words: str = "Say in a few words what this is about, please.") -> Case:
    return Case(id="check", text=words, label="harmless", image=SHOWN if shown else None)


def _memory(config: Any) -> Finding:
    """Of training on this host's CPU; a GPU's plan is `train --dry-run`'s."""
    import torch
    import transformers

    from sectow_fast.learn.placement import free_host_memory
    from sectow_fast.model_folder import auto_class

    with torch.device("meta"):
        model = getattr(transformers, auto_class(config)).from_config(config)
    count = sum(p.numel() for p in model.parameters())
    needed = COPIES * 4 * count
    free = free_host_memory()
    words = (
        f"{count / 1e6:,.0f} M parameters; training takes about {needed / GIB:.1f} GiB and"
        f" activations, evaluation {4 * count / GIB:.1f} GiB in float32; {free / GIB:.1f} GiB of"
        " host memory are free"
    )
    if needed > free:
        words += "; free some, use learn.lora_rank, or a GPU (train --dry-run has its plan)"
    return Finding(name="memory", ok=needed <= free, found=words, needed="train")


def _loaded(folder: Path, codec: Any, *, known: bool) -> Iterator[Finding]:
    """What only the model itself can show."""
    import torch

    from sectow_fast.data.processor import load_model
    from sectow_fast.engine.torch_engine import TorchEngine
    from sectow_fast.learn.placement import training_device
    from sectow_fast.learn.policy import make_policy
    from sectow_fast.learn.selftest import check_packing

    begin = time.perf_counter()
    found, model = _tried("weights", lambda: load_model(folder, dtype="float32"), "evaluate")
    if found:
        yield found
        return
    rows, words = model.get_input_embeddings().num_embeddings, len(codec.tokenizer)
    told = f"read in {time.perf_counter() - begin:.1f} s; {rows:,} rows for {words:,} tokens"
    yield Finding(name="weights", ok=words <= rows, found=told, needed="evaluate")
    if not known or words > rows:
        return
    model.to(training_device("auto"))
    policy = make_policy(model, codec, LearnConfig())
    prompts = codec.encode([_case(shown) for shown in {codec.sees, False}])
    found, worst = _tried("self-test", lambda: check_packing(policy, prompts), "train")
    yield found or Finding(
        name="self-test",
        ok=True,
        found=f"packed rows are within {worst:.2g} of the model's own forwards",
        needed="train",
    )
    begin = time.perf_counter()
    asked = codec.encode([_case(False, f"Say something about {i}.") for i in range(PROMPTS)])
    sampling = Sampling(max_new_tokens=TOKENS)
    groups = TorchEngine(model, codec).generate(asked, n=SAMPLES, sampling=sampling, seed="check")
    drawn = sum(len(one.ids) for group in groups for one in group)
    rollout = drawn / (time.perf_counter() - begin)
    begin = time.perf_counter()
    _learnt(policy, list(zip(asked, groups, strict=True)))
    update = drawn / (time.perf_counter() - begin)
    yield Finding(
        name="speed",
        ok=True,
        found=f"rollout {rollout:,.0f}, update {update:,.0f} completion tokens/s on"
        f" {policy.device} ({torch.get_num_threads()} threads; {drawn} tokens, G = {SAMPLES})",
    )


def _learnt(policy: Any, groups: Sequence[tuple[Prompt, list[Completion]]]) -> None:
    """One forward and backward of all tokens; no weight moves."""
    for row, _ in policy.rows(groups, GRPOConfig().tokens_per_batch):
        logp, _ = policy(row)
        logp.sum().backward()
    policy.zero_grad(set_to_none=True)


def report(folder: str, found: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints. evaluable, trainable: whether nothing that each needs is missing."""
    missing = {one.needed for one in found if not one.ok}
    return {
        "schema": 1,
        "model": folder,
        "evaluable": "evaluate" not in missing,
        "trainable": not missing & {"evaluate", "train"},
        "findings": [asdict(one) for one in found],
    }


FLAGS = flags_of(Settings(), hyphens=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: trainable and evaluable; 1: not; 2: a mistake in what was given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        load_plugins(arguments)
        if "-h" in arguments or "--help" in arguments:
            print(USAGE + "\n".join(help_lines(FLAGS)))
            return 0
        given = [word for word in arguments if word != "--json"]
        try:
            settings = Settings.model_validate(read(given, FLAGS))
        except ValidationError as error:
            name, words, _ = first_problem(error)
            raise UserError(f"--{name}: {words}") from None
        if not settings.model:
            raise UserError("--model: found none, expected a model's folder; see --help")
        return check(settings, as_json=len(given) < len(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def check(settings: Settings, *, as_json: bool) -> int:
    """Look, and say what was found while it is found; the exit code of `main`."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    found = []
    for one in findings(Path(settings.model), load=settings.load):
        found.append(one)
        if not as_json:
            mark = "ok" if one.ok else "NO" if one.needed else "--"
            print(f"{mark}  {one.name}: {one.found}", flush=True)
    made = report(settings.model, found)
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        what = {name: "can" if made[name] else "cannot" for name in ("evaluable", "trainable")}
        print(f"it {what['evaluable']} be evaluated and {what['trainable']} be trained here")
    return 0 if made["evaluable"] and made["trainable"] else 1


if __name__ == "__main__":
    sys.exit(main())
