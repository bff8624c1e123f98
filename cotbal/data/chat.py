"""Conversations through a chat template: the text of a record, its prompt, and where its answers stand.

Templates differ in what they put around an answer, and most cannot mark it (`{% generation %}` is rare). Rendering
a conversation twice, once with its answers and once with a unique mark in place of each, shows where every answer
stands whatever the template does around it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from cotbal.data.records import IMAGE_PLACEHOLDER, Record, RecordError, Turn

Message = dict[str, Any]
Span = tuple[int, int]

_placeholder = re.compile(r"\s*" + re.escape(IMAGE_PLACEHOLDER) + r"\s*")


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text, images still one placeholder each.

    Attributes:
        text: the whole conversation.
        prompt: what a model is given to produce the last answer.
        answers: (start, end) in `text` of every answer turn's supervised characters: from where the prompt
            for that turn ends to the end of the template's end-of-turn marker.
    """

    text: str
    prompt: str
    answers: tuple[Span, ...]


class ChatRenderer:
    """Renders records with the chat template of a processor or a tokenizer.

    Where the template writes nothing after an answer that would tell a model to stop (the one published with
    LLaVA-1.5's weights does not), the tokenizer's end-of-sequence token is put behind every answer.

    Raises:
        ValueError: the processor has no chat template.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        # Processors take typed contents, plain tokenizers strings.
        self.typed = self.tokenizer is not processor
        if getattr(processor, "chat_template", None) is None:
            raise ValueError(
                f"{type(processor).__name__} has no chat template; set its chat_template to the one the model "
                "was trained with"
            )

    def render(self, record: Record) -> RenderedChat:
        """The text, prompt and answer spans of a record.

        Raises:
            RecordError: the template refuses the conversation, or rewrites an answer.
        """
        turns = record.turns
        whole = self._template(self._messages(turns))
        answers = [turn.text for turn in turns if turn.role == "assistant"]
        pieces, shown = self._split(turns, answers, whole)
        prompts = [
            self._template(self._messages(turns[:position]), add_generation_prompt=True)
            for position, turn in enumerate(turns)
            if turn.role == "assistant"
        ]
        added, tail = self._stop(pieces[-1])
        text = pieces[0]
        spans: list[Span] = []
        for number, (answer, piece, prompt) in enumerate(zip(shown, pieces[1:], prompts, strict=True)):
            inserted = number * len(added)
            start = len(text)
            # A model goes on from the end of the prompt, which is not always where the answer's text begins.
            leads = len(prompt) + inserted <= start and whole.startswith(prompt)
            if leads:
                start = len(prompt) + inserted
            text += answer + added
            end = len(text) + (len(tail) if piece.startswith(tail) else 0)
            text += piece
            spans.append((start, end))
        return RenderedChat(text, text[: spans[-1][0]] if leads else prompts[-1], tuple(spans))

    def starts_with_bos(self, text: str) -> bool:
        """True where the template already wrote the token that the tokenizer would add in front."""
        bos = getattr(self.tokenizer, "bos_token", None)
        return isinstance(bos, str) and bool(bos) and text.startswith(bos)

    def _split(self, turns: Sequence[Turn], answers: list[str], whole: str) -> tuple[list[str], list[str]]:
        """What stands before, between and after the answers, and the answers as the template shows them."""
        marks = [f"\ue000{position}\ue001" for position in range(len(answers))]
        replaced = iter(marks)
        marked = [Turn("assistant", next(replaced)) if turn.role == "assistant" else turn for turn in turns]
        skeleton = self._template(self._messages(marked))
        pieces: list[str] = []
        for mark in marks:
            piece, found, skeleton = skeleton.partition(mark)
            if not found or mark in skeleton:
                raise RecordError("the chat template does not show every answer exactly once")
            pieces.append(piece)
        pieces.append(skeleton)
        # Some templates trim what they show.
        trims: tuple[Callable[[str], str], ...] = (str, str.strip, str.rstrip, str.lstrip)
        for trim in trims:
            shown = [trim(answer) for answer in answers]
            parts = [part for pair in zip(pieces, [*shown, ""], strict=True) for part in pair]
            if "".join(parts) == whole:
                return pieces, shown
        raise RecordError("the chat template rewrites an answer, so it cannot be located in the text")

    def _stop(self, last: str) -> tuple[str, str]:
        """What to add behind every answer, and the template's own end-of-turn marker; one of them is empty."""
        tail = last.rstrip()
        if tail:
            return "", tail
        eos = getattr(self.tokenizer, "eos_token", None)
        if not eos:
            raise ValueError(
                "the chat template puts nothing behind an answer and the tokenizer has no eos_token, so a model "
                "could not learn to stop; set tokenizer.eos_token"
            )
        return str(eos), ""

    def _messages(self, turns: Sequence[Turn]) -> list[Message]:
        if not self.typed:
            return [{"role": turn.role, "content": turn.text} for turn in turns]
        return [{"role": turn.role, "content": _parts(turn)} for turn in turns]

    def _template(self, messages: list[Message], **options: bool) -> str:
        try:
            text = self.processor.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # jinja2's errors; importing jinja2 here only to name them is not worth it
            raise RecordError(f"the chat template refuses the conversation: {error}") from error
        return str(text)


