"""Cold-start SFT (Eq. 8) and GRPO (Eq. 9-11) by TRL's trainers."""
