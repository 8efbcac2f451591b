"""MIND's maths in plain loops over Python floats: slow and obvious twins of `mind_dist.model`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Vector = list[float]
Matrix = list[Vector]

BITS = (1 << 64) - 1


def dot(left: Vector, right: Vector) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def softmax(values: Vector) -> Vector:
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]


def squash(vector: Vector) -> Vector:
    length = math.sqrt(dot(vector, vector))
    return [x * length / (1 + length**2) for x in vector]


def routing(behaviors: Matrix, initial_logits: Matrix, num_iterations: int) -> tuple[Matrix, Matrix]:
    """Return the capsules and the coupling of one user, from the real behaviors and the real interests' logits."""
    return vote_routing([[behavior] * len(initial_logits[0]) for behavior in behaviors], initial_logits, num_iterations)


def vote_routing(votes: list[Matrix], initial_logits: Matrix, num_iterations: int) -> tuple[Matrix, Matrix]:
    """Return the same where each behavior says something else to each interest: `votes[i][j]`."""
    logits = [list(row) for row in initial_logits]
    num_interests, dim = len(votes[0]), len(votes[0][0])
    capsules, coupling = [[0.0] * dim] * num_interests, logits
    for _ in range(num_iterations):
        coupling = [softmax(row) for row in logits]
        for j in range(num_interests):
            total = [sum(c[j] * vote[j][d] for c, vote in zip(coupling, votes, strict=True)) for d in range(dim)]
            capsules = [*capsules[:j], squash(total), *capsules[j + 1 :]]
        logits = [
            [logit + dot(capsules[j], vote[j]) for j, logit in enumerate(row)]
            for row, vote in zip(logits, votes, strict=True)
        ]
    return capsules, coupling


def cosine(left: Vector, right: Vector) -> float:
    return dot(left, right) / math.sqrt(dot(left, left) * dot(right, right))


def farthest_points(behaviors: Matrix, num_interests: int) -> list[int]:
    """Return the newest behavior, and then again and again the one whose nearest among those chosen is farthest.

    When all are chosen, it is the first.
    """
    chosen = [len(behaviors) - 1]
    while len(chosen) < num_interests:
        nearest = {
            place: max(cosine(behavior, behaviors[seed]) for seed in chosen)
            for place, behavior in enumerate(behaviors)
            if place not in chosen
        }
        chosen.append(min(nearest, key=nearest.__getitem__) if nearest else 0)
    return chosen


def content_keyed_logit(key: int, interest: int) -> float:
    """Return one initial logit: splitmix64 over (key, interest), its four 16-bit words summed and scaled."""
    bits = (key + (interest + 1) * 0x9E3779B97F4A7C15) & BITS
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & BITS
    bits ^= bits >> 31
    words = [(bits >> shift) & 0xFFFF for shift in (0, 16, 32, 48)]
    return (sum(words) - 2 * 0xFFFF) / 0x10000 * math.sqrt(3)


def label_attention(interests: Matrix, target: Vector, power: float) -> Vector:
    """Return the interests weighted by softmax(pow(score, p)), the sign of a score kept (MIND, equation 6)."""
    scores = [dot(interest, target) for interest in interests]
    weights = softmax([math.copysign(abs(score) ** power, score) for score in scores])
    return _weighted(interests, weights)


def scaled_label_attention(interests: Matrix, target: Vector, power: float) -> Vector:
    """Return the interests weighted by softmax(p · score)."""
    return _weighted(interests, softmax([power * dot(interest, target) for interest in interests]))


def _weighted(interests: Matrix, weights: Vector) -> Vector:
    return [
        sum(w * interest[d] for w, interest in zip(weights, interests, strict=True)) for d in range(len(interests[0]))
    ]


def full_softmax_loss(user: Vector, items: Matrix, target: int, temperature: float) -> float:
    """Return the negative log likelihood of a target among all items."""
    return -math.log(softmax([dot(user, item) / temperature for item in items])[target])


def sampled_softmax_loss(
    user: Vector,
    pool: Matrix,
    target: int,
    inclusion: Sequence[float],
    temperature: float,
    *,
    is_negative: Callable[[int], bool],
    beta: float = 0.0,
) -> float:
    """Return the same with the sum over all items estimated from a pool, each negative divided by its probability.

    With `beta` each negative counts exp(beta · logit) over the mean of that over all items, estimated the same way.
    """
    own = math.exp(dot(user, pool[target]) / temperature)
    others = [i for i in range(len(pool)) if i != target and is_negative(i)]
    logits = {i: dot(user, pool[i]) / temperature for i in others}
    hardness = {i: math.exp(beta * logits[i]) for i in others}
    mean = sum(hardness[i] / inclusion[i] for i in others) / sum(1 / inclusion[i] for i in others) if others else 1.0
    return -math.log(own / (own + sum(math.exp(logits[i]) / inclusion[i] * hardness[i] / mean for i in others)))
