"""The ordered log of events: its port, Kafka behind it, and a twin in memory."""
