"""The partitioner is Kafka's."""

from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from mind_dist.log.partitioner import home_partition, key_hash


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_a_key_has_the_partition_that_the_client_gives_it(key: bytes, num_partitions: int) -> None:
    assert home_partition(key_hash(key), num_partitions) == (murmur2(key) & 0x7FFFFFFF) % num_partitions
