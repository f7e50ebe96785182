"""What a start of `namegate exec` costs over the command's own: `python3 bench/exec.py target/release/namegate`, as
root. The least and the median of 25 runs, in milliseconds."""

import statistics
import subprocess
import sys
import time


def cost(words):
    runs = []
    for _ in range(25):
        begin = time.perf_counter()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        runs.append((time.perf_counter() - begin) * 1000)
    return f"{min(runs):8.1f} {statistics.median(runs):8.1f}"


namegate = sys.argv[1]
user = ["setpriv", "--reuid", "1001", "--regid", "1001", "--clear-groups"]
print("                                least   median")
print("true                        ", cost(["true"]))
print("exec -- true, root          ", cost([namegate, "exec", "--", "true"]))
print("setpriv true                ", cost([*user, "true"]))
print("exec -- true, without root  ", cost([*user, namegate, "exec", "--mode", "splice", "--", "true"]))
