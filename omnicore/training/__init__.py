"""Training: TRL's trainers with what they lack for sound."""
