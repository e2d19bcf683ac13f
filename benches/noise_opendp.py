"""Compares the noise of dapbox with OpenDP (PyPI: opendp). Run by hand:

    NOISE_DRAWS=draws.json cargo test --test end_to_end -- --ignored writes_draws
    pip install opendp && python benches/noise_opendp.py draws.json

For each kind of task, the file has 100,000 draws of one aggregator's noise. Three checks:

- OpenDP states the epsilon of its discrete Laplace mechanism for our scale and sensitivity: it must be that of the task.
- OpenDP states the accuracy of that mechanism: a draw is farther from zero with a probability of at most alpha.
- As many draws of OpenDP have the same distribution (two-sample Kolmogorov-Smirnov test).

Exit code 1 if a check fails. A correct sampler fails with a probability below 1e-6 per kind.
"""

import json
import math
import sys

import opendp.accuracy
import opendp.prelude as dp

dp.enable_features("contrib")
FALSE_FAILURES = 1e-7


def ours_and_theirs(ours, theirs):
    """The largest distance of the two empirical distributions, and the largest one by chance."""
    n, (a, b) = len(ours), (sorted(ours), sorted(theirs))
    distance, i, j = 0, 0, 0
    for value in sorted(set(a) | set(b)):
        while i < n and a[i] <= value:
            i += 1
        while j < n and b[j] <= value:
            j += 1
        distance = max(distance, abs(i - j) / n)
    return distance, math.sqrt(-math.log(FALSE_FAILURES / 2) / n)


def check(kind):
    name, scale, draws = kind["name"], kind["scale"], kind["draws"]
    mechanism = dp.m.make_laplace(dp.atom_domain(T=int), dp.absolute_distance(T=int), scale=scale)
    failed = []
    epsilon = mechanism.map(d_in=kind["sensitivity"])
    if abs(epsilon / kind["epsilon"] - 1) > 1e-9:
        failed.append(f"epsilon {epsilon}, the task has {kind['epsilon']}")
    for alpha in [0.5, 0.05, 0.001]:
        accuracy = opendp.accuracy.discrete_laplacian_scale_to_accuracy(scale, alpha)
        share = sum(abs(draw) >= accuracy for draw in draws) / len(draws)
        if share > alpha + 6 * math.sqrt(alpha / len(draws)):
            failed.append(f"{share} of the draws are beyond the accuracy of {alpha}")
    distance, most = ours_and_theirs(draws, [mechanism(0) for _ in draws])
    if distance > most:
        failed.append(f"distance {distance}, by chance at most {most}")
    verdict = "; ".join(failed) or "ok"
    print(f"{name:34} scale {scale:9.3f}  epsilon {epsilon:8.4f}  distance {distance:.5f} (at most {most:.5f})  {verdict}")
    return not failed


with open(sys.argv[1]) as file:
    kinds = json.load(file)
sys.exit(0 if all([check(kind) for kind in kinds]) else 1)
