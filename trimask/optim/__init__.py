"""Parameter groups and AdamW, learning-rate schedules, gradient clipping, averages of weights."""
