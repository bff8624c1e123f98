from torch import Tensor

def instruction_sets() -> dict[str, bool]: ...
def resolve(isa: str) -> str: ...
def thread_source() -> str: ...
def row_pass(
    logits: Tensor,
    targets: Tensor,
    rows: Tensor | None,
    gradient: Tensor | None,
    row_scale: Tensor | None,
    logit_scale: float,
    softcap: float,
    nll: Tensor,
    hits: Tensor,
    threads: int,
    isa: str,
    label_smoothing: float = 0.0,
    lse_square_scale: float = 0.0,
    softmax_shift: Tensor | None = None,
    target_shift: Tensor | None = None,
    entropy_scale: Tensor | None = None,
    lse: Tensor | None = None,
    mean: Tensor | None = None,
    entropy: Tensor | None = None,
    peak: Tensor | None = None,
) -> None: ...
def elementwise(function: str, input: Tensor, output: Tensor, isa: str) -> None: ...
