"""Was a short answer right? Read as a person reads it, and nothing is guessed.

What is stated counts over what is mentioned, and the last statement over earlier ones. A reply that
names no option, or several, has none: the official MMMU-Pro parser reads "I'm sorry" as option I of
ten, and draws a letter at random where it finds none; both would turn refusals into accuracy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sectow_fast.judges.markup import clean, tagged
from sectow_fast.judges.numbers import equal_values, value_of, values_in
from sectow_fast.judges.rule import refusal_of

# "The answer is" in the languages that `languages.py` knows: the noun, then what links it.
_ANSWER = (
    r"(?:answer|option|choice|solution)(?: (?:choice|option|letter))?"
    r"(?: (?:to|here|for|of|in|among|from)\b[^.:\n]{0,60}?"
    r"(?=[^\S\n]+(?:is|would|should|must|will)\b))?"
    r"|答案|正确选项|正確選項|选项|選項|正解|答え|respuesta|opción|réponse|resposta|opção|alternativa"
    r"|jawaban(?:nya)?|antwort|lösung|ответ|вариант|उत्तर|जवाब|विकल्प|উত্তর|বিকল্প|الإجابة|الجواب"
    r"|الخيار|جواب|آپشن"
)
_LINKS = (
    r"(?:would be|should be|must be|has to be|will be|is|are|be|therefore|thus|clearly|probably"
    r"|likely|indeed|then|option|choice|letter|correct|right|correcta|correcte|correta|yang benar"
    r"|es la|es|est la|est|é a|é|ist|adalah|opción|opção|réponse|это|правильный|है|सही|হল|হলো|সঠিক"
    r"|هي|هو|الصحيحة|الصحيح|ہے)(?![a-z\u00df-\u024f])|是|为|為|は|应该|應該|应为|选|選|正确的?"
)
_IS = rf"(?:(?:[^\S\n]*(?:{_LINKS}))*[^\S\n]*[:=\-–—]*\s{{0,3}})"
_OPEN, _CLOSE = r"[(（\[【<{\"'“‘]{0,2}", r"[)）\]】>}\"'”’]"
_LETTER = rf"{_OPEN}(?:option |choice )?([A-Za-z])(?![A-Za-z0-9'’+#])"
_STATED = re.compile(rf"(?:\b|(?<=\W)|(?<=[^\x00-\x7f]))(?:{_ANSWER}){_IS}{_LETTER}", re.IGNORECASE)
_CHOOSES = re.compile(
    r"\b(?:i|we|let's|let us)(?:'d|'ll| would| will| should| think| believe)?"
    r"(?: (?:have to|must|therefore|also))?"
    r" (?:choose|pick|select|go with|vote for|say|answer|(?:think|believe|guess)(?: that)?"
    rf"(?: (?:it is|it's|the answer is))?)(?: (?:option|choice|answer|letter))?:? {_LETTER}"
    rf"|\b(?:it is|it's|it must be|it should be|so|therefore|thus|hence|ans|a)(?:,|:)?"
    rf" (?:option |choice |letter )?{_LETTER}(?=\W*(?:$|\n|\.))",
    re.IGNORECASE | re.MULTILINE,
)
_IS_RIGHT = re.compile(
    rf"(?:\boption |\bchoice |\banswer |^|[.,;:] ?|\n){_OPEN}([A-Z]){_CLOSE}?(?: [^.\n]{{0,60}}?)?"
    r" (?:is|would be|must be|seems) (?:the )?(?:most |definitely |clearly )?"
    r"(?:correct|right|best|accurate|appropriate|answer)\b",
    re.IGNORECASE,
)
_MENTION = re.compile(
    r"(?:option|choice|alternativa|opción|opção)\s*[(\[]?(?:option )?", re.IGNORECASE
)
_MENTIONED = re.compile(r"\b(?:option|choice) [(\[]?([A-Z])\b", re.IGNORECASE)
_BRACKETED = re.compile(r"[(（\[【]([A-Z])[)）\]】]")
_LEADING = re.compile(
    rf"\A{_OPEN}([A-Za-z])(?:{_CLOSE}[\s.:,]|[.:,]\s|\s*[-–—:]\s|\s*\n|{_CLOSE}?[.:]?\Z)"
)
_LAST_LINE = re.compile(
    rf"(?:\A|\n|[.!?]\s)\s*{_OPEN}([A-Za-z])(?:{_CLOSE}?\s*[.:]?\s*\Z|[).:]\s+\S.{{0,200}}\Z)"
)
_LABEL = re.compile(r"(?:\A|[\n.;,]\s*)([A-Z])[:)]\s")
_NOT = re.compile(
    r"\b(?:not|isn't|never|neither|nor|except|wrong|incorrect)\b[^.;\n]{0,12}\Z", re.IGNORECASE
)
_OR = re.compile(r"\A[)\"'.]{0,2}\s*(?:,? or|/|,? and|,) (?:option |choice )?[(\[]?([A-Z])\b")
SHORT = 20  # words: a longer reply must state its answer, not merely mention it


def choice_of(reply: str, options: Sequence[str]) -> str | None:
    """The option's letter, or None: a refusal, no option, or more than one.

    >>> ten = [f"thing {i}" for i in range(10)]
    >>> choice_of("I'm sorry, I cannot tell.", ten) is None, choice_of("(B) thing 1", ten)
    (True, 'B')
    >>> choice_of("The answer is C.", ten), choice_of("thing 3", ten), choice_of("I", ten)
    ('C', 'D', 'I')
    >>> choice_of("**Answer:** \\\\(\\\\boxed{\\\\text{D}}\\\\)", ten)
    'D'
    """
    letters = [chr(65 + i) for i in range(len(options))]
    inside = tagged(reply)
    if inside is not None:
        inner = _of_short(clean(inside), letters, options)
        if inner is not None:
            return inner
    text = clean(reply)
    stated = _stated(text, letters)
    if stated is not None:
        return stated or None
    told = _last_statement(text)
    if told is not text and (by_text := _by_text(told, letters, options)) is not None:
        return by_text
    if refusal_of(reply) == "full" and not _LAST_LINE.search(text):
        return None
    return _of_short(text, letters, options)


def _stated(text: str, letters: Sequence[str]) -> str | None:
    """The last letter that is stated; "" where the last statement names none of the options, or
    two; None where nothing is stated."""
    found: list[tuple[int, str]] = []
    for pattern in (_STATED, _CHOOSES, _IS_RIGHT):
        for match in pattern.finditer(text):
            at = next(i for i, group in enumerate(match.groups(), 1) if group)
            letter, after = _meant(match[at], text[match.end(at) :]), text[match.end(at) :]
            if not letter or _NOT.search(text[: match.start(at)][-40:]):
                continue
            if pattern is _STATED and _MENTION.fullmatch(text[match.start() : match.start(at)]):
                continue  # "option C shows ...": mentioned, not stated
            other = _OR.match(after)
            both = other is not None and other[1] in letters and other[1] != letter
            if letter in letters or match[at].isupper():
                found.append((match.start(at), "" if both else letter))
    if not found:
        return None
    last = max(found)[1]
    valid = {letter for _, letter in found if letter in letters}
    return last if last in valid or not last else valid.pop() if len(valid) == 1 else ""


def _meant(letter: str, after: str) -> str:
    """A letter as it stands, or "" where it is a word: "a picture", "I like it"."""
    if letter in "aA" or letter == "I":
        word = re.match(
            r"[\"'*)\]}]{0,2}\s?(?:is\b|because\b|since\b|as\b|[^\s\w]|\n|\Z|\Z)", after
        )
        return letter.upper() if word or re.match(r"\s*(?:\Z|\n)", after) else ""
    if letter.islower() and re.match(r"\s+[a-z]", after):
        return ""
    return letter.upper()


def _of_short(text: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    for pattern in (_LEADING, _LAST_LINE):
        match = pattern.search(text)
        if match and match[1].upper() in letters:
            rest = text[match.end(1) :]
            others = {m[1] for m in _LABEL.finditer(text)} - {match[1]}
            if not _OR.match(rest) and not others.intersection(letters):
                return match[1].upper()
    mentioned = {
        _meant(m[1], text[m.end(1) :]) for m in _MENTIONED.finditer(text) if not _denied(text, m)
    } - {""}
    if len(mentioned) == 1 and mentioned <= set(letters):
        return mentioned.pop()
    affirmed = [m for m in _BRACKETED.finditer(text) if not _denied(text, m)]
    found = {m[1] for m in affirmed}.intersection(letters)
    if len(found) == 1:
        return found.pop()
    if found:
        return None
    return _named(text, letters, options)


def _denied(text: str, match: re.Match[str]) -> bool:
    after = re.match(r"[^.,;\n]{0,40}\b(?:not|wrong|incorrect|isn't)\b", text[match.end() :])
    return bool(after) or bool(_NOT.search(text[: match.start()][-24:]))


def _named(text: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The one option whose words are in a short reply; the longest of those within each other."""
    words = _words(text)
    if len(words.split()) > SHORT:
        return None
    # "not red but blue" names blue.
    words = re.sub(r"\b(?:not|isn't) (?:\S+ ){1,4}?but ", "", words + " ").strip()
    named = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if _words(option) and f" {_words(option)} " in f" {words} "
    ]
    best = [
        a
        for a in named
        if not any(
            a != b and f" {_words(options[ord(a) - 65])} " in f" {_words(options[ord(b) - 65])} "
            for b in named
        )
    ]
    return best[0] if len(best) == 1 and not re.search(r"\bnot\b", words) else None


