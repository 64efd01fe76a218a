"""`python -m bench [NAME]`: runs every benchmark, or one; each prints JSON lines on stdout."""

from __future__ import annotations

import subprocess
import sys

from bench import dead_domains, idle_wakeup, parley, smtp_in, smtp_out

BENCHES = {
    "smtp_in": smtp_in.main,
    "smtp_out": smtp_out.main,
    "dead_domains": dead_domains.main,
    "idle_wakeup": idle_wakeup.main,
    "parley_local": parley.local,
    "parley_federated": parley.federated,
    "parley_idle": parley.idle,
}


def main() -> int:
    names = sys.argv[1:] or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            print(f"no benchmark {name!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
            return 2
    if len(names) == 1:
        BENCHES[names[0]]()
        return 0
    return max(subprocess.call([sys.executable, "-m", "bench", name]) for name in names)  # a reactor runs only once


if __name__ == "__main__":
    sys.exit(main())
