"""Events → user states: the truth about users, kept in a log.

    record       a user's state and its bytes
    local_store  the states of one partition on this machine's disk, in the order of the log
    state_log    the port to the log of states: one transaction for states, dead letters and positions
    kafka_states Kafka behind it
    updater      events → states, partition by partition

It knows no model and no index: what a model version makes of a state is a view (`mind_dist.views`).
"""
