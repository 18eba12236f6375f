"""What an evaluation of models is told to do; checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sectow_fast.cli import first_problem, flags_of, load_named_plugins, read_all_flags
from sectow_fast.evaluation.defences import DefenceName
from sectow_fast.judges import GUARD_FORMATS, JUDGES, Controversial
from sectow_fast.judges.people import RULE
from sectow_fast.types import UserError

ExportName = Literal["vlmevalkit", "lmms-eval", "mm-safetybench", "jailbreakv", "mmmu", "inspect"]


class Settings(BaseModel):
    """Flags have hyphens where these names have underscores."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    plugins: tuple[str, ...] = Field(
        (), description="files and modules that register things, imported before all else is read"
    )
    model: tuple[str, ...] = Field((), description="[NAME=]FOLDER of each model to evaluate")
    suite: tuple[str, ...] = Field((), description="NAME[:SPLIT]=FOLDER of each suite")
    out: str = Field("", description="folder of the results; the same one goes on where it stopped")
    engine: Literal["torch", "sglang", "endpoint"] = "torch"
    endpoint: str = Field(
        "", description="engine endpoint: address up to /v1; --model names models"
    )
    defence: tuple[DefenceName, ...] = Field(("none",), description="each is a row of its own")
    judge: str = Field("rule", description="guard, rule (refusals alone), or a registered judge")
    judge_url: str = Field("", description="judge guard: address up to /v1")
    judge_model: str = Field("", description="its model there (none: the first), or a folder")
    judge_format: str = Field("qwen3guard", description="the guard: see docs/EVALUATE.md")
    judge_key_env: str = Field("OPENAI_API_KEY", description="variable that holds the key, if any")
    judge_bench: str = Field("", description="JSON of judges.bench for this judge, for the report")
    controversial: Controversial = Field("unsafe", description="what Qwen3Guard's word counts as")
    second_judge: str | None = Field(None, description="judges a sample, for Cohen's kappa")
    agreement: int = Field(200, ge=1, description="cases of that sample, of each row")
    orr: Literal["full", "partial"] = Field("full", description="refusals that count in ORR")
    limit: int = Field(0, ge=0, description="prompts of each suite, drawn by prompt; 0: all")
    seed: int = Field(0, ge=0, description="seed of that draw")
    wording: str = Field("", description="TOML file with other sentences (docs/EVALUATE.md)")
    skip_broken: bool = Field(
        False, description="leave out the cases whose pictures cannot be shown, and count them"
    )
    text_only: bool = Field(
        False, description="show the suites' words in place of pictures, to every model"
    )
    blank_control: bool = Field(
        False, description="ask each suite of pictures once more with blank ones, as NAME-blank"
    )
    max_pixels: int | None = Field(
        None,
        ge=1,
        description="engine torch: a larger picture is scaled down; none: as the processor has it",
    )
    max_new_tokens: int = Field(256, ge=1)
    batch: int = Field(8, ge=1, description="engine torch: requests per forward")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: int = Field(0, ge=0, description="CPU threads; 0: all cores")
    concurrency: int = Field(16, ge=1, description="requests at once to a server")
    timeout: float = Field(120.0, gt=0, description="seconds per request to a server")
    retries: int = Field(5, ge=0)
    export: tuple[ExportName, ...] = Field((), description="files for other tools")
    retry_unknown: bool = Field(False, description="ask again where model or judge gave nothing")
    private: bool = Field(False, description="export and show suites that may not be passed on")
    reveal: bool = Field(False, description="show requests and replies in the report")


FLAGS = flags_of(Settings(), hyphens=True)


def parse(arguments: Sequence[str]) -> Settings:
    """Flags to settings; the plugins are loaded first.

    UserError names the flag, what was found and the nearest known one.
    """
    load_named_plugins(arguments)
    try:
        settings = Settings.model_validate(read_all_flags(arguments, FLAGS))
    except ValidationError as error:
        name, words, _ = first_problem(error)
        raise UserError(f"--{(name or 'settings').replace('_', '-')}: {words}") from None
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    for name in ("model", "suite", "out"):
        if not getattr(settings, name):
            raise UserError(f"--{name}: found none, expected one; see --help")
    JUDGES.get(settings.judge, setting="--judge")
    if settings.second_judge is not None:
        JUDGES.get(settings.second_judge, setting="--second-judge")
    GUARD_FORMATS.get(settings.judge_format, setting="--judge-format")
    judges = {settings.judge, settings.second_judge}
    if "guard" in judges and not (settings.judge_url or settings.judge_model):
        raise UserError(
            "--judge guard: found neither --judge-url nor --judge-model, expected a guard's address"
            " up to /v1, or its folder"
        )
    if "endpoint" in judges and not settings.judge_url:
        raise UserError("--judge endpoint: found no --judge-url, expected http://HOST:PORT/v1")
    if "model" in judges and not settings.judge_model:
        raise UserError("--judge model: found no --judge-model, expected a guard model's folder")
    if len(judges & {"model", "endpoint", "guard"}) > 1:
        raise UserError(
            f"--second-judge: found judges {settings.judge} and {settings.second_judge}"
            " together, which would share --judge-model; expected rule as one of the two"
        )
    if settings.second_judge == settings.judge or judges <= set(RULE):
        raise UserError(f"--second-judge {settings.second_judge}: found the first judge again")
    if settings.max_pixels is not None and settings.engine != "torch":
        raise UserError(
            f"--max-pixels {settings.max_pixels}: found --engine {settings.engine}, whose server"
            " scales pictures by its own settings; expected --engine torch, or no --max-pixels"
        )
    if settings.engine == "endpoint" and not settings.endpoint:
        raise UserError("--engine endpoint: found no --endpoint, expected http://HOST:PORT/v1")


def named_models(settings: Settings) -> dict[str, str]:
    """name -> folder (or, for an endpoint, the served model). UserError: a name twice, or
    unusable."""
    found: dict[str, str] = {}
    for text in settings.model:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = text.rstrip("/").rsplit("/", 1)[-1], text
        # The name becomes the name of a folder.
        if not path or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+ -]*", name):
            raise UserError(
                f"--model {text!r}: found no plain name, expected NAME=FOLDER, the name of letters,"
                " digits and . _ - +"
            )
        if name in found:
            raise UserError(f"--model {text!r}: found the name {name!r} again; give it another one")
        found[name] = path
    return found
