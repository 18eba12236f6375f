"""A guard model in this process, run by our own engine: no server, no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.data.processor import load_model
from sectow_fast.data.special import PlainText
from sectow_fast.engine.torch_engine import TorchEngine
from sectow_fast.families import ids_in
from sectow_fast.judges.base import Controversial, Judgement, JudgeRequest
from sectow_fast.judges.formats import GuardFormat
from sectow_fast.types import Prompt, Sampling, UserError

BATCH = 64  # conversations an engine call


class GuardCodec:
    """Conversations to ids by the guard's own chat template; no pictures. A request or a reply that
    spells a token of the template stays text: it could otherwise end its turn and judge itself."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.text = tokenizer, PlainText(tokenizer)
        self.end_ids: tuple[int, ...] = ids_in(tokenizer.eos_token_id)
        pad = (*ids_in(tokenizer.pad_token_id), *self.end_ids, 0)[0]  # any id will do: it is masked
        self.pad_id: int = pad
        self.banned_ids: tuple[int, ...] = ()

    def encode(self, messages: list[dict[str, Any]], name: str) -> Prompt:
        text = self.tokenizer.apply_chat_template(
            self.text.hidden(messages), add_generation_prompt=True, tokenize=False
        )
        (ids,) = self.text.rows([text])
        return self._prompt(ids, name)

    def encode_text(self, text: str, name: str) -> Prompt:
        """A prompt that is no conversation: as the tokenizer begins a text."""
        (ids,) = self.text.rows([text])
        return self._prompt([*self.tokenizer("")["input_ids"], *ids], name)

    def shortened(self, reply: str, most: int) -> str:
        """The first `most` tokens of a reply; all of it where `most` is 0."""
        ids = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
        return self.tokenizer.decode(ids[:most]) if 0 < most < len(ids) else reply

    def _prompt(self, ids: Sequence[int], name: str) -> Prompt:
        if not ids:
            raise UserError(
                "judge: its tokenizer makes no token of a conversation, expected some; is the"
                " tokenizer the one the model was saved with?"
            )
        return Prompt(case_id=name, ids=tuple(ids))

    def pixel_inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        return {}

    def prefetch(self, prompts: Sequence[Prompt]) -> None:
        """It has no pictures."""


class ModelJudge:
    """folder: a causal language model with its tokenizer and chat template."""

    def __init__(
        self, folder: Path, format: GuardFormat, *, controversial: Controversial = "unsafe"
    ) -> None:
        from transformers import AutoTokenizer

        if not (folder / "config.json").is_file():
            raise UserError(f"judge {folder}: found no config.json, expected a model's folder")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"judge {folder}: cannot be loaded ({_line(error)})") from None
        model = load_model(folder, dtype="auto", role="judge", auto="AutoModelForCausalLM")
        if not tokenizer.chat_template and not format.prompt:
            raise UserError(f"judge {folder}: found no chat template, expected a guard model's")
        import torch

        if torch.cuda.is_available():
            model = model.to("cuda")
        self.format, self.controversial = format, controversial
        self.codec = GuardCodec(tokenizer)
        self.engine = TorchEngine(model.requires_grad_(False).eval(), self.codec, batch=BATCH)
        self.id = f"model:{folder.resolve().name}:{format.name}:controversial={controversial}"

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        sampling = Sampling(temperature=0.0, max_new_tokens=self.format.max_tokens)
        for at in range(0, len(requests), BATCH):
            part = requests[at : at + BATCH]
            prompts = [self._encode(one, str(at + i)) for i, one in enumerate(part)]
            if self.format.grades:
                for i, (one, prompt) in enumerate(zip(part, prompts, strict=True)):
                    raw = f"{self._score(prompt):.4f} of 1"
                    verdict = self.format.parse(raw, one.reply, self.controversial)
                    yield at + i, dataclasses.replace(verdict, prompt_tokens=len(prompt.ids))
                continue
            groups = self.engine.generate(prompts, n=1, sampling=sampling, seed="judge")
            for i, (one, prompt, group) in enumerate(zip(part, prompts, groups, strict=True)):
                raw = self.codec.tokenizer.decode(list(group[0].ids), skip_special_tokens=True)
                verdict = self.format.parse(raw.strip(), one.reply, self.controversial)
                yield (
                    at + i,
                    dataclasses.replace(
                        verdict,
                        prompt_tokens=len(prompt.ids),
                        completion_tokens=len(group[0].ids),
                    ),
                )

    def _encode(self, one: JudgeRequest, name: str) -> Prompt:
        if not self.format.prompt:
            return self.codec.encode(self.format.messages(one), name)
        reply = self.codec.shortened(one.reply, self.format.longest)
        hide = self.codec.text.hide
        hidden = dataclasses.replace(one, request=hide(one.request), reply=hide(reply))
        return self.codec.encode_text(self.format.text(hidden), name)

    def _score(self, prompt: Prompt) -> float:
        """The mean of the grades, by the probabilities of their tokens alone."""
        import torch

        grades = self.format.grades or {}
        ids = [self.codec.tokenizer.convert_tokens_to_ids(word) for word in grades]
        model = self.engine.model
        with torch.inference_mode():
            given = torch.tensor([prompt.ids], device=model.device)
            logits = model(input_ids=given).logits[0, -1, ids].float()
        worth = torch.tensor(list(grades.values()), device=logits.device)
        return float((logits.softmax(-1) * worth).sum())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
