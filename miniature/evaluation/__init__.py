"""What the miniature shows: every method and ablation measured over held-out people, and the report of it."""
