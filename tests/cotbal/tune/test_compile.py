"""A balanced model under torch.compile: the same loss and gradients as without."""

import pytest
import torch
from support.models.tiny_models import random_batch, tiny_llama
from support.tune.step_oracle import gradients_of, largest_deviation

from cotbal.tune import balance


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_model_has_the_same_loss_and_gradients(whole: bool) -> None:
    model = tiny_llama()[0].train()
    batches = [random_batch(model, batch_size=size, num_tasks=3) for size in (3, 2)]
    balance(model, [1.0, 2.0, 0.5])

    def step(forward, batch):
        model.zero_grad()
        loss = forward(**batch).loss
        loss.backward()
        return loss.item(), gradients_of(model)

    expected = [step(model, batch) for batch in batches]
    torch._dynamo.reset()
    if whole:
        compiled = torch.compile(model, backend="aot_eager")
    else:
        model.compile(backend="aot_eager")
        compiled = model
    for batch, (loss, gradients) in zip(batches, expected, strict=True):
        found, of_compiled = step(compiled, batch)
        assert found == pytest.approx(loss, rel=1e-6)
        assert largest_deviation(of_compiled, gradients) < 1e-5
    torch._dynamo.reset()
