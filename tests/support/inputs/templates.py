"""Chat templates as models have them: each with what is asked and supervised, or part of the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.models.tiny_models import tiny_tokenizer

from cotbal.data.records import Record, Turn

TURNS = "{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' + m['content'] + '<turn|>\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|turn>assistant\n' }}{% endif %}"
# The system prompt goes to the last message, if that is the user's, as in templates of Mistral's.
MOVING_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set messages = messages[1:] %}"
    "{% endif %}{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + ((s + '\n\n') if (loop.last and s is defined) else '') + m['content'] + '[/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# The prompt opens an empty thought, which a finished conversation does not show.
OPENS_A_THOUGHT = TURNS + "{% if add_generation_prompt %}{{ '<|turn>assistant\n<thought|>' }}{% endif %}"
OPENS_REASONING = TURNS + "{% if add_generation_prompt %}{{ '<|turn>assistant\n<think>\n' }}{% endif %}"
# Takes reasoning apart and puts it together in its own way, for the last answer only, as Qwen3's does.
REASONS = (
    "{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n' }}{% if '</think>' in m['content'] %}"
    "{{ m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') }}{% endif %}"
    "{{ '\n</think>\n\n' }}{% endif %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}{{ '<turn|>\n' }}{% endfor %}" + ASK
)
LAST_STOP = (
    "{% for m in messages %}{{ '<|turn>' + m['role'] + '\n' + m['content'] + '<turn|>' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}" + ASK
)
ONE = ("u: What?", "a: blue")
TWO = (*ONE, "u: Why?", "a: sky")
THINKS = "<think>\nhm\n</think>\n\n"
P = "<|turn>user\nWhat?<turn|>\n<|turn>assistant\n"

# A template, turns, and the prompt and the supervised texts, or part of the error.
TEMPLATES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "plain": (TURNS + ASK, ONE, (P, ["blue<turn|>"])),
    "a system prompt that moves": (
        MOVING_SYSTEM,
        ("s: Be brief.", *ONE),
        ("<s>[INST] Be brief.\n\nWhat?[/INST]", [" blue</s>"]),
    ),
    "a system prompt that moves, two turns": (
        MOVING_SYSTEM,
        ("s: Be brief.", *TWO),
        ("<s>[INST] What?[/INST] blue</s>[INST] Be brief.\n\nWhy?[/INST]", ["blue</s>", " sky</s>"]),
    ),
    "a prompt that opens a thought": (OPENS_A_THOUGHT, ONE, (P + "<thought|>", ["blue<turn|>"])),
    "a prompt that opens a reasoning": (
        OPENS_REASONING,
        ("u: What?", f"a: {THINKS}blue"),
        (P + "<think>\n", ["hm\n</think>\n\nblue<turn|>"]),
    ),
    "reasoning that is put together again": (
        REASONS,
        ("u: What?", "a: <think>hm</think>blue"),
        (P, ["<think>\nhm\n</think>\n\nblue<turn|>"]),
    ),
    "an empty reasoning": (REASONS, ONE, (P, ["<think>\n\n</think>\n\nblue<turn|>"])),
    "reasoning that a template drops": (
        TURNS.replace("m['content']", "m['content'].split('</think>')[-1].strip()") + ASK,
        ("u: What?", f"a: {THINKS}blue"),
        (P, [f"{THINKS}blue<turn|>"]),
    ),
    "reasoning of an answer before the last": (
        REASONS,
        ("u: What?", f"a: {THINKS}blue", "u: Why?", "a: sky"),
        "leaves out the reasoning of turn 1",
    ),
    "an end of text behind the last turn": (LAST_STOP, TWO, (None, ["blue<turn|>", "sky<turn|></s>"])),
    "system left out": (
        TURNS.replace("in messages", "in messages if m['role'] != 'system'") + ASK,
        ("s: Be brief.", *ONE),
        "the chat template leaves out or rewrites turn 0 (system)",
    ),
    "questions rewritten": (
        TURNS.replace("m['content']", "(m['content'] | upper if m['role'] == 'user' else m['content'])")
        + ASK,
        ONE,
        "leaves out or rewrites turn 0 (user)",
    ),
    "asked in another way": (
        "{% for m in messages %}{{ m['content'] + '<turn|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Now answer:' }}{% endif %}",
        ONE,
        ("What?<turn|>Now answer:", ["blue<turn|>"]),
    ),
    "asked with another question": (
        "{% if add_generation_prompt %}{{ 'Q ' + messages[-1]['content'] + ' A ' }}{% else %}"
        "{% for m in messages %}{{ m['content'] + '<turn|>' }}{% endfor %}{% endif %}",
        ONE,
        "the two cannot be made to agree",
    ),
    "the end-of-turn token in a text": (
        TURNS + ASK,
        ("u: What is <turn|>?", "a: x"),
        "turn 0 (user) holds '<turn|>'",
    ),
    "the end of text in a text": (TURNS + ASK, ("u: q", "a: the <s> tag"), "turn 1 (assistant) holds '<s>'"),
    "a box's token in a text": (TURNS + ASK, ("u: What?", "a: <box>"), (P, ["<box><turn|>"])),
}


def template_tokenizer(template: str) -> Any:
    """A tokenizer with the marks that the templates write."""
    return tiny_tokenizer(
        "<|turn>", "<turn|>", "<thought|>", "<box>", bos="<s>", eos="</s>", pad="<pad>", template=template
    )


def template_record(spoken: tuple[str, ...]) -> Record:
    """The record of some lines: a role's first letter, a colon and the text."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    turns = tuple(Turn(roles[line[0]], line[3:]) for line in spoken)  # type: ignore[arg-type]
    return Record("0", "t", (), turns, (turns[-1].text,), Path("x.json"), 0)
