"""Multi-interest retrieval as one system: train, publish, keep fresh, retrieve.

The flow, in reading order:

    records      what travels: Event, BehaviorSequence, Candidate
    keys         outside ids → the keys that stand for them inside
    log/         the ordered log of events: Kafka, and a twin in memory
    dataset/     raw logs → a prepared dataset
    examples/    a dataset or a log → examples → batches, with their positions
    model/       Batch → Interests → loss
    training/    batches → model version
    checkpoint   a model version on disk
    publishing   model version → index version, activated
    index/       items and users of each version (Milvus)
    serving/     Kafka → fresh user rows; user → candidates
    retrieval    interests × index → candidates
    evaluation   how good, beside what

Ray is a thin shell around it: `training.ray_trainer`, `serving.ray_app`, `dataset.prepare`.
"""
