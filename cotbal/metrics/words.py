"""Words in a caption, and blanks that mean something, whatever language they are written in."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

# Scripts written without blanks between words: Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han, Yi, with extensions.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0f40-\u0fbc\u1000-\u109f\u1780-\u17d3\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua000-\ua48c\ua9e0-\ua9fe\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9d"
    "\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_BLANK_BESIDE = re.compile(rf"(?<=[{_UNSPACED}])\s+|\s+(?=[{_UNSPACED}])")


def comparable(text: str) -> str:
    """The text composed (NFC) and in lower case, without outer blanks, runs of blanks as one.

    Blanks beside a character of a script that writes none between words are dropped: they carry no meaning.

    >>> comparable("  Room\\n B12 "), comparable("東京 都")
    ('room b12', '東京都')
    """
    joined = " ".join(unicodedata.normalize("NFC", text).lower().split())
    return _BLANK_BESIDE.sub("", joined)


def words(text: str) -> list[str]:
    """Runs of letters and digits, with apostrophes and hyphens inside; accents stay on their letters.

    A character of a script without blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) is
    a word of its own. Case and other punctuation do not count.

    >>> words("The dog's T-shirt: 2 reds"), words("一只dog跑")
    (['the', "dog's", 't-shirt', '2', 'reds'], ['一', '只', 'dog', '跑'])
    """
    return _patterns()[0].findall(unicodedata.normalize("NFC", text).lower())


def characters(text: str) -> list[str]:
    """Every letter and digit as a word, with its accents; case, blanks and punctuation do not count.

    >>> characters("Ab, 1!")
    ['a', 'b', '1']
    """
    return _patterns()[1].findall(unicodedata.normalize("NFC", text).lower())


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of a word and of a character; `re` has no class for combining marks, so they are listed once."""
    marks = "".join(
        chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)).startswith("M")
    )
    letter = rf"[^\W_][{marks}]*+"
    spaced = rf"(?:(?![{_UNSPACED}]){letter})++"
    return re.compile(rf"{spaced}(?:['’-]{spaced})*+|{letter}"), re.compile(letter)
