"""Logit transforms are found from a forward, whatever the family, and unknown ones are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.models.tiny_families import FAMILIES, LOGIT_TRANSFORMS, family_batch, tiny_family
from support.models.tiny_models import random_batch, tiny_llama
from support.tune.step_oracle import gradients_of, largest_deviation, oracle_step, to_double

from cotbal.tune import balance
from cotbal.tune.transform import LogitTransform, check_loss_convention, identify_transform, probe_logits

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_transform_is_found_and_exact(family):
    model = to_double(tiny_family(family)).train()
    batches = [
        {k: v.double() if v.is_floating_point() else v for k, v in family_batch(family, seed=seed).items()}
        for seed in (1, 2)
    ]
    weights = [0.5, 2.0, 0.1]
    loss, gradients = oracle_step(model, batches[:1], weights)
    handle = balance(model, weights)
    found = model(**batches[0]).loss
    found.backward()
    scale, softcap = LOGIT_TRANSFORMS[family]
    assert handle.transform.logit_scale == pytest.approx(scale, rel=1e-15)
    # PaliGemma 2 caps its logits in newer versions of transformers only; the oracle below knows what this one does.
    assert handle.transform.softcap == softcap or (family == "paligemma2" and not handle.transform.softcap)
    assert found.item() == pytest.approx(loss, rel=1e-10)
    assert largest_deviation(gradients_of(model), gradients) < 1e-10
    # Evaluation sums are taken from logits that are transformed already.
    model.eval()
    with torch.no_grad(), handle._watched() as watch:
        stock = model(**batches[1]).loss
    sums = watch.take()
    assert watch.take() is None
    assert float(sums.loss.sum() / sums.tokens.sum()) == pytest.approx(float(stock), rel=1e-6)


@given(
    st.floats(1e-3, 1e3),
    st.one_of(st.none(), st.floats(0.5, 200.0)),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_scale_and_softcap_is_found(scale, softcap, vocabulary, dtype):
    true = LogitTransform(scale, softcap)
    raw = probe_logits(vocabulary, CPU)
    seen = true.apply(raw.to(dtype))
    if softcap is not None and scale * 2.0**-13 > softcap:
        return
    found = identify_transform(raw, seen, "X")
    tight = 1e-12 if dtype == torch.float64 else 1e-6
    assert found.logit_scale == pytest.approx(scale, rel=tight)
    if softcap is None or softcap > 0.5 * scale * 2.0**20:
        assert found.softcap is None
    else:
        assert found.softcap == pytest.approx(softcap, rel=tight)


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z + 1.0,
        lambda z: -z,
        lambda z: z * 0.0,
        lambda z: z.abs(),
        lambda z: torch.log_softmax(z, dim=-1),
        lambda z: z * torch.linspace(1, 2, z.shape[-1]),
        lambda z: z.clamp(-100, 100),
        lambda z: z * torch.nan,
        lambda z: z[..., :-1],
        lambda z: torch.cat([z[..., :-1], torch.full_like(z[..., :1], -torch.inf)], dim=-1),
    ],
)
def test_another_change_of_the_logits_is_refused(change):
    raw = probe_logits(24, CPU)
    with pytest.raises(ValueError, match="Chameleon"):
        identify_transform(raw, change(raw), "Chameleon")


def test_a_model_that_masks_logits_is_refused_at_its_first_step():
    model = tiny_llama()[0].train()
    balance(model, [1.0, 2.0])
    batch = random_batch(model, num_tasks=2)
    model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.clamp(max=50.0))
    with pytest.raises(ValueError, match="LlamaForCausalLM changes its logits"):
        model(**batch)


def test_another_loss_function_is_refused():
    def smoothed(logits, labels, vocab_size, **kwargs):
        flat = logits[:, :-1].reshape(-1, vocab_size)
        return torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1), label_smoothing=0.1)

    model = tiny_llama()[0].train()
    model.loss_function = smoothed
    balance(model, [1.0, 2.0])
    with pytest.raises(ValueError, match="the loss function of LlamaForCausalLM is not the mean"):
        model(**random_batch(model, num_tasks=2))
    with pytest.raises(ValueError, match="not the mean"):
        check_loss_convention(lambda logits, labels, vocab_size: logits.mean(), 8, CPU, "X")


def test_a_model_that_computes_its_own_loss_is_refused():
    class OwnLoss(type(tiny_llama()[0])):
        def forward(self, input_ids, labels=None, **kwargs):
            out = super().forward(input_ids, **kwargs)
            if labels is not None:
                flat = out.logits[:, :-1].flatten(0, 1)
                out.loss = torch.nn.functional.cross_entropy(flat, labels[:, 1:].flatten())
            return out

    model = tiny_llama()[0].train()
    own = copy.copy(model)
    own.__class__ = OwnLoss
    balance(own, [1.0, 2.0])
    with pytest.raises(ValueError, match="OwnLoss does not compute its loss"):
        own(**random_batch(model, num_tasks=2))


def test_a_forward_that_goes_past_the_head_is_refused():
    class Past(type(tiny_llama()[0])):
        def forward(self, input_ids, labels=None, **kwargs):
            hidden = self.model(input_ids).last_hidden_state
            return type("Out", (), {"loss": (hidden @ self.lm_head.weight.T).mean()})()

    model = tiny_llama()[0].train()
    model.__class__ = Past
    balance(model, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"did not call its output head.*use_liger_kernel"):
        model(**random_batch(model, num_tasks=2))


def test_a_head_called_twice_is_refused():
    class Twice(type(tiny_llama()[0])):
        def forward(self, input_ids, labels=None, **kwargs):
            hidden = self.model(input_ids).last_hidden_state
            first = self.loss_function(self.lm_head(hidden), labels, self.config.vocab_size)
            second = self.loss_function(self.lm_head(hidden), labels, self.config.vocab_size)
            return type("Out", (), {"loss": first + second})()

    model = tiny_llama()[0].train()
    model.__class__ = Twice
    balance(model, [1.0, 2.0])
    with pytest.raises(ValueError, match="passed its output head 2 times"):
        model(**random_batch(model, num_tasks=2))
