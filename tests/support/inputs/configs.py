"""Configs that are wrong, hostile or too large: each with part of the error. `RAN` is a file that code would make."""

from __future__ import annotations

BODY = "model: m\noutput: o\n"
TASK = "tasks: [{name: a, train: t.json, weight: 1}]\n"
TESTED = "tasks: [{name: a, train: t.json, test: t.json, metric: METRIC, weight: 1}]\n"
OBJECT = "!!python/object/apply:os.system ['touch RAN']"

CONFIGS: dict[str, tuple[str, str]] = {
    "empty": ("", "mixture.yaml"),
    "a list": ("[1, 2]\n", "mixture.yaml"),
    "a word": ("hello\n", "mixture.yaml"),
    "no tasks": (BODY, "tasks: "),
    "an empty list of tasks": (BODY + "tasks: []\n", "tasks: "),
    "a key that is misspelt": (BODY + TASK + "trainig: {}\n", "did you mean `training`"),
    "a key twice": (BODY + TASK + "seed: 1\nseed: 2\n", "seed"),
    "a tab": (BODY + "tasks:\n\t- a\n", "mixture.yaml"),
    "a bracket that never closes": (BODY + "tasks: [{name: a\n", "mixture.yaml"),
    "an object of Python": (BODY + TASK + f"seed: {OBJECT}\n", "python/object/apply"),
    "an object for a name": (f"model: {OBJECT}\noutput: o\n{TASK}", "python/object/apply"),
    "a metric that is code": (BODY + TESTED.replace("METRIC", "'os:system'"), "--allow-code"),
    "a metric of another file": (BODY + TESTED.replace("METRIC", "'../x:f'"), "--allow-code"),
    "a metric that is unknown": (BODY + TESTED.replace("METRIC", "rouge"), "tasks[0].metric: "),
    "code that comes with a model": (
        "model: {name: m, trust_remote_code: true}\noutput: o\n" + TASK,
        "--allow-code",
    ),
    "a push to the hub": (BODY + TASK + "training: {push_to_hub: true}\n", "--allow-remote"),
    "a tracker": (BODY + TASK + "training: {report_to: wandb}\n", "--allow-remote"),
    "a task name that leaves the folder": (BODY + TASK.replace("name: a", "name: ../a"), "tasks[0].name: "),
    "a task name with a line break": (BODY + TASK.replace("name: a", 'name: "a\\nb"'), "tasks[0].name: "),
    "two tasks of one name": (
        BODY + "tasks: [{name: a, train: t.json, weight: 1}, {name: A, train: t.json, weight: 1}]\n",
        "task name 'a' appears more than once",
    ),
    "neither measured nor weighted": (
        BODY + "tasks: [{name: a, train: t.json}]\n",
        "task 'a' has no `validation` set",
    ),
    "a file that is not there": (BODY + TASK.replace("t.json", "gone.json"), "gone.json"),
    "a weight below 0": (BODY + TASK.replace("weight: 1", "weight: -1"), "tasks[0].weight: "),
    "a weight that is no number": (BODY + TASK.replace("weight: 1", "weight: .nan"), "tasks[0].weight: "),
    "a weight without end": (BODY + TASK.replace("weight: 1", "weight: .inf"), "tasks[0].weight: "),
    "a learning rate that is no number": (
        BODY + TASK + "training: {learning_rate: .nan}\n",
        "training.learning_rate: found nan",
    ),
    "a learning rate in words": (
        BODY + TASK + "training: {learning_rate: fast}\n",
        "learning_rate: found 'fast'",
    ),
    "a setting that is not there": (
        BODY + TASK + "training: {learning_rat: 1}\n",
        "did you mean `learning_rate`",
    ),
    "a setting of the run's own": (BODY + TASK + "training: {output_dir: x}\n", "its own folder"),
    "a seed of 5000 digits": (BODY + TASK + f"seed: {'9' * 5000}\n", "a number of 5000 digits"),
    "a seed below 0": (BODY + TASK + "seed: -1\n", "seed: "),
    "an answer of 10^18 tokens": (
        BODY + TASK.replace("weight: 1", "weight: 1, max_new_tokens: 1000000000000000000"),
        "max_new_tokens",
    ),
    "levels without end": (BODY + "tasks: " + "[" * 100_000, "levels of nesting"),
    "an alias that holds itself": (BODY + "a: &a [*a]\n", "an alias that holds itself"),
    "aliases that multiply": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
        "once all aliases are written out",
    ),
    "200,000 seeds": (BODY + TASK + f"comparison: {{seeds: {list(range(200_000))}}}\n", "characters"),
    "control characters": (BODY + TASK + 'name: "\\e[31mred"\n' + "trainig: {}\n", "trainig"),
    "a stream without a length": (
        BODY + TASK.replace("t.json", "{dataset: org/name, split: train, stream: true}"),
        "`stream` needs the number of rows",
    ),
    "a data set without a split": (BODY + TASK.replace("t.json", "hf://org/name"), "names no split"),
    "groups by length with a quick check": (
        BODY + TASK + "check: quick\ntraining: {train_sampling_strategy: group_by_length}\n",
        "set `check: full`",
    ),
    "a global batch that does not divide": (
        BODY + TASK + "training: {global_batch_size: 10, per_device_train_batch_size: 4}\n",
        "10 samples cannot be spread",
    ),
    "a strategy that is unknown": (
        BODY + TASK + "comparison: {strategies: [magic]}\n",
        "comparison.strategies[0]",
    ),
    "a mini set larger than a plus set": (
        BODY + TASK + "preparation: {mini_fraction: 0.5, plus_fraction: 0.1}\n",
        "must see more of its task",
    ),
}
