"""The diffusion process: noise schedules, masking, objective, bounds, guidance and samplers."""
