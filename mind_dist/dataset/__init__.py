"""Raw logs → a prepared dataset, and its format."""
