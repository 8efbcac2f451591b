"""`Batch` tensors → `Interests` → loss: pure tensors."""
