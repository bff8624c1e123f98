"""Conversations through a chat template: the text of a record, its prompt, and where its answers stand.

Templates differ in what they put around an answer, and most cannot mark it (`{% generation %}` is rare). Rendering
a conversation twice, once with its answers and once with a unique mark in place of each, shows where every answer
stands whatever the template does around it.

What is trained is what will be asked: the text of training begins with the prompt that a model is given for the last
answer. Where a template writes a finished conversation in another way (a system prompt that moves, a block of thought
that only the prompt opens), the text is put together from the prompt, the answer and the end-of-turn marker.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cotbal.data.records import IMAGE_PLACEHOLDER, Record, RecordError, Turn
from cotbal.data.special_tokens import SpecialTokens
from cotbal.data.token_spans import Span

logger = logging.getLogger(__name__)

Message = dict[str, Any]

_placeholder = re.compile(r"\s*" + re.escape(IMAGE_PLACEHOLDER) + r"\s*")
_mark = re.compile("\ue000[0-9]+\ue001")
_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as text, images still one placeholder each.

    Attributes:
        text: the whole conversation; it begins with `prompt`.
        prompt: what a model is given to produce the last answer.
        answers: (start, end) in `text` of every answer turn's supervised characters: from where the prompt
            for that turn ends to the end of the template's end-of-turn marker.
        weights: the loss weight of each answer.
        notes: what a user should know of how the template was dealt with.
    """

    text: str
    prompt: str
    answers: tuple[Span, ...]
    weights: tuple[float, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Last:
    """The end of a conversation: what follows the prompt for the last answer."""

    answer: str
    after: str
    note: str | None = None


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
        self.special = SpecialTokens(processor)
        self._told: set[str] = set()

    def render(self, record: Record) -> RenderedChat:
        """The text, prompt and answer spans of a record.

        Raises:
            RecordError: the template refuses the conversation, leaves out or rewrites a part of it, or a text holds
                a token that has a meaning of its own to the model.
        """
        turns = record.turns
        self.special.refuse_in(turns)
        places = [position for position, turn in enumerate(turns) if turn.role == "assistant"]
        marks = {place: f"\ue000{number}\ue001" for number, place in enumerate(places)}
        marked = [
            Turn("assistant", marks[position]) if position in marks else turn
            for position, turn in enumerate(turns)
        ]
        prompt = self._template(turns[:-1], ask=True)
        prompt_skeleton = self._template(marked[:-1], ask=True)
        skeleton = self._template(marked)
        pieces = _cut(prompt_skeleton, [marks[place] for place in places[:-1]])
        *_, before, after = _cut(skeleton, list(marks.values()))
        marked_before = skeleton[: len(skeleton) - len(after) - len(marks[places[-1]])]
        shown = _shown(prompt, pieces, [turns[place] for place in places[:-1]], places)
        last = _last_answer(
            turns, self._template(turns), prompt, prompt_skeleton, marked_before or before, after
        )
        added, stop = self._stop(last.after)
        notes = [last.note] if last.note else []
        text = pieces[0]
        spans: list[Span] = []
        for number, (place, answer, piece) in enumerate(zip(places, shown, pieces[1:], strict=False)):
            asked = self._template(turns[:place], ask=True)
            # A model goes on from the end of the prompt, which is not always where the answer's text begins.
            if prompt.startswith(asked) and len(asked) + number * len(added) <= len(text):
                start = len(asked) + number * len(added)
            else:
                start = len(text)
                notes.append(
                    "answers before the last are trained behind the text that the chat template gives to finished "
                    f"turns, {_end(text)}, but asked behind {_end(asked)}"
                )
            text += answer + added
            spans.append((start, len(text) + len(self._marker(piece, stop))))
            text += piece
        prompt = text
        text += last.answer + added
        spans.append((len(prompt), len(text) + len(stop)))
        text += last.after
        _refuse_missing(turns, text)
        self._tell(notes)
        return RenderedChat(
            text, prompt, tuple(spans), tuple(turns[place].weight for place in places), tuple(notes)
        )

    def asked(self, record: Record) -> tuple[str, list[Message]]:
        """The prompt for a record's last answer, and messages from which the template makes it in one go.

        Raises:
            RecordError: as `render` does; also where the template makes another prompt of the messages.
        """
        prompt = self.render(record).prompt
        for end in ("", str(getattr(self.tokenizer, "eos_token", None) or "")):
            # Answers before the last may carry the token that `render` has put behind them.
            turns = [
                replace(turn, text=turn.text + end) if turn.role == "assistant" else turn
                for turn in record.turns[:-1]
            ]
            if self._template(turns, ask=True) == prompt:
                return prompt, self._messages(turns)
        raise RecordError(
            "the chat template makes another prompt of this conversation's messages than the one that is trained; "
            "only in-process scoring (evaluation.engine: transformers) can ask it"
        )

    def starts_with_bos(self, text: str) -> bool:
        """True where the template already wrote the token that the tokenizer would add in front."""
        bos = getattr(self.tokenizer, "bos_token", None)
        return isinstance(bos, str) and bool(bos) and text.startswith(bos)

    def _stop(self, after: str) -> tuple[str, str]:
        """What to add behind every answer, and the template's own end-of-turn marker; one of them is empty."""
        tail = after.rstrip()
        if tail:
            return "", tail
        eos = getattr(self.tokenizer, "eos_token", None)
        if not eos:
            raise ValueError(
                "the chat template puts nothing behind an answer and the tokenizer has no eos_token, so a model "
                "could not learn to stop; set tokenizer.eos_token"
            )
        return str(eos), ""

    def _marker(self, piece: str, stop: str) -> str:
        """The end-of-turn marker at the start of what follows an answer that is not the last.

        The last one may be followed by more than the others (`<|end|>` by `<|endoftext|>`); what they share, up to
        the end of a special token, is the marker.
        """
        if piece.startswith(stop):
            return stop
        shared = next((n for n, (a, b) in enumerate(zip(piece, stop, strict=False)) if a != b), len(piece))
        return stop[: self.special.last_end(stop[:shared])]

    def _tell(self, notes: Sequence[str]) -> None:
        for note in notes:
            kind = note[:40]
            if kind not in self._told:
                self._told.add(kind)
                logger.warning("%s", note)

    def _messages(self, turns: Sequence[Turn]) -> list[Message]:
        if not self.typed:
            return [{"role": turn.role, "content": turn.text} for turn in turns]
        return [{"role": turn.role, "content": _parts(turn)} for turn in turns]

    def _template(self, turns: Sequence[Turn], *, ask: bool = False) -> str:
        try:
            text = self.processor.apply_chat_template(
                self._messages(turns), tokenize=False, add_generation_prompt=ask
            )
        except Exception as error:  # jinja2's errors; importing jinja2 here only to name them is not worth it
            raise RecordError(f"the chat template refuses the conversation: {error}") from error
        return str(text)


def _cut(text: str, marks: Sequence[str]) -> list[str]:
    """What stands before, between and after the marks.

    Raises:
        RecordError: a mark is not there exactly once, in order.
    """
    pieces: list[str] = []
    for mark in marks:
        piece, found, text = text.partition(mark)
        if not found or mark in text:
            raise RecordError("the chat template does not show every answer exactly once")
        pieces.append(piece)
    return [*pieces, text]


def _forms(answer: str) -> Iterator[str]:
    """An answer as templates show it: some trim."""
    yield from (answer, answer.strip(), answer.rstrip(), answer.lstrip())


def _shown(prompt: str, pieces: Sequence[str], answers: Sequence[Turn], places: Sequence[int]) -> list[str]:
    """The answers before the last as the prompt shows them, between the pieces.

    Raises:
        RecordError: one is rewritten, or shown without the reasoning that is to be trained on.
    """
    shown: list[str] = []
    at = len(pieces[0])
    for number, (turn, piece) in enumerate(zip(answers, pieces[1:], strict=True)):
        end = None if number + 1 == len(answers) else at
        found = next((form for form in _forms(turn.text) if _fits(prompt, at, form + piece, end)), None)
        if found is None and _CLOSE in turn.text:
            found = next(
                (form for form in _forms(_spoken(turn.text)) if _fits(prompt, at, form + piece, end)), None
            )
            if found is not None and turn.weight > 0:
                raise RecordError(
                    f"the chat template leaves out the reasoning of turn {places[number]}, an answer before the last "
                    "one, so it cannot be trained on there; give each answer a record of its own, or this one a loss "
                    "weight of 0"
                )
        if found is None:
            raise RecordError("the chat template rewrites an answer, so it cannot be located in the text")
        shown.append(found)
        at += len(found) + len(piece)
    return shown


def _fits(text: str, start: int, expected: str, end: int | None) -> bool:
    """Whether `expected` stands at `start`, and at the very end of the text where `end` is None."""
    return text.startswith(expected, start) and (end is not None or start + len(expected) == len(text))


def _last_answer(
    turns: Sequence[Turn], whole: str, prompt: str, prompt_skeleton: str, before: str, after: str
) -> _Last:
    """What follows the prompt in the text of training.

    Args:
        whole, prompt: the finished conversation and the prompt for its last answer, as the template writes them.
        prompt_skeleton, before: the prompt, and what stands before the last answer, both with marks for answers.
        after: what follows the last answer.

    Raises:
        RecordError: the answer is rewritten, or training and asking cannot be made to agree.
    """
    answer = turns[-1].text
    if before.startswith(prompt_skeleton):
        lead = before[len(prompt_skeleton) :]
        form = next((form for form in _forms(answer) if whole == prompt + lead + form + after), None)
        if form is not None:
            return _Last(lead + form, after)
        if _CLOSE not in answer:
            raise RecordError("the chat template rewrites an answer, so it cannot be located in the text")
        rest = whole[len(prompt) : len(whole) - len(after)]
        wanted = (_squeezed(answer), _squeezed(_continued(answer, prompt)))
        if whole.startswith(prompt) and whole.endswith(after) and _squeezed(rest) in wanted:
            return _Last(rest, after)
        note = f"the chat template leaves reasoning out of a finished conversation; it is put behind {_end(prompt)}"
        return _Last(_continued(answer, prompt), after, note)
    between = _lead(turns, before, prompt_skeleton)
    if between is None:
        raise RecordError(
            "the chat template asks for the last answer in another way than it shows it, and the two cannot be made "
            f"to agree: asked behind {_end(prompt)}, shown behind {_end(before)}"
        )
    form = next((form for form in _forms(answer) if whole.endswith(between + form + after)), None)
    if form is not None:
        follows = between + _continued(form, prompt)
    elif _CLOSE in answer:
        follows = _continued(answer, prompt)
    else:
        raise RecordError("the chat template rewrites an answer, so it cannot be located in the text")
    note = (
        f"the chat template shows a finished answer behind {_end(before)} but asks for it behind {_end(prompt)}; "
        "it is trained behind the latter"
    )
    return _Last(follows, after, note)


def _lead(turns: Sequence[Turn], before: str, prompt: str) -> str | None:
    """What stands between the prompt and the last answer of a conversation that does not begin with the prompt.

    None where the two have no common end to tell it by.
    """
    if prompt.startswith(before):
        return ""
    shown, asked = before.rstrip(), prompt.rstrip()
    common = 0
    while common < min(len(shown), len(asked)) and shown[-1 - common] == asked[-1 - common]:
        common += 1
    question = _placeholder.split(turns[-2].text)[-1].strip() if len(turns) > 1 else ""
    if not common or question not in shown[len(shown) - common :]:
        return None
    return before[len(shown) :].removeprefix(prompt[len(asked) :])


def _continued(answer: str, prompt: str) -> str:
    """An answer with reasoning as it goes on from a prompt, which may have opened the reasoning already."""
    opened = prompt.rstrip().endswith(_OPEN) and answer.lstrip().startswith(_OPEN)
    return answer.lstrip()[len(_OPEN) :].lstrip("\n") if opened else answer


def _spoken(answer: str) -> str:
    """An answer without its reasoning."""
    return answer.rpartition(_CLOSE)[2]


def _end(text: str) -> str:
    """The end of a text for messages; other answers are marks in it."""
    return repr("..." + _mark.sub("...", text[-300:]) if len(text) > 300 else _mark.sub("...", text))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _refuse_missing(turns: Sequence[Turn], text: str) -> None:
    """Raise RecordError where the text of training lacks what a system or user turn says."""
    for position, turn in enumerate(turns):
        if turn.role == "assistant":
            continue
        if any(part.strip() not in text for part in turn.text.split(IMAGE_PLACEHOLDER)):
            raise RecordError(
                f"the chat template leaves out or rewrites turn {position} ({turn.role}); use the template that the "
                "model was trained with, or take the turn out of the record"
            )


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
