"""Parameter groups, AdamW and Muon, learning-rate schedules, gradient clipping, averages of weights."""
