"""The benchmark suite: cases are data, a contender is one function, every ratio is taken within one run.

``python -m benchmarks cpu`` (or ``gpu``) measures and writes ``benchmarks/results/<machine>/<group>.json``;
``python -m benchmarks pages`` makes the Markdown and the plots in ``docs/`` from those files;
``python -m benchmarks compare OLD NEW`` says what changed beyond the noise.
"""
