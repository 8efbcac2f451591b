"""Items and users of each model version: the port, the exact twin, Milvus."""
