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
) -> None: ...
def elementwise(function: str, input: Tensor, output: Tensor, isa: str) -> None: ...
