"""User states × a model version → rows of the index: a view, which can be dropped and built anew at any time.

    reading   a state as a model version reads it
    view      where a version's rows stand behind the states, partition by partition; advance, redo, audit
    cursor    where a view is in one partition
    positions where views keep how far they are: a consumer group of the log of states each

A fault of the index can make a view old, never wrong for good: it goes on from where it was, and the states go on without it.
"""
