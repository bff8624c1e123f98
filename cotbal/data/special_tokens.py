"""Tokens that mean something to a model's template, tokenizer or processor, and texts that hold them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cotbal.data.records import IMAGE_PLACEHOLDER, RecordError, Turn

# Names under which processors keep the token that a template writes for an image.
PLACEHOLDER_ATTRIBUTES = ("image_token", "boi_token", "fake_image_token")
_MEDIA_ATTRIBUTES = (*PLACEHOLDER_ATTRIBUTES, "eoi_token", "video_token", "audio_token")
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")


class SpecialTokens:
    """The tokens that structure a conversation, so that a text must not hold them.

    They are the tokenizer's named ones (begin, end, padding, ...), those that stand for images, video and audio, and
    the special ones that the chat template writes. Others, such as those for boxes, belong to texts as well.
    """

    def __init__(self, processor: Any) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in added if getattr(token, "special", False)}
        template = str(getattr(processor, "chat_template", None) or "")
        named = {str(getattr(tokenizer, name, None)) for name in _NAMED}
        chosen = {token for token in special if token in named or token in template}
        for owner in (processor, tokenizer):
            values = (getattr(owner, name, None) for name in _MEDIA_ATTRIBUTES)
            chosen.update(value for value in values if isinstance(value, str) and value)
        self.tokens = frozenset(chosen)
        self._pattern = _any_of(self.tokens)
        self._special = _any_of(special)

    def refuse_in(self, turns: Sequence[Turn]) -> None:
        """Raise RecordError where a text holds one of the tokens, apart from the placeholders of images.

        Raises:
            RecordError: naming the turn and the token.
        """
        for position, turn in enumerate(turns):
            text = turn.text.replace(IMAGE_PLACEHOLDER, "") if turn.role == "user" else turn.text
            found = self._pattern.search(text)
            if found:
                raise RecordError(
                    f"turn {position} ({turn.role}) holds {found.group()!r}, a token with a meaning of its own to "
                    "this model; rewrite the text, for example with a blank in it"
                )

    def last_end(self, text: str) -> int:
        """Where the last special token in a text ends; 0 where there is none.

        >>> class Tokenizer: added_tokens_decoder = {}; eos_token = None
        >>> SpecialTokens(Tokenizer()).last_end("no token")
        0
        """
        return max((match.end() for match in self._special.finditer(text)), default=0)


def _any_of(tokens: set[str] | frozenset[str]) -> re.Pattern[str]:
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered)) if ordered else r"(?!)")
