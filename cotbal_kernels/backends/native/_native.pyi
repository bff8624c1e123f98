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

class PlannedRows:
    def __init__(
        self,
        rows: Tensor,
        targets: Tensor,
        tasks: Tensor,
        samples: Tensor,
        token_weights: Tensor | None,
        positions: int,
        num_tasks: int,
        num_samples: int,
    ) -> None: ...
    def loss(
        self,
        logits: int,
        gradient: int,
        columns: int,
        of_all_positions: bool,
        task_weights: int,
        task_weights_are_double: bool,
        mean: bool,
        normalizer: float,
        logit_scale: float,
        softcap: float,
        threads: int,
        loss: int,
        task_loss_sum: int,
        task_tokens: int,
        task_correct: int,
        sample_loss_sum: int,
        sample_tokens: int,
        /,
    ) -> bool: ...
