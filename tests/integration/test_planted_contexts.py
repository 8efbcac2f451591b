"""Small planted worlds: the context decides which interest is asked for, and a purchase is weighed otherwise than a view."""

from benchmarks.planted_context import World, compare_behaviors, compare_contexts


def test_the_context_decides_what_is_found() -> None:
    found = compare_contexts(World(num_topics=12, items_per_topic=25, num_users=600, length=21), max_steps=120)
    assert found["in the context"] > 1.2 * found["in none"]
    assert found["in none"] > 0.7 * found["without contexts"]


def test_a_purchase_is_weighed_otherwise_than_a_view() -> None:
    found = compare_behaviors(World(num_topics=12, num_users=1000, length=31), max_steps=400)
    assert found["purchase first, with event types"] > 0.85
    assert found["purchase first, without"] < 0.6
    assert found["with event types"] > 1.1 * found["without"]
