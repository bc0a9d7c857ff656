"""How much of a server's rate limit the engine uses: requests a second against the limit, and refused requests.

python tests/speed/rate_limits.py
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests/support")]

from alignxplore import engines  # noqa: E402
from alignxplore.engines import Sampling  # noqa: E402
from alignxplore.prompts import Prompt  # noqa: E402
from faulty_server import Server, limited  # noqa: E402

SECONDS = 12


def main() -> None:
    """Print one line per kind of server."""
    for per_second in (5, 25, 100):
        for burst in (1, per_second):
            for retry_after in (True, False):
                count = per_second * SECONDS + burst
                prompts = [Prompt(f"post {index}") for index in range(count)]
                with Server(reply=limited(per_second, burst, retry_after), key="none") as server:
                    entry = {"engine": "openai", "path": "gpt", "base_url": server.url, "run": {"concurrency": 16}}
                    engine = engines.load(entry)
                    started = time.monotonic()
                    engine.generate(prompts, Sampling(1.0, 1.0, 0, 8, seed=1))
                    rate = (count - burst) / (time.monotonic() - started)
                    told = "Retry-After" if retry_after else "no Retry-After"
                    print(
                        f"{per_second} a second, bursts of {burst}, {told}: {rate:.1f} a second"
                        f" ({rate / per_second:.0%}), {len(server.requests) - count} requests too many",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
