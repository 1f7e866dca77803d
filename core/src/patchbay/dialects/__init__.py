"""The dialects: one folder each, all alike, pure functions between wire bodies and the canonical chat."""