def _parts(turn: Turn) -> list[Message]:
    """Typed content: `<image>` placeholders become image parts, white space beside them goes."""
    if turn.role != "user" or IMAGE_PLACEHOLDER not in turn.text:
        return [{"type": "text", "text": turn.text}]
    parts: list[Message] = []
    texts = _placeholder.split(turn.text)
    for position, text in enumerate(texts):
        if position:
            parts.append({"type": "image"})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def supervised_tokens(offsets: Sequence[Span], answers: Sequence[Span]) -> list[int]:
    """For each token the number of the answer it belongs to, or -1; a token that straddles an edge belongs.

    Args:
        offsets: (start, end) characters of every token, ascending; empty spans (special tokens that the
            tokenizer added by itself) belong to nothing.
        answers: disjoint ascending spans.

    >>> supervised_tokens([(0, 0), (0, 3), (3, 5), (5, 9), (9, 10)], [(4, 9)])
    [-1, -1, 0, 0, -1]
    """
    owners = [-1] * len(offsets)
    for number, (start, end) in enumerate(answers):
        for position, (left, right) in enumerate(offsets):
            if left < end and right > start and right > left:
                owners[position] = number
    return owners


def expanded_positions(
    plain: Sequence[int], expanded: Sequence[int], placeholders: frozenset[int]
) -> list[int]:
    """Where each token of `plain` stands in `expanded`, in which every image placeholder became many tokens.

    The segments between placeholders are the same in both. The first one stands at the start of `expanded`, the last
    one at its end, the others where they first occur after the one before. Placeholders get -1.

    Raises:
        ValueError: `expanded` is not `plain` with placeholders replaced.

    >>> expanded_positions([7, 0, 8, 9], [7, 0, 0, 0, 8, 9], frozenset([0]))
    [0, -1, 4, 5]
    """
    positions: list[int] = []
    cursor = 0
    rest = list(plain)
    first = True
    while True:
        segment = list(takewhile(lambda token: token not in placeholders, rest))
        rest = rest[len(segment) :]
        last = not rest
        if last and not first:
            start = len(expanded) - len(segment)
            fits = start >= cursor and list(expanded[start:]) == segment
        elif first:
            start = 0
            fits = list(expanded[: len(segment)]) == segment and (not last or len(expanded) == len(segment))
        else:
            start = _find(expanded, segment, cursor)
            fits = start >= 0
        if not fits:
            raise ValueError("the processor's tokens are not the chat template's tokens with images expanded")
        positions.extend(range(start, start + len(segment)))
        if last:
            return positions
        positions.append(-1)
        rest = rest[1:]
        cursor = start + len(segment) + 1
        first = False


def _find(tokens: Sequence[int], segment: list[int], start: int) -> int:
    """The first position >= start at which `segment` occurs in `tokens`, or -1."""
    for position in range(start, len(tokens) - len(segment) + 1):
        if list(tokens[position : position + len(segment)]) == segment:
            return position
    return -1
