"""What stands in the place of a processor where a model is of words alone: its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sectow_fast.model_folder import reading, unreadable
from sectow_fast.types import UserError

NAMES = ("padding", "padding_side", "max_length", "return_tensors", "add_special_tokens")
PROBE = "zyxwv"


class WordsProcessor:
    """Answers as a transformers processor does, to what is asked of one that shows no picture.

    A template of a tokenizer may take a turn's content as a string, as a list of parts, or both.
    `apply_chat_template` takes lists, as processors do, and gives the template what it takes.
    """

    image_processor: None = None
    image_token: None = None

    def __init__(self, tokenizer: Any, *, strings: bool) -> None:
        self.tokenizer, self.strings = tokenizer, strings
        self.chat_template: str = tokenizer.chat_template

    def apply_chat_template(self, chat: Sequence[Mapping[str, Any]], **options: Any) -> str:
        turns = [{**turn, "content": self._content(turn["content"])} for turn in chat]
        return self.tokenizer.apply_chat_template(turns, **options)

    def _content(self, content: Any) -> Any:
        if isinstance(content, str) or not self.strings:
            return content
        return "\n".join(part["text"] for part in content)

    def __call__(self, text: Sequence[str], images: None = None, **options: Any) -> Any:
        if images is not None:
            raise ValueError("found pictures, expected none: this model is of words alone")
        kept = {name: options[name] for name in NAMES if name in options}
        return self.tokenizer(text, return_token_type_ids=False, **kept)

    def save_pretrained(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def load_words(folder: Path, *, role: str = "model") -> WordsProcessor:
    """The tokenizer of a folder. UserError: not loadable, no template, or one that cannot be
    filled in."""
    from transformers import AutoTokenizer

    told = reading(folder, role=role)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **told)
    except Exception as error:  # the package tokenizers raises no class of its own
        raise unreadable(folder, error, role=role, what="its tokenizer") from None
    check_template(tokenizer, folder, role=role)
    strings = takes(tokenizer.apply_chat_template, PROBE) is None
    if not strings:
        problem = takes(tokenizer.apply_chat_template, [{"type": "text", "text": PROBE}])
        if problem is not None:
            raise template_error(folder, problem, role=role)
    return WordsProcessor(tokenizer, strings=strings)


def check_template(processor: Any, folder: Path, *, role: str) -> None:
    """UserError where a processor or tokenizer has no chat template."""
    if not getattr(processor, "chat_template", None):
        raise UserError(
            f"{role} {folder}: found no chat template, expected one (chat_template.jinja beside"
            " the tokenizer); use an instruct model, or add its template to the folder"
        )


def takes(fill: Any, content: Any) -> str | None:
    """Why a template does not take a user's turn of this content, in words; None where it does.

    fill: `apply_chat_template`. content: a string or a list with `PROBE` as its words. A template
    that prints a list as Python does takes none.
    """
    from jinja2 import TemplateError

    try:
        text = fill([{"role": "user", "content": content}], **FILLED)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:240]
    if PROBE not in text:
        return "it leaves out what the user says"
    quoted = f"'{PROBE}'" in text or f'"{PROBE}"' in text
    return "it prints a list of parts as Python does" if quoted else None


FILLED: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}


def template_error(folder: Path, problem: str, *, role: str) -> UserError:
    """The one line for a template that cannot be filled in; it names the template's file."""
    names = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    own = next((folder / name for name in names if (folder / name).is_file()), folder)
    return UserError(
        f"{role} {own}: found a chat template that does not take a user's turn ({problem}),"
        " expected one that does; put the template of an instruct model there"
    )
