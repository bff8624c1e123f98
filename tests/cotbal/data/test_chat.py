"""Chat templates: what is trained is what is asked, and what a template leaves out is refused."""

import pytest
from support.inputs.templates import TEMPLATES, template_record, template_tokenizer

from cotbal.data.chat import ChatRenderer
from cotbal.data.records import RecordError


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str, caplog: pytest.LogCaptureFixture) -> None:
    template, spoken, expected = TEMPLATES[name]
    tokenizer = template_tokenizer(template)
    record = template_record(spoken)
    turns = record.turns
    renderer = ChatRenderer(tokenizer)
    if isinstance(expected, str):
        with pytest.raises(RecordError) as caught:
            renderer.render(record)
        assert expected in str(caught.value)
        return
    chat = renderer.render(record)
    prompt, supervised = expected
    assert [chat.text[start:end] for start, end in chat.answers] == supervised
    assert chat.text.startswith(chat.prompt)
    assert chat.answers[-1][0] == len(chat.prompt)
    asked = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.text} for turn in turns[:-1]],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert chat.prompt == asked
    if prompt is not None:
        assert chat.prompt == prompt
    # Where training does not show what the template shows, both texts are told, once.
    told = len(caplog.records)
    assert bool(chat.notes) == bool(told)
    renderer.render(record)
    assert len(caplog.records) == told
