"""A prepared dataset or an event log → `Examples` → `Batch`, with their positions."""
