"""A small world of planted interests: several interests find what one cannot."""

from benchmarks.planted_interests import World, compare


def test_four_interests_find_what_one_cannot() -> None:
    found = compare(World(num_topics=60, num_users=800), dim=8, max_steps=250)
    one, four = found[1], found[4]
    assert four["hit@50"] > 1.2 * one["hit@50"]
    cosines = [name for name in four if name.startswith("cosine")]
    assert len(cosines) == 3
    assert all(four[name] > max(0.9, one[name]) for name in cosines)
