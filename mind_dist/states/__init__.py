"""Events → user states: the truth about users, kept in a log.

    record       a user's state and its bytes
    local_store  the states of one partition on this machine's disk, in the order of the log
    applying     a state × what the log says next of the user → the next state
    updater      events → states, partition by partition, in one transaction with the positions of the events
    ownership    which partitions are ours: taken over, restored, stopped, let go on
    on_kafka     the updater with Kafka behind its ports (`mind_dist.log.transactions`)
    shared       what the views of a process read of it

It knows no model and no index: what a model version makes of a state is a view (`mind_dist.views`).
"""
