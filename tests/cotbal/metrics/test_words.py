"""How words are found in captions, and which blanks count."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotbal.metrics.words import characters, comparable, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A man, riding a horse!", ["a", "man", "riding", "a", "horse"]),
        ("the dog's T-shirt -- red", ["the", "dog's", "t-shirt", "red"]),
        ("snake_case 2x", ["snake", "case", "2x"]),
        ("一只狗", ["一", "只", "狗"]),
        ("狗dog跑3次", ["狗", "dog", "跑", "3", "次"]),
        ("ラーメンを食べる", list("ラーメンを食べる")),
        ("กินข้าว", ["กิ", "น", "ข้", "า", "ว"]),
        ("개가 달린다", ["개가", "달린다"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("cafe\u0301 Cafe\u0301", ["café", "café"]),
        ("", []),
        ("?!", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_characters_are_letters_with_their_accents() -> None:
    assert characters("Ab-c, é 1 狗") == ["a", "b", "c", "é", "1", "狗"]
    assert characters("हि") == ["हि"]


@given(st.text(alphabet="ab'-1, 狗กिé", max_size=20))
def test_words_and_characters_hold_the_same_letters(text: str) -> None:
    joined = "".join(words(text)).replace("'", "").replace("-", "")
    assert joined == "".join(characters(text))


@pytest.mark.parametrize(
    ("first", "second"),
    [("第 3 章", "第3章"), ("東\u3000京", "東京"), (" A  b\n", "a b"), ("ไป ไหน", "ไปไหน"), ("é", "e\u0301")],
)
def test_what_is_compared_alike(first: str, second: str) -> None:
    assert comparable(first) == comparable(second)


def test_blanks_between_words_count() -> None:
    assert comparable("room b") != comparable("roomb")
    assert comparable("개가 달린다") != comparable("개가달린다")