def open_right(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply in words gives one of the right answers: equal, equal by value, or named.

    Numbers are compared by value and sign, in MMMU's way to two decimals; units of one kind and
    shares in percent are converted. The last number that is stated counts.

    >>> open_right("It is 3.50 metres", ["3.5"]), open_right("about 35", ["3.5"])
    (True, False)
    >>> open_right("0.5", ["1/2"]), open_right("5", ["-5"])
    (True, False)
    """
    inside = tagged(reply)
    text = clean(inside if inside is not None else reply)
    stated = _last_statement(text)
    # Where an answer is stated in as many words, it counts whatever stands before it.
    unstated = inside is None and stated is text
    if unstated and refusal_of(reply) == "full" and len(text.split()) > 3:
        return False
    words = _words(stated)
    for answer in answers:
        wanted = clean(answer)
        if not wanted:
            continue
        if _same(stated, wanted) or _same(text, wanted):
            return True
        value = value_of(wanted)
        if value is not None:
            found = [] if stated is text and _LIST.search(stated) else values_in(stated)
            if found and equal_values(found[-1] if stated is text else found[0], value):
                return True
        elif _words(wanted) and len(words.split()) <= SHORT and _holds(stated, wanted):
            return True
    return False


def is_right(reply: str, answer: str, options: Sequence[str]) -> bool:
    """Against a letter where there are options, against the lines of `answer` elsewhere."""
    if options:
        return choice_of(reply, options) == answer.strip()
    return open_right(reply, answer.split("\n"))


# Several numbers and nothing that says which of them is meant.
_LIST = re.compile(r"\d\s*(?:,\s|\band\b|\bor\b)\s*[-+]?[\d.]+\W*\Z")
_SAYS = re.compile(
    rf"(?:(?:{_ANSWER})[^\S\n]*(?:(?:{_LINKS})|[=:])+|\bequals\b|=)\s*", re.IGNORECASE
)


def _last_statement(text: str) -> str:
    """What follows the last "the answer is", to the end of its sentence; all, where none is."""
    ends = [match.end() for match in _SAYS.finditer(text)]
    if not ends or ends[-1] == len(text):
        return text
    rest = text[ends[-1] :]
    return re.split(r"\n|\.(?:\s|$)", rest, maxsplit=1)[0].strip() or text


def _same(text: str, wanted: str) -> bool:
    return _plain_words(text) == _plain_words(wanted) != ""


def _plain_words(text: str) -> str:
    # A point in front is one of a number.
    return re.sub(r"\s+", " ", text.lower()).strip(" \"'").rstrip(" .!?")


def _holds(text: str, wanted: str) -> bool:
    """Whether the answer stands in the text as a word of its own, and is not denied there."""
    sides = r"[\w+#]"
    pattern = rf"(?<!{sides}){re.escape(wanted.lower())}(?!{sides})"
    match = re.search(pattern, text.lower())
    if match is None:
        return f" {_words(wanted)} " in f" {_words(text)} " and not re.search(
            r"[+#]", wanted + text
        )
    after = text.lower()[match.end() :]
    return not (
        _NOT.search(text[: match.start()][-24:])
        or re.match(r"[^.,;\n]{0,20}\b(?:is|are) (?:wrong|incorrect|not)\b", after)
    )


def _by_text(told: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The one option that a statement names by its text, with its letter run on to it or without:
    "AC", or "E2" where option E is 2."""
    said = _squeezed(told)
    spelled = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if said in (_squeezed(clean(option)), _squeezed(letter + clean(option)))
    ]
    return spelled[0] if len(spelled) == 1 and said else None


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+(?:[.'][^\W_]+)*", text.lower()))
