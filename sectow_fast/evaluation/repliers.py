"""Where replies come from: transformers in this process, or a server that speaks OpenAI's chat."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from sectow_fast.data.images import ImageStore
from sectow_fast.data.processor import load_model, load_processor
from sectow_fast.data.special import (
    PlainText,
    ProcessorTokenizer,
    banned_ids,
    placeholder_ids,
    rendered,
    turn_end,
)
from sectow_fast.families import ids_in, reply_ends
from sectow_fast.serving.client import ChatClient
from sectow_fast.types import Part, UserError


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request: words and pictures in order; pictures are opened when they are needed."""

    id: str
    parts: tuple[Part, ...]
    images: ImageStore

    @property
    def text(self) -> str:
        return "\n".join(value for kind, value in self.parts if kind == "text")

    def pictures(self) -> list[Image.Image]:
        return [self.images.open(value) for kind, value in self.parts if kind == "image"]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model replied.

    text: None where it gave no reply, and `error` says why.
    first: the model's own reply, where a defence has changed it.
    replaced: characters of the text that were no whole ones, and are U+FFFD now.
    """

    text: str | None
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False  # ended by the length limit
    unknown_words: int = 0  # tokens of the request that the model's tokenizer does not know
    first: str | None = None
    replaced: int = 0


class Replier(Protocol):
    def reply(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """(number of the ask, its reply), each once and in any order. Decoding is greedy."""
        ...


class TransformersReplier:
    """Any folder that AutoModelForImageTextToText or AutoModelForCausalLM loads, by the model's own
    `generate`.

    Positions, image layout and stop tokens are therefore those of the model's class. Decoding is
    greedy, as the benchmarks decode: what the folder's generation_config says of sampling and
    repetition is left out.

    batch: the most requests that share a forward. They must have the same number of pictures.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch: int,
        max_new_tokens: int,
        dtype: str,
        max_pixels: int | None = None,
    ) -> None:
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.processor = load_processor(folder, max_pixels=max_pixels, setting="--max-pixels")
        model = load_model(folder, dtype=dtype)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = model.to(self.device).eval()
        self.batch, self.max_new_tokens = batch, max_new_tokens
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.text = PlainText(self.tokenizer)
        self.processor.tokenizer = ProcessorTokenizer(self.text)
        turn = turn_end(self.processor.apply_chat_template, self.text)
        self._ends = reply_ends((*ids_in(self.tokenizer.eos_token_id), *ids_in(turn)), self.model)
        if not self._ends:
            raise UserError(
                f"model {folder}: found no token that ends a reply, expected eos_token in the"
                " tokenizer's configuration, or eos_token_id in generation_config.json"
            )
        self._config = self._generation()

    def _generation(self) -> Any:
        from transformers import GenerationConfig

        old = self.model.generation_config
        banned = banned_ids(self.processor, placeholder_ids(self.model.config), self._ends)
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=list(self._ends),
            # A finished row of a batch is filled with it, and masked.
            pad_token_id=next(iter((*ids_in(self.tokenizer.pad_token_id), *self._ends)), None),
            bos_token_id=old.bos_token_id,
            suppress_tokens=list(banned) or None,
        )

    def reply(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        # Neighbours in length share a forward, so that little of it is padding.
        order = sorted(range(len(asks)), key=lambda i: (_pictures(asks[i]), len(asks[i].text), i))
        at = 0
        while at < len(order):
            count = _pictures(asks[order[at]])
            picked = [i for i in order[at : at + self.batch] if _pictures(asks[i]) == count]
            yield from zip(picked, self._batch([asks[i] for i in picked]), strict=True)
            at += len(picked)

    def _batch(self, asks: Sequence[Ask]) -> list[Reply]:
        import torch

        texts = [rendered(self.processor, self.text, ask.parts) for ask in asks]
        pictures = [ask.pictures() for ask in asks]
        inputs = self.processor(
            text=texts,
            images=pictures if pictures[0] else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        ).to(self.device)
        length = inputs["input_ids"].shape[1]
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest and length + self.max_new_tokens > longest:
            if len(asks) > 1:
                return [reply for ask in asks for reply in self._batch([ask])]
            words = f"{length} prompt tokens and up to {self.max_new_tokens} new ones"
            words += f" do not fit the model's {longest}; lower --max-new-tokens"
            return [Reply(text=None, error=words, prompt_tokens=length)]
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self.model.dtype)
        with torch.inference_mode():
            out = self.model.generate(**inputs, generation_config=self._config)[:, length:]
        unk = self.tokenizer.unk_token_id
        replies = []
        for i in range(len(asks)):
            ids = out[i].tolist()
            ends = [at for at, one in enumerate(ids) if one in self._ends]
            ids = ids[: ends[0]] if ends else ids
            prompt = inputs["input_ids"][i][inputs["attention_mask"][i].bool()].tolist()
            # What the template itself wrote is no word of the request.
            unknown = prompt.count(unk) - self.text.marks(texts[i]).count(unk)
            replies.append(
                Reply(
                    text=self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                    prompt_tokens=len(prompt),
                    completion_tokens=len(ids) + bool(ends),
                    cut=not ends,
                    unknown_words=unknown,
                )
            )
        return replies


class EndpointReplier:
    """A model behind an OpenAI-compatible server; pictures travel as PNG inside the request."""

    def __init__(self, client: ChatClient, *, max_new_tokens: int) -> None:
        client.check()
        self.client, self.max_new_tokens = client, max_new_tokens

    def reply(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        # Pictures are opened when their request is about to be sent, and not before.
        conversations = ([{"role": "user", "content": _content(ask)}] for ask in asks)
        for number, answer in self.client.ask_all(conversations, max_tokens=self.max_new_tokens):
            yield (
                number,
                Reply(
                    text=None if answer.text is None else answer.text.strip(),
                    error=answer.error,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                    # Not every server counts tokens, and not every one says why it ended.
                    cut=answer.cut or answer.completion_tokens >= self.max_new_tokens,
                    replaced=answer.replaced,
                ),
            )


def _content(ask: Ask) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for kind, value in ask.parts:
        if kind == "text":
            parts.append({"type": "text", "text": value})
            continue
        data = io.BytesIO()
        ask.images.open(value).save(data, format="PNG")
        url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def _pictures(ask: Ask) -> int:
    return sum(kind == "image" for kind, _ in ask.parts)
