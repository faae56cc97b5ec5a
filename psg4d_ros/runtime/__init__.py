"""What runs the model: rulebooks and backends."""
