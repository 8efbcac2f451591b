"""What a lag-kernel encoder sees, in plain loops: the twin of the means in `mind_dist.model.encoders.LagKernels`."""

from __future__ import annotations

from tests.reference.mind_loops import Matrix, Vector, softmax


def lag_means(behaviors: Matrix, log_weights: Matrix) -> list[Matrix]:
    """Return, for every position and kernel, the mean of the behaviors so far, weighted by how long ago they were."""
    return [[_mean(behaviors[: at + 1], weights) for weights in log_weights] for at in range(len(behaviors))]


def _mean(past: Matrix, log_weights: Vector) -> Vector:
    lags = range(len(past) - 1, -1, -1)
    shares = softmax([log_weights[min(lag, len(log_weights) - 1)] for lag in lags])
    return [sum(share * vector[d] for share, vector in zip(shares, past, strict=True)) for d in range(len(past[0]))]
