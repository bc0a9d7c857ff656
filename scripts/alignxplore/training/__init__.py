"""Cold-start SFT (Eq. 8) and GRPO (Eq. 9-11) with TRL's trainers."""

import os

# TRL reports every trainer it builds to the hub. This must be set before huggingface_hub is first imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
