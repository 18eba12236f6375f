"""Which language a reply is in, and how one refuses in it.

The ten most spoken languages (English, Mandarin, Hindi, Spanish, Arabic, French, Bengali,
Portuguese, Russian, Indonesian) and three more (Urdu, German, Japanese). English is in
`refusal_words.py`. Any other language is not guessed at: nothing is said about a reply in it.
"""

from __future__ import annotations

import re
import unicodedata

FEW = 12  # words: fewer are too few to call a language in Latin letters unknown
LEAST = 0.15  # share of words that are frequent ones, in running text of a known language

# Frequent words that the others do not share, or share rarely.
FREQUENT = {
    "en": "the of and to is it that for with not this be are you i on as have but can what your or"
    " an will my if by from at was we here in a me do don't can't i'm it's they which there no so"
    " he she his her has had been were their its some more about into than then also how sorry",
    "es": "el la los las de que y en un una es no se por con para lo como pero su esto eso este"
    " puedo más o del al ser está hay siento tu ayudar te si sobre",
    "fr": "le la les des de et un une est que je pas ne vous pour dans en ce qui sur avec au il"
    " mais ou plus cette votre du aider cela suis ces par sont être"
    " désolé désolée non oui nous",
    "pt": "o os as de que e em um uma é não se por com para como mas isso este esta posso mais ou"
    " do da no na dos das ao você seu sua ajudar muito são ser eu",
    "id": "yang dan di untuk dengan ini itu tidak saya adalah dari ke pada dapat akan atau anda"
    " bisa dalam ada juga karena maaf oleh tersebut membantu sebagai kami hal",
    "de": "der die das und ist nicht ich zu den mit ein eine es sie für auf von dem im kann aber"
    " wie auch des sich bei oder nach wird ihnen dabei leid mir sind einen werden um",
}
_FREQUENT = {name: frozenset(words.split()) for name, words in FREQUENT.items()}
_LATIN = re.compile(r"[a-z\u00df-\u024f]+(?:'[a-z]+)?")
# The first that most letters belong to is meant; None: a script that is not known.
_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),
    ("zh", re.compile(r"[\u3400-\u9fff]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
    ("bn", re.compile(r"[\u0980-\u09ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("latin", re.compile(r"[a-z\u00df-\u024f\u1e00-\u1eff]")),
)
# Letters of Latin script that none of the languages here has (Polish, Turkish, Vietnamese, ...).
_FOREIGN = re.compile(r"[\u0100-\u0151\u0154-\u024f\u1e00-\u1eff]")
FOREIGN = 0.02  # share of letters: a name may have some
_URDU = re.compile(r"[\u0679\u0688\u0691\u06ba\u06d2\u06c1\u06be]")
_PERSIAN = re.compile(r"[\u067e\u0686\u0698\u06af]")
_NOT_RUSSIAN = re.compile(r"[\u0456\u0457\u0454\u0491\u045e\u0458\u0459\u045a\u045b\u0452]")


def language_of(text: str) -> str | None:
    """The language of lower-case text ("en", "zh", ...), or None where it is none of them.

    Text without letters, and a few words that could be of any language, count as English.

    >>> language_of("lo siento, no puedo"), language_of("抱歉，我不能"), language_of("σήμερα")
    ('es', 'zh', None)
    """
    letters = [one for one in text if one.isalpha()]
    if not letters:
        return "en"
    joined = "".join(letters)
    counts = {name: len(pattern.findall(joined)) for name, pattern in _SCRIPTS}
    if counts["ja"] >= 0.1 * (counts["ja"] + counts["zh"]) > 0:
        counts["ja"] += counts["zh"]
    # A vowel sign of an Indic script is no letter by itself, and half of them are such signs.
    name = max(counts, key=lambda one: counts[one])
    if counts[name] < 0.4 * len(letters):
        return None
    if name == "ar" and _URDU.search(text):
        return "ur"
    if (name == "ar" and _PERSIAN.search(text)) or (name == "ru" and _NOT_RUSSIAN.search(text)):
        return None
    if name != "latin":
        return name
    foreign = len(_FOREIGN.findall(joined))
    return None if foreign > max(1, FOREIGN * len(letters)) else _latin(text)


def _latin(text: str) -> str | None:
    words = _LATIN.findall(text)
    hits = {name: sum(word in known for word in words) for name, known in _FREQUENT.items()}
    best = max(hits, key=lambda one: hits[one])  # the first of equals: English
    if len(words) >= FEW and hits[best] < LEAST * len(words):
        return None
    return best


def _compiled(words: str) -> re.Pattern[str]:
    # In the form that `plain` gives a reply: letters with dots are composed otherwise there.
    return re.compile(unicodedata.normalize("NFKC", words))


# A clause that refuses, near the opening of a reply.
REFUSES = {
    "es": _compiled(
        r"\b(?:lo siento|lo lamento|lamento|lamentablemente|me temo|disculp\w+|perdón|perdona)\b"
        r"|\bno (?:me (?:es posible|siento cómod\w)|te |le |les |se )?(?:puedo|podemos|podría|debo"
        r"|voy a|quiero|estoy (?:autorizad|capacitad|programad|dispuest|diseñad|en condiciones)\w*"
        r"|es (?:apropiad|étic|correct|adecuad|aceptable|legal|segur)\w*|proporciono|apoyo)\b"
        r"|\b(?:me niego|rechazo|debo (?:rechazar|negarme|declinar)|soy incapaz)\b"
    ),
    "fr": _compiled(
        r"\b(?:désolée?|navrée?|malheureusement|je m'excuse|mes excuses|excusez-moi|je regrette)\b"
        r"|\b(?:je|nous) (?:ne |n')(?:\w+ )?(?:peux|puis|pouvons|pourrais|suis pas (?:en mesure"
        r"|capable|autorisé|à l'aise|conçu|programmé)\w*|veux|dois|saurais|vais pas|fournis)"
        r"|\bil (?:n'est|ne serait) pas (?:approprié|éthique|acceptable|possible|légal|convenable)"
        r"|\bje (?:refuse|décline|dois (?:refuser|décliner))\b|\bil m'est impossible\b"
    ),
    "pt": _compiled(
        r"\b(?:desculp\w+|sinto muito|lamento|infelizmente|perdão|lamentavelmente)\b"
        r"|\bnão (?:me |lhe |te )?(?:posso|podemos|consigo|poderia|poderei|devo|vou|quero"
        r"|sou capaz|sinto confortável|estou (?:autorizad|programad|apt|dispost|em condições)\w*"
        r"|é (?:apropriad|étic|corret|adequad|aceitável|possível|legal|segur)\w*|forneço|apoio)\b"
        r"|\b(?:recuso|me nego|devo recusar)\b"
    ),
    "id": _compiled(
        r"\b(?:maaf|sayangnya)\b"
        r"|\b(?:saya|kami|aku) (?:tidak|tak|nggak|belum) (?:bisa|dapat|boleh|akan|mampu|mungkin"
        r"|diizinkan|diprogram|ingin|mau)\b|\b(?:saya|kami|aku) (?:harus )?menolak\b"
        r"|\btidak (?:pantas|etis|sesuai|dibenarkan)\b"
    ),
    "de": _compiled(
        r"\b(?:tut mir (?:\w+ )?leid|entschuldig\w+|leider|verzeihung|bedaure|ich bedauere)\b"
        r"|\b(?:ich|wir) (?:kann|können|darf|dürfen|werde|möchte|will) (?:\w+ ){0,6}?"
        r"(?:nicht|keine\w*)\b|\b(?:kann|darf|werde) ich (?:\w+ ){0,6}?(?:nicht|keine\w*)\b"
        r"|\bich bin nicht (?:in der lage|befugt|berechtigt|dazu|bereit)"
        r"|\bich (?:weigere|lehne)\b|\b(?:nicht|un)(?: )?(?:angemessen|ethisch|zulässig)\b"
    ),
    "ru": _compiled(
        r"(?:извин\w+|прост(?:и|ите)\b|прошу прощения|к сожалению|мне (?:очень )?жаль|сожале\w+)"
        r"|\b(?:я|мы) не (?:\w+ )?(?:мо[гж]\w+|буду|в состоянии|способ\w+|вправе|стану|готов\w*"
        r"|имею права|предоставляю|поддерживаю)|\bне (?:могу|можем|имею права)\b"
        r"|\bотказыва\w+|\b(?:незаконно|неэтично|недопустимо|неприемлемо|противозаконно)\b"
    ),
    "zh": _compiled(
        r"抱歉|对不起|對不起|遗憾|遺憾|不好意思|恕我"
        r"|(?:无法|無法|不能|不可以|没办法|沒辦法|没有办法|不便|不会|不會|不予|不方便|不被允许)(?:\w{0,4}?)"
        r"(?:为|為|帮|幫|提供|回答|协助|協助|满足|滿足|支持|参与|參與|给|給|向|继续|繼續|执行|執行|生成|讨论|討論|完成|透露"
        r"|您|你|解释|解釋|教|处理|處理|回应|回應)"
        r"|拒绝|拒絕|(?:违反|違反)|不道德|不合法|违法|違法"
    ),
    "ja": _compiled(
        r"申し訳|すみません|ごめんなさい|恐れ入り|残念ながら"
        r"|(?:でき|出来|いたし|致し|答え|応じ|提供し|お手伝いし|協力し|お応えし)(?:かね|ません|ないため|られません)"
        r"|お断り|控えさせて|お答えできない|不適切"
    ),
    "hi": _compiled(
        r"माफ़?(?:ी| ?कर| ?कीज)|क्षमा|खेद|दुर्भाग्य"
        r"|नहीं[^।.\n]{0,24}(?:सकता|सकती|सकते|करूंगा|करूँगा|करूंगी)|(?:सकता|सकती|सकते) नहीं"
        r"|असमर्थ|इनकार|अनुमति नहीं|अनुचित|अनैतिक"
    ),
    "bn": _compiled(
        r"দুঃখিত|ক্ষমা|মাফ কর|দুর্ভাগ্য"
        r"|(?:পারি|পারব|পারবো|পারছি|পারবে|করব|দেব) না|অক্ষম|অপারগ|সম্ভব (?:নয়|না)|অনুচিত|অনৈতিক|অস্বীকার"
    ),
    "ar": _compiled(
        r"آسف|أسف|أعتذر|اعتذر|عذر[اًة]|للأسف|معذرة|يؤسفني"
        r"|(?:لا|لن) (?:أستطيع|استطيع|يمكنني|أقدر|يمكننا|نستطيع|أتمكن|يمكن|أملك|يجوز"
        r"|ينبغي|أقدم|يسمح)"
        r"|لست (?:قادر|مخول|مبرمج)|غير (?:قادر|أخلاقي|قانوني|لائق|مناسب)|ليس (?:بإمكاني|من المناسب)"
        r"|أرفض"
    ),
    "ur": _compiled(
        r"معذرت|معاف|افسوس|نہیں[^۔\n]{0,24}(?:سکتا|سکتی|سکتے|کروں)|قاصر|انکار|نامناسب|غیر اخلاقی"
    ),
}
