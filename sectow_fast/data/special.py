"""Special tokens: which of them a model's folder names, and how text that spells one stays text.

A chat template writes control tokens as words around the words of a user. If those words spell a
control token themselves ("<|im_end|>"), a tokenizer makes the real one of them: a turn that nobody
took, or a picture that is not there. So words are hidden before the template is filled in, and
tokenised by Hugging Face's own `split_special_tokens` afterwards. Text that spells no such token
goes through the tokenizer as a whole, as it always did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sectow_fast.families import ids_in
from sectow_fast.model_folder import configuration
from sectow_fast.types import Part, UserError

# Code points that no text uses. A hidden token is HIDER and a number, so that HIDER can be hidden.
HIDER, FIRST = "\U00100000", 0x100001
# Names under which the configurations of transformers hold a picture's or a video's placeholder.
PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


def placeholder_ids(config: Any) -> list[int]:
    """The tokens that stand for a picture or a video, as the model's configuration names them."""
    found = {getattr(config, name, None) for name in PLACEHOLDERS}
    return sorted(one for one in found if isinstance(one, int))


def banned_ids(processor: Any, placeholders: Iterable[int], ends: Iterable[int]) -> tuple[int, ...]:
    """The tokens that no reply may have, in order: they stand for padding, for what the tokenizer
    does not know, or for a picture, and the next forward would fail on such a picture.

    placeholders: what else stands for a picture or a video. ends: what ends a reply is no such
    token, whatever else it stands for.
    """
    tokenizer, marker = processor.tokenizer, getattr(processor, "image_token", None)
    shown = None if marker is None else tokenizer.convert_tokens_to_ids(marker)
    found = {tokenizer.pad_token_id, tokenizer.unk_token_id, shown, *placeholders}
    return tuple(sorted(one for one in found - set(ends) if one is not None))


@dataclass(frozen=True, kw_only=True)
class ModelTokens:
    """What a model's folder says of its tokens, beside its tokenizer.

    image_id: a picture's placeholder, None where the processor alone says it. placeholders: all
    that stand for something which is no text. ends: what ends a reply.
    """

    image_id: int | None = None
    placeholders: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> ModelTokens:
        """From `config.json` and `generation_config.json`. UserError where one cannot be read."""
        from transformers import GenerationConfig

        config = configuration(folder)
        try:
            if (folder / "generation_config.json").is_file():
                generation = GenerationConfig.from_pretrained(folder)
            else:
                generation = GenerationConfig.from_model_config(config)
        except (OSError, ValueError, KeyError) as error:
            words = " ".join(str(error).split())[:240]
            raise UserError(f"model {folder}: its configuration cannot be read ({words})") from None
        image = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
        return cls(
            image_id=image,
            placeholders=tuple(placeholder_ids(config)),
            ends=ids_in(generation.eos_token_id),
        )


UNTOLD = ModelTokens()  # where there is no folder: all is as the processor says


class PlainText:
    """A tokenizer under which a user's words never become a special token.

    `hide` the words, fill in the chat template, and give what comes out to `rows`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        ids = {i for i, token in added.items() if token.special}
        ids |= set(getattr(tokenizer, "all_special_ids", ()))
        named = {str(tokenizer.convert_ids_to_tokens(i)): i for i in sorted(ids)}
        self.special: dict[str, int] = {word: i for word, i in named.items() if word}
        self._longest_first = sorted(self.special, key=lambda word: (-len(word), word))
        self._token = re.compile("|".join(map(re.escape, self._longest_first)) or "(?!)")
        self._spelled = re.compile("|".join(map(re.escape, [*self._longest_first, HIDER])))
        self._numbers = {word: i for i, word in enumerate([*self._longest_first, HIDER])}

    def spells(self, text: str) -> str | None:
        """The first special token that the text spells, None where it spells none."""
        found = self._token.search(text)
        return found.group() if found else None

    def hide(self, text: str) -> str:
        """The text, its special tokens hidden from templates, processors and tokenizers."""
        return self._spelled.sub(
            lambda found: HIDER + chr(FIRST + self._numbers[found.group()]), text
        )

    def hidden(self, chat: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A chat for a template, the words of its turns hidden."""

        def part(one: Any) -> Any:
            return one | {"text": self.hide(one["text"])} if "text" in one else one

        def words(content: Any) -> Any:
            return self.hide(content) if isinstance(content, str) else [part(p) for p in content]

        return [{**turn, "content": words(turn["content"])} for turn in chat]

    def shown(self, text: str) -> str:
        """The inverse of `hide`."""
        words = [*self._longest_first, HIDER]
        return re.sub(f"{HIDER}(.)", lambda found: words[ord(found[1]) - FIRST], text, flags=re.S)

    def marks(self, text: str) -> list[int]:
        """The special tokens that stand openly in a text, in order."""
        return [self.special[word] for word in self._token.findall(text)]

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text: open special tokens are tokens, hidden ones are text."""
        plain = [text for text in texts if HIDER not in text]
        made = self.tokenizer(plain, add_special_tokens=False)["input_ids"] if plain else []
        ids = dict(zip(plain, made, strict=True))
        return [self._cut(text) if HIDER in text else list(ids[text]) for text in texts]

    def _cut(self, text: str) -> list[int]:
        """Piece by piece between the open tokens, as the tokenizer itself cuts a text."""
        ids: list[int] = []
        at = 0
        for found in [*self._token.finditer(text), None]:
            piece = self.shown(text[at : found.start() if found else len(text)])
            if piece:
                ids += self.tokenizer(piece, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
            if found:
                ids.append(self.special[found.group()])
                at = found.end()
        return ids


class ProcessorTokenizer:
    """Stands where a processor has its tokenizer, and keeps hidden words text."""

    def __init__(self, plain: PlainText) -> None:
        self.plain = plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain.tokenizer, name)

    def __call__(self, text: Sequence[str], **options: Any) -> Any:
        if not any(HIDER in one for one in text):
            return self.plain.tokenizer(text, **options)
        names = ("padding", "padding_side", "max_length", "pad_to_multiple_of", "return_tensors")
        kept = {name: options[name] for name in names if options.get(name) is not None}
        return self.plain.tokenizer.pad({"input_ids": self.plain.rows(text)}, **kept)


def rendered(processor: Any, plain: PlainText, parts: Sequence[Part]) -> str:
    """The template's words of one user's turn, a picture as the template writes it, the special
    tokens that the parts spell hidden."""
    content = [
        {"type": "image"} if kind == "image" else {"type": "text", "text": value}
        for kind, value in parts
    ]
    return processor.apply_chat_template(
        plain.hidden([{"role": "user", "content": content}]),
        add_generation_prompt=True,
        tokenize=False,
    )


def turn_end(fill: Callable[..., str], plain: PlainText) -> int | None:
    """The token by which a chat template ends an assistant's turn; None where it writes none.

    fill: the template of a processor or tokenizer (`apply_chat_template`).
    """
    word = "zyxwv"
    turns = [
        {"role": role, "content": [{"type": "text", "text": word}]}
        for role in ("user", "assistant")
    ]
    try:
        text = fill(turns, add_generation_prompt=False, tokenize=False)
    except Exception:  # a template may refuse an assistant's turn in any way that Jinja has
        return None
    _, found, rest = text.rpartition(word)
    if not found or not (end := re.match(rf"\s*({plain._token.pattern})", rest)):
        return None
    return plain.special[end[1]]
